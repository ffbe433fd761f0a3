"""Bring record files into checked Parquet: batch by batch, each record once, in bounded memory.

DuckDB reads the lines of many files at a time and tells of each the types and whether the values are a
record's beyond doubt. A file with any doubtful line is read again line by line, as
`sidecar.report.read` does: that reading decides, so what counts does not depend on who read it.

What was read lies in one directory as `part-*.parquet`, with the columns of `sidecar.report.columns`
and `file`, the number of the file.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import duckdb

from sidecar.record import EmissionRecord, to_mapping
from sidecar.report.columns import (
    ABSURD,
    AMOUNTS,
    CANONICAL_TIME,
    COLUMNS,
    OURS,
    derived_sql,
    is_sound_shape,
    line_pattern,
    sound_sql,
    structure,
)
from sidecar.report.read import LeftOut, ReadReport, entries
from sidecar.report.source import RecordFile
from sidecar.segment import COMPRESSED_SUFFIX, SUFFIX
from sidecar.validation import LINE_BYTES_MAX, YEARS

TOO_MUCH: Final = "absurd amount"

BATCH_FILES: Final = 512
BATCH_BYTES: Final = 256 * 1024**2
"""What is fetched, and read in one query."""

Progress = Callable[[str, int, int], None]
"""Told what is done, and how many of how many."""


def no_progress(step: str, done: int, of: int) -> None:
    """Tell nobody."""


class StoredFile(RecordFile, Protocol):
    """A file of a dataset. `stamp` changes with its content: an etag, or size and time."""

    @property
    def size(self) -> int:
        """Bytes as stored."""
        ...

    @property
    def stamp(self) -> str:
        """What tells one content of this name from another."""
        ...

    @property
    def path(self) -> Path | None:
        """Where it lies on this machine; None where it has to be fetched."""
        ...


@dataclass(slots=True)
class Staging:
    """The staged records of a dataset. `directory` is its own; `workers` fetch at a time."""

    connection: duckdb.DuckDBPyConnection
    directory: Path
    seen: ReadReport
    workers: int = 4
    progress: Progress = no_progress
    parts: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    doubtful: set[int] = field(default_factory=set)
    """Numbers of the files of which something was left out."""

    def stage(self, files: Sequence[StoredFile]) -> None:
        """Stage files of records, in this order. Raises SourceUnreadable, OSError and duckdb.Error."""
        done = 0
        for batch in _batches(files):
            self._stage_batch(batch)
            done += len(batch)
            self.progress("read", done, len(files))

    def stage_records(self, name: str, records: Iterable[EmissionRecord]) -> int:
        """Stage records that are known to be valid, as if they were one more file; returns how many."""
        number = self._number(name)
        path = self._raw_directory() / f"{number:08d}{SUFFIX}"
        with path.open("w", encoding="utf-8") as stream:
            stream.writelines(_line(record) for record in records)
        try:
            self.parts.append(self._copied([path], self._new_part(), is_trusted=True))
        finally:
            path.unlink()
        return self._count(self.parts[-1])

    def query(self, columns: str, condition: str = "true") -> str:
        """Return SQL over all staged records; there are some."""
        return f"SELECT {columns} FROM read_parquet({quoted(self.parts)}) WHERE {condition}"  # noqa: S608

    def drop_duplicates(self, known: Sequence[Path] = ()) -> int:
        """Keep of each record the first, by the order of files and lines; none that is in `known`.

        Returns how many were dropped. `known` are files of Parquet with a column `record_id`.
        """
        if not self.parts:
            return 0
        stored = "SELECT NULL AS record_id WHERE false"
        if known:
            stored = f"SELECT record_id FROM read_parquet({quoted(known)})"  # noqa: S608
        parts = quoted(self.parts)
        losers = self.connection.sql(
            f"""
            WITH stored AS MATERIALIZED ({stored}),
            repeated AS MATERIALIZED (
              SELECT record_id FROM read_parquet({parts}) GROUP BY 1 HAVING count(*) > 1),
            met AS (
              SELECT filename, file_row_number AS line, record_id IN (FROM stored) AS is_stored,
                row_number() OVER (
                  PARTITION BY record_id ORDER BY file, filename, file_row_number) AS place
              FROM read_parquet({parts}, filename=true, file_row_number=true)
              WHERE record_id IN (FROM repeated) OR record_id IN (FROM stored))
            SELECT filename, list(line) AS lines FROM met WHERE is_stored OR place > 1 GROUP BY 1
            """  # noqa: S608
        ).fetchall()
        for name, lines in losers:
            self._without_lines(Path(name), lines)
        dropped = sum(len(lines) for _, lines in losers)
        self.seen.duplicates += dropped
        self.seen.records -= dropped
        return dropped

    # -- batches -------------------------------------------------------------------------------------

    def _stage_batch(self, batch: Sequence[StoredFile]) -> None:
        numbers = [self._number(file.name) for file in batch]
        by_number = dict(zip(numbers, batch, strict=True))
        try:
            with ThreadPoolExecutor(self.workers) as pool:
                placed = dict(zip(numbers, pool.map(self._placed, numbers, batch), strict=True))
            failed = {number for number, path in placed.items() if path is None}
            whole = {number: path for number, path in placed.items() if path is not None}
            failed |= self._stage_paths(whole)
        finally:
            shutil.rmtree(self._raw_directory(), ignore_errors=True)
        self.seen.files += len(batch) - len(failed)
        for number in sorted(failed):
            self._stage_slowly(number, by_number[number])

    def _stage_paths(self, paths: Mapping[int, Path]) -> set[int]:
        """Stage files at once; returns those that have to be read line by line."""
        if not paths:
            return set()
        part = self._new_part()
        try:
            self._copied(list(paths.values()), part)
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error:
            part.unlink(missing_ok=True)
            if len(paths) == 1:
                return set(paths)
            numbers = sorted(paths)
            half = len(numbers) // 2
            halves = (numbers[:half], numbers[half:])
            return set().union(
                *(self._stage_paths({number: paths[number] for number in some}) for some in halves)
            )
        failed = self._doubtful(part)
        if failed:
            self._rewrite(part, f"file NOT IN ({', '.join(map(str, failed))})")
        self.parts.append(part)
        self.seen.records += self._count(part)
        return failed

    def _doubtful(self, part: Path) -> set[int]:
        rows = self.connection.execute(
            f"SELECT file, shape, bool_and(is_sound) FROM read_parquet({quoted([part])}) GROUP BY 1, 2"  # noqa: S608
        )
        shapes: dict[str | None, bool] = {None: False, OURS: True}
        failed: set[int] = set()
        while rows_of := rows.fetchmany(4096):
            for file, shape, is_sound in rows_of:
                if shape not in shapes:
                    shapes[shape] = is_sound_shape(json.loads(shape))
                if not (is_sound and shapes[shape]):
                    failed.add(file)
        return failed

    def _stage_slowly(self, number: int, file: StoredFile) -> None:
        """Read a file line by line, and stage what is a record."""
        before = self.seen.left_out.total()
        path = self._raw_directory() / f"{number:08d}{SUFFIX}"
        with path.open("w", encoding="utf-8") as stream:
            for _, entry in entries([file], self.seen):
                if isinstance(entry, LeftOut):
                    continue
                if any((getattr(entry, name) or 0.0) > ABSURD for name in AMOUNTS):
                    self.seen.left_out[TOO_MUCH] += 1
                    continue
                stream.write(_line(entry))
                self.seen.records += 1
        if self.seen.left_out.total() > before:
            self.doubtful.add(number)
        self.parts.append(self._copied([path], self._new_part(), is_trusted=True))
        path.unlink()

    def _placed(self, number: int, file: StoredFile) -> Path | None:
        """Give a file a name without meaning to DuckDB; None where it cannot be had."""
        suffix = COMPRESSED_SUFFIX if file.name.endswith(".gz") else SUFFIX
        path = self._raw_directory() / f"{number:08d}{suffix}"
        try:
            place(file, path)
        except OSError:  # read again, and told, by `_stage_slowly`
            return None
        return path

    # -- Parquet ---------------------------------------------------------------------------------------

    def _copied(self, paths: Sequence[Path], part: Path, *, is_trusted: bool = False) -> Path:
        sound = "true" if is_trusted else f"coalesce(NOT has_stray_comma, false) AND {sound_sql()}"
        lines = f"""
            SELECT CAST(regexp_extract(filename, '(\\d+)\\.ndjson(\\.gz)?$', 1) AS INTEGER) AS file,
              CASE WHEN regexp_full_match(CAST(json AS VARCHAR), '{line_pattern()}') THEN '{OURS}'
                ELSE CAST(json_structure(json) AS VARCHAR) END AS shape,
              shape <> '{OURS}' AND regexp_matches(CAST(json AS VARCHAR), ',\\s*[}}\\]]')
                AS has_stray_comma,
              unnest(from_json(json, '{structure()}'))
            FROM read_ndjson_objects({quoted(paths)}, ignore_errors=true, filename=true,
              maximum_object_size={LINE_BYTES_MAX})"""  # noqa: S608
        query = derived_sql(f"SELECT *, {sound} AS is_sound FROM ({lines})")  # noqa: S608
        self.connection.execute(
            f"COPY (SELECT * EXCLUDE (has_stray_comma) FROM ({query})) "  # noqa: S608
            f"TO '{part}' (FORMAT parquet)"
        )
        return part

    def _without_lines(self, part: Path, lines: Sequence[int]) -> None:
        self.connection.execute(
            "CREATE OR REPLACE TEMP TABLE dropped AS SELECT unnest($1) AS line", [lines]
        )
        self._rewrite(part, "file_row_number NOT IN (SELECT line FROM dropped)")

    def _rewrite(self, part: Path, condition: str) -> None:
        fresh = part.with_suffix(".new")
        self.connection.execute(
            f"COPY (SELECT * EXCLUDE (file_row_number) FROM read_parquet({quoted([part])}, "  # noqa: S608
            f"file_row_number=true) WHERE {condition}) TO '{fresh}' (FORMAT parquet)"
        )
        fresh.replace(part)

    def _count(self, part: Path) -> int:
        query = f"SELECT count(*) FROM read_parquet({quoted([part])})"  # noqa: S608
        return sum(count for (count,) in self.connection.execute(query).fetchall())

    def _number(self, name: str) -> int:
        self.names.append(name)
        return len(self.names) - 1

    def _new_part(self) -> Path:
        return self.directory / f"part-{len(self.parts):06d}-{os.urandom(4).hex()}.parquet"

    def _raw_directory(self) -> Path:
        path = self.directory / "raw"
        path.mkdir(exist_ok=True)
        return path


def place(file: StoredFile, path: Path) -> None:
    """Put a file's content at a path of ours: a link where it is on this machine. Raises OSError."""
    if file.path is not None:
        file.path.stat()
        if not os.access(file.path, os.R_OK):
            raise PermissionError(f"{file.name} cannot be read")
        path.symlink_to(file.path.absolute())
        return
    with file.open() as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, 1024 * 1024)


