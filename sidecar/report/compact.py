"""Compaction: the records of closed days become Parquet, each once and settled; then the raw files go.

Day by day, the earliest first: parts are written, brought back and compared with what was read; then
one commit makes them count and the raw files not (`sidecar.report.commits`); then the raw files of which
all is compacted are removed. Whoever is killed in between has lost nothing and counted nothing twice:
before the commit the raw files count, after it the parts. The next compaction goes on from there.

What is not understood is never removed: a file with a torn or alien line stays, and so do records
without a time, runs in CSV, and files that changed since they were read.
"""

import gzip
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from sidecar.report import commits as log
from sidecar.report.columns import COLUMNS, DERIVED, KEPT
from sidecar.report.dataset import Dataset, Listing, Resources
from sidecar.report.duckdb_engine import DuckDBEngine
from sidecar.report.engine import Settlement, settle_dataset
from sidecar.report.expressions import BALANCES, Times
from sidecar.report.staging import StoredFile, quoted
from sidecar.report.stores import CompactionStopped, Store
from sidecar.segment import RECORDS_ROOT, path_part

OLDER_THAN_DAYS: Final = 2
"""Records may come late: what was not shipped in an outage, or by a pod that was gone."""

_ROW_GROUP: Final = 122_880
_ENERGY_TOLERANCE: Final = 1e-9
"""Relative; sums of floats, taken in another order."""


@dataclass(slots=True)
class Compacted:
    """What was done. `removed` and `left` are raw files of closed days."""

    days: list[str] = field(default_factory=list)
    parts: int = 0
    records: int = 0
    removed: int = 0
    left: int = 0

    def __str__(self) -> str:
        return (
            f"{self.records} records of {len(self.days)} days in {self.parts} parts; "
            f"{self.removed} raw files removed, {self.left} left"
        )


def compact(
    store: Store,
    today: date,
    older_than_days: int = OLDER_THAN_DAYS,
    resources: Resources | None = None,
) -> Compacted:
    """Compact the days that ended so many days ago, or earlier.

    Raises CompactionStopped, SourceUnreadable, OSError, and duckdb.Error where memory does not suffice.
    What was committed before is not lost.
    """
    base = _base(store)
    with store.exclusive(base):
        _clean_up(store, base)
        with Dataset.open([store.where], resources) as dataset:
            closed_before = (today - timedelta(days=max(0, older_than_days))).isoformat()
            work = _Work(store, base, dataset, closed_before)
            return work.done()


def _base(store: Store) -> str:
    """Return the folder `compacted/` of a place; where there is none yet, the one it will have."""
    listing = Listing.of(store.where)
    if len(listing.commits) > 1:
        raise CompactionStopped(
            f"{store.where} holds several datasets ({', '.join(sorted(listing.commits))}); compact "
            "each by its own address"
        )
    if listing.commits:
        return next(iter(listing.commits))
    names = [file.name for file in listing.records]
    is_root = f"{store.where}".rstrip("/").endswith(f"/{RECORDS_ROOT}") or any(
        name.startswith("project=") for name in names
    )
    return log.FOLDER if is_root else f"{RECORDS_ROOT}/{log.FOLDER}"


def _clean_up(store: Store, base: str) -> None:
    """Remove what earlier compactions left: raw files that are compacted, parts that do not count."""
    listing = Listing.of(store.where, skips_consumed=False)
    counted = log.live(listing.commits.get(base, [])).names()
    consumed: set[tuple[str, str]] = set()
    for file in listing.raw_lists:
        consumed |= listing.consumed_by(file)
    gone = [file for file in listing.records if (file.name, file.stamp) in consumed]
    gone += [file for file in listing.raw_lists if file.name.startswith(base)]
    gone += [
        file
        for file in listing.parquet.values()
        if file.name.startswith(base) and file.name.removeprefix(base) not in counted
    ]
    for file in gone:
        store.remove(file)


