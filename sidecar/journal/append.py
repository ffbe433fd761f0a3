"""Append records to this process's own segment on the volume, and survive a volume that fails.

A segment is `<volume>/records/<pod uid>.<boot>.0.ndjson`: one writer, one NDJSON line per record,
each fsynced. While the volume cannot be written, records wait in memory (the oldest are merged when
there are many: energy is never dropped) and are written when it can be again.
"""

import contextlib
import logging
import os
import stat
from pathlib import Path
from typing import Final

from sidecar.durable_file import replace_file, write_all
from sidecar.record import EmissionRecord, merge_records, to_ndjson

WAITING_MAX: Final = 500
"""Records kept apart in memory while the volume fails, about 1.5 MB; more are merged."""

_log = logging.getLogger(__name__)


class Journal:
    """The segment of one process. Never raises for a failing volume: it says so and remembers."""

    def __init__(self, volume: Path, segment: str) -> None:
        self.path = volume / "records" / f"{segment}.ndjson"
        self._waiting: list[EmissionRecord] = []
        self._length = 0
        self.failure: str | None = None

    @property
    def waiting(self) -> tuple[EmissionRecord, ...]:
        """Records that are not on the volume yet."""
        return tuple(self._waiting)

    def append(self, record: EmissionRecord) -> bool:
        """Write the record, and before it all that still waits. True when all is durable."""
        self._waiting.append(record)
        if len(self._waiting) > WAITING_MAX:
            self._waiting[:2] = [merge_records(*self._waiting[:2])]
        return self.flush()

    def rewrite(self, records: list[EmissionRecord]) -> bool:
        """Replace the whole segment by these records, atomically; used to complete early records."""
        self._waiting = list(records)
        self._length = 0
        return self.flush()

    def flush(self) -> bool:
        """Write what waits. True when nothing waits any longer."""
        if not self._waiting:
            return True
        content = "".join(map(to_ndjson, self._waiting)).encode()
        try:
            self._write(content)
        except OSError as error:
            self._report(f"cannot write {self.path}: {error.strerror or error}")
            return False
        self._length += len(content)
        self._waiting.clear()
        if self.failure is not None:
            _log.warning("%s can be written again; all records are on it", self.path)
            self.failure = None
        return True

    def _report(self, failure: str) -> None:
        if failure != self.failure:
            _log.error(
                "%s; metering goes on, records wait in memory: free space, repair the volume or give "
                "another",
                failure,
            )
        self.failure = failure

    def _write(self, content: bytes) -> None:
        if self._length == 0 or not self._is_whole():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, content)
            self._length = 0  # where the segment was not ours any more, it begins anew
            return
        # Neither a link nor a pipe that was put in its place since is followed or waited on.
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self.path, flags)
        try:
            self._write_at_end(descriptor, content)
        finally:
            os.close(descriptor)

    def _is_whole(self) -> bool:
        """Whether the segment is still the file that was written, with all that was written."""
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size >= self._length

    def _write_at_end(self, descriptor: int, content: bytes) -> None:
        """Append, or leave the segment as it was: a half-written line is cut off again."""
        os.ftruncate(descriptor, self._length)
        os.lseek(descriptor, self._length, os.SEEK_SET)
        try:
            write_all(descriptor, content)
            os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):  # else it is cut off before the next write
                os.ftruncate(descriptor, self._length)
            raise
