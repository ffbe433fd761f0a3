"""Where records are read from: a directory, or a container of Azure Blob.

A file of records is named `*.ndjson` or `*.ndjson.gz`, lies at any depth, and is not hidden; what
`report` itself writes under `reports/v1/` is no source. Names are relative to the source, with `/`, and
files come in the order of their names, so that the same tree gives the same sums wherever it lies.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, Protocol

from sidecar.segment import COMPRESSED_SUFFIX, SUFFIX
from sidecar.settings import Settings, SettingsError, parse_container

BLOB_SCHEME: Final = "az://"

REPORTS: Final = "reports/v1"
"""Below a source: where reports are written, never read."""


class SourceUnreadable(Exception):  # noqa: N818 - a state of affairs, told in its text
    """A source that cannot be read any further: one line with what to do. No total would be true."""


class RecordFile(Protocol):
    """One file of records."""

    @property
    def name(self) -> str:
        """Path relative to the source."""
        ...

    def open(self) -> BinaryIO:
        """Return its bytes as they are stored.

        Raises OSError (FileNotFoundError: it is gone since it was listed), and so does reading; where
        the whole source fails, SourceUnreadable.
        """
        ...


class Source(Protocol):
    """Where records are read from. `str(source)` is its address, for people: no secret in it."""

    def files(self) -> Iterator[RecordFile]:
        """Yield the files of records in the order of their names. Raises SourceUnreadable."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


def is_record_file(name: str) -> bool:
    """Tell whether a path below a source is that of a file of records."""
    if name.startswith(f"{REPORTS}/") or PurePosixPath(name).name.startswith("."):
        return False
    return name.endswith((SUFFIX, COMPRESSED_SUFFIX))


def open_source(text: str, settings: Settings, environ: Mapping[str, str]) -> Source:
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
        return DirectorySource(root)
    container, prefix = blob_address(text)
    # The libraries of Azure load late: a directory is read without them.
    from sidecar.report.blob_source import BlobSource  # noqa: PLC0415
    from sidecar.transport.blob_container import open_container  # noqa: PLC0415

    return BlobSource(open_container(replace(settings, blob_container=container), environ), prefix)


def blob_address(text: str) -> tuple[str, str]:
    """Return container and prefix of `az://container[/prefix]`; the prefix is a folder, or nothing.

    The prefix is taken as it is, percent signs and all. Raises SettingsError.
    """
    address, query, _ = text.removeprefix(BLOB_SCHEME).partition("?")
    if query:
        raise SettingsError(
            f"{BLOB_SCHEME}{address}?…: an address without query is wanted; a SAS is given in "
            "EMISSIONS_BLOB_SAS"
        )
    container, _, prefix = address.partition("/")
    try:
        return parse_container(container), prefix.strip("/")
    except ValueError as error:
        raise SettingsError(
            f"{text}: {error}; write it like {BLOB_SCHEME}emissions/records/v1"
        ) from error


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """A volume, or a directory of volumes."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def files(self) -> Iterator[RecordFile]:
        """Yield the regular files of records; links to directories are not followed."""
        found: list[RecordFile] = []

        def cannot_list(error: OSError) -> None:
            if Path(error.filename) == self.root:
                raise SourceUnreadable(f"{self.root} cannot be read: {error.strerror}") from error
            found.append(_UnreadableDirectory(self._name(Path(error.filename)), error))

        for directory, _, names in os.walk(self.root, onerror=cannot_list):
            for name in names:
                path = Path(directory, name)
                if is_record_file(self._name(path)) and _is_regular(path):
                    found.append(_PlainFile(self._name(path), path))
        yield from sorted(found, key=lambda file: file.name)

    def close(self) -> None:
        """Nothing is held open."""

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _is_regular(path: Path) -> bool:
    """Whether it is a file: a pipe or device somebody put there would hold the report for ever.

    What cannot be looked at counts as one, so that opening it says why.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False
    except OSError:
        return True


@dataclass(frozen=True, slots=True)
class _PlainFile:
    name: str
    path: Path

    def open(self) -> BinaryIO:
        return self.path.open("rb")


@dataclass(frozen=True, slots=True)
class _UnreadableDirectory:
    """Stands for the files of a directory that cannot be listed, so that they are not passed over."""

    name: str
    error: OSError

    def open(self) -> BinaryIO:
        raise self.error
