"""Ship closed segments beside metering: one thread, in order, with backoff, to the end.

Failures are told once, when they begin, change, and end. A segment is deleted from the volume only
when the far side has confirmed it.
"""

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from sidecar.journal.spool import ClosedSegment, Spool
from sidecar.segment import NotASegment, parcel_of
from sidecar.transport.delivery import Transport, Undelivered

ATTEMPT_S: Final = 20.0
"""One delivery takes at most so long."""

FIRST_BACKOFF_S: Final = 1.0
BACKOFF_MAX_S: Final = 60.0
"""After n failures in a row a random time up to 1 s × 2ⁿ is waited ("full jitter"), at most a minute.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

HURRIED_BACKOFF_S: Final = 1.0
"""… and at most this once the end is near."""

RETRY_AFTER_MAX_S: Final = 900.0
"""A far side that asks for more patience than this gets no more."""

RECEIPT_AGAIN_S: Final = 300.0
"""A receipt that could not be had is asked for again after this time."""

JOIN_PERIOD_S: Final = 0.1
"""The end of the thread is awaited in pieces, because the deadline may be moved."""

LOOK_AGAIN_S: Final = 1800.0
"""So often the volume is searched for what other processes left meanwhile."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """The shipper's clock, dice and patience; tests bring their own."""

    monotonic_s: Callable[[], float] = time.monotonic
    uniform: Callable[[float, float], float] = random.uniform
    wait: Callable[[threading.Event, float], object] = threading.Event.wait


@dataclass(frozen=True, slots=True)
class ShippingState:
    """What was shipped since the start, and why nothing is shipped now (None: all is well)."""

    segments: int = 0
    records: int = 0
    size: int = 0
    failures: int = 0
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Supply:
    """Where segments come from: the spool, what looks for more on the volume, who keeps a receipt."""

    spool: Spool
    look: Callable[[], None] = lambda: None
    keep_receipt: Callable[[str], None] = lambda _: None


@dataclass(slots=True)
class _Schedule:
    """When what may be tried, on the monotonic clock."""

    attempt_s: float = -math.inf
    receipt_s: float = -math.inf
    look_s: float = -math.inf
    deadline_s: float = math.inf
    asked_to_wait: bool = False
    put_off_s: dict[str, float] = field(default_factory=dict)
    """By stem: how long what an earlier process left is left alone, since the last look."""
    put_off_before_s: dict[str, float] = field(default_factory=dict)
    """The same of the look before."""


