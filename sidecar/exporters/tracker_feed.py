"""Hands the windows of a run to a tracker, in a thread of its own.

A tracker is somebody else's library and server: it may be slow, hang, or raise anything. Nothing of that
reaches who meters. What waits for a tracker is bounded, and so is the time it has at the end.
"""

import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sidecar.exporters.spreadsheet import one_line
from sidecar.exporters.summary import Totals, totals_of
from sidecar.exporters.tracked import TrackedWindow
from sidecar.record import EmissionRecord

WAITING_MAX: Final = 240
"""Windows that wait for a tracker: an hour of 15 s. Of more the oldest are left out, totals never."""

LOCAL_DEADLINE_S: Final = 60.0
"""Time at the end for a tracker that writes files here: MLflow makes the tables of a new SQLite file in
seconds on a busy machine, and the file is spoilt where that is cut off."""

FAILURES_TOLD_MAX: Final = 5
"""Kinds of failures of one tracker that are told in a run."""

_CREDENTIALS = re.compile(r"(?<=//)[^/@\s]*@")
_NUMBERS = re.compile(r"(0x)?[0-9a-f]*\d[0-9a-f]*")
_TOLD_CHARACTERS_MAX: Final = 300

_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """What shows a run. Any method may wait, and raise anything."""

    def log(self, windows: Sequence[TrackedWindow]) -> None:
        """Show these windows, oldest first, and the totals of the last one."""

    def close(self) -> None:
        """Finish; nothing more comes."""


@dataclass(frozen=True, slots=True)
class Opener:
    """How to open a tracker, which may wait, and whether it is files on this machine."""

    open: Callable[[], Tracker]
    is_local: bool = False


class TrackerFeed:
    """The queue before one tracker, and the thread that hands on."""

    def __init__(self, name: str, opener: Opener, deadline_s: float) -> None:
        """Prepare; nothing is opened before `begin`. `deadline_s`: time to hand on at the end."""
        self._name = name
        self._opener = opener
        self._deadline_s = max(deadline_s, LOCAL_DEADLINE_S) if opener.is_local else deadline_s
        self._ends_s = math.inf
        self._totals: Totals | None = None
        self._waiting: deque[TrackedWindow] = deque(maxlen=WAITING_MAX)
        self._left_out = 0
        self._is_news = False
        self._is_finished = False
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._failures: set[str] = set()
        self._fails = False
        self._thread = threading.Thread(target=self._hand_on, name=f"to {name}", daemon=True)

    # -- who meters ---------------------------------------------------------------------------

    def begin(self) -> None:
        """Start to open the tracker, so that it is ready when the first window is."""
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads allowed here
            self._tell(error)
            self._over.set()

    def take(self, record: EmissionRecord) -> None:
        """Take the next record of the run; never waits for the tracker, never raises."""
        if self._totals is None or record.event == "start":
            self._totals = totals_of(record)
        if record.event == "start":
            return
        self._totals = self._totals.plus(record)
        window = TrackedWindow(self._totals.windows, record, self._totals.merged)
        with self._changed:
            self._left_out += len(self._waiting) == WAITING_MAX
            self._waiting.append(window)
            self._is_news = True
            self._changed.notify()

    def finish(self) -> None:
        """Say that no record comes any more; from now on the deadline runs."""
        self._ends_s = time.monotonic() + self._deadline_s
        with self._changed:
            self._is_finished = True
            self._changed.notify()

    def wait(self, timeout_s: float) -> bool:
        """Wait at most so long until the tracker has all; whether it has, or its time is over."""
        if self._over.wait(timeout_s):
            return True
        if time.monotonic() < self._ends_s:
            return False
        _log.warning(
            "%s has not taken the last figures after %g s; the records have them",
            self._name, self._deadline_s,
        )  # fmt: skip
        return True

    # -- the thread ---------------------------------------------------------------------------

    def _hand_on(self) -> None:
        tracker: Tracker | None = None
        is_finished = False
        try:
            tracker = self._opened()
            while not is_finished:
                windows, is_finished = self._next()
                tracker = self._logged(tracker or self._opened(), windows)
            if tracker is not None:
                tracker.close()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as below
            self._tell(error)
        finally:
            self._over.set()

    def _next(self) -> tuple[list[TrackedWindow], bool]:
        """Wait for news; what could not be handed on before is handed on with it."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_news or self._is_finished)
            self._is_news = False
            return list(self._waiting), self._is_finished

    def _opened(self) -> Tracker | None:
        """Open the tracker; where that fails, the next window tries again."""
        try:
            return self._opener.open()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - training first, whatever a library does
            self._tell(error)
            return None

    def _logged(self, tracker: Tracker | None, windows: list[TrackedWindow]) -> Tracker | None:
        """Hand windows on; those that fail stay in the queue until the next window comes."""
        if tracker is None or not windows:
            return tracker
        try:
            tracker.log(windows)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
            self._tell(error)
            return tracker
        with self._changed:
            while self._waiting and self._waiting[0].number <= windows[-1].number:
                self._waiting.popleft()
        self._tell_recovery()
        return tracker

    # -- what is told -------------------------------------------------------------------------

    def _tell(self, error: BaseException) -> None:
        """Tell each kind of failure once: texts that differ in numbers only are of one kind."""
        self._fails = True
        text = told(error)
        kind = _NUMBERS.sub("#", text)
        if kind not in self._failures and len(self._failures) < FAILURES_TOLD_MAX:
            self._failures.add(kind)
            _log.warning("%s does not take the figures: %s; the run goes on", self._name, text)

    def _tell_recovery(self) -> None:
        if self._left_out:
            _log.warning("%s: %d windows are not shown; totals are", self._name, self._left_out)
            self._left_out = 0
        if self._fails:
            _log.info("%s takes the figures again", self._name)
        self._fails = False


def told(error: BaseException) -> str:
    """Say an error on one line, without credentials of an address."""
    text = _CREDENTIALS.sub("", one_line(str(error)) or type(error).__name__)
    if len(text) <= _TOLD_CHARACTERS_MAX:
        return text
    return f"{text[:_TOLD_CHARACTERS_MAX]}…"
