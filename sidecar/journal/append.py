"""Append records to this process's own segments on the volume, and survive a volume that fails.

A segment is `<volume>/records/<pod uid>.<boot>.<seq>.ndjson`: one writer, one NDJSON line per record,
each fsynced. While the volume cannot be written, records wait in memory (the oldest are merged when
there are many: energy is never dropped) and are written when it can be again.
"""

import contextlib
import errno
import itertools
import logging
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sidecar.durable_file import replace_file, write_all
from sidecar.journal.claim import Claim
from sidecar.journal.recover import owner_path
from sidecar.journal.spool import ClosedSegment, close_segment, segment_in_memory
from sidecar.record import EmissionRecord, merge_records, to_ndjson
from sidecar.segment import SUFFIX, SegmentName

WAITING_MAX: Final = 500
"""Records kept apart in memory while the volume fails, about 1.5 MB; more are merged."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VolumeLimits:
    """How much of the volume this process's records may fill: a part of it, and bytes (None: any)."""

    share: float = 1.0
    size: int | None = None

    def allowed(self, directory: Path) -> float:
        """Return the bytes allowed. Raises OSError."""
        status = os.statvfs(directory)
        part = self.share * status.f_blocks * status.f_frsize
        return part if self.size is None else min(part, self.size)


@dataclass(slots=True)
class _OpenSegment:
    """The segment being written. `content` repeats it, so that it outlives a volume that is lost."""

    name: SegmentName
    path: Path
    content: bytearray = field(default_factory=bytearray)
    partition: tuple[str, ...] | None = None


