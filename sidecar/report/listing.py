"""The files of a place by what they are, and which of them a commit has taken the place of."""

import json
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Self

from sidecar.report import commits as log
from sidecar.report.imports import CSV_SUFFIX
from sidecar.report.places import Place
from sidecar.report.source import SourceUnreadable
from sidecar.report.staging import StoredFile
from sidecar.segment import COMPRESSED_SUFFIX, SUFFIX, decompressed

COMMITS_AT_A_TIME: Final = 8

RAW_BYTES_MAX: Final = 64 * 1024**2
"""Of a list of raw files: a day with 300,000 of them has 50 MB."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Listing:
    """The files of a place by what they are."""

    commits: dict[str, list[log.Commit]] = field(default_factory=dict)
    commit_names: list[str] = field(default_factory=list)
    parquet: dict[str, StoredFile] = field(default_factory=dict)
    records: list[StoredFile] = field(default_factory=list)
    tables: list[StoredFile] = field(default_factory=list)
    raw_lists: list[StoredFile] = field(default_factory=list)

    @classmethod
    def of(cls, where: Place, *, skips_consumed: bool = True) -> Self:
        """List a place; read its commits, and skip raw files they hold. Raises SourceUnreadable."""
        listing = cls()
        consumed: set[tuple[str, str]] = set()
        commit_files: list[StoredFile] = []
        for file in where.files():
            if log.COMMIT.fullmatch(file.name):
                commit_files.append(file)
            elif log.RAW.fullmatch(file.name):
                listing.raw_lists.append(file)
            elif file.name.endswith((SUFFIX, COMPRESSED_SUFFIX)):
                listing.records.append(file)
            elif file.name.endswith(CSV_SUFFIX):
                listing.tables.append(file)
            elif file.name.endswith(log.PARQUET):
                listing.parquet[file.name] = file
        listing._read_commits(commit_files)
        for file in listing.raw_lists if skips_consumed else ():
            consumed |= listing.consumed_by(file)
        listing.records = [
            file for file in listing.records if (file.name, file.stamp) not in consumed
        ]
        return listing

    def _read_commits(self, files: Iterable[StoredFile]) -> None:
        """Read the commits, some at a time: there is one for each day."""

        def read(file: StoredFile) -> tuple[StoredFile, log.Commit]:
            return file, log.Commit.of_json(_content(file, log.COMMIT_BYTES_MAX), file.name)

        with ThreadPoolExecutor(COMMITS_AT_A_TIME) as pool:
            for file, commit in pool.map(read, files):
                match = log.COMMIT.fullmatch(file.name)
                base = match["base"] if match else ""
                self.commits.setdefault(base, []).append(commit)
                self.commit_names.append(file.name)

    def consumed_by(self, file: StoredFile) -> set[tuple[str, str]]:
        """Return names and stamps of the raw files that a commit holds; none without the commit."""
        match = log.RAW.fullmatch(file.name)
        if (
            match is None
            or file.name.replace("raw-", "commit-").removesuffix(".gz") not in self.commit_names
        ):
            return set()
        try:
            rows = json.loads(decompressed(_content(file, log.COMMIT_BYTES_MAX), RAW_BYTES_MAX))
            root = match["base"].removesuffix(log.FOLDER)
            return {(root + str(name), str(stamp)) for name, stamp in rows}
        except (SourceUnreadable, ValueError, TypeError, RecursionError):
            # Only a short cut: the records are met again, and dropped by their ids.
            _log.warning(
                "%s cannot be read: raw files that are compacted are read again", file.name
            )
            return set()


def _content(file: StoredFile, bytes_max: int) -> bytes:
    if file.size > bytes_max:
        raise SourceUnreadable(f"{file.name}: {file.size} bytes are more than such a file has")
    try:
        with file.open() as stream:
            return stream.read(bytes_max)
    except OSError as error:
        raise SourceUnreadable(f"{file.name} cannot be read: {error.strerror or error}") from error


def commit_names(places: Iterable[Place]) -> frozenset[str]:
    """List places for their commits alone. Raises SourceUnreadable."""
    return frozenset(
        file.name for where in places for file in where.files() if log.COMMIT.fullmatch(file.name)
    )
