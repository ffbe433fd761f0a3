"""What Kubernetes tells a container of its own pod: the downward API.

Environment variables name pod, namespace, uid, node and host address; files of a downward API
volume hold labels and annotations as kubelet prints them, one `key="value"` a line, the value
quoted as Go's `strconv.Quote` does. All of it is written by the owner of the pod and not trusted.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sidecar.identity.bounded import (
    is_directory,
    normal_region,
    plain_text,
    read_bounded,
    reason,
    shown,
)
from sidecar.identity.fields import Attempt, Findings, Sourced
from sidecar.settings import parse_interval_s

PODINFO_DIR: Final = Path("/etc/podinfo")
ANNOTATION_PREFIX: Final = "emissions/"

REGION_LABEL: Final = "topology.kubernetes.io/region"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
"""Copied from the node to the pod by Kubernetes 1.35 and later (KEP-4742)."""

MAX_PROJECT_CHARACTERS: Final = 200
MAX_PROJECT_BYTES: Final = 512
MAX_LABELS: Final = 64
MAX_ANNOTATIONS: Final = 64

_MAX_FILE_BYTES: Final = 2 * 1024**2
"""Kubernetes allows 256 KiB of annotations; quoting makes them at most six times longer."""

_MAX_KEY_CHARACTERS: Final = 317
_MAX_LABEL_CHARACTERS: Final = 63
_MAX_ANNOTATION_CHARACTERS: Final = 1024
_MAX_NAME_CHARACTERS: Final = 253

_VARIABLES: Final = (
    ("pod", "POD_NAME"),
    ("namespace", "POD_NAMESPACE"),
    ("pod_uid", "POD_UID"),
    ("node", "NODE_NAME"),
)
WORKLOAD_VARIABLE: Final = "POD_WORKLOAD"
"""Kind and name of what controls the pod: not of the downward API, but of the injector."""

_REGION_VARIABLE: Final = "NODE_REGION"
_HOST_VARIABLE: Final = "HOST_IP"
_FILES: Final = (("pod", "name"), ("namespace", "namespace"), ("pod_uid", "uid"))
_LABELS: Final = (
    ("project", "app.kubernetes.io/part-of"),
    ("project", "ml.azure.com/workspace"),
    ("run_id", "ml.azure.com/run-id"),
    ("workload", "app.kubernetes.io/name"),
    ("workload", "batch.kubernetes.io/job-name"),
    ("workload", "job-name"),
    ("workload", "volcano.sh/job-name"),
)
"""Field and label, the better label first."""

_KEPT_FIRST: Final = frozenset({REGION_LABEL, ZONE_LABEL, *(label for _, label in _LABELS)})

_LINE: Final = re.compile(rb'(?P<key>[^="]+)="(?P<value>(?:[^"\\]++|\\.)*+)"')
_ESCAPE: Final = re.compile(
    rb'\\(?:(?P<sign>[abfnrtv\\"])|x(?P<byte>[0-9a-fA-F]{2})'
    rb"|u(?P<short>[0-9a-fA-F]{4})|U(?P<long>[0-9a-fA-F]{8})|(?P<bad>.))",
    re.DOTALL,
)
_SIGNS: Final = dict(zip(b'abfnrtv\\"', b'\a\b\f\n\r\t\v\\"', strict=True))
_BIDIRECTIONAL: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_BUDGET: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?\s*(g|kg|t|Wh|kWh|MWh)")
_VOLUME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class PodInfo:
    """What the downward API says. `labels` and `annotations` (under `emissions/`) are bounded."""

    findings: Findings = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    host_ip: str | None = None
    attempts: tuple[Attempt, ...] = ()


def read_podinfo(environ: Mapping[str, str], directory: Path = PODINFO_DIR) -> PodInfo:
    """Read environment and files of the downward API. Never raises: what is bad is told."""
    reader = _Reader(environ, directory)
    for name, variable in _VARIABLES:
        reader.take(name, reader.variable(variable), variable)
    host_ip = reader.variable(_HOST_VARIABLE)
    labels, annotations = {}, {}
    if is_directory(directory):
        for name, file in _FILES:
            reader.take(name, reader.plain_file(file), f"file {file}")
        labels = reader.labels()
        annotations = reader.annotations()
    elif reader.findings:
        reader.refuse(str(directory), "no such directory: labels and annotations stay unknown")
    _take_annotations(reader, annotations)
    _take_labels(reader, labels)
    reader.take("workload", reader.variable(WORKLOAD_VARIABLE), WORKLOAD_VARIABLE)
    _take_region(reader, Sourced(reader.variable(_REGION_VARIABLE) or "", _REGION_VARIABLE))
    return PodInfo(reader.findings, labels, annotations, host_ip, reader.told())


def valid_project_name(text: str) -> str:
    """Return the project's name without surrounding blanks, or raise `ValueError` with the reason.

    Any script, emoji, `/` and `..` are allowed: each output escapes what it must. Refused are
    control characters and line breaks, bidirectional overrides (a name that reads differently from
    what it is), lone surrogates, invisible names, and names beyond 200 characters or 512 bytes.
    """
    name = text.strip()
    if not name:
        raise ValueError("a project name must not be empty")
    if len(name) > MAX_PROJECT_CHARACTERS:
        raise ValueError(
            f"project name {shown(name)} is longer than {MAX_PROJECT_CHARACTERS} characters"
        )
    for character in name:
        category = unicodedata.category(character)
        if category in {"Cc", "Cs", "Zl", "Zp"} or character in _BIDIRECTIONAL:
            raise ValueError(
                f"project name {shown(name)} holds the control character {character!a}"
            )
    if not any(character.isprintable() and not character.isspace() for character in name):
        raise ValueError(f"project name {shown(name)} is invisible")
    if len(name.encode()) > MAX_PROJECT_BYTES:
        raise ValueError(f"project name {shown(name)} is longer than {MAX_PROJECT_BYTES} bytes")
    return name


def valid_annotations(annotations: Mapping[str, str]) -> tuple[dict[str, str], tuple[Attempt, ...]]:
    """Keep the annotations under `emissions/` that are known and well-formed, without the prefix.

    Values are returned as written (`interval` such as `15s`), stripped. An unknown key or a bad
    value is left out, so that the default holds, and told in an attempt.
    """
    valid: dict[str, str] = {}
    attempts: list[Attempt] = []
    for key, text in annotations.items():
        if not key.startswith(ANNOTATION_PREFIX):
            continue
        name = key.removeprefix(ANNOTATION_PREFIX)
        try:
            _check_of(name)(text)
        except ValueError as error:
            detail = f"{shown(key)} ignored, the default holds: {error}"
            attempts.append(Attempt("downward-api:annotations", "failed", detail))
        else:
            valid[name] = text.strip()
    return valid, tuple(attempts)


def parse_downward_file(content: bytes) -> tuple[dict[str, str], list[str]]:
    """Parse `key="value"` lines with Go's escapes: the pairs, and what was wrong with others."""
    pairs: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        try:
            if match is None:
                raise ValueError('is not key="value" (torn?)')
            pairs[match["key"].decode()] = _ESCAPE.sub(_unescaped, match["value"]).decode()
        except ValueError as error:
            problems.append(f"line {number} ignored: {error}")
    return pairs, problems


