"""Compaction: the records of closed days become Parquet, each once and settled; then the raw files go.

Day by day, the earliest first: parts, and the sums that reports read instead of them, are written,
brought back and compared with what was read; then one commit makes them count and the raw files not
(`sidecar.report.commits`); then the raw files of which all is compacted are removed. Whoever is killed
in between has lost nothing and counted nothing twice: before the commit the raw files count, after it
the parts. The next compaction goes on from there.

What is not understood is never removed: a file with a torn or alien line stays, and so do records
without a time, runs in CSV, and files that changed since they were read.
"""

import gzip
import hashlib
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from sidecar.amounts import counted
from sidecar.report import commits as log
from sidecar.report.claims import NODES_OWN
from sidecar.report.columns import COLUMNS, DERIVED, KEPT
from sidecar.report.dataset import CompactedDay, Dataset, Resources
from sidecar.report.duckdb_engine import DuckDBEngine
from sidecar.report.expressions import BALANCES, Times, schema
from sidecar.report.listing import Listing
from sidecar.report.settlement import Settlement, settle_dataset
from sidecar.report.staging import quoted, quoted_text, read_sql
from sidecar.report.stores import CompactionStopped, Store
from sidecar.report.sums import SUMMED_COLUMNS, finest, settled
from sidecar.segment import RECORDS_ROOT, path_part

OLDER_THAN_DAYS: Final = 2
"""Records may come late: what was not shipped in an outage, or by a pod that was gone."""

OWN_PART_RECORDS: Final = 50_000
"""From so many records a day on a project has a part of its own; the others of a day share one."""

_ROW_GROUP: Final = 122_880
_ORDER: Final = "project, node_key, start_us, record_id"
"""Of the records in a part."""
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
            f"{counted(self.records, 'record')} of {counted(len(self.days), 'day')} in "
            f"{counted(self.parts, 'part')}; {counted(self.removed, 'raw file')} removed, "
            f"{self.left:,} left"
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


@dataclass(frozen=True, slots=True)
class _Digest:
    """What makes two sets of records the same: how many, their energy in kWh, their ids."""

    records: int = 0
    energy_kwh: float = 0.0
    ids: str = ""

    def is_same(self, other: "_Digest") -> bool:
        """Compare; energies are sums of floats, taken in another order."""
        return (self.records, self.ids) == (other.records, other.ids) and math.isclose(
            self.energy_kwh, other.energy_kwh, rel_tol=_ENERGY_TOLERANCE, abs_tol=1e-12
        )


