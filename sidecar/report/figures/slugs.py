"""Names of files for names of any kind."""

import hashlib
import re
import unicodedata
from typing import Final

_OWN: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?")
_LOOKS_DIGESTED: Final = re.compile(r"(?:.*-)?[0-9a-f]{16}")
_NOT_SAFE: Final = re.compile(r"[^a-z0-9]+")
_CHARACTERS_MAX: Final = 40
_RESERVED: Final = frozenset(
    [
        *("con", "prn", "aux", "nul", "index", "summary", "none"),
        *(f"{device}{number}" for device in ("com", "lpt") for number in range(10)),
    ]
)
"""Devices of Windows, and names that pages have for themselves."""


def project_slug(project: str | None) -> str:
    """Return a safe file name for a project: `[a-z0-9-]`, at most 57 characters.

    A name that is one already stays as it is; any other ends in 16 hex digits of its SHA-256. So a
    name has the same slug in every report, whatever else is in it, and no two names share one.
    """
    if project is None:
        return f"none-{_digest('')}"
    safe = _OWN.fullmatch(project) and not _LOOKS_DIGESTED.fullmatch(project)
    if safe and len(project) <= _CHARACTERS_MAX and project not in _RESERVED:
        return project
    return f"{_readable(project)}-{_digest('p' + project)}"


def run_slug(project: str | None, run: str | None) -> str:
    """Return a safe file name for a run of a project; ids of runs may be the same in two projects."""
    known = "".join("n" if name is None else f"{len(name)}:{name}" for name in (project, run))
    return f"{_readable(run or 'none')}-{_digest('r' + known)}"


def _readable(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name[:200]).casefold()
    return _NOT_SAFE.sub("-", plain).strip("-")[:_CHARACTERS_MAX].strip("-") or "x"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