@dataclass(slots=True)
class _Work:
    """One compaction of one dataset."""

    store: Store
    base: str
    dataset: Dataset
    closed_before: str
    generation: int = 0
    outcome: Compacted = field(default_factory=Compacted)
    gone: set[int] = field(default_factory=set)
    """Numbers of the raw files that were removed."""

    def done(self) -> Compacted:
        """Compact day by day."""
        dataset = self.dataset
        self.generation = dataset.generation
        days = self._days()
        if days:
            engine = DuckDBEngine(dataset.connection)
            settlement = settle_dataset(dataset, Times(), engine)
            self._load_kept(settlement)
            for number, day in enumerate(days):
                self._compact_day(day, settlement)
                dataset.resources.progress("compacted", number + 1, len(days))
            engine.close()
        # Files that hold nothing new: all their records were compacted before.
        self._remove_raw(self.closed_before)
        self.outcome.left = sum(
            number not in self.gone and (days is None or days[1] < self.closed_before)
            for number, days in enumerate(dataset.file_days)
        )
        return self.outcome

    def _days(self) -> list[str]:
        if not self.dataset.staged:
            return []
        query = self._staged("DISTINCT day", f"day < '{self.closed_before}'")
        return sorted(day for (day,) in self._rows(query))

    # -- one day -------------------------------------------------------------------------------------

    def _compact_day(self, day: str, settlement: Settlement) -> None:
        old = [item for item in self.dataset.compacted if item.part.day == day]
        replaced = [item.part.name for item in old]
        replaced += [name for known, name in self.dataset.balance_names if known == day]
        columns = ", ".join([*(item.name for item in COLUMNS), *DERIVED])
        new = self._staged(columns, f"day = '{day}'")
        before = f"SELECT {columns} FROM read_parquet({quoted([item.path for item in old])})"  # noqa: S608
        raw = f"{new} UNION ALL {before}" if old else new
        self._gather(raw, [item.path for item in old])
        wanted = self._digests(raw)
        parts = tuple(self._part(day, project, wanted) for project in sorted(wanted))
        self._drop_gathered()
        balances = self._balances(day, settlement)
        self.generation += 1
        commit = log.Commit(self.generation, day, parts, balances, tuple(replaced))
        root = self.base.removesuffix(log.FOLDER)
        listed = [
            (file.name.removeprefix(root), file.stamp)
            for _, file in self._whole(_after(day))
            if file.name.startswith(root)
        ]
        listing = gzip.compress(json.dumps(listed).encode(), mtime=0)
        self._put(commit.raw_name, self._written("raw", listing))
        self._put(commit.name, self._written("commit", commit.to_json()))
        self.outcome.days.append(day)
        self.outcome.parts += len(parts)
        self.outcome.records += sum(part.records for part in parts)
        self._remove_raw(_after(day))
        self._remove(commit.raw_name)

    def _gather(self, raw: str, old: Sequence[Path]) -> None:
        """Put a day's records with what they keep into a table, sorted as the parts will be."""
        stored = f"SELECT record_id, {', '.join(KEPT)} FROM read_parquet({quoted(old)})"  # noqa: S608
        nothing = "SELECT NULL AS record_id, " + ", ".join(f"1.0 AS {name}" for name in KEPT)
        kept = ", ".join(
            f"CASE WHEN t.day IS NULL THEN coalesce(k.{name}, o.{name}) ELSE k.{name} END AS {name}"
            for name in KEPT
        )
        self.dataset.connection.execute(
            f"""
            CREATE OR REPLACE TABLE gathered AS SELECT r.*, {kept} FROM ({raw}) AS r
            LEFT JOIN ({stored if old else nothing + " WHERE false"}) AS o USING (record_id)
            LEFT JOIN kept_now AS k USING (record_id)
            LEFT JOIN touched_now AS t ON t.node_key = r.node_key AND t.day = r.day
            ORDER BY r.project, r.node_key, r.start_us, r.record_id
            """  # noqa: S608
        )

    def _drop_gathered(self) -> None:
        self.dataset.connection.execute("DROP TABLE gathered")

    def _load_kept(self, settlement: Settlement) -> None:
        connection = self.dataset.connection
        pairs = sorted(settlement.touched)
        touched = pa.table(
            {"node_key": [node for node, _ in pairs], "day": [day for _, day in pairs]},
            schema=pa.schema([("node_key", pa.string()), ("day", pa.string())]),
        )
        for name, rows in (("kept_now", settlement.kept_rows()), ("touched_now", touched)):
            connection.register("given", rows)
            connection.execute(f"CREATE OR REPLACE TABLE {name} AS FROM given")
            connection.unregister("given")

    def _digests(self, query: str) -> dict[str, tuple[int, float, str]]:
        """Return, by project, how many records, their energy in kWh, and a digest of their ids."""
        rows = self._rows(
            "SELECT project, count(*), coalesce(sum(energy_kwh), 0.0), "  # noqa: S608
            "CAST(bit_xor(md5_number(record_id)) AS VARCHAR) "
            f"FROM ({query}) GROUP BY 1"
        )
        return {project: (records, energy, ids) for project, records, energy, ids in rows}

    def _part(self, day: str, project: str, wanted: dict[str, tuple[int, float, str]]) -> log.Part:
        """Write, store and verify the part of one project."""
        path = self.dataset.directory / "part.parquet"
        self.dataset.connection.execute(
            f"COPY (SELECT * FROM gathered WHERE project = $1 ORDER BY node_key, start_us, record_id) "  # noqa: S608
            f"TO '{path}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP})",
            [project],
        )
        sha256 = _sha256(path)
        name = (
            f"project={path_part(project or 'default')}/month={day[:7]}/part-{day}-{sha256[:16]}"
            f"{log.PARQUET}"
        )
        self._put(name, path)
        self._verify(name, sha256, wanted[project])
        records, energy, ids = wanted[project]
        (cut,) = self._rows(
            f"SELECT count(*) FROM read_parquet('{path}') WHERE kept_cpu IS NOT NULL"  # noqa: S608
        )[0]
        return log.Part(name, project, day, records, cut, energy, ids, sha256)

    def _verify(self, name: str, sha256: str, wanted: tuple[int, float, str]) -> None:
        """Compare what was stored with what was read. Raises CompactionStopped."""
        path = self.dataset.directory / "verified.parquet"
        self.store.fetch(self.base + name, path)
        if _sha256(path) != sha256:
            raise CompactionStopped(
                f"{name}: what was stored is not what was written; nothing was removed, look at the "
                "storage"
            )
        found = self._digests(f"SELECT * FROM read_parquet('{path}')")  # noqa: S608
        (records, energy, ids) = next(iter(found.values()), (0, 0.0, ""))
        is_same = (records, ids) == (wanted[0], wanted[2]) and math.isclose(
            energy, wanted[1], rel_tol=_ENERGY_TOLERANCE, abs_tol=1e-12
        )
        if not is_same or len(found) != 1:
            raise CompactionStopped(
                f"{name}: what was written ({records} records, {energy} kWh) is not what was read "
                f"({wanted[0]} records, {wanted[1]} kWh); nothing was removed; please report it"
            )
        path.unlink()

    def _balances(self, day: str, settlement: Settlement) -> str:
        """Store what became of the nodes' energy on a day; of nodes without new records, as it was."""
        rows = [row for row in settlement.found if row["day"] == day]
        for known, path in self.dataset.balances:
            if known == day:
                rows += [
                    row
                    for row in pq.read_table(path).to_pylist()
                    if (row["node_key"], day) not in settlement.touched
                ]
        columns = {name: [row[name] for row in rows] for name in BALANCES}
        kinds = {"string": pa.string(), "float64": pa.float64()}
        schema = pa.schema([(name, kinds[kind]) for name, kind in BALANCES.items()])
        path = self.dataset.directory / "balances.parquet"
        pq.write_table(pa.table(columns, schema=schema), path, compression="zstd")
        name = f"balances/month={day[:7]}/part-{day}-{_sha256(path)[:16]}{log.PARQUET}"
        self._put(name, path)
        return name

    # -- raw files -----------------------------------------------------------------------------------

    def _whole(self, before: str) -> Iterator[tuple[int, StoredFile]]:
        """Yield the raw files whose records are all of days before this one, each with its number."""
        for number, file in enumerate(self.dataset.files):
            days = self.dataset.file_days[number]
            if days is not None and days[1] < before and number not in self.gone:
                yield number, file

    def _remove_raw(self, before: str) -> None:
        for number, file in list(self._whole(before)):
            if self.store.remove(file):
                self.outcome.removed += 1
                self.gone.add(number)

    def _remove(self, name: str) -> None:
        for file in Listing.of(self.store.where).raw_lists:
            if file.name == self.base + name:
                self.store.remove(file)

    # -- small things ----------------------------------------------------------------------------------

    def _staged(self, columns: str, condition: str) -> str:
        """Return SQL over the records from raw files; runs in CSV stay where they are."""
        paths = quoted(self.dataset.staged)
        only = f"file < {len(self.dataset.files)} AND {condition}"
        return f"SELECT {columns} FROM read_parquet({paths}) WHERE {only}"  # noqa: S608

    def _put(self, name: str, path: Path) -> None:
        self.store.put(self.base + name, path)

    def _written(self, name: str, content: bytes) -> Path:
        path = self.dataset.directory / name
        path.write_bytes(content)
        return path

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.dataset.connection.sql(query).fetchall()


def _after(day: str) -> str:
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
