"""All that is stored of records, line by line and row by row: what `verify` looks at.

Nothing is dropped, settled or merged here: compacted parts come first, as in reports, then the raw files
that no commit has taken the place of.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from sidecar.record import EmissionRecord, GpuRecord
from sidecar.report import commits as log
from sidecar.report.columns import COLUMNS, GPU_COLUMNS
from sidecar.report.listing import Listing, commit_names
from sidecar.report.places import Place
from sidecar.report.read import UNREADABLE, VANISHED, LeftOut, ReadReport, entries
from sidecar.report.source import SourceUnreadable
from sidecar.report.staging import StoredFile, canonical_time, place

DAMAGED: Final = "damaged part"
UNCOMMITTED: Final = "part without its commit"

BATCH_ROWS: Final = 4096

Entry = tuple[str, EmissionRecord | LeftOut]


def all_entries(places: Sequence[Place], seen: ReadReport) -> Iterator[Entry]:
    """Yield each stored record, or what is wrong with a line or a file, with the name of its file.

    Raises SourceUnreadable, also where compaction went on meanwhile: then some would be met twice.
    """
    listings = [Listing.of(where) for where in places]
    before = frozenset(name for listing in listings for name in listing.commit_names)
    for listing in listings:
        yield from _of_parts(listing, seen)
    for listing in listings:
        for name, entry in entries(listing.records, seen):
            yield name, entry if isinstance(entry, LeftOut) else _canonical(entry)
    if seen.left_out[VANISHED] and commit_names(places) != before:
        raise SourceUnreadable(f"{_all(places)} was compacted while it was read; try again")


def _all(places: Sequence[Place]) -> str:
    return ", ".join(map(str, places))


def _canonical(record: EmissionRecord) -> EmissionRecord:
    """Spell times as compaction does, so that a record is the same in both."""
    start, end = canonical_time(record.window_start), canonical_time(record.window_end)
    if (start, end) == (record.window_start, record.window_end):
        return record
    return EmissionRecord(**{**_fields(record), "window_start": start, "window_end": end})


def _fields(record: EmissionRecord) -> dict[str, Any]:
    return {item.name: getattr(record, item.name) for item in fields(record)}


# -- compacted parts -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """A part that a commit names, and its file."""

    part: log.Part
    file: StoredFile


def _of_parts(listing: Listing, seen: ReadReport) -> Iterator[Entry]:
    named: set[str] = set()
    for base, found in listing.commits.items():
        state = log.live(found)
        named |= {base + name for name in state.names() | state.replaced}
        for commit in state.standing:
            for part in commit.parts:
                file = listing.parquet.get(base + part.name)
                if file is None:
                    raise SourceUnreadable(
                        f"{base}{part.name}: named by a commit, and not there; restore it from a backup"
                    )
                yield from _of_part(_Part(part, file), seen)
    for name in sorted(listing.parquet.keys() - named):
        reason = UNCOMMITTED if log.is_of_compaction(name) else log.FOREIGN
        seen.left_out[reason] += 1
        yield name, LeftOut(reason, "no commit names it: it does not count", is_harmless=True)


def _of_part(part: _Part, seen: ReadReport) -> Iterator[Entry]:
    seen.files += 1
    name = part.file.name
    with tempfile.TemporaryDirectory(prefix="emissions-verify-") as directory:
        path = Path(directory) / "part.parquet"
        try:
            place(part.file, path)
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if digest != part.part.sha256:
                seen.left_out[DAMAGED] += 1
                yield (
                    name,
                    LeftOut(DAMAGED, "it is not what its commit says: restore it from a backup"),
                )
            for record in _records(path):
                yield name, record
        except FileNotFoundError as error:
            raise SourceUnreadable(f"{error}: gone since it was listed; try again") from error
        except (OSError, pa.ArrowException, KeyError, TypeError) as error:
            seen.left_out[UNREADABLE] += 1
            yield name, LeftOut(UNREADABLE, str(error))


_NAMES: Final = tuple(item.name for item in COLUMNS)
_MAPS: Final = tuple(item.name for item in COLUMNS if item.sql_type.startswith("MAP"))


def _records(path: Path) -> Iterator[EmissionRecord]:
    """Yield the records of a part, as they were before settling."""
    with pq.ParquetFile(path) as file:
        # A part of an earlier version lacks the columns that came later.
        known = [name for name in _NAMES if name in file.schema_arrow.names]
        for batch in file.iter_batches(BATCH_ROWS, columns=known):
            yield from map(_record, batch.to_pylist())


def _record(row: dict[str, Any]) -> EmissionRecord:
    for name in _MAPS:
        if row.get(name) is not None:
            row[name] = dict(row[name])
    gpus = tuple(
        GpuRecord(**{item.name: gpu.get(item.name) for item in GPU_COLUMNS}) for gpu in row["gpus"]
    )
    return EmissionRecord(**{**row, "gpus": gpus})
