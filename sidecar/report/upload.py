"""Writes a report's files to a container of Azure Blob, and removes what an earlier report left there.

Each blob is whole or not there; the set is not one transaction. `index.html` comes last, so that who
reads it finds what it links to.
"""

import mimetypes
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from azure.core.exceptions import AzureError, HttpResponseError
from azure.storage.blob import ContentSettings

from sidecar.report.source import REPORTS, SourceUnreadable

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

FOLDERS: Final = ("projects", "runs", "boamps")
"""Where a report has one file for each of many: those of an earlier one are removed."""

_TYPES: Final = {".parquet": "application/vnd.apache.parquet", ".ndjson": "application/x-ndjson"}


def upload_report(container: "ContainerClient", prefix: str, directory: Path) -> int:
    """Upload a report's directory below `prefix`; returns how many files. Raises SourceUnreadable."""
    base = prefix.strip("/") or REPORTS
    files = sorted(
        (path for path in directory.rglob("*") if path.is_file()),
        key=lambda path: (path.name == "index.html", path.as_posix()),
    )
    names = {path: f"{base}/{path.relative_to(directory).as_posix()}" for path in files}
    try:
        for path in files:
            with path.open("rb") as content:
                container.upload_blob(
                    names[path],
                    content,
                    overwrite=True,
                    content_settings=ContentSettings(content_type=content_type(path)),
                )
        for left in _left_by_others(container, base, names.values()):
            container.delete_blob(left)
    except HttpResponseError as error:
        raise SourceUnreadable(
            f"the report cannot be written to {container.container_name}/{base}: "
            f"{error.status_code} {error.reason}; give its identity Storage Blob Data Contributor"
        ) from error
    except AzureError as error:
        raise SourceUnreadable(
            f"the report cannot be written to {container.container_name}/{base}: "
            f"{type(error).__name__}"
        ) from error
    return len(files)


def content_type(path: Path) -> str:
    """Return the media type of a file of a report."""
    known = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    text = known or "application/octet-stream"
    return f"{text}; charset=utf-8" if text.startswith("text/") else text


def _left_by_others(container: "ContainerClient", base: str, names: Iterable[str]) -> Iterator[str]:
    kept = set(names)
    for folder in FOLDERS:
        listed = container.list_blob_names(name_starts_with=f"{base}/{folder}/")
        yield from [name for name in listed if name not in kept]
