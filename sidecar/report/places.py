"""Where a dataset lies, with all its files: a directory, or a container of Azure Blob.

Names are relative, with `/`, and files come in their order, so that the same tree gives the same sums
wherever it lies. What is hidden is left out, and what a report wrote: below any `reports/v1/`, and
beside a file `.emissions-report`, wherever it was told to write.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from sidecar.report.measures import GROUPINGS
from sidecar.report.source import BLOB_SCHEME, REPORTS, SourceUnreadable, blob_address
from sidecar.report.staging import StoredFile
from sidecar.settings import Settings, SettingsError

if TYPE_CHECKING:
    from sidecar.report.blob_place import BlobPlace


class Place(Protocol):
    """A tree of files. `str(place)` is its address, for people: no secret in it."""

    def files(self) -> Iterator[StoredFile]:
        """Yield all files that may be of a dataset. Raises SourceUnreadable."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


def open_place(text: str, settings: Settings, environ: Mapping[str, str]) -> "Place | BlobPlace":
    """Open a directory, or `az://container[/prefix]` with the credentials of the settings.

    Raises SettingsError with one line where the address or the credentials cannot be right.
    """
    if not text.startswith(BLOB_SCHEME):
        root = Path(text)
        if not root.is_dir():
            raise SettingsError(
                f"{text}: there is no such directory; give the volume of a run, or "
                f"{BLOB_SCHEME}CONTAINER[/PREFIX]"
            )
        return DirectoryPlace(root)
    container, prefix = blob_address(text)
    # The libraries of Azure load late: a directory is read without them.
    from sidecar.report.blob_place import BlobPlace  # noqa: PLC0415
    from sidecar.transport.blob_container import open_container  # noqa: PLC0415

    return BlobPlace(open_container(replace(settings, blob_container=container), environ), prefix)


MARK: Final = ".emissions-report"
"""Beside what a report wrote."""

_OF_REPORTS: Final = frozenset(
    [
        *("index.html", "summary.json", "boamps.ndjson"),
        *(f"{table}.{kind}" for table in GROUPINGS for kind in ("csv", "parquet")),
    ]
)
_FOLDERS_OF_REPORTS: Final = frozenset(("projects", "runs", "boamps"))


def of_dataset(files: Iterable[StoredFile]) -> Iterator[StoredFile]:
    """Yield those that may be of a dataset, of all files of a place in the order of their names.

    Beside a mark only what reports write is left out: it cannot hide a record. It comes first there, as
    its name does.
    """
    marked: set[str] = set()
    for file in files:
        folder, _, name = file.name.rpartition("/")
        if name == MARK:
            marked.add(folder)
        above, _, last = folder.rpartition("/")
        is_written = (folder in marked and name in _OF_REPORTS) or (
            above in marked and last in _FOLDERS_OF_REPORTS
        )
        is_hidden = name.startswith(".") and not isinstance(file, Unlisted)
        if not (is_written or is_hidden or f"/{REPORTS}/" in f"/{file.name}"):
            yield file


@dataclass(frozen=True, slots=True)
class DirectoryPlace:
    """A volume, or a directory of volumes. Links to directories are not followed."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def files(self) -> Iterator[StoredFile]:
        """Yield the regular files. Raises SourceUnreadable."""
        found: list[StoredFile] = []

        def cannot_list(error: OSError) -> None:
            if Path(error.filename) == self.root:
                raise SourceUnreadable(f"{self.root} cannot be read: {error.strerror}") from error
            name = Path(error.filename).relative_to(self.root).as_posix()
            found.append(Unlisted(f"{name}/.ndjson", error))

        for directory, _, names in os.walk(self.root, onerror=cannot_list):
            for name in names:
                path = Path(directory, name)
                file = _local(path.relative_to(self.root).as_posix(), path)
                if file is not None:
                    found.append(file)
        return of_dataset(sorted(found, key=lambda file: file.name))

    def close(self) -> None:
        """Nothing is held open."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this machine."""

    name: str
    path: Path
    size: int
    stamp: str

    def open(self) -> BinaryIO:
        """Open it. Raises OSError."""
        return self.path.open("rb")


@dataclass(frozen=True, slots=True)
class Unlisted:
    """Stands for the files of a directory that cannot be listed, so that they are not passed over."""

    name: str
    error: OSError
    size: int = 0
    stamp: str = ""
    path: None = None

    def open(self) -> BinaryIO:
        """Raise why."""
        raise self.error


def _local(name: str, path: Path) -> LocalFile | None:
    """Return a regular file; what cannot be looked at counts as one, so that opening it says why."""
    try:
        seen = path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        return LocalFile(name, path, 0, "")
    if not stat.S_ISREG(seen.st_mode):
        return None
    return LocalFile(name, path, seen.st_size, stamp_of(seen))


def stamp_of(seen: os.stat_result) -> str:
    """Return what changes when a file does."""
    return f"{seen.st_ino}.{seen.st_size}.{seen.st_mtime_ns}"
