"""Sources of the pod's part, best first: the best that answers is used, the others are tried again."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.meters.pod.source import PodSource
from sidecar.meters.reading import MeterStatus, PodMethod, PodReading

FIRST_PAUSE_S: Final = 15.0
LONGEST_PAUSE_S: Final = 600.0
"""A source that failed is tried again at the next reading, if it fails then after 15 s, then after twice
the time, up to 10 minutes."""


@dataclass(frozen=True, slots=True)
class RungStatus:
    """One source: whether it answered, whether it is the one in use, and what it would need."""

    method: PodMethod
    available: bool
    chosen: bool
    detail: str
    needs: str


@dataclass(slots=True)
class _Rung:
    source: PodSource
    answers: bool = False
    try_after_s: float = -math.inf
    pause_s: float = 0.0

    def told(self, reading: PodReading, now_s: float) -> bool:
        self.answers = reading.cpu_s is not None
        if self.answers:
            self.pause_s = 0.0
        else:
            self.try_after_s = now_s + self.pause_s
            self.pause_s = min(max(self.pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        return self.answers


class PodLadder:
    """Reads the best source that answers, and the best local one beside a remote one.

    Both ends of a window must come from one source. So the second keeps a window measured in which
    the first goes away, and one that gives way to a better one is read once more. Where all are gone (or
    new) the window has the last rung's method. That one always answers: it is never tried, and needs
    nothing.
    """

    def __init__(
        self,
        measured: Sequence[PodSource],
        last: PodSource,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rungs = [_Rung(source) for source in measured]
        self._last = last
        self._clock = clock
        self._in_use: _Rung | None = None

    @property
    def needs_sampling(self) -> bool:
        """Whether `sample` has anything to do between two readings."""
        return any(source.needs_sampling for source in self._working())

    def sample(self) -> None:
        """Let the sources in use look at what is seen only when looked at."""
        for source in self._working():
            source.sample()

    def read(self) -> tuple[PodReading, ...]:
        """Return what the sources in use tell, best first; never empty."""
        readings: list[PodReading] = []
        has_local = False
        for rung in self._rungs:
            local = rung.source.is_local
            wanted = not readings or (local and not has_local) or rung is self._in_use
            if not wanted or self._clock() < rung.try_after_s:
                rung.answers = rung.answers and wanted
                continue
            reading = rung.source.read()
            if rung.told(reading, self._clock()):
                readings.append(reading)
                has_local = has_local or local
        self._in_use = next((rung for rung in self._rungs if rung.answers), None)
        return (*readings, self._last.read())

    def status(self) -> tuple[MeterStatus, ...]:
        """How the source in use does."""
        return next(iter(self._working())).status()

    def rungs(self) -> tuple[RungStatus, ...]:
        """Return every source with what became of it, best first."""
        chosen = next(iter(self._working()))
        return tuple(
            RungStatus(
                method=source.name,
                available=answers,
                chosen=source is chosen,
                detail="; ".join(status.detail for status in source.status()),
                needs=source.needs,
            )
            for source, answers in (
                *((rung.source, rung.answers) for rung in self._rungs),
                (self._last, True),
            )
        )

    def _working(self) -> list[PodSource]:
        return [*(rung.source for rung in self._rungs if rung.answers), self._last]
