"""Read records from a directory: any depth, NDJSON plain or gzip, each record once.

What is torn, alien or absurd is counted and named, never fatal: a report of a fleet must not fail for
one file.
"""

import gzip
import logging
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from sidecar.record import SCHEMA, EmissionRecord

LINE_BYTES_MAX: Final = 1024 * 1024

_log = logging.getLogger(__name__)

_AMOUNTS: Final = tuple(
    item.name
    for item in fields(EmissionRecord)
    if item.name.endswith(("_kwh", "_g", "_l", "_s", "_seconds", "_gib"))
)


@dataclass(slots=True)
class ReadReport:
    """What was read: files, records, duplicates, and what was left out for which reason."""

    files: int = 0
    records: int = 0
    duplicates: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def record_files(source: Path) -> Iterator[Path]:
    """Yield the record files under a volume or a tree of volumes, in a stable order."""
    for pattern in ("*.ndjson", "*.ndjson.gz"):
        # A pipe or device somebody put there is no record file, and would hold the report for ever.
        yield from sorted(
            path
            for path in source.rglob(pattern)
            if not path.name.startswith(".") and path.is_file()
        )


def read_records(source: Path, seen: ReadReport) -> Iterator[EmissionRecord]:
    """Yield every valid record under `source` once; `seen` is filled on the way."""
    adapter = TypeAdapter(EmissionRecord)
    known: set[str] = set()
    for path in record_files(source):
        seen.files += 1
        for line in _lines(path, seen):
            record = _record(line, adapter, seen)
            if record is None:
                continue
            if record.record_id in known:
                seen.duplicates += 1
                continue
            known.add(record.record_id)
            seen.records += 1
            yield record


def _lines(path: Path, seen: ReadReport) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            while line := stream.readline(LINE_BYTES_MAX):
                if line.strip():
                    yield line
    except (OSError, EOFError, zlib.error) as error:
        seen.left_out["unreadable file"] += 1
        _log.warning("%s: read only in part: %s", path, error)


def _record(
    line: bytes, adapter: TypeAdapter[EmissionRecord], seen: ReadReport
) -> EmissionRecord | None:
    try:
        record = adapter.validate_json(line)
    except ValidationError as error:
        torn = error.errors(include_url=False)[0]["type"] == "json_invalid"
        seen.left_out["torn line" if torn else "not a record"] += 1
        return None
    if record.schema != SCHEMA:
        seen.left_out[f"schema {record.schema}, this version reads {SCHEMA}"] += 1
        return None
    if not record.record_id or not _plausible(record):
        seen.left_out["negative or infinite amount, or no record_id"] += 1
        return None
    return record


def _plausible(record: EmissionRecord) -> bool:
    amounts = (getattr(record, name) for name in _AMOUNTS)
    return all(amount is None or 0 <= amount < math.inf for amount in amounts)
