"""An agent at work in a thread of its own.

A volume, a driver or a far side that hangs must not hold up a signal, and whatever fails here must not
end the process that is to forward signals, or to keep its container running.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from sidecar.agent import Agent, Wake
from sidecar.exporters.summary import Totals
from sidecar.settings import Settings

GRACE_S: Final = 10.0
"""Beyond the deadline for shipping: time for a slow volume to take the last records."""

LOOK_AGAIN_S: Final = 0.1
"""Whoever waits for an answer looks this often whether the metering has ended."""

LOOK_PERIOD_S: Final = 0.02
"""The end is looked for this often once it is awaited."""

ASK_S: Final = 0.5
"""How long the metering is waited for where it is asked: a volume or a driver may hold it up."""

_LEFT: Final = "what is on the volume stays there; does the volume or the far side hang?"

T = TypeVar("T")

_log = logging.getLogger(__name__)


def patience_s(settings: Settings) -> float:
    """Return how long the end may take."""
    shipping_s = 0.0 if settings.transport == "none" else settings.ship_deadline
    return GRACE_S + shipping_s + _showing_s(settings)


def _showing_s(settings: Settings) -> float:
    if not settings.export:
        return 0.0
    from sidecar.exporters.tracker_feed import LOCAL_DEADLINE_S  # noqa: PLC0415 - as the trackers

    return max(settings.export_deadline, LOCAL_DEADLINE_S)


class Metering:
    """Opens, runs and closes an agent; `ended` is called with the totals when all is written."""

    def __init__(self, agent: Agent, ended: Callable[[Totals], None]) -> None:
        self._agent = agent
        self._ended = ended
        self._wakes: queue.SimpleQueue[Wake] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._meter, name="metering", daemon=True)
        self._over = threading.Event()
        self.failed = False

    def start(self) -> None:
        """Begin to meter."""
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads allowed here
            _log.error("metering cannot start: %s", error)
            self._fail()

    @property
    def is_over(self) -> bool:
        """Whether it ended, well or not."""
        return self._over.is_set()

    def hurry(self) -> None:
        """Say that the end is near: from now on windows are short and shipped at once."""
        self._wakes.put(Wake(hurry=True))

    def nudge(self) -> None:
        """Let the agent look whether anything is due now. Returns at once."""
        self._wakes.put(Wake())

    def ask(self, question: Callable[[Agent], T], timeout_s: float) -> T | None:
        """Have the agent asked between two windows; None where no answer comes in time."""
        answers: queue.SimpleQueue[T | None] = queue.SimpleQueue()

        def errand() -> None:
            try:
                answers.put(question(self._agent))
            except Exception:  # noqa: BLE001 - a question that cannot be answered ends no metering
                _log.exception("the metering could not be asked, which is a bug")
                answers.put(None)

        self._wakes.put(Wake(errand=errand))
        deadline_s = time.monotonic() + timeout_s
        while not self.is_over and (left_s := deadline_s - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                return answers.get(timeout=min(left_s, LOOK_AGAIN_S))
        return None

    def wait(self, timeout_s: float) -> bool:
        """Wait at most so long for the end; whether it has come."""
        return self._over.wait(timeout_s)

    def end(self, reason: str, patience_s: float, interrupted: Callable[[float], bool]) -> bool:
        """Have the last window written and shipped, and wait for that, but not for ever.

        `interrupted` waits at most so many seconds and tells whether somebody is impatient: then the
        last window is still written, but shipping is cut short. True when all ended in time, and well.
        """
        self._wakes.put(Wake(stop=reason))
        deadline_s = time.monotonic() + patience_s
        while not self.is_over:
            if time.monotonic() > deadline_s:
                _log.error("the last records are not written after %g s: %s", patience_s, _LEFT)
                return False
            if interrupted(LOOK_PERIOD_S):
                self._agent.ship_briefly()
        return not self.failed

    def _fail(self) -> None:
        self.failed = True
        self._over.set()

    def _meter(self) -> None:
        agent = self._agent
        try:
            agent.open()
            try:
                reason = agent.run(self._wait)
            except Exception:  # noqa: BLE001 - whatever it is, what was metered is not lost for it
                _log.exception("metering failed; the last window is written")
                self.failed = True
                reason = "metering failed"
            self._ended(agent.close(reason))
        except (Exception, SystemExit):  # noqa: BLE001 - training first: it goes on without metering
            _log.exception("metering failed and ended")
            self.failed = True
        finally:
            self._over.set()

    def _wait(self, timeout_s: float) -> Wake:
        try:
            return self._wakes.get(timeout=timeout_s)
        except queue.Empty:
            return Wake()