@dataclass(slots=True)
class _Work:
    """One compaction of one dataset."""

    store: Store
    base: str
    dataset: Dataset
    closed_before: str
    generation: int = 0
    outcome: Compacted = field(default_factory=Compacted)
    files_by_last_day: dict[str, list[int]] = field(default_factory=dict)
    """Numbers of the raw files that are understood and not yet removed."""

    def done(self) -> Compacted:
        """Compact day by day."""
        dataset = self.dataset
        self.generation = dataset.generation
        for number, span in enumerate(dataset.file_days):
            if span is not None:
                self.files_by_last_day.setdefault(span[1], []).append(number)
        days = self._days()
        if days:
            engine = DuckDBEngine(dataset.connection)
            settlement = settle_dataset(dataset, Times(), engine)
            self._load_kept(settlement)
            for number, day in enumerate(days):
                self._compact_day(day, settlement, engine)
                dataset.resources.progress("compacted", number + 1, len(days))
            engine.close()
        # Files that hold nothing new: all their records were compacted before.
        self._remove_raw(self._whole(self.closed_before))
        doubtful = sum(span is None for span in dataset.file_days)
        kept = sum(len(self.files_by_last_day[day]) for day in self._closed(self.closed_before))
        self.outcome.left = doubtful + kept
        return self.outcome

    def _days(self) -> list[str]:
        if not self.dataset.staged:
            return []
        query = self._staged("DISTINCT day", f"day < '{self.closed_before}'")
        return sorted(day for (day,) in self._rows(query))

    # -- one day -------------------------------------------------------------------------------------

    def _compact_day(self, day: str, settlement: Settlement, engine: DuckDBEngine) -> None:
        before = [item for item in self.dataset.days if item.day == day]
        raw = self._gather(day, before)
        parts = self._parts(day, raw)
        sums = self._sums(day, engine)
        self.dataset.connection.execute("DROP TABLE gathered")
        balances = self._balances(day, settlement, before)
        self.generation += 1
        replaced = tuple(name for item in before for name in item.names)
        commit = log.Commit(self.generation, day, parts, balances, sums, replaced)
        whole = self._whole(_after(day))
        self._put(commit.raw_name, self._written("raw", self._raw_list(whole)))
        self._put(commit.name, self._written("commit", commit.to_json()))
        self.outcome.days.append(day)
        self.outcome.parts += len(parts)
        self.outcome.records += sum(part.records for part in parts)
        self._remove_raw(whole)
        self.store.discard(self.base + commit.raw_name)

    def _gather(self, day: str, before: Sequence[CompactedDay]) -> str:
        """Put a day's records with what they keep into a table; returns SQL of what was read.

        It is sorted once as the parts are: each of them then is a stretch of it.
        """
        kinds = {**{item.name: item.sql_type for item in COLUMNS}, **DERIVED}
        raw = self._staged(", ".join(kinds), f"day = '{day}'")
        stored = "SELECT NULL AS record_id, " + ", ".join(f"1.0 AS {name}" for name in KEPT)
        stored += " WHERE false"
        if before:
            paths = self.dataset.paths_of(before)
            raw += f" UNION ALL BY NAME {read_sql(paths, kinds)}"
            stored = f"SELECT record_id, {', '.join(KEPT)} FROM read_parquet({quoted(paths)})"  # noqa: S608
        kept = ", ".join(
            f"CASE WHEN t.day IS NULL THEN coalesce(k.{name}, o.{name}) ELSE k.{name} END AS {name}"
            for name in KEPT
        )
        self.dataset.connection.execute(
            f"""
            CREATE OR REPLACE TABLE gathered AS SELECT r.*, {kept} FROM ({raw}) AS r
            LEFT JOIN ({stored}) AS o USING (record_id)
            LEFT JOIN kept_now AS k USING (record_id)
            LEFT JOIN touched_now AS t ON t.node_key = r.node_key AND t.day = r.day
            ORDER BY {_ORDER}
            """  # noqa: S608
        )
        return raw

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

    def _parts(self, day: str, raw: str) -> tuple[log.Part, ...]:
        """Write, store and verify the parts of a day: of large projects, and of all others together."""
        self.dataset.connection.execute(
            "CREATE OR REPLACE TABLE owners AS SELECT project AS owner "  # noqa: S608
            f"FROM ({raw}) GROUP BY 1 HAVING count(*) >= {OWN_PART_RECORDS}"
        )
        wanted = self._digests(f"({raw}) LEFT JOIN owners ON owner = project", "owner")
        ordered = sorted(wanted, key=lambda owner: (owner is None, owner or ""))
        return tuple(self._part(day, owner, wanted[owner]) for owner in ordered)

    def _digests(self, source: str, key: str) -> dict[str | None, _Digest]:
        rows = self._rows(
            f"SELECT {key}, count(*), coalesce(sum(energy_kwh), 0.0), "  # noqa: S608
            f"CAST(bit_xor(md5_number(record_id)) AS VARCHAR) FROM {source} GROUP BY 1"
        )
        return {name: _Digest(*digest) for name, *digest in rows}

    def _part(self, day: str, owner: str | None, wanted: _Digest) -> log.Part:
        path = self.dataset.directory / "part.parquet"
        test = "project NOT IN (FROM owners)" if owner is None else "project = $1"
        self.dataset.connection.execute(
            f"COPY (SELECT * FROM gathered WHERE {test}) "  # noqa: S608
            f"TO {quoted_text(path)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP})",
            [] if owner is None else [owner],
        )
        folder = log.SEVERAL if owner is None else path_part(owner or "default")
        name, sha256 = self._stored(f"project={folder}", day, path)
        query = f"read_parquet({quoted_text(self._brought_back(name, sha256))})"
        found = self._digests(query, "1" if owner is None else "project")
        if len(found) != 1 or not wanted.is_same(next(iter(found.values()))):
            raise CompactionStopped(
                f"{name}: what was written ({found}) is not what was read ({wanted}); nothing was "
                "removed; please report it"
            )
        ((cut,),) = self._rows(f"SELECT count(kept_cpu) FROM {query}")  # noqa: S608
        return log.Part(
            name, owner, day, wanted.records, cut, wanted.energy_kwh, wanted.ids, sha256
        )

    def _sums(self, day: str, engine: DuckDBEngine) -> log.Sums:
        """Write, store and verify the sums of a day."""
        columns = {**SUMMED_COLUMNS, **schema(KEPT)}
        path = self.dataset.directory / "sums.parquet"
        engine.write(finest(settled(ibis.table(columns, name="gathered"))), path)
        name, sha256 = self._stored("sums", day, path)
        back = quoted_text(self._brought_back(name, sha256))
        ((summed,),) = self._rows(f"SELECT coalesce(sum(records), 0) FROM read_parquet({back})")  # noqa: S608
        ((records,),) = self._rows(
            "SELECT count(*) FROM gathered WHERE event <> 'start' AND "  # noqa: S608
            f"coalesce(pod_method, '') <> '{NODES_OWN}'"
        )
        if summed != records:
            raise CompactionStopped(
                f"{name}: the sums are of {summed} records, there are {records}; nothing was removed; "
                "please report it"
            )
        return log.Sums(name, log.SUMS_VERSION)

    def _balances(self, day: str, settlement: Settlement, before: Sequence[CompactedDay]) -> str:
        """Store what became of the nodes' energy on a day; of nodes without new records, as it was."""
        rows = [row for row in settlement.found if row["day"] == day]
        for path in self.dataset.fetched([item.balances for item in before]):
            rows += [
                row
                for row in pq.read_table(path).to_pylist()
                if (row["node_key"], day) not in settlement.touched
            ]
        columns = {name: [row[name] for row in rows] for name in BALANCES}
        kinds = {"string": pa.string(), "float64": pa.float64()}
        fields = pa.schema([(name, kinds[kind]) for name, kind in BALANCES.items()])
        path = self.dataset.directory / "balances.parquet"
        pq.write_table(pa.table(columns, schema=fields), path, compression="zstd")
        name, sha256 = self._stored("balances", day, path)
        self._brought_back(name, sha256)
        return name

    # -- what is stored --------------------------------------------------------------------------------

    def _stored(self, folder: str, day: str, path: Path) -> tuple[str, str]:
        """Store a file under a name made of its content; returns that, and its digest."""
        sha256 = _sha256(path)
        name = f"{folder}/month={day[:7]}/part-{day}-{sha256[:16]}{log.PARQUET}"
        self._put(name, path)
        return name, sha256

    def _brought_back(self, name: str, sha256: str) -> Path:
        """Fetch what was stored. Raises CompactionStopped where it is not what was written."""
        path = self.dataset.directory / "brought-back.parquet"
        self.store.fetch(self.base + name, path)
        if _sha256(path) != sha256:
            raise CompactionStopped(
                f"{name}: what was stored is not what was written; nothing was removed, look at the "
                "storage"
            )
        return path

    def _raw_list(self, numbers: Sequence[int]) -> bytes:
        """Return names and stamps of raw files, for whoever finds them still there."""
        root = self.base.removesuffix(log.FOLDER)
        files = (self.dataset.files[number] for number in numbers)
        listed = [
            (file.name.removeprefix(root), file.stamp)
            for file in files
            if file.name.startswith(root)
        ]
        return gzip.compress(json.dumps(listed).encode(), mtime=0)

    def _closed(self, before: str) -> list[str]:
        return sorted(day for day in self.files_by_last_day if day < before)

    def _whole(self, before: str) -> list[int]:
        """Return the raw files whose records are all of days before this one."""
        return [number for day in self._closed(before) for number in self.files_by_last_day[day]]

    def _remove_raw(self, numbers: Sequence[int]) -> None:
        """Remove raw files; one that changed since it was read stays."""
        with ThreadPoolExecutor(self.dataset.resources.workers) as pool:
            files = [self.dataset.files[number] for number in numbers]
            gone = {
                number
                for number, is_gone in zip(numbers, pool.map(self.store.remove, files), strict=True)
                if is_gone
            }
        self.outcome.removed += len(gone)
        for day, known in list(self.files_by_last_day.items()):
            left = [number for number in known if number not in gone]
            if left:
                self.files_by_last_day[day] = left
            else:
                del self.files_by_last_day[day]

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
