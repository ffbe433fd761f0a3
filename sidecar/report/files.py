"""The report as files below `reports/v1/`: one JSON document, tables as CSV and Parquet, BoAmps records.

Each file is replaced whole or not at all. Tables go from batch to batch, however long they are. Text of
others is made safe for spreadsheets in CSV; Parquet and JSON hold it as it is, but for what UTF-8
cannot hold.
"""

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final
from uuid import uuid4

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from sidecar.durable_file import replace_file, sync_directory
from sidecar.exporters.spreadsheet import safe_cell
from sidecar.report.figures.boamps import Hardware, boamps
from sidecar.report.figures.inputs import FactorUse, ReportInputs
from sidecar.report.figures.table_columns import (
    Computed,
    column_names,
    computed_columns,
    slug_of_run,
)
from sidecar.report.measures import GROUPINGS, Measures
from sidecar.report.places import MARK
from sidecar.report.tables import ReportTables, row_schema, rows_of

SUMMARY: Final = "summary.json"
BOAMPS_DIRECTORY: Final = "boamps"
BOAMPS_ALL: Final = "boamps.ndjson"
BOAMPS_FILES_MAX: Final = 500
"""Runs with a BoAmps file of their own, those with most emissions; the NDJSON file holds all."""

_MARKED: Final = b"Written by emissions-sidecar report: nothing in here is read as records.\n"


def write_report_files(
    directory: Path, inputs: ReportInputs, model: Mapping[str, Any]
) -> list[Path]:
    """Write `summary.json`, all tables as CSV and Parquet, and BoAmps records. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    replace_file(directory / MARK, _MARKED)
    written = [directory / MARK, write_summary(directory, model)]
    written += write_tables(directory, inputs.tables, inputs.factors)
    return written + write_boamps(directory, inputs)


def write_summary(directory: Path, model: Mapping[str, Any]) -> Path:
    """Write the document, a line for each key and each entry of a list. Raises OSError."""
    path = directory / SUMMARY
    _replace_text(path, lambda stream: stream.writelines(_lines(model)))
    return path


def write_tables(
    directory: Path, tables: ReportTables, factors: Sequence[FactorUse] | None
) -> list[Path]:
    """Write each table that has rows, and projects always; what is empty now is removed.

    Raises OSError.
    """
    total = next((row.measures for row in tables.first("total", 1)), Measures())
    written: list[Path] = []
    for name in GROUPINGS:
        paths = [directory / f"{name}.csv", directory / f"{name}.parquet"]
        if name == "total" or not (name == "projects" or tables.count(name)):
            for path in paths:
                path.unlink(missing_ok=True)
            continue
        shape = _Shape.of(name, computed_columns(name, total, factors))
        with _replaced(paths[0]) as text, _replaced(paths[1]) as stream:
            _write_table(shape, tables, text, stream)
        written += paths
    return written


@dataclass(frozen=True, slots=True)
class _Shape:
    """A table as a file has it: the columns of `schema`, of which some are computed."""

    table: str
    computed: Sequence[Computed]
    schema: pa.Schema

    @classmethod
    def of(cls, table: str, computed: Sequence[Computed]) -> "_Shape":
        kinds = {field.name: field.type for field in row_schema(table)}
        types = {"text": pa.string(), "number": pa.float64()}
        kinds |= {column.name: types[column.kind] for column in computed}
        names = column_names(table, computed)
        return cls(table, computed, pa.schema([(name, kinds[name]) for name in names]))

    def batch(self, found: pa.RecordBatch) -> pa.RecordBatch:
        """Return a batch of the table with the columns of the file."""
        columns = {name: found[name] for name in found.schema.names}
        if self.computed:
            rows = list(rows_of(self.table, found))
            for column in self.computed:
                cells = [column.cell(row) for row in rows]
                columns[column.name] = pa.array(cells, self.schema.field(column.name).type)
        return pa.RecordBatch.from_arrays(
            [columns[name] for name in self.schema.names], schema=self.schema
        )


def _write_table(shape: _Shape, tables: ReportTables, text: IO[bytes], stream: IO[bytes]) -> None:
    with ExitStack() as opened:
        cells = opened.enter_context(pa_csv.CSVWriter(text, shape.schema))
        rows = opened.enter_context(pq.ParquetWriter(stream, shape.schema))
        for found in tables.batches(shape.table):
            batch = shape.batch(found)
            rows.write_batch(batch)
            cells.write(
                pa.RecordBatch.from_arrays(list(map(_safe, batch.columns)), batch.schema.names)
            )


def _safe(column: pa.Array) -> pa.Array:
    """Make texts safe for spreadsheets, each different one once."""
    if not pa.types.is_string(column.type):
        return column
    encoded = column.dictionary_encode()
    texts = pa.array(
        [None if text is None else safe_cell(text) for text in encoded.dictionary.to_pylist()],
        pa.string(),
    )
    return texts.take(encoded.indices)


def write_boamps(directory: Path, inputs: ReportInputs) -> list[Path]:
    """Write a BoAmps record of each run whose energy is known. Raises OSError."""
    place = directory / BOAMPS_DIRECTORY
    place.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}

    def write(stream: IO[str]) -> None:
        for slug, record in _boamps_records(inputs):
            stream.write(f"{_json(record)}\n")
            if len(written) < BOAMPS_FILES_MAX:
                path = place / f"{slug}.json"
                replace_file(path, _json(record, indent=2).encode() + b"\n")
                written[path.name] = path

    together = directory / BOAMPS_ALL
    _replace_text(together, write)
    for old in place.glob("*.json"):
        if old.name not in written:
            old.unlink(missing_ok=True)
    return [together, *written.values()]


def _boamps_records(inputs: ReportInputs) -> Iterator[tuple[str, dict[str, Any]]]:
    hardware = Hardware.of(inputs.catalogue)
    for row, facts in inputs.tables.runs():
        record = boamps(row, facts, hardware, inputs.now)
        if record is not None:
            yield slug_of_run(row), record


def _lines(model: Mapping[str, Any]) -> Iterator[str]:
    """Yield the JSON of a mapping: a line for each key, and for each entry of a list of mappings."""
    yield "{"
    for number, (name, value) in enumerate(model.items()):
        yield f"{',' if number else ''}\n{_json(name)}:"
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for place, entry in enumerate(value):
                yield f"{',' if place else '['}\n{_json(entry)}"
            yield "]"
        else:
            yield _json(value)
    yield "\n}\n"


def _json(value: object, indent: int | None = None) -> str:
    """Encode; a lone surrogate has no UTF-8 form, and no reader takes it escaped."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators
    )
    return text.encode(errors="replace").decode()


def _replace_text(path: Path, write: Callable[[IO[str]], None]) -> None:
    with _replaced(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        write(text)
        text.detach()


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    """Replace a file by what is written to a stream, all or nothing, durable in the end."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # the error before is the one to tell
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
