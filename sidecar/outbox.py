"""From record to far side: the journal, the queue of closed segments, and who ships them.

The agent hands records in and is never made to wait for a network. When a segment is closed is decided
here: after the flush interval, when it is large, when another day or project begins, and at each
window once the end is near.
"""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from sidecar.exporters.prometheus import Metric, Sample, counter, gauge
from sidecar.journal.append import Journal, VolumeLimits
from sidecar.journal.recover import Recovery, left_size, recover
from sidecar.journal.spool import ClosedSegment, Spool
from sidecar.record import EmissionRecord
from sidecar.settings import Settings
from sidecar.transport.delivery import Transport
from sidecar.transport.shipper import Shipper, Supply

SHIPPED_SIZE: Final = 256 * 1024
"""A segment that is shipped is closed at this size (uncompressed): what a crash may leave unshipped."""

KEPT_SIZE: Final = 4 * 1024**2
"""One that stays on the volume is closed, and so compressed, at this size."""


BRIEF_S: Final = 2.0
"""Time for shipping what is left where somebody asks twice for the end."""


@dataclass(frozen=True, slots=True)
class OutboxState:
    """What is where: for metrics, the termination message and the last log line."""

    waiting_records: int = 0
    write_failure: str | None = None
    write_failures: int = 0
    volume_size: int = 0
    unshipped_segments: int = 0
    unshipped_records: int = 0
    refused_segments: int = 0
    shipped_segments: int = 0
    shipped_records: int = 0
    shipped_size: int = 0
    ship_failures: int = 0
    ship_failure: str | None = None
    ships: bool = False


_log = logging.getLogger(__name__)

_OF_STATE: Final[tuple[tuple[str, Metric], ...]] = (
    (
        "waiting_records",
        gauge("journal_waiting_records", "Records that are not on the volume yet."),
    ),
    ("write_failure", gauge("journal_failing", "1 while the volume cannot be written.")),
    (
        "write_failures",
        counter("journal_failures", "Times that the volume could not be written."),
    ),
    ("volume_size", gauge("journal_bytes", "Bytes of the volume that records fill.")),
    (
        "unshipped_segments",
        gauge("unshipped_segments", "Closed segments that are not shipped yet."),
    ),
    (
        "unshipped_records",
        gauge("unshipped_records", "Records in closed segments that are not shipped yet."),
    ),
    ("ship_failure", gauge("shipping_failing", "1 while the far side takes nothing.")),
    (
        "refused_segments",
        counter("refused_segments", "Segments that the far side will never take."),
    ),
    (
        "shipped_segments",
        counter("shipped_segments", "Segments that the far side has confirmed."),
    ),
    ("shipped_records", counter("shipped_records", "Records that the far side has confirmed.")),
    (
        "shipped_size",
        counter("shipped_bytes", "Compressed bytes that the far side has confirmed."),
    ),
    ("ship_failures", counter("shipping_failures", "Deliveries that failed.")),
)
"""Field of the state, and its metric; of a text or None it is told whether there is one, not which."""

METRICS: Final = tuple(metric for _, metric in _OF_STATE)


def samples(state: OutboxState) -> list[Sample]:
    """Return the state as metrics, in base units."""
    values = ((metric, getattr(state, name)) for name, metric in _OF_STATE)
    return [
        Sample(metric, float(value) if isinstance(value, int) else float(value is not None))
        for metric, value in values
    ]


class Keeping(Protocol):
    """What becomes of records: what the agent needs of an outbox."""

    @property
    def directory(self) -> Path:
        """Where the records are."""
        ...

    @property
    def failure(self) -> str | None:
        """Why the volume does not take them; None while it does."""
        ...

    def open(self) -> None:
        """Begin."""

    def append(self, record: EmissionRecord) -> None:
        """Take a record."""

    def rewrite(self, records: list[EmissionRecord]) -> None:
        """Replace all records so far."""

    def release(self) -> None:
        """Learn that what was taken stays as it is."""

    def hurry(self) -> None:
        """Learn that the end is near."""

    def calm(self) -> None:
        """Learn that the end did not come."""

    def ship_briefly(self) -> None:
        """Learn that somebody waits for the end."""

    def close(self) -> OutboxState:
        """End, and say what became of all."""
        ...

    def state(self) -> OutboxState:
        """Say what became of all so far."""
        ...


class Nowhere:
    """Keeps no record: for figures alone."""

    def __init__(self, volume: Path) -> None:
        self.directory = volume
        self.failure: str | None = None

    def open(self) -> None:
        """Nothing to begin."""

    def append(self, record: EmissionRecord) -> None:
        """Forget it."""

    def rewrite(self, records: list[EmissionRecord]) -> None:
        """Forget them."""

    def release(self) -> None:
        """Nothing was held."""

    def hurry(self) -> None:
        """Nothing is shipped."""

    def calm(self) -> None:
        """Nothing is shipped."""

    def ship_briefly(self) -> None:
        """Nothing is shipped."""

    def close(self) -> OutboxState:
        """Nothing is left."""
        return self.state()

    def state(self) -> OutboxState:
        """Nothing waits anywhere."""
        return OutboxState()


