"""A dataset: records anywhere, brought into Parquet on this machine, each once.

Any mixture of NDJSON(.gz), compacted Parquet, our `emissions.csv` and CodeCarbon's files, in
directories and containers. What is torn, alien or met twice is counted in `seen`, never fatal. What is
made lies in a directory of its own, gone when the dataset is closed.
"""

import gzip
import itertools
import json
import logging
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from pathlib import Path, PurePosixPath
from typing import Any, Final, Self

import duckdb

from sidecar.report import commits as log
from sidecar.report.imports import CSV_SUFFIX, over_hours, runs
from sidecar.report.places import Place
from sidecar.report.read import VANISHED, ReadReport
from sidecar.report.source import SourceUnreadable
from sidecar.report.staging import Progress, Staging, StoredFile, no_progress, place, quoted
from sidecar.segment import COMPRESSED_SUFFIX, SUFFIX

UNCOMMITTED: Final = "compacted part without its commit"
SAME_RUN: Final = "run in CSV whose records are there"

TRIES: Final = 3
"""Compaction may go on while one reads; who meets it often enough is told."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resources:
    """What reading and adding up may use. Bytes of `disk` are those of fetched and staged files."""

    memory_mib: int = 1536
    disk_gib: int = 200
    threads: int = 0
    workers: int = 4
    directory: Path | None = None
    zone: tzinfo = UTC
    progress: Progress = no_progress


@dataclass(frozen=True, slots=True)
class CompactedPart:
    """A part on this machine."""

    part: log.Part
    path: Path


@dataclass(slots=True)
class Dataset:
    """Records of the places it was opened on; close it.

    `staged` are the records that are not compacted, `compacted` the others, `balances` what became of
    the nodes' energy on compacted days. All are files of Parquet on this machine.
    """

    connection: duckdb.DuckDBPyConnection
    directory: Path
    resources: Resources
    seen: ReadReport = field(default_factory=ReadReport)
    compacted: list[CompactedPart] = field(default_factory=list)
    balances: list[tuple[str, Path]] = field(default_factory=list)
    balance_names: list[tuple[str, str]] = field(default_factory=list)
    generation: int = 0
    files: list[StoredFile] = field(default_factory=list)
    file_days: list[tuple[str, str] | None] = field(default_factory=list)
    """For each of `files` its first and last day; None where a record has none, or is left out."""
    _staging: Staging | None = None

    @property
    def staged(self) -> list[Path]:
        """The records that are not compacted."""
        return self._staging.parts if self._staging else []

    @classmethod
    def open(cls, places: Sequence[Place], resources: Resources | None = None) -> Self:
        """Read all that lies at these places.

        Raises SourceUnreadable, OSError where there is no room, and duckdb.Error where memory does not
        suffice.
        """
        given = resources or Resources()
        for _ in range(TRIES):
            dataset = cls._begun(given)
            try:
                before = dataset.read(places)
                if not dataset.seen.left_out[VANISHED] or before == _commit_names(places):
                    return dataset
            except _Vanished as error:
                if error.commits == _commit_names(places):
                    dataset.close()
                    raise SourceUnreadable(
                        f"{error}: named by a commit, and not there; restore it from a backup"
                    ) from error
            except BaseException:
                dataset.close()
                raise
            dataset.close()
        raise SourceUnreadable(
            f"{', '.join(map(str, places))} was compacted {TRIES} times while it was read; try again"
        )

    def close(self) -> None:
        """Remove what was made."""
        self.connection.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- reading -------------------------------------------------------------------------------------

    @classmethod
    def _begun(cls, resources: Resources) -> Self:
        directory = Path(tempfile.mkdtemp(prefix="emissions-report-", dir=resources.directory))
        try:
            return cls(connect(directory, resources), directory, resources)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    def read(self, places: Sequence[Place]) -> frozenset[str]:
        """Read all, once; returns the commits that were there. `open` does it."""
        listings = [Listing.of(place) for place in places]
        names = frozenset(name for listing in listings for name in listing.commit_names)
        for listing in listings:
            self._fetch_compacted(listing, names)
        self._staging = Staging(
            self.connection,
            _made(self.directory / "staged"),
            self.seen,
            self.resources.workers,
            self.resources.progress,
        )
        self.files = [file for listing in listings for file in listing.records]
        self._check_room([*self.files])
        self._staging.stage(self.files)
        self._note_days()
        self._drop_duplicates()
        self._count_late()
        self._take_runs([file for listing in listings for file in listing.tables])
        self.seen.records += sum(item.part.records for item in self.compacted)
        return names

    def _fetch_compacted(self, listing: "Listing", names: frozenset[str]) -> None:
        here = {PurePosixPath(item.part.name).name for item in self.compacted}
        live = {base: log.live(found) for base, found in listing.commits.items()}
        counted = {base + name for base, state in live.items() for name in state.names()}
        replaced = {base + name for base, state in live.items() for name in state.replaced}
        if stray := len(listing.parquet.keys() - counted - replaced):
            self.seen.left_out[UNCOMMITTED] += stray
        wanted: list[tuple[StoredFile, Path]] = []
        for base, state in live.items():
            for part in state.parts:
                if PurePosixPath(part.name).name in here:
                    continue  # the same dataset, met twice
                path = self._place_for(base + part.name, listing, names, wanted)
                self.compacted.append(CompactedPart(part, path))
                self.seen.files += 1
            for day, name in state.balances:
                path = self._place_for(base + name, listing, names, wanted)
                self.balances.append((day, path))
                self.balance_names.append((day, name))
            self.generation = max(self.generation, state.generation)
        self._check_room([file for file, _ in wanted])
        try:
            self._fetch(wanted)
        except FileNotFoundError as error:
            raise _Vanished(str(error), names) from error
        except OSError as error:
            raise SourceUnreadable(f"a compacted part cannot be read: {error}") from error

    def _place_for(
        self,
        name: str,
        listing: "Listing",
        names: frozenset[str],
        wanted: list[tuple[StoredFile, Path]],
    ) -> Path:
        file = listing.parquet.get(name)
        if file is None:
            raise _Vanished(name, names)
        place_of_parts = _made(self.directory / "compacted")
        path = place_of_parts / f"{len(self.compacted)}-{len(self.balances)}-{len(wanted)}.parquet"
        wanted.append((file, path))
        return path

    def _fetch(self, wanted: Sequence[tuple[StoredFile, Path]]) -> None:
        done = 0
        with ThreadPoolExecutor(self.resources.workers) as pool:
            for _ in pool.map(lambda item: place(*item), wanted):
                done += 1
                self.resources.progress("fetched", done, len(wanted))

    def _check_room(self, files: Iterable[StoredFile]) -> None:
        """Raise SourceUnreadable where files to be fetched are more than may be."""
        size = sum(file.size for file in files if file.path is None)
        if size > self.resources.disk_gib * 1024**3:
            raise SourceUnreadable(
                f"{size / 1024**3:.0f} GiB would be fetched, more than the {self.resources.disk_gib} "
                "GiB allowed; give a directory with room and a higher limit, or compact first"
            )

    def _note_days(self) -> None:
        """Note which days files hold, before duplicates are dropped."""
        self.file_days = [None] * len(self.files)
        if not self.staged or self._staging is None:
            return
        query = self._staging.query("file, min(day), max(day), count(*) = count(day)")
        for number, first, last, is_dated in self._rows(f"{query} GROUP BY file"):
            if is_dated and number not in self._staging.doubtful:
                self.file_days[number] = (first, last)

    def _drop_duplicates(self) -> None:
        """Keep each record once. Compacted ones are known to be: raw ones of their days are compared."""
        if not self.staged or self._staging is None:
            return
        days = {day for (day,) in self._rows(self._staging.query("DISTINCT day"))}
        self._staging.drop_duplicates(
            [item.path for item in self.compacted if item.part.day in days]
        )

    def _count_late(self) -> None:
        """Count the records that came after their day was compacted."""
        closed = sorted(
            {item.part.day for item in self.compacted} | {day for day, _ in self.balances}
        )
        if not closed:
            return
        self.seen.late = 0
        if self.staged and self._staging is not None:
            days = ", ".join(f"'{day}'" for day in closed)
            ((self.seen.late,),) = self._rows(self._staging.query("count(*)", f"day IN ({days})"))

    def _take_runs(self, tables: Sequence[StoredFile]) -> None:
        """Take runs from CSV whose records are not there."""
        if not tables or self._staging is None:
            return
        found = runs(tables, self.seen, self.resources.zone)
        known = self._known_runs({record.run_id for record in found if record.run_id})
        fresh = [record for record in found if record.run_id not in known]
        if len(fresh) < len(found):
            self.seen.left_out[SAME_RUN] += len(found) - len(fresh)
        if fresh:
            self.seen.records += self._staging.stage_records(
                "runs in CSV", itertools.chain.from_iterable(map(over_hours, fresh))
            )

    def _known_runs(self, runs_in_csv: set[str]) -> set[str]:
        """Return which of these have records; where a run has no id, its row names its first record."""
        paths = [*self.staged, *(item.path for item in self.compacted)]
        if not paths or not runs_in_csv:
            return set()
        self.connection.execute(
            "CREATE OR REPLACE TEMP TABLE asked AS SELECT unnest($1) AS run", [sorted(runs_in_csv)]
        )
        query = (
            f"SELECT {{}} FROM read_parquet({quoted(paths)}) WHERE {{}} IN (SELECT run FROM asked)"  # noqa: S608
        )
        return {
            str(run)
            for column in ("run_id", "record_id")
            for (run,) in self._rows(query.format(f"DISTINCT {column}", column))
        }

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.connection.sql(query).fetchall()


class _Vanished(Exception):  # noqa: N818 - a state of affairs
    """A part that a commit names is not there (any more)."""

    def __init__(self, name: str, commits: frozenset[str]) -> None:
        super().__init__(name)
        self.commits = commits


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
        for file in where.files():
            if match := log.COMMIT.fullmatch(file.name):
                content = _content(file, log.COMMIT_BYTES_MAX)
                commit = log.Commit.of_json(content, file.name)
                listing.commits.setdefault(match["base"], []).append(commit)
                listing.commit_names.append(file.name)
            elif log.RAW.fullmatch(file.name):
                listing.raw_lists.append(file)
            elif file.name.endswith((SUFFIX, COMPRESSED_SUFFIX)):
                listing.records.append(file)
            elif file.name.endswith(CSV_SUFFIX):
                listing.tables.append(file)
            elif file.name.endswith(log.PARQUET):
                listing.parquet[file.name] = file
        for file in listing.raw_lists if skips_consumed else ():
            consumed |= listing.consumed_by(file)
        listing.records = [
            file for file in listing.records if (file.name, file.stamp) not in consumed
        ]
        return listing

    def consumed_by(self, file: StoredFile) -> set[tuple[str, str]]:
        """Return names and stamps of the raw files that a commit holds; none without the commit."""
        match = log.RAW.fullmatch(file.name)
        if (
            match is None
            or file.name.replace("raw-", "commit-").removesuffix(".gz") not in self.commit_names
        ):
            return set()
        try:
            rows = json.loads(gzip.decompress(_content(file, log.COMMIT_BYTES_MAX)))
            root = match["base"].removesuffix(log.FOLDER)
            return {(root + str(name), str(stamp)) for name, stamp in rows}
        except (SourceUnreadable, OSError, EOFError, ValueError, TypeError):
            # Only a short cut: the records are met again, and dropped by their ids.
            _log.warning(
                "%s cannot be read: raw files that are compacted are read again", file.name
            )
            return set()


def connect(directory: Path, resources: Resources) -> duckdb.DuckDBPyConnection:
    """Open DuckDB in bounded memory; what does not fit goes to disk. It loads nothing from afar."""
    options: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{resources.memory_mib}MiB",
        "temp_directory": str(directory / "spilled"),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }
    if resources.threads:
        options["threads"] = resources.threads
    connection = duckdb.connect(":memory:", config=options)
    connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    return connection


def _content(file: StoredFile, bytes_max: int) -> bytes:
    if file.size > bytes_max:
        raise SourceUnreadable(f"{file.name}: {file.size} bytes are more than such a file has")
    try:
        with file.open() as stream:
            return stream.read(bytes_max)
    except OSError as error:
        raise SourceUnreadable(f"{file.name} cannot be read: {error.strerror or error}") from error


def _commit_names(places: Iterable[Place]) -> frozenset[str]:
    return frozenset(
        file.name for where in places for file in where.files() if log.COMMIT.fullmatch(file.name)
    )


def _made(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory
