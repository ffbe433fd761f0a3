"""A dataset: records anywhere, brought into Parquet on this machine, each once.

Any mixture of NDJSON(.gz), compacted Parquet, our `emissions.csv` and CodeCarbon's files, in
directories and containers. What is torn, alien or met twice is counted in `seen`, never fatal. What is
made lies in a directory of its own, gone when the dataset is closed.
"""

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
from sidecar.report.imports import parted, runs
from sidecar.report.listing import Listing, commit_names
from sidecar.report.places import Place
from sidecar.report.read import VANISHED, ReadReport
from sidecar.report.source import SourceUnreadable
from sidecar.report.staging import Progress, Staging, StoredFile, no_progress, place, quoted

UNCOMMITTED: Final = "compacted part without its commit"
SAME_RUN: Final = "run in CSV whose records are there"

TRIES: Final = 3
"""Compaction may go on while one reads; who meets it often enough is told."""


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
class CompactedDay:
    """A day as compaction left it: its parts, and the files of its balances and sums.

    `sums` is None where there are none of this version: then they are made from the parts.
    """

    day: str
    parts: tuple[tuple[log.Part, StoredFile], ...]
    balances: StoredFile
    sums: StoredFile | None
    names: tuple[str, ...]

    @property
    def is_cut(self) -> bool:
        """Whether a record keeps less than all."""
        return any(part.cut for part, _ in self.parts)

    @property
    def records(self) -> int:
        """How many records it has."""
        return sum(part.records for part, _ in self.parts)


@dataclass(slots=True)
class Dataset:
    """Records of the places it was opened on; close it.

    `staged` are the records that are not compacted, as files of Parquet on this machine, `days` the
    others. What of these is needed is fetched when it is.
    """

    connection: duckdb.DuckDBPyConnection
    directory: Path
    resources: Resources
    seen: ReadReport = field(default_factory=ReadReport)
    days: list[CompactedDay] = field(default_factory=list)
    generation: int = 0
    files: list[StoredFile] = field(default_factory=list)
    file_days: list[tuple[str, str] | None] = field(default_factory=list)
    """For each of `files` its first and last day; None where a record has none, or is left out."""
    _staging: Staging | None = None
    _fetched: dict[int, Path] = field(default_factory=dict)
    """What is on this machine, by the identity of the file."""
    _bytes: int = 0

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
                if not dataset.seen.left_out[VANISHED] or before == commit_names(places):
                    return dataset
            except _Vanished as error:
                if error.commits == commit_names(places):
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
            self._take_compacted(listing, names)
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
        self.seen.records += sum(day.records for day in self.days)
        self.seen.files += sum(len(day.parts) for day in self.days)
        return names

    def _take_compacted(self, listing: Listing, names: frozenset[str]) -> None:
        """Take the days that commits name; a dataset that is met twice counts once."""
        known = {frozenset(map(_bare, day.names)) for day in self.days}
        for base, found in listing.commits.items():
            state = log.live(found)
            self.generation = max(self.generation, state.generation)
            for commit in state.standing:
                if frozenset(map(_bare, commit.files)) not in known:
                    self.days.append(_day_of(commit, base, listing, names))
        live = {base: log.live(found) for base, found in listing.commits.items()}
        named = {base + name for base, state in live.items() for name in state.names()}
        named |= {base + name for base, state in live.items() for name in state.replaced}
        for name in listing.parquet.keys() - named:
            reason = UNCOMMITTED if log.is_of_compaction(name) else log.FOREIGN
            self.seen.left_out[reason] += 1

    def paths_of(self, days: Iterable[CompactedDay]) -> list[Path]:
        """Return the parts of these days on this machine. Raises SourceUnreadable."""
        return self.fetched([file for day in days for _, file in day.parts])

    def fetched(self, files: Sequence[StoredFile]) -> list[Path]:
        """Return these files on this machine; fetches those that are not. Raises SourceUnreadable."""
        wanted = [file for file in files if id(file) not in self._fetched]
        self._check_room(wanted)
        folder = _made(self.directory / "compacted")
        paths = [
            folder / f"{number:06d}{log.PARQUET}"
            for number in range(len(self._fetched), len(self._fetched) + len(wanted))
        ]
        try:
            self._fetch(list(zip(wanted, paths, strict=True)))
        except FileNotFoundError as error:
            raise SourceUnreadable(
                f"{error}: gone since it was listed; another compaction was at work: try again"
            ) from error
        except OSError as error:
            raise SourceUnreadable(f"a compacted part cannot be read: {error}") from error
        self._fetched |= {id(file): path for file, path in zip(wanted, paths, strict=True)}
        return [self._fetched[id(file)] for file in files]

    def _fetch(self, wanted: Sequence[tuple[StoredFile, Path]]) -> None:
        done = 0
        with ThreadPoolExecutor(self.resources.workers) as pool:
            for _ in pool.map(lambda item: place(*item), wanted):
                done += 1
                self.resources.progress("fetched", done, len(wanted))

    def _check_room(self, files: Iterable[StoredFile]) -> None:
        """Raise SourceUnreadable where files to be fetched are more than may be."""
        self._bytes += sum(file.size for file in files if file.path is None)
        if self._bytes > self.resources.disk_gib * 1024**3:
            raise SourceUnreadable(
                f"{self._bytes / 1024**3:.0f} GiB would be fetched, more than the "
                f"{self.resources.disk_gib} GiB allowed; give a directory with room and a higher limit, "
                "or compact first"
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
        staged = {day for (day,) in self._rows(self._staging.query("DISTINCT day"))}
        self._staging.drop_duplicates(self.paths_of(day for day in self.days if day.day in staged))

    def _count_late(self) -> None:
        """Count the records that came after their day was compacted."""
        closed = sorted({day.day for day in self.days})
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
            self.seen.records += self._staging.stage_records("runs in CSV", parted(fresh))

    def _known_runs(self, runs_in_csv: set[str]) -> set[str]:
        """Return which of these have records; where a run has no id, its row names its first record."""
        if not runs_in_csv:
            return set()
        self.connection.execute(
            "CREATE OR REPLACE TEMP TABLE asked AS SELECT unnest($1) AS run", [sorted(runs_in_csv)]
        )
        paths = [*self.staged, *self.paths_of(self.days)]
        found: set[str] = set()
        for column in ("run_id", "record_id") if paths else ():
            query = (
                f"SELECT DISTINCT {column} FROM read_parquet({quoted(paths)}) "  # noqa: S608
                f"WHERE {column} IN (SELECT run FROM asked)"
            )
            found |= {str(run) for (run,) in self._rows(query)}
        return found

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.connection.sql(query).fetchall()


def _day_of(commit: log.Commit, base: str, listing: Listing, names: frozenset[str]) -> CompactedDay:
    """Return a day with its files. Raises _Vanished."""

    def file(name: str) -> StoredFile:
        found = listing.parquet.get(base + name)
        if found is None:
            raise _Vanished(base + name, names)
        return found

    sums = commit.sums
    return CompactedDay(
        commit.day,
        tuple((part, file(part.name)) for part in commit.parts),
        file(commit.balances),
        file(sums.name) if sums is not None and sums.version == log.SUMS_VERSION else None,
        commit.files,
    )


def _bare(name: str) -> str:
    return PurePosixPath(name).name


class _Vanished(Exception):  # noqa: N818 - a state of affairs
    """A part that a commit names is not there (any more)."""

    def __init__(self, name: str, commits: frozenset[str]) -> None:
        super().__init__(name)
        self.commits = commits


def connect(directory: Path, resources: Resources) -> duckdb.DuckDBPyConnection:
    """Open DuckDB in bounded memory; what does not fit goes to disk. It loads nothing from afar."""
    # The limit is of its buffers: what it allocates beside them comes on top.
    options: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{resources.memory_mib * 5 // 6}MiB",
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


def _made(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory
