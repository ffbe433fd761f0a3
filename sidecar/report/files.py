"""The report as files below `reports/v1/`: one JSON document, tables as CSV and Parquet, BoAmps records.

Each file is replaced whole or not at all. Text of others is made safe for spreadsheets in CSV; Parquet
and JSON hold it as it is, but for what UTF-8 cannot hold.
"""

import csv
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final
from uuid import uuid4

from sidecar.durable_file import replace_file, sync_directory
from sidecar.exporters.spreadsheet import safe_cell
from sidecar.report.figures.boamps import Hardware, boamps
from sidecar.report.figures.inputs import ReportInputs, RunFacts
from sidecar.report.figures.numbers import sound
from sidecar.report.figures.table_columns import Cell, Column, name_of, slug_of_run, table_columns
from sidecar.report.measures import GROUPINGS, Row, Tables
from sidecar.report.places import MARK

SUMMARY: Final = "summary.json"
BOAMPS_DIRECTORY: Final = "boamps"
BOAMPS_ALL: Final = "boamps.ndjson"
BOAMPS_FILES_MAX: Final = 500
"""Runs with a BoAmps file of their own, those with most emissions; the NDJSON file holds all."""

_MARKED: Final = b"Written by emissions-sidecar report: nothing in here is read as records.\n"

_log = logging.getLogger(__name__)


def write_report_files(
    directory: Path, inputs: ReportInputs, model: Mapping[str, Any]
) -> list[Path]:
    """Write `summary.json`, all tables as CSV and Parquet, and BoAmps records. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    replace_file(directory / MARK, _MARKED)
    written = [directory / MARK, write_summary(directory, model)]
    written += write_tables(directory, inputs.tables, model)
    return written + write_boamps(directory, inputs)


def write_summary(directory: Path, model: Mapping[str, Any]) -> Path:
    """Write the document, a line for each key and each entry of a list. Raises OSError."""
    path = directory / SUMMARY
    _replace_text(path, lambda stream: stream.writelines(_lines(model)))
    return path


def write_tables(directory: Path, tables: Tables, model: Mapping[str, Any]) -> list[Path]:
    """Write each table that has rows, and projects always; what is empty now is removed.

    Without pyarrow there is no Parquet, and a warning says so. Raises OSError.
    """
    written: list[Path] = []
    kinds = (".csv", ".parquet") if _has_parquet() else (".csv",)
    for name in GROUPINGS:
        rows = tuple(map(sound, tables.rows.get(name, ())))
        paths = [directory / f"{name}{kind}" for kind in kinds]
        if name == "total" or not (rows or name == "projects"):
            for path in paths:
                path.unlink(missing_ok=True)
            continue
        columns = table_columns(name, model["projects"])
        for path in paths:
            (_write_csv if path.suffix == ".csv" else _write_parquet)(path, columns, rows)
        written += paths
    return written


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
    unknown, hardware = RunFacts(), Hardware.of(inputs.catalogue)
    for row in map(sound, inputs.tables.rows.get("runs", ())):
        facts = inputs.runs.get((name_of(row, "project"), name_of(row, "run")), unknown)
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


def _write_csv(path: Path, columns: Sequence[Column], rows: Iterable[Row]) -> None:
    def write(stream: IO[str]) -> None:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([column.name for column in columns])
        for row in rows:
            cells = (column.cell(row) for column in columns)
            writer.writerow([safe_cell(cell) if isinstance(cell, str) else cell for cell in cells])

    _replace_text(path, write)


def _has_parquet() -> bool:
    try:
        import pyarrow.parquet  # noqa: F401, PLC0415
    except ImportError:
        _log.warning("no Parquet tables: pyarrow is missing; install 'emissions-sidecar[report]'")
        return False
    return True


def _write_parquet(path: Path, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Write a Parquet file; a column without any value keeps its type."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    types = {"text": pa.string(), "count": pa.int64(), "number": pa.float64()}
    arrays = {
        column.name: pa.array([_storable(column.cell(row)) for row in rows], types[column.kind])
        for column in columns
    }
    _replace(path, lambda stream: pq.write_table(pa.table(arrays), stream))


def _storable(cell: Cell) -> Cell:
    return cell.encode(errors="replace").decode() if isinstance(cell, str) else cell


def _replace_text(path: Path, write: Callable[[IO[str]], None]) -> None:
    def write_encoded(stream: IO[bytes]) -> None:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        write(text)
        text.detach()

    _replace(path, write_encoded)


def _replace(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Replace a file by what is written to a stream, all or nothing, durable on return."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # the error before is the one to tell
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
