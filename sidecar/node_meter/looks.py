"""Looks at pods and GPUs again and again, in a thread that nothing else holds up."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from sidecar.node_meter.gpus import NodeGpus
from sidecar.node_meter.pods import NodePods

LOOK_PERIOD_S: Final = 5.0
SAMPLE_PERIOD_S: Final = 2.0
"""Of utilisation, and of power where a GPU has no energy counter; one sample stands for 3 s at most."""

LATE_S: Final = 60.0
"""Looks that come no more are a fault that only a new process ends."""

log = logging.getLogger(__name__)


class Looks:
    """Looks from `start` to `stop`; `begin` takes the first one."""

    def __init__(
        self, pods: NodePods, gpus: NodeGpus, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pods = pods
        self._gpus = gpus
        self._clock = clock
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="looks", daemon=True)
        self._has_told = False
        self.count = 0
        self.last_look_s = 0.0
        self.looked_at_s = clock()

    @property
    def are_late(self) -> bool:
        """Whether there was none for so long that something must be wrong."""
        return self._clock() - self.looked_at_s > LATE_S

    def begin(self) -> None:
        """Look for the first time, from which on everything counts."""
        self._look()

    def start(self) -> None:
        """Go on looking. Raises RuntimeError where no thread can be had."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; one that is under way ends soon."""
        self._stopped.set()

    def _run(self) -> None:
        next_look_s = self._clock() + LOOK_PERIOD_S
        while not self._stopped.wait(self._pause_s(next_look_s)):
            if self._gpus.needs_sampling:
                self._safely(self._gpus.sample)
            if self._clock() >= next_look_s:
                next_look_s = max(next_look_s + LOOK_PERIOD_S, self._clock())
                self._look()

    def _pause_s(self, next_look_s: float) -> float:
        left_s = max(0.0, next_look_s - self._clock())
        return min(left_s, SAMPLE_PERIOD_S) if self._gpus.needs_sampling else left_s

    def _look(self) -> None:
        began_s = self._clock()
        self._safely(self._pods.look)
        self._safely(self._gpus.look)
        self.looked_at_s = self._clock()
        self.last_look_s = self.looked_at_s - began_s
        self.count += 1

    def _safely(self, look: Callable[[], None]) -> None:
        try:
            look()
        except Exception:  # one look that fails is not the end of all
            if not self._has_told:
                log.exception("a look failed, which is a bug; the next ones go on")
            self._has_told = True