def _unescaped(match: re.Match[bytes]) -> bytes:
    if match["sign"]:
        return bytes([_SIGNS[match["sign"][0]]])
    if match["byte"]:
        return bytes([int(match["byte"], 16)])
    code_point = match["short"] or match["long"]
    if not code_point:
        raise ValueError(f"{shown(match[0].decode(errors='replace'))} is no escape of Go")
    try:
        return chr(int(code_point, 16)).encode()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{shown(match[0].decode())} is no character") from error


class _Reader:
    """Gathers findings; what is bad becomes an attempt instead of an exception."""

    def __init__(self, environ: Mapping[str, str], directory: Path) -> None:
        self._environ = environ
        self._directory = directory
        self._problems: list[Attempt] = []
        self.findings: dict[str, Sourced] = {}

    def told(self) -> tuple[Attempt, ...]:
        if not self.findings and not self._problems:
            return (Attempt("downward-api", "skipped", "not in a pod with the downward API"),)
        found = ", ".join(sorted(self.findings)) or "nothing usable"
        return (Attempt("downward-api", "ok", f"found {found}"), *self._problems)

    def take(self, name: str, value: str | None, source: str) -> None:
        if value:
            self.findings.setdefault(name, Sourced(value, f"downward-api:{source}"))

    def refuse(self, source: str, why: str) -> None:
        self._problems.append(Attempt(f"downward-api:{source}", "failed", why))

    def add(self, attempts: Iterable[Attempt]) -> None:
        self._problems.extend(attempts)

    def variable(self, name: str) -> str | None:
        return self.plain(self._environ.get(name, ""), name)

    def plain(self, text: str, source: str) -> str | None:
        try:
            return plain_text(text, _MAX_NAME_CHARACTERS) or None
        except ValueError as error:
            self.refuse(source, f"ignored: {error}")
            return None

    def plain_file(self, name: str) -> str | None:
        """Content of an optional file such as `namespace`: nothing to tell if it is missing."""
        content = self._content(name, optional=True)
        return self.plain(content.decode(errors="replace"), f"file {name}")

    def labels(self) -> dict[str, str]:
        pairs = self._pairs("labels")
        plain = {
            key: value
            for key, value in pairs.items()
            if len(key) <= _MAX_KEY_CHARACTERS
            and len(value) <= _MAX_LABEL_CHARACTERS
            and (key + value).isprintable()
        }
        if len(plain) < len(pairs):
            self.refuse("labels", f"{len(pairs) - len(plain)} over-long or unprintable ignored")
        if len(plain) > MAX_LABELS:
            self.refuse("labels", f"{len(plain)} labels, {MAX_LABELS} kept")
        kept = sorted(plain, key=lambda key: (key not in _KEPT_FIRST, key))[:MAX_LABELS]
        return {key: plain[key] for key in kept}

    def annotations(self) -> dict[str, str]:
        """Return the annotations of ours as written; a value that is much too long is left out."""
        ours = {
            key: value
            for key, value in self._pairs("annotations").items()
            if key.startswith(ANNOTATION_PREFIX) and len(key) <= _MAX_KEY_CHARACTERS
        }
        short = {k: v for k, v in ours.items() if len(v) <= _MAX_ANNOTATION_CHARACTERS}
        kept = {key: short[key] for key in sorted(short)[:MAX_ANNOTATIONS]}
        if len(kept) < len(ours):
            self.refuse("annotations", f"{len(ours) - len(kept)} over-long or too many ignored")
        return kept

    def _pairs(self, name: str) -> dict[str, str]:
        pairs, problems = parse_downward_file(self._content(name))
        if problems:
            more = f" (and {len(problems) - 1} more lines)" if len(problems) > 1 else ""
            self.refuse(name, problems[0] + more)
        return pairs

    def _content(self, name: str, *, optional: bool = False) -> bytes:
        path = self._directory / name
        try:
            content, cut = read_bounded(path, _MAX_FILE_BYTES)
        except FileNotFoundError:
            if not optional:
                self.refuse(name, f"{path} is missing")
            return b""
        except OSError as error:
            self.refuse(name, f"{path}: {reason(error)}")
            return b""
        if cut:
            self.refuse(name, f"{path} is longer than {_MAX_FILE_BYTES} bytes; the rest is ignored")
        return content


