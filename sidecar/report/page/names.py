"""Names of page files: the model's slugs where they are safe and unique, else digests."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Final

from sidecar.report.page.reading import Mapped

_SAFE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,100}", re.ASCII)


def page_names(rows: Sequence[Mapped], keys: Sequence[str]) -> list[str]:
    """Return a file name (without `.html`) for each row, unique, `[a-z0-9-]` only.

    A slug that could leave its directory, or that two rows share, gives way to a digest of the keys.
    """
    taken: set[str] = set()
    names = []
    for place, row in enumerate(rows):
        slug = row.get("slug")
        if not isinstance(slug, str) or not _SAFE.fullmatch(slug) or slug in taken:
            key = json.dumps([str(row.get(key)) for key in keys])
            slug = f"x-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        if slug in taken:  # the same row twice
            slug = f"{slug}-{place}"
        taken.add(slug)
        names.append(slug)
    return names
