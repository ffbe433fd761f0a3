"""Clocks that jump ahead when told, for a whole process: installed before anything else is imported."""

import time
from collections.abc import Callable


class Ahead:
    """The clocks of `time`, moved on by what was told so far."""

    def __init__(self) -> None:
        self._by_s = 0.0

    def install(self) -> None:
        """Put them in place of the system's; whoever has imported a name of `time` keeps the old one."""
        time.time = self._moved(time.time)
        time.monotonic = self._moved(time.monotonic)

    def jump(self, seconds: float) -> None:
        """Let so many seconds pass at once."""
        self._by_s += seconds

    def _moved(self, clock: Callable[[], float]) -> Callable[[], float]:
        return lambda: clock() + self._by_s


AHEAD = Ahead()