class Journal:
    """The segments of one process. Never raises for a failing volume: it says so and remembers."""

    def __init__(self, volume: Path, stem: str, limits: VolumeLimits | None = None) -> None:
        self.directory = volume / "records"
        self._stem = stem
        self._limits = limits or VolumeLimits()
        self._waiting: list[EmissionRecord] = []
        self._newest: tuple[EmissionRecord, str] | None = None
        self._open: _OpenSegment | None = None
        self._claim: Claim | None = None
        self._rescued: list[ClosedSegment] = []
        self._sealed: list[ClosedSegment] = []
        self.splits = False
        """Whether records of another day, project or cluster begin another segment."""
        self.closed_size = 0
        """Bytes that this process's closed segments take on the volume, as its owner keeps it."""
        self.failure: str | None = None
        self.failures = 0
        """How often the volume could not be written."""

    @property
    def waiting(self) -> tuple[EmissionRecord, ...]:
        """Records that are not on the volume yet."""
        return tuple(self._waiting)

    @property
    def path(self) -> Path | None:
        """File of the open segment; None before its first record is written."""
        return None if self._open is None else self._open.path

    @property
    def size(self) -> int:
        """Bytes of the open segment, uncompressed."""
        return 0 if self._open is None else len(self._open.content)

    def append(self, record: EmissionRecord) -> bool:
        """Write the record, and before it all that still waits. True when all is durable."""
        try:
            line = to_ndjson(record)
        except ValueError as error:  # a number that is none: it must not hold up the others
            _log.error("record %s cannot be written, which is a bug: %s", record.record_id, error)
            return self.flush()
        self._newest = (record, line)
        self._waiting.append(record)
        if len(self._waiting) > WAITING_MAX:
            self._merge_two()
        return self.flush()

    def _merge_two(self) -> None:
        """Merge the two oldest neighbours that belong into one segment."""
        pairs = itertools.pairwise(self._waiting)
        alike = (n for n, (one, two) in enumerate(pairs) if _partition(one) == _partition(two))
        place = next(alike, 0)
        self._waiting[place : place + 2] = [merge_records(*self._waiting[place : place + 2])]

    def rewrite(self, records: list[EmissionRecord]) -> bool:
        """Replace the open segment by these records, atomically; used to complete early records.

        They are all records so far: nothing may have been closed before.
        """
        self._waiting = list(records)
        self._rescued.clear()
        before, name = self._open, SegmentName.of_record(records[0].record_id)
        if (
            before is not None and before.name != name
        ):  # the first was taken away, and another begun
            self._open = None
        elif before is not None:
            before.content.clear()
        is_written = self.flush()
        if is_written and before is not None and before.name != name:
            with contextlib.suppress(OSError):
                before.path.unlink()
        return is_written

    def flush(self) -> bool:
        """Write what waits. True when nothing waits any longer."""
        while self._waiting:
            together = self._together()
            try:
                self._write(together)
            except OSError as error:
                self._report(f"cannot write records to {self.directory}: {error.strerror or error}")
                return False
            del self._waiting[: len(together)]
        if self.failure is not None:
            _log.warning("%s can be written again; all records are on it", self.directory)
            self.failure = None
        return True

    def _together(self) -> list[EmissionRecord]:
        """Return the oldest records that wait and belong into one segment; a segment of others ends."""
        if not self.splits:
            return self._waiting
        partition = _partition(self._waiting[0])
        if self._open is not None and self._open.partition not in (None, partition):
            self._sealed += self._closed_open()
        alike = itertools.takewhile(lambda item: _partition(item) == partition, self._waiting)
        return list(alike)

    def sealed(self) -> list[ClosedSegment]:
        """Take the segments that ended because other records followed: another day, or project."""
        sealed, self._sealed = self._sealed, []
        return sealed

    def seal(self) -> list[ClosedSegment]:
        """Close the open segment, compressed; the next record begins another. None if there is none."""
        self.flush()
        return [*self.sealed(), *self._closed_open()]

    def _closed_open(self) -> list[ClosedSegment]:
        if self._open is None or not self._open.content:
            return []
        closing, self._open = self._open, None
        return [close_segment(self.directory, closing.name, bytes(closing.content))]

    def seal_waiting(self) -> ClosedSegment | None:
        """Take what waits for a volume that fails into a segment in memory; None if nothing waits.

        It is kept nowhere else: only for a far side that takes it at once.
        """
        if not self._waiting:
            return None
        together = self._together()
        content, name = self._ndjson(together), SegmentName.of_record(together[0].record_id)
        del self._waiting[: len(together)]
        return segment_in_memory(self.directory, name, content)

    def rescued(self) -> list[ClosedSegment]:
        """Take segments that were removed from the volume before they were closed, from memory."""
        rescued, self._rescued = self._rescued, []
        return rescued

    def keep_receipt(self, receipt: str) -> None:
        """Keep beside the segments what proves that they are this pod's."""
        claim = self._claim  # the other thread may let go of it
        if claim is not None:
            claim.keep_receipt(receipt)

    def room(self) -> float:
        """Return the bytes that may still be written beside `closed_size`; 0 where it is not told."""
        try:
            return self._limits.allowed(self.directory) - self.closed_size - self.size
        except OSError:
            return 0.0

    def beat(self) -> None:
        """Say to other machines that share the volume that this process lives."""
        if self._claim is not None:
            self._claim.beat()

    def close(self, *, is_clean: bool) -> None:
        """Give up the claim on the segments; its file stays where another process is to take them on."""
        if self._claim is not None:
            self._claim.release(remove=is_clean)

    def _report(self, failure: str) -> None:
        self.failures += 1
        if failure != self.failure:
            _log.error(
                "%s; metering goes on, records wait in memory: free space, repair the volume or give "
                "another",
                failure,
            )
        self.failure = failure

    def _write(self, records: list[EmissionRecord]) -> None:
        content = self._ndjson(records)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._refuse_beyond_limits(len(content))
        if self._claim is not None and not self._claim.is_held:
            self._claim.release()
            self._claim = None
        if self._claim is None:
            self._claim = Claim.take(owner_path(self.directory, self._stem))
        segment = self._segment()
        if not segment.content:
            replace_file(segment.path, content)
        else:
            _append(segment, content)
        segment.content += content
        if self.splits and segment.partition is None:
            segment.partition = _partition(records[0])
        self._open = segment

    def _ndjson(self, records: list[EmissionRecord]) -> bytes:
        """Encode records; the newest was encoded when it came, which costs a tenth of a window."""
        newest, line = self._newest or (None, "")
        lines = (line if record is newest else to_ndjson(record) for record in records)
        return "".join(lines).encode()

    def _segment(self) -> _OpenSegment:
        """Return the segment to write to; one that somebody took away or cut is left, and another begun.

        Not continued: whoever took it may have shipped it, and its name stands for what it held.
        """
        if self._open is not None and (not self._open.content or _is_whole(self._open)):
            return self._open
        if self._open is not None:
            _log.warning("%s was taken away or cut; its records are kept", self._open.path)
            self._rescued.append(
                segment_in_memory(self.directory, self._open.name, bytes(self._open.content))
            )
            self._open = None
        name = SegmentName.of_record(self._waiting[0].record_id)
        return _OpenSegment(name, self.directory / f"{name}{SUFFIX}")

    def _refuse_beyond_limits(self, more: int) -> None:
        allowed = self._limits.allowed(self.directory)
        if self.closed_size + self.size + more > allowed:
            text = (
                f"they would take more than the {allowed:.0f} bytes allowed (EMISSIONS_VOLUME_SHARE, "
                "EMISSIONS_VOLUME_LIMIT)"
            )
            raise OSError(errno.EDQUOT, text)


def _partition(record: EmissionRecord) -> tuple[str, ...]:
    """Return what all records of a segment have in common: its place in Blob."""
    return record.project, record.cluster or "", record.window_start[:10]


def _append(segment: _OpenSegment, content: bytes) -> None:
    # Neither a link nor a pipe that was put in its place since is followed or waited on.
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(segment.path, flags)
    try:
        _write_at_end(descriptor, len(segment.content), content)
    finally:
        os.close(descriptor)


def _is_whole(segment: _OpenSegment) -> bool:
    """Whether the segment is still the file that was written, with all that was written."""
    try:
        status = segment.path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size >= len(segment.content)


def _write_at_end(descriptor: int, length: int, content: bytes) -> None:
    """Append, or leave the segment as it was: a half-written line is cut off again."""
    os.ftruncate(descriptor, length)
    os.lseek(descriptor, length, os.SEEK_SET)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):  # else it is cut off before the next write
            os.ftruncate(descriptor, length)
        raise
