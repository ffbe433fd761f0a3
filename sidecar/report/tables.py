"""The tables of a report, whatever their size: only the rows that are shown come into Python.

`StoredTables` lie on disk as Parquet and are looked into with DuckDB, whichever engine made them;
`Tables` are a few rows in memory.
"""

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Protocol, get_type_hints

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from sidecar.report.figures.cells import cell_amounts, in_order
from sidecar.report.figures.inputs import RunFacts
from sidecar.report.figures.numbers import sound, total
from sidecar.report.measures import CELL_COLUMNS, GROUPINGS, Measures, Row
from sidecar.report.staging import quoted_text

BATCH_ROWS: Final = 16 * 1024

RUN_FACTS: Final = "run_facts"
"""The table of `RunFacts` by project and run."""

TIMES: Final = ("window_start", "window_end")
"""Microseconds since the epoch on disk, RFC 3339 in rows and batches."""

_HINTS: Final = get_type_hints(Measures)
_KINDS: Final = tuple(_HINTS.values())
_NUMBERED: Final = ("weekday", "hour")
_FACTS: Final = tuple(item.name for item in fields(RunFacts))

Cell = tuple[tuple[Any, ...], tuple[float | None, ...]]
"""Keys, and the sums of `CELL_COLUMNS`."""


class ReportTables(Protocol):
    """The tables of `GROUPINGS`, each with the largest emissions first, then by its keys."""

    def count(self, table: str) -> int:
        """Return how many rows a table has."""
        ...

    def first(self, table: str, most: int | None = None) -> Sequence[Row]:
        """Return the first rows of a table; all of one that is known to be small."""
        ...

    def of(self, table: str, projects: Sequence[Any]) -> Iterator[tuple[int, Row]]:
        """Yield the rows of these projects, each with the place of its project among them, in order."""
        ...

    def others(self, table: str, keys: Sequence[str], projects: Sequence[Any]) -> Iterator[Cell]:
        """Yield the sums over all other projects by these keys; bounds not known are the value."""
        ...

    def batches(self, table: str) -> Iterator[pa.RecordBatch]:
        """Yield all rows of a table: its keys and the fields of `Measures` as columns."""
        ...

    def runs(self) -> Iterator[tuple[Row, RunFacts]]:
        """Yield the runs with what is known of each."""
        ...


def row_schema(table: str) -> pa.Schema:
    """Return the columns of a table."""
    keys = [(key, pa.int64() if key in _NUMBERED else pa.string()) for key in GROUPINGS[table]]
    return pa.schema([*keys, *((name, _arrow_type(hint)) for name, hint in _HINTS.items())])


def _arrow_type(hint: Any) -> pa.DataType:  # noqa: ANN401 - a type of `Measures`
    return pa.int64() if hint is int else pa.string() if hint == str | None else pa.float64()


# -- in memory -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tables:
    """A few rows in memory, as they are given."""

    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    facts: Mapping[tuple[str | None, str | None], RunFacts] = field(default_factory=dict)

    def count(self, table: str) -> int:
        """Return how many rows a table has."""
        return len(self.rows.get(table, ()))

    def first(self, table: str, most: int | None = None) -> Sequence[Row]:
        """Return the first rows of a table."""
        return list(map(sound, self.rows.get(table, ())[:most]))

    def of(self, table: str, projects: Sequence[Any]) -> Iterator[tuple[int, Row]]:
        """Yield the rows of these projects."""
        found: dict[Any, list[Row]] = {}
        for row in self.rows.get(table, ()):
            found.setdefault(row.keys.get("project"), []).append(row)
        for place, project in enumerate(projects):
            yield from ((place, sound(row)) for row in found.get(project, ()))

    def others(self, table: str, keys: Sequence[str], projects: Sequence[Any]) -> Iterator[Cell]:
        """Yield the sums over all other projects."""
        told = set(projects)
        sums: dict[tuple[Any, ...], tuple[float | None, ...]] = {}
        for row in self.rows.get(table, ()):
            if row.keys.get("project") in told:
                continue
            names = tuple(row.keys.get(key) for key in keys)  # type: ignore[call-overload]
            amounts = cell_amounts(sound(row))
            known = sums.get(names, (None,) * len(amounts))
            sums[names] = tuple(map(total, zip(known, amounts, strict=True)))
        yield from sorted(sums.items(), key=lambda entry: in_order(entry[0]))

    def batches(self, table: str) -> Iterator[pa.RecordBatch]:
        """Yield all rows of a table."""
        schema = row_schema(table)
        rows = [
            {**row.keys, **{name: getattr(row.measures, name) for name in _HINTS}}
            for row in self.first(table)
        ]
        columns = {name: [_storable(row.get(name)) for row in rows] for name in schema.names}
        yield from pa.table(columns, schema=schema).to_batches(BATCH_ROWS)

    def runs(self) -> Iterator[tuple[Row, RunFacts]]:
        """Yield the runs with what is known of each."""
        for row in self.first("runs"):
            yield row, self.facts.get((row.keys.get("project"), row.keys.get("run")), RunFacts())  # type: ignore[arg-type]


