"""Writes a report's files to a container of Azure Blob, and removes what an earlier report left there.

Each blob is whole or not there; the set is not one transaction. `index.html` comes last, so that who
reads it finds what it links to.
"""

import mimetypes
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContentSettings

from sidecar.report.blob_place import BlobPlace
from sidecar.report.files import BOAMPS_ALL
from sidecar.report.measures import GROUPINGS
from sidecar.report.source import REPORTS, SourceUnreadable
from sidecar.report.staging import Progress, no_progress

FOLDERS: Final = ("projects", "runs", "boamps")
"""Where a report has one file for each of many: those of an earlier one are removed."""

WORKERS: Final = 8
"""Uploads at a time: a report is many small files, and each waits for its answer."""

_INDEX: Final = "index.html"
_TABLES: Final = (
    *(f"{name}{kind}" for name in GROUPINGS for kind in (".csv", ".parquet")),
    BOAMPS_ALL,
)
_TYPES: Final = {".parquet": "application/vnd.apache.parquet", ".ndjson": "application/x-ndjson"}


def upload_report(place: BlobPlace, directory: Path, progress: Progress = no_progress) -> int:
    """Upload a report's directory to a place; returns how many files. Raises SourceUnreadable."""
    base = place.folder.strip("/") or REPORTS
    files = sorted(path.relative_to(directory).as_posix() for path in _files(directory))
    first = [name for name in files if name != _INDEX]
    last = [_INDEX] if _INDEX in files else []
    done = 0
    try:
        with ThreadPoolExecutor(WORKERS) as pool:
            for group in (first, last):
                for _ in pool.map(lambda name: _put(place, base, directory, name), group):
                    done += 1
                    progress("uploaded", done, len(files))
            left = _left_by_others(place, base, set(files))
            for _ in pool.map(lambda name: _remove(place, name), left):
                pass  # an error of a thread is raised here
    except HttpResponseError as error:
        raise SourceUnreadable(
            f"the report cannot be written to {place.container.container_name}/{base}: "
            f"{error.status_code} {error.reason}"
        ) from error
    return len(files)


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())


def _put(place: BlobPlace, base: str, directory: Path, name: str) -> None:
    path = directory / name

    def put() -> None:
        with path.open("rb") as content:
            place.container.upload_blob(
                f"{base}/{name}",
                content,
                overwrite=True,
                content_settings=ContentSettings(content_type=content_type(path)),
            )

    place.attempt(put, writes=True)


def _remove(place: BlobPlace, name: str) -> None:
    def remove() -> None:
        try:
            place.container.delete_blob(name)
        except HttpResponseError as error:
            if error.status_code != 404:  # another report was quicker
                raise

    place.attempt(remove, writes=True)


def content_type(path: Path) -> str:
    """Return the media type of a file of a report."""
    known = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    text = known or "application/octet-stream"
    return f"{text}; charset=utf-8" if text.startswith("text/") else text


def _left_by_others(place: BlobPlace, base: str, kept: Collection[str]) -> list[str]:
    """Return the blobs of an earlier report: its tables, and what is in its folders."""

    def listed() -> list[str]:
        return list(place.container.list_blob_names(name_starts_with=f"{base}/"))

    found = ((name, name.removeprefix(f"{base}/")) for name in place.attempt(listed, writes=True))
    return [
        name
        for name, own in found
        if own not in kept and (own in _TABLES or own.partition("/")[0] in FOLDERS)
    ]