def read_sql(paths: Iterable[Path], kinds: Mapping[str, str]) -> str:
    """Return SQL of columns, by their types, of files of Parquet; null where a file has none such.

    Files of an earlier version lack the columns that came later.
    """
    nothing = ", ".join(f'CAST(NULL AS {kind}) AS "{name}"' for name, kind in kinds.items())
    listed = ", ".join(f'"{name}"' for name in kinds)
    return (
        f"SELECT {listed} FROM (SELECT * FROM read_parquet({quoted(paths)}, union_by_name=true) "  # noqa: S608
        f"UNION ALL BY NAME SELECT {nothing} WHERE false)"
    )


def quoted(paths: Iterable[Path]) -> str:
    """Return paths of ours as a list in SQL."""
    return "[" + ", ".join(map(quoted_text, paths)) + "]"


def quoted_text(text: object) -> str:
    """Return a text of ours in SQL."""
    return "'" + str(text).replace("'", "''") + "'"


def _batches(files: Sequence[StoredFile]) -> Iterator[list[StoredFile]]:
    batch: list[StoredFile] = []
    size = 0
    for file in files:
        if batch and (len(batch) >= BATCH_FILES or size + file.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch


def _line(record: EmissionRecord) -> str:
    """Return a valid record as a line that DuckDB reads: times as sidecars write them, no NaN."""
    timed = replace(
        record,
        window_start=canonical_time(record.window_start),
        window_end=canonical_time(record.window_end),
    )
    row = to_mapping(timed)
    for gpu in row["gpus"]:
        _finite(gpu)
    _finite(row)
    line = json.dumps(row, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return line.encode(errors="replace").decode() + "\n"


_CANONICAL: Final = re.compile(CANONICAL_TIME, re.ASCII)
_REALS: Final = {item.name for item in COLUMNS if item.sql_type == "DOUBLE"} | {"share"}


def _finite(row: dict[str, Any]) -> None:
    for name in _REALS & row.keys():
        if row[name] is not None and not math.isfinite(row[name]):
            row[name] = None


def canonical_time(text: str) -> str:
    """Return a time with its zone as UTC with `Z`; what sidecars write, or is no time, as it is."""
    if _CANONICAL.fullmatch(text):
        return text
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None or moment.year not in YEARS:
            return text
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError):
        return text
