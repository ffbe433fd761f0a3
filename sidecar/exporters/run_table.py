"""A CSV file with one row a run, which many processes write.

Each takes a lock beside it, puts the new content into a temporary file and renames that into place,
so that a reader, a full disk or a killed writer never meets half a file. What stands in the file and
is not ours is kept: other runs' rows byte for byte, anything unreadable as a `.bak` beside it.
"""

import contextlib
import csv
import errno
import fcntl
import functools
import io
import logging
import os
import stat
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sidecar.durable_file import write_new
from sidecar.exporters.spreadsheet import safe_cell

LOCK_TIMEOUT_S = 1.0
MAX_FILE_BYTES = 4 * 1024**2
"""Some 8 000 runs. A larger file is set aside and a new one begun: memory here is small."""

_LOCK_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL, errno.EBADF}

_log = logging.getLogger(__name__)

Cell = str | float | None


@dataclass(frozen=True, slots=True)
class RunTable:
    """The format of such a file: its columns, the one that names the run, and whose header it is."""

    columns: tuple[str, ...]
    key: str
    kind: str

    @property
    def key_index(self) -> int:
        """Place of the column that names the run."""
        return self.columns.index(self.key)

    def put(self, path: Path, cells: tuple[Cell, ...]) -> None:
        """Put a run's row into the file: in place of its old one, or as a new one at the end.

        Raises OSError (TimeoutError if another writer holds the lock for `LOCK_TIMEOUT_S`) where the
        row could not be written; the file is then what it was.
        """
        with _lock(path) as locked:
            if locked:
                _remove_leftovers(path)
            found = _read(path, self)
            content = _encode(self.columns) + self._with_row(found.records, cells)
            temporary = path.with_name(f"{_temporary_prefix(path)}{uuid.uuid4().hex}.tmp")
            try:
                write_new(temporary, content)
                _set_aside(path, found)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def _with_row(self, records: tuple[tuple[str, bytes], ...], cells: tuple[Cell, ...]) -> bytes:
        run = safe_cell(str(cells[self.key_index]))
        lines = [line for _, line in records]
        own = [index for index, (found, _) in enumerate(records) if found == run]
        if not own:
            return b"".join([*lines, _encode(cells)])
        lines[own[0]] = _encode(cells)
        for index in own[1:]:
            lines[index] = b""
        return b"".join(lines)


def _encode(cells: tuple[Cell, ...]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(
        [safe_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    )
    return line.getvalue().encode("utf-8")


# --- what stands in the file already --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """Whole records, each with its run; lines that are none; or why the file is not ours."""

    records: tuple[tuple[str, bytes], ...] = ()
    torn: bytes = b""
    foreign: str | None = None


def _read(path: Path, table: RunTable) -> _Found:
    """Read the file as it stands; a link or pipe in its place is not followed or waited on."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return _Found()
    if not stat.S_ISREG(status.st_mode):
        return _Found(foreign="it is no regular file")
    if status.st_size > MAX_FILE_BYTES:
        return _Found(foreign=f"it is larger than {MAX_FILE_BYTES} bytes")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        content = stream.read()
    return _parse(content, table) if content else _Found()


def _parse(content: bytes, table: RunTable) -> _Found:
    header, _, body = content.partition(b"\n")
    if _fields(header) != table.columns:
        return _Found(foreign=f"its header is not {table.kind}")
    records: list[tuple[str, bytes]] = []
    torn: list[bytes] = []
    lines = [line for line in body.splitlines(keepends=True) if line.strip()]
    index = 0
    while index < len(lines):
        end = _end_of_record(lines, index)
        record = b"".join(lines[index:end])
        fields = _fields(record)
        if len(fields) == len(table.columns) and record.endswith(b"\n"):
            records.append((fields[table.key_index], record))
            index = end
        else:
            torn.append(lines[index])
            index += 1
    return _Found(tuple(records), b"".join(torn))


def _end_of_record(lines: list[bytes], start: int) -> int:
    """Index behind the record that begins at `start`: a quoted field may span lines."""
    quotes = 0
    for end in range(start, len(lines)):
        quotes += lines[end].count(b'"')
        if quotes % 2 == 0:
            return end + 1
    return start + 1


def _fields(record: bytes) -> tuple[str, ...]:
    """Return the fields of one record, none if it is not exactly one."""
    text = io.StringIO(record.decode("utf-8", "surrogateescape"), newline="")
    try:
        rows = list(csv.reader(text, strict=True))
    except csv.Error:
        return ()
    return tuple(rows[0]) if len(rows) == 1 else ()


def _set_aside(path: Path, found: _Found) -> None:
    if found.foreign:
        backup = _free_backup(path)
        path.rename(backup)
        _log.warning("%s: %s; moved to %s, a new file is begun", path, found.foreign, backup)
    elif found.torn:
        backup = _free_backup(path)
        write_new(backup, found.torn)
        _log.warning("%s: lines that are no whole row were moved to %s", path, backup)


def _free_backup(path: Path) -> Path:
    number = 1
    while os.path.lexists(backup := path.with_name(f"{path.name}.{number}.bak")):
        number += 1
    return backup


# --- one writer at a time -------------------------------------------------------------------------


def _temporary_prefix(path: Path) -> str:
    return f".{path.name}."


def _remove_leftovers(path: Path) -> None:
    """Remove what killed writers left behind; only for who holds the lock."""
    for entry in path.parent.iterdir():
        if entry.name.startswith(_temporary_prefix(path)) and entry.suffix == ".tmp":
            entry.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Hold the lock beside `path`; False where the file system has no locks."""
    descriptor = _open_lock(path.with_name(f".{path.name}.lock"))
    try:
        yield _locked(descriptor, path)
    finally:
        os.close(descriptor)


def _open_lock(lock: Path) -> int:
    flags = os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(lock, os.O_RDWR | flags, 0o666)
    except PermissionError:  # another user's lock file: reading rights are enough for flock
        return os.open(lock, os.O_RDONLY | flags)


def _locked(descriptor: int, path: Path) -> bool:
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    errno.ETIMEDOUT,
                    f"another writer held its lock for {LOCK_TIMEOUT_S} s",
                    str(path),
                ) from None
            time.sleep(0.01)
        except OSError as error:
            if error.errno not in _LOCK_UNSUPPORTED:
                raise
            _log_without_lock(path, error.strerror)
            return False
        else:
            return True


@functools.lru_cache(maxsize=16)
def _log_without_lock(path: Path, reason: str) -> None:
    """Say once per file that it is written without a lock."""
    _log.warning(
        "%s: no file locks here (%s); if several processes write this file at once, "
        "a row may be missing until its run writes again",
        path,
        reason,
    )
