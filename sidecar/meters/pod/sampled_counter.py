"""A counter that others look at from time to time, told as it was at any moment since.

cAdvisor looks at a container's counters each 10 to 30 s, at moments of its own. Windows would get none
or two of those steps, and the larger ones would be cut off at what the node used: a reading as of some
seconds ago, between two looks, has neither fault.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SAMPLES_MAX: Final = 16
"""More than there are looks within the longest lag."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at a moment, in seconds since the epoch."""

    moment_s: float
    value: float


class SampledCounter:
    """Keeps the last looks at a cumulative counter. What it tells was true then, or is less."""

    def __init__(self, begin: Sample | None = None) -> None:
        self._samples: deque[Sample] = deque([] if begin is None else [begin], SAMPLES_MAX)

    @property
    def value(self) -> float:
        """The highest value seen; 0 before the first look."""
        return self._samples[-1].value if self._samples else 0.0

    def add(self, sample: Sample) -> None:
        """Take a look. A lower value is stale or wrong, and is not taken.

        A higher one of an earlier moment means that the clock was set back: it starts the row anew.
        """
        if self._samples:
            last = self._samples[-1]
            if sample.value < last.value or sample == last:
                return
            if sample.moment_s <= last.moment_s:
                if sample.value == last.value:
                    return
                self._samples.clear()
        self._samples.append(sample)

    def at(self, moment_s: float) -> float:
        """Return the value at a moment: linear between two looks, level before and after them."""
        if not self._samples:
            return 0.0
        after = bisect_right(self._samples, moment_s, key=lambda sample: sample.moment_s)
        if after == len(self._samples):
            return self._samples[-1].value
        right = self._samples[after]
        left = self._samples[after - 1] if after else right
        if left.value == right.value:
            return right.value
        part = (moment_s - left.moment_s) / (right.moment_s - left.moment_s)
        return min(left.value + part * (right.value - left.value), right.value)


class Lag:
    """How far back to tell the value: one of few steps, so that all sidecars of a node take the same.

    It is the first, until a look was older than that; it never falls.
    """

    def __init__(self, steps_s: Sequence[float]) -> None:
        self._steps_s = tuple(sorted(steps_s))
        self.seconds = self._steps_s[0]

    def see(self, age_s: float) -> None:
        """Take the age of the newest look at the moment of a reading."""
        enough = (step_s for step_s in self._steps_s if step_s >= age_s)
        self.seconds = max(self.seconds, next(enough, self._steps_s[-1]))