def _storable(value: Any) -> Any:  # noqa: ANN401
    """Make a text that UTF-8 can hold."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


# -- on disk -------------------------------------------------------------------------------------------


class StoredTables:
    """Tables in a directory of their own, which goes with them."""

    def __init__(self, memory_mib: int, directory: Path | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="emissions-tables-", dir=directory))
        self._remove = weakref.finalize(self, shutil.rmtree, self.directory, ignore_errors=True)
        options: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{memory_mib}MiB",
            "temp_directory": str(self.directory / "spilled"),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        self._connection = duckdb.connect(":memory:", config=options)
        self._connection.execute("SET enable_progress_bar = false")
        self._counts: dict[str, int] = {}
        self._asked_for = 0

    def close(self) -> None:
        """Remove them."""
        self._connection.close()
        self._remove()

    def path(self, table: str) -> Path:
        """Return where a table is written: a file of Parquet, or a directory of such."""
        return self.directory / f"{table}.parquet"

    def count(self, table: str) -> int:
        """Return how many rows a table has."""
        if table not in self._counts:
            ((self._counts[table],),) = self._rows(f"SELECT count(*) FROM {self._source(table)}")  # noqa: S608
        return self._counts[table]

    def first(self, table: str, most: int | None = None) -> Sequence[Row]:
        """Return the first rows of a table."""
        limit = "" if most is None else f" LIMIT {most}"
        query = f"SELECT * FROM {self._source(table)} AS t {_ordered(table)}{limit}"  # noqa: S608
        return [row for batch in self._batches(query) for row in rows_of(table, batch)]

    def of(self, table: str, projects: Sequence[Any]) -> Iterator[tuple[int, Row]]:
        """Yield the rows of these projects."""
        with self._asked(projects) as asked:
            query = (
                f"SELECT t.*, place FROM {self._source(table)} AS t JOIN {asked} AS asked "  # noqa: S608
                f"ON t.project IS NOT DISTINCT FROM asked.project ORDER BY place, {_order(table)}"
            )
            for batch in self._batches(query):
                yield from zip(batch["place"].to_pylist(), rows_of(table, batch), strict=True)

    def others(self, table: str, keys: Sequence[str], projects: Sequence[Any]) -> Iterator[Cell]:
        """Yield the sums over all other projects."""
        names = ", ".join(keys)
        sums = ", ".join(
            f"sum(coalesce({name}, emissions_g)) AS {name}"
            if name in ("emissions_low_g", "emissions_high_g")
            else f"sum({name}) AS {name}"
            for name in CELL_COLUMNS
        )
        with self._asked(projects) as asked:
            query = (
                f"SELECT {names}, {sums} FROM {self._source(table)} AS t WHERE NOT EXISTS (FROM {asked} "  # noqa: S608
                "AS asked WHERE t.project IS NOT DISTINCT FROM asked.project) "
                f"GROUP BY {names} ORDER BY " + ", ".join(f"{key} NULLS LAST" for key in keys)
            )
            for batch in self._batches(query):
                for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    yield row[: len(keys)], row[len(keys) :]

    def batches(self, table: str) -> Iterator[pa.RecordBatch]:
        """Yield all rows of a table."""
        schema = row_schema(table)
        query = f"SELECT * FROM {self._source(table)} AS t {_ordered(table)}"  # noqa: S608
        for batch in self._batches(query):
            columns = [batch[name] for name in schema.names]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    def runs(self) -> Iterator[tuple[Row, RunFacts]]:
        """Yield the runs with what is known of each."""
        facts = ", ".join(f"f.{name} AS fact_{name}" for name in _FACTS)
        query = (
            f"SELECT t.*, {facts} FROM {self._source('runs')} AS t "  # noqa: S608
            f"LEFT JOIN {self._source(RUN_FACTS)} AS f ON t.project = f.project AND t.run = f.run "
            f"{_ordered('runs')}"
        )
        for batch in self._batches(query):
            known = zip(*(batch[f"fact_{name}"].to_pylist() for name in _FACTS), strict=True)
            for row, values in zip(rows_of("runs", batch), known, strict=True):
                yield row, RunFacts(**dict(zip(_FACTS, values, strict=True)))

    def _source(self, table: str) -> str:
        path = self.path(table)
        return f"read_parquet({quoted_text(path / '*.parquet' if path.is_dir() else path)})"

    @contextlib.contextmanager
    def _asked(self, projects: Sequence[Any]) -> Iterator[str]:
        """Have projects with their places as a table while it is looked into; gives its name."""
        self._asked_for += 1
        name = f"asked_{self._asked_for}"
        rows = pa.table(
            {"project": list(projects), "place": list(range(len(projects)))},
            schema=pa.schema([("project", pa.string()), ("place", pa.int64())]),
        )
        self._connection.register("given", rows)
        self._connection.execute(f"CREATE TABLE {name} AS FROM given")
        self._connection.unregister("given")
        try:
            yield name
        finally:
            self._connection.execute(f"DROP TABLE {name}")

    def _batches(self, query: str) -> Iterator[pa.RecordBatch]:
        with self._connection.cursor() as cursor:
            for batch in cursor.sql(query).to_arrow_reader(BATCH_ROWS):
                names = batch.schema.names
                columns = [spelled(batch[name]) if name in TIMES else batch[name] for name in names]
                yield pa.RecordBatch.from_arrays(columns, names)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._connection.sql(query).fetchall()


def _ordered(table: str) -> str:
    return f"ORDER BY {_order(table)}"


def _order(table: str) -> str:
    keys = (f"t.{key} NULLS LAST" for key in GROUPINGS[table])
    return ", ".join(["coalesce(emissions_g, 0.0) DESC", *keys])


def spelled(moments_us: pa.Array) -> pa.Array:
    """Return microseconds since the epoch as RFC 3339 in UTC with milliseconds and `Z`."""
    rounded_ms = pc.divide(pc.add(moments_us, 500), 1000)
    return pc.strftime(rounded_ms.cast(pa.timestamp("ms", "UTC")), "%Y-%m-%dT%H:%M:%SZ")


def _values(column: pa.Array, hint: Any) -> list[Any]:  # noqa: ANN401 - a type of `Measures`
    """Return the values of a column; counts, which sums leave as floats, whole."""
    values: list[Any] = (column.cast(pa.int64(), safe=False) if hint is int else column).to_pylist()
    return values


def rows_of(table: str, batch: pa.RecordBatch) -> Iterator[Row]:
    """Yield the rows of a batch."""
    keys = GROUPINGS[table]
    columns = (batch[name] for name in (*keys, *_HINTS))
    for values in zip(*map(_values, columns, (None,) * len(keys) + _KINDS), strict=True):
        yield Row(
            dict(zip(keys, values, strict=False)),
            Measures(**dict(zip(_HINTS, values[len(keys) :], strict=True))),
        )