class Outbox:
    """Everything between the agent and the far side, for one process."""

    def __init__(
        self,
        settings: Settings,
        stem: str,
        open_transport: Callable[[], Transport] | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = VolumeLimits(settings.volume_share, settings.volume_limit)
        self._settings = settings
        self._stem = stem
        self._monotonic_s = monotonic_s
        self._interval_s = settings.flush_interval
        self._is_held = True
        self._is_hurried = False
        self._kept_size = 0
        self._deadline_s = settings.ship_deadline
        self.journal = Journal(settings.volume, stem, limits)
        self._spool = Spool(self.journal.directory)
        supply = Supply(self._spool, self._recover, self.journal.keep_receipt)
        self._shipper = None if open_transport is None else Shipper(open_transport, supply)
        # Pods that started together do not ship together.
        self._due_s = monotonic_s() + self._interval_s * random.uniform(0.5, 1.0)  # noqa: S311

    @property
    def directory(self) -> Path:
        """Where the records are."""
        return self.journal.directory

    @property
    def failure(self) -> str | None:
        """Why the volume does not take them; None while it does."""
        return self.journal.failure

    def open(self) -> None:
        """Look for what earlier processes left, and begin to ship."""
        self._kept_size = left_size(self.journal.directory, self._stem, ships=self._ships)
        if self._shipper is not None:
            self._shipper.start()
            return
        try:
            self._recover()
        except OSError as error:
            _log.warning("what earlier processes left cannot be looked for: %s", error)

    # -- records in ---------------------------------------------------------------------------

    def append(self, record: EmissionRecord) -> None:
        """Write a record; a segment that is due is closed and queued."""
        self._tell_closed_size()
        self.journal.append(record)
        self._queue(self.journal.sealed())
        if not self._is_held:  # until then they are still to be completed, and written anew
            self._queue(self.journal.rescued())
        self._settle()
        self.journal.beat()
        self._spool.beat()
        if self._is_due() and not self._is_held:
            self._close_segment()

    def rewrite(self, records: list[EmissionRecord]) -> None:
        """Replace all records so far. Only before `release`."""
        self.journal.rewrite(records)

    def release(self) -> None:
        """Let records go: who and where is settled, what is written stays as it is."""
        self._is_held = False
        self.journal.splits = True

    def calm(self) -> None:
        """Say that the end did not come: segments are as long as usual again."""
        self._is_hurried = False

    def hurry(self) -> None:
        """Say that the end is near: from now on each record is shipped at once."""
        self._is_hurried = True
        self.release()
        self._close_segment()
        if self._shipper is not None:
            self._shipper.hurry()

    def _is_due(self) -> bool:
        if self._shipper is None:
            return self.journal.size >= KEPT_SIZE
        is_time = self._monotonic_s() >= self._due_s
        return self._is_hurried or is_time or self.journal.size >= SHIPPED_SIZE

    def _close_segment(self) -> None:
        late_s = self._monotonic_s() - self._due_s
        if late_s >= 0:  # from when it was due, or a tick a little early would miss its turn
            self._due_s += (late_s // self._interval_s + 1) * self._interval_s
        if self._shipper is None and self.journal.size < KEPT_SIZE:
            return
        self._queue(self.journal.seal())
        # What no volume takes goes out from memory, as long as the far side takes all at once.
        if not self._spool.state().segments:
            self._close_waiting()

    def _close_waiting(self) -> None:
        while self._shipper is not None and (waiting := self.journal.seal_waiting()) is not None:
            self._queue([waiting])

    def _queue(self, segments: list[ClosedSegment]) -> None:
        for segment in segments:
            self._spool.add(segment)
        self._leave_files()

    def _leave_files(self) -> None:
        """Where nothing ships, a file on the volume is where a segment ends."""
        if self._shipper is None:
            self._kept_size += sum(segment.size for segment in self._spool.take_files())

    def _settle(self) -> None:
        """Write what only memory holds, once the volume takes it: a kill would take it."""
        if self.journal.failure is None and self._spool.state().memory_records:
            self._tell_closed_size()
            self._spool.settle(self.journal.room())
            self._leave_files()

    def _tell_closed_size(self) -> None:
        self.journal.closed_size = self._spool.state().size + self._kept_size

    def _recover(self) -> None:
        if not self.journal.directory.is_dir():
            return
        needs_receipt = self._settings.transport == "collector"
        recovery = Recovery(self._stem, self._ships, needs_receipt)
        recover(self.journal.directory, recovery, self._spool)

    @property
    def _ships(self) -> bool:
        return self._shipper is not None

    # -- the end ------------------------------------------------------------------------------

    def ship_briefly(self) -> None:
        """Take less time for shipping what is left: somebody waits for the end."""
        self._deadline_s = min(self._deadline_s, BRIEF_S)
        if self._shipper is not None:
            self._shipper.shorten(BRIEF_S)

    def close(self) -> OutboxState:
        """Close the last segment, ship what can be shipped within the deadline, keep the rest."""
        self.release()
        self.journal.flush()
        if self._shipper is not None:
            self._close_segment()
            self._close_waiting()  # there is no later
            _log.info(
                "shipping what is left, for %g s at most; asked again, for less", self._deadline_s
            )
            self._shipper.finish(self._deadline_s)
        self._spool.keep()
        self._leave_files()
        state = self.state()
        self.journal.close(is_clean=not state.unshipped_segments)
        self._spool.close()
        return state

    def state(self) -> OutboxState:
        """Return what is where now."""
        spool, journal = self._spool.state(), self.journal
        shipping = self._shipper.state if self._shipper else None
        return OutboxState(
            waiting_records=len(journal.waiting) + spool.memory_records,
            write_failure=journal.failure,
            write_failures=journal.failures,
            volume_size=spool.size + self._kept_size + journal.size,
            unshipped_segments=spool.segments,
            unshipped_records=spool.records,
            refused_segments=spool.refused,
            shipped_segments=shipping.segments if shipping else 0,
            shipped_records=shipping.records if shipping else 0,
            shipped_size=shipping.size if shipping else 0,
            ship_failures=shipping.failures if shipping else 0,
            ship_failure=shipping.failure if shipping else None,
            ships=shipping is not None,
        )