class Shipper:
    """Delivers the segments of a spool, oldest first. `open_transport` is called in its thread."""

    def __init__(
        self, open_transport: Callable[[], Transport], supply: Supply, pace: Pace | None = None
    ) -> None:
        self._open_transport = open_transport
        self._transport: Transport | None = None
        self._supply = supply
        self._spool = supply.spool
        self._pace = pace or Pace()
        self._due = _Schedule()
        self._in_a_row = 0
        self._is_hurried = False
        self._thread = threading.Thread(target=self._ship, name="shipping", daemon=True)
        self.state = ShippingState()

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to ship in a thread of its own."""
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads allowed here
            _log.error("nothing is shipped (%s); records stay on the volume", error)

    def hurry(self) -> None:
        """Say that the end is near: failures are tried again soon."""
        self._is_hurried = True
        if not self._due.asked_to_wait:
            soon_s = self._pace.monotonic_s() + HURRIED_BACKOFF_S
            self._due.attempt_s = min(self._due.attempt_s, soon_s)
        self._spool.arrived.set()

    def finish(self, within_s: float) -> bool:
        """Ship what is left, within so many seconds, and end. True when nothing is left."""
        self._due.deadline_s = self._pace.monotonic_s() + within_s
        self.hurry()
        if self._thread.ident is not None:
            while self._thread.is_alive() and self._pace.monotonic_s() < self._due.deadline_s:
                self._thread.join(JOIN_PERIOD_S)
        return self._spool.state().segments == 0

    def shorten(self, within_s: float) -> None:
        """Move the end of `finish`, where it is under way, to at most so many seconds from now."""
        if self._is_finishing:
            end_s = self._pace.monotonic_s() + within_s
            self._due.deadline_s = min(self._due.deadline_s, end_s)
            self._spool.arrived.set()

    def _ship(self) -> None:
        while (wait_s := self._safe_step()) is not None:
            self._pace.wait(self._spool.arrived, min(wait_s, LOOK_AGAIN_S))
            self._spool.arrived.clear()
        if self._transport is not None:
            self._transport.close()

    def _safe_step(self) -> float | None:
        """Do a step; a fault of ours is told once, and it goes on a minute later."""
        try:
            return self.step()
        except Exception as error:  # noqa: BLE001 - a fault of ours ends neither shipping nor metering
            text = f"a step of shipping failed, which is a bug: {error!r}"
            if text != self.state.failure:
                _log.exception("%s; records stay on the volume, and it is tried again", text)
            self.state = replace(self.state, failures=self.state.failures + 1, failure=text)
            self._due.attempt_s = self._pace.monotonic_s() + BACKOFF_MAX_S
            return None if self._is_finishing else BACKOFF_MAX_S

    # -- one step -----------------------------------------------------------------------------

    def step(self) -> float | None:
        """Do what is due. Returns seconds until there may be more to do; None when it is over."""
        now_s = self._pace.monotonic_s()
        if now_s >= self._due.deadline_s:
            return None
        if now_s < self._due.attempt_s:
            return self._rest_s(self._due.attempt_s - now_s)
        self._look(now_s)
        segment = self._spool.head()
        if segment is not None:
            self._attempt(segment)
            return 0.0
        if self._is_finishing:
            return None
        self._ask_for_receipt(now_s)
        return max(0.0, self._due.look_s - now_s)

    @property
    def _is_finishing(self) -> bool:
        return self._due.deadline_s < math.inf

    def _rest_s(self, wait_s: float) -> float | None:
        """Return how long to wait; None where the end comes before."""
        left_s = self._due.deadline_s - self._pace.monotonic_s()
        return wait_s if wait_s < left_s else None

    def _look(self, now_s: float) -> None:
        if now_s < self._due.look_s or self._is_finishing:
            return
        self._due.look_s = now_s + LOOK_AGAIN_S
        self._due.put_off_before_s, self._due.put_off_s = self._due.put_off_s, {}
        try:
            self._supply.look()
        except OSError as error:
            _log.warning("what earlier processes left cannot be looked for: %s", error)

    def _ask_for_receipt(self, now_s: float) -> None:
        if now_s < self._due.receipt_s:
            return
        self._due.receipt_s = now_s + RECEIPT_AGAIN_S
        try:
            receipt = self._opened().receipt(ATTEMPT_S)
        except Undelivered:
            return  # the next delivery will tell
        if receipt is not None:
            self._supply.keep_receipt(receipt)

    def _opened(self) -> Transport:
        if self._transport is None:
            try:
                self._transport = self._open_transport()
            except ValueError as error:  # what only its library can tell, such as a mangled key
                raise Undelivered(str(error)) from error
            _log.info("records are shipped to %s", self._transport.destination)
        return self._transport

    def _attempt(self, segment: ClosedSegment) -> None:
        try:
            parcel = replace(parcel_of(segment.content()), receipt=segment.receipt)
            timeout_s = min(ATTEMPT_S, self._due.deadline_s - self._pace.monotonic_s())
            self._opened().deliver(parcel, timeout_s)
        except FileNotFoundError:
            self._spool.vanished(segment)
        except NotASegment as error:
            self._spool.refuse(segment, str(error))
        except OSError as error:
            self._failed(segment, Undelivered(f"{segment.path} cannot be read: {error.strerror}"))
            self._spool.postpone(segment)
        except Undelivered as error:
            if error.refused:
                self._spool.refuse(segment, str(error))
            elif error.about_owner:
                self._put_off(segment, str(error), error.retry_after_s)
            else:
                self._failed(segment, error)
        else:
            self._spool.delivered(segment)
            self._succeeded(segment, len(parcel.content))

    def _succeeded(self, segment: ClosedSegment, size: int) -> None:
        if self.state.failure is not None:
            _log.warning("records can be shipped again")
        self._in_a_row = 0
        self.state = replace(
            self.state,
            segments=self.state.segments + 1,
            records=self.state.records + segment.records,
            size=self.state.size + size,
            failure=None,
        )

    def _put_off(self, segment: ClosedSegment, text: str, wait_s: float | None) -> None:
        """Leave what this process left alone for a while; its own pod may be back, and finds it free.

        Where the far side names no time, this is not the pod to bring it: another one may be.
        """
        stem = segment.name.stem
        self._spool.give_back(stem)
        if wait_s is None:
            _log.info("%s.*: %s; left for another pod", stem, text)
            return
        before_s = self._due.put_off_before_s.get(stem)
        if before_s is None:
            _log.info("%s.*: %s", stem, text)
        doubled_s = min(2 * (before_s or 0.0), LOOK_AGAIN_S)
        pause_s = max(min(wait_s, RETRY_AFTER_MAX_S), doubled_s)
        self._due.put_off_s[stem] = pause_s
        self._due.look_s = min(self._due.look_s, self._pace.monotonic_s() + pause_s)

    def _failed(self, segment: ClosedSegment, error: Undelivered) -> None:
        text = str(error)
        if text != self.state.failure:
            _log.error("%s; records stay on the volume, and it is tried again", text)
        self.state = replace(self.state, failures=self.state.failures + 1, failure=text)
        self._spool.postpone_found(segment)
        self._in_a_row += 1
        self._due.asked_to_wait = error.retry_after_s is not None
        if error.retry_after_s is not None:
            wait_s = min(error.retry_after_s, RETRY_AFTER_MAX_S)
        else:
            most_s = BACKOFF_MAX_S if not self._is_hurried else HURRIED_BACKOFF_S
            doubled_s = FIRST_BACKOFF_S * 2.0 ** min(self._in_a_row, 16)
            wait_s = self._pace.uniform(0.1, min(doubled_s, most_s))
        self._due.attempt_s = self._pace.monotonic_s() + wait_s