def _take_annotations(reader: _Reader, annotations: Mapping[str, str]) -> None:
    valid, attempts = valid_annotations(annotations)
    reader.add(attempts)
    for name in ("project", "experiment"):
        reader.take(name, valid.get(name), f"annotation {ANNOTATION_PREFIX}{name}")


def _take_labels(reader: _Reader, labels: Mapping[str, str]) -> None:
    for name, label in _LABELS:
        value = labels.get(label, "").strip()
        try:
            if name == "project" and value:
                value = valid_project_name(value)
        except ValueError as error:
            reader.refuse(f"label {label}", f"ignored: {error}")
        else:
            reader.take(name, value, f"label {label}")
    _take_region(reader, Sourced(labels.get(REGION_LABEL, ""), f"label {REGION_LABEL}"))
    # AKS labels nodes outside any zone with 0, the others with <region>-<zone>; IMDS says <zone>.
    zone = labels.get(ZONE_LABEL, "").strip().rpartition("-")[2]
    reader.take("zone", None if zone == "0" else zone, f"label {ZONE_LABEL}")


def _take_region(reader: _Reader, found: Sourced) -> None:
    if not found.value:
        return
    try:
        reader.take("region", normal_region(found.value), found.source)
    except ValueError as error:
        reader.refuse(found.source, f"ignored: {error}")


def _check_of(name: str) -> Callable[[str], object]:
    checks: Mapping[str, Callable[[str], object]] = {
        "track": _check_boolean,
        "project": valid_project_name,
        "experiment": valid_project_name,
        "interval": parse_interval_s,
        "volume": _check_volume,
        "mount": _check_mount,
        "budget": _check_budget,
        "share-process-namespace": _check_boolean,
        "status": lambda text: plain_text(text, _MAX_ANNOTATION_CHARACTERS),
        "injector": lambda text: plain_text(text, _MAX_ANNOTATION_CHARACTERS),
    }
    check = checks.get(name)
    if check is None:
        raise ValueError(f"there is no such annotation; known are {', '.join(sorted(checks))}")
    return check


def _check_boolean(text: str) -> None:
    if text.strip() not in {"true", "false"}:
        raise ValueError(f"{shown(text)} is neither 'true' nor 'false'")


def _check_volume(text: str) -> None:
    if not _VOLUME.fullmatch(text.strip()):
        raise ValueError(f"{shown(text)} is not the name of a volume, such as 'records'")


def _check_mount(text: str) -> None:
    path = text.strip()
    if path in {"true", "false"}:
        return
    if not path.startswith("/") or ".." in path.split("/") or ":" in path or not path.isprintable():
        raise ValueError(f"{shown(text)} is neither true, false nor an absolute path")


def _check_budget(text: str) -> None:
    if not _BUDGET.fullmatch(text.strip()) or not re.search("[1-9]", text):
        raise ValueError(f"{shown(text)} is no budget; write it like '5 kg' (CO2e) or '20 kWh'")
