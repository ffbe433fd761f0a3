"""Closed segments that wait to be shipped: on the volume, or in memory where it cannot be written.

The journal adds them in one thread, the shipper takes them in another. A segment is deleted only when
the far side has confirmed it; what the far side refuses for good is set aside, never deleted.
"""

import contextlib
import errno
import itertools
import logging
import os
import threading
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sidecar.durable_file import replace_file
from sidecar.journal.claim import Claim
from sidecar.segment import COMPRESSED_SUFFIX, SEGMENT_BYTES_MAX, SUFFIX, SegmentName, compressed

REFUSED_DIRECTORY: Final = "refused"
"""Under `records/`: segments that the far side will never take."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClosedSegment:
    """A segment nobody writes any more. `kept` is its compressed content where no file holds it."""

    name: SegmentName
    path: Path
    records: int
    size: int
    """Bytes on the volume."""
    kept: bytes | None = None
    receipt: str | None = None

    def content(self) -> bytes:
        """Return the compressed segment. Raises OSError."""
        if self.kept is not None:
            return self.kept
        content = read_segment(self.path)
        return content if self.path.suffix == ".gz" else compressed(content)


def read_segment(path: Path) -> bytes:
    """Return a segment's file, bounded; no link or pipe in its place is followed. Raises OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb") as stream:
        content = stream.read(SEGMENT_BYTES_MAX + 1)
    if len(content) > SEGMENT_BYTES_MAX:
        raise OSError(errno.EFBIG, "longer than a segment can be", str(path))
    return content


def close_segment(directory: Path, name: SegmentName, ndjson: bytes) -> ClosedSegment:
    """Compress a segment on the volume, atomically; its open file goes once that is durable.

    Where the volume has no room for it, the open file stays and is the segment; where there is none,
    the content is kept in memory.
    """
    path = directory / f"{name}{COMPRESSED_SUFFIX}"
    plain = directory / f"{name}{SUFFIX}"
    records = ndjson.count(b"\n")
    content = compressed(ndjson)
    try:
        replace_file(path, content)
    except OSError:
        if _holds(plain, ndjson):
            return ClosedSegment(name, plain, records, len(ndjson))
        return segment_in_memory(directory, name, ndjson)
    with contextlib.suppress(OSError):  # both say the same; recovery drops one
        plain.unlink(missing_ok=True)
    return ClosedSegment(name, path, records, len(content))


def segment_in_memory(directory: Path, name: SegmentName, ndjson: bytes) -> ClosedSegment:
    """Return a segment that no file holds; it knows where it would be."""
    path = directory / f"{name}{COMPRESSED_SUFFIX}"
    return ClosedSegment(name, path, ndjson.count(b"\n"), 0, kept=compressed(ndjson))


def _holds(path: Path, content: bytes) -> bool:
    try:
        return read_segment(path) == content
    except OSError:
        return False


def _as_file(segment: ClosedSegment) -> ClosedSegment:
    """Write a segment that memory holds to the volume. Raises OSError."""
    if segment.kept is None:
        return segment
    replace_file(segment.path, segment.kept)
    _remove_half(segment)
    return replace(segment, kept=None, size=len(segment.kept))


def _remove_half(segment: ClosedSegment) -> None:
    """Remove what somebody cut of its open file: it would be other content under the same name."""
    with contextlib.suppress(OSError):
        (segment.path.parent / f"{segment.name}{SUFFIX}").unlink(missing_ok=True)


def _on_volume(segment: ClosedSegment) -> ClosedSegment:
    """Return the segment as a file where it can be written, else as it is: the process ends."""
    try:
        return _as_file(segment)
    except OSError as error:
        _log.error(
            "%d records (%s) could not be shipped nor written (%s) and end with this process",
            segment.records, segment.name, error.strerror,
        )  # fmt: skip
        return segment


@dataclass(frozen=True, slots=True)
class SpoolState:
    """What waits: segments and records not shipped yet, bytes on the volume, and what was refused.

    `memory_records` are those that no volume holds.
    """

    segments: int = 0
    records: int = 0
    memory_records: int = 0
    size: int = 0
    refused: int = 0


class Spool:
    """The queue between journal and shipper: this process's own segments first, in their order."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._own: deque[ClosedSegment] = deque()
        self._found: deque[ClosedSegment] = deque()
        self._claims: dict[str, Claim] = {}
        self._unfinished: set[str] = set()
        self._refused = 0
        self._refused_size = 0
        self._lock = threading.Lock()
        self.arrived = threading.Event()
        """Set when a segment is added, or when whoever waits should look again."""

    def add(self, segment: ClosedSegment) -> None:
        """Queue a segment of this process."""
        with self._lock:
            self._own.append(segment)
        self.arrived.set()

    def add_found(
        self, segments: list[ClosedSegment], claim: Claim, *, is_all: bool = True
    ) -> None:
        """Queue segments that an earlier process left; its claim is held until they are gone.

        The claim's file stays where that is not all, so that the rest is looked for again.
        """
        if not segments:
            claim.release(remove=is_all)
            return
        stem = segments[0].name.stem
        with self._lock:
            self._found.extend(segments)
            self._claims[stem] = claim
            if not is_all:
                self._unfinished.add(stem)
        self.arrived.set()

    def holds(self, stem: str) -> bool:
        """Whether what this process left is queued already."""
        with self._lock:
            return stem in self._claims

    def give_back(self, stem: str) -> None:
        """Leave what this process left to somebody else."""
        with self._lock:
            kept = [segment for segment in self._found if segment.name.stem != stem]
            self._found.clear()
            self._found.extend(kept)
            claim = self._claims.pop(stem, None)
            self._unfinished.discard(stem)
        if claim is not None:
            claim.release()

    def beat(self) -> None:
        """Say to other machines that what was found is in hand."""
        with self._lock:
            claims = list(self._claims.values())
        for claim in claims:
            claim.beat()

    def head(self) -> ClosedSegment | None:
        """Return the segment to ship next; it stays until it is said what became of it."""
        with self._lock:
            return next(itertools.chain(self._own, self._found), None)

    def postpone_found(self, segment: ClosedSegment) -> None:
        """Let the other found segments go first; our own keep their order."""
        with self._lock:
            if segment in self._found:
                self._found.remove(segment)
                self._found.append(segment)

    def postpone(self, segment: ClosedSegment) -> None:
        """Let the others go first."""
        with self._lock:
            for queue in (self._own, self._found):
                if segment in queue:
                    queue.remove(segment)
                    queue.append(segment)

    def delivered(self, segment: ClosedSegment) -> None:
        """Delete a segment that the far side confirmed."""
        with contextlib.suppress(OSError):  # shipped again some day, it meets itself
            segment.path.unlink(missing_ok=True)
        if segment.kept is not None:
            _remove_half(segment)
        self._forget(segment)

    def vanished(self, segment: ClosedSegment) -> None:
        """Forget a segment whose file somebody removed."""
        _log.error(
            "%s is gone from the volume before it was shipped: %d records are lost with it",
            segment.path, segment.records,
        )  # fmt: skip
        self._forget(segment)

    def refuse(self, segment: ClosedSegment, why: str) -> None:
        """Set a segment aside that will never be taken."""
        aside = self.directory / REFUSED_DIRECTORY / segment.path.name
        try:
            aside.parent.mkdir(exist_ok=True)
            if segment.kept is None:
                segment.path.replace(aside)
            else:
                replace_file(aside, segment.kept)
        except OSError as error:
            _log.error("%s is refused: %s; it stays there: %s", segment.path, why, error.strerror)
        else:
            _log.error("%s is refused: %s; it is kept as %s", segment.path.name, why, aside)
        with self._lock:
            self._refused += 1
            self._refused_size += segment.size
        self._forget(segment)

    def _forget(self, segment: ClosedSegment) -> None:
        with self._lock:
            for queue in (self._own, self._found):
                # By name: what memory held may have been written meanwhile.
                for item in [item for item in queue if item.name == segment.name]:
                    queue.remove(item)
            stem = segment.name.stem
            done = not any(other.name.stem == stem for other in self._found)
            claim = self._claims.pop(stem, None) if done else None
            is_all = stem not in self._unfinished
            if done:
                self._unfinished.discard(stem)
        if claim is not None:
            claim.release(remove=is_all)

    def state(self) -> SpoolState:
        """Return what waits."""
        with self._lock:
            waiting = (*self._own, *self._found)
            return SpoolState(
                segments=len(waiting),
                records=sum(segment.records for segment in waiting),
                memory_records=sum(item.records for item in waiting if item.kept is not None),
                size=sum(segment.size for segment in waiting) + self._refused_size,
                refused=self._refused,
            )

    def settle(self, room: float) -> None:
        """Write to the volume what only memory holds, the oldest first, while `room` bytes suffice."""
        with self._lock:
            in_memory = [segment for segment in self._own if segment.kept is not None]
        for segment in in_memory:
            room -= len(segment.kept or b"")
            if room < 0:
                return
            try:
                written = _as_file(segment)
            except OSError:
                return  # it is tried again
            self._swap(segment, written)

    def _swap(self, segment: ClosedSegment, written: ClosedSegment) -> None:
        with self._lock:
            if segment in self._own:
                self._own[self._own.index(segment)] = written
                return
        with contextlib.suppress(OSError):  # it was delivered meanwhile, from memory
            written.path.unlink(missing_ok=True)

    def take_files(self) -> list[ClosedSegment]:
        """Take the segments of this process that are files: where nothing ships, that is their end."""
        with self._lock:
            files = [segment for segment in self._own if segment.kept is None]
            for segment in files:
                self._own.remove(segment)
        return files

    def keep(self) -> None:
        """Write to the volume what is only in memory, as far as it goes: the process ends."""
        with self._lock:
            for queue in (self._own, self._found):
                kept = [_on_volume(segment) for segment in queue]
                queue.clear()
                queue.extend(kept)

    def close(self) -> None:
        """Give up the claims on what earlier processes left; another process may take it on."""
        with self._lock:
            claims, self._claims = self._claims, {}
        for claim in claims.values():
            claim.release()
