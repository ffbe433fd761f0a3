"""Sums up one GPU's counter and samples. Pure: values and instants come in, totals come out."""

from dataclasses import dataclass

HOLD_S = 3.0
"""A sample stands for the time since the one before, at most this long: after a late tick or a
suspended machine the rest is a gap, not the last power over hours."""

LARGEST_BOARD_POWER_W = 20_000.0
"""More than any GPU board or superchip module: a step of the energy counter (or a power) above this
is no energy but a faulty answer, and is dropped."""

OVER_LIMIT = 1.2
"""Boards overshoot their power limit for moments; a counter that restarted may show that much."""

SHORTEST_JUDGED_S = 1.0


@dataclass(slots=True)
class SampleTally:
    """The integral of a sampled quantity over the time that samples stand for (at most `hold_s`)."""

    integral: float = 0.0
    observed_s: float = 0.0
    gaps: int = 0
    hold_s: float = HOLD_S
    _last_s: float | None = None

    def add(self, value: float, now_s: float) -> float:
        """Take a sample; return the seconds it stands for (0 for the first one)."""
        elapsed_s = 0.0 if self._last_s is None else now_s - self._last_s
        if elapsed_s < 0:
            return 0.0
        self._last_s = now_s
        self.gaps += elapsed_s > self.hold_s
        held_s = min(elapsed_s, self.hold_s)
        self.integral += value * held_s
        self.observed_s += held_s
        return held_s

    def interrupt(self) -> None:
        """Forget the last instant: the next sample starts anew."""
        self._last_s = None


@dataclass(slots=True)
class CounterTally:
    """The sum of the true forward steps of an energy counter in millijoules."""

    energy_mj: int = 0
    metered_s: float = 0.0
    resets: int = 0
    dropped: int = 0
    _last_mj: int | None = None
    _last_s: float = 0.0

    def add(self, counter_mj: int, now_s: float, power_limit_w: float | None) -> None:
        """Take the counter's next value.

        A lower value means that the driver was loaded anew and counted from zero since: the new
        value is energy of this interval (what came before the reload in it is lost), unless the
        board could not have used that much, in which case nothing is known and nothing counted.
        """
        last_mj, elapsed_s = self._last_mj, now_s - self._last_s
        self._last_mj, self._last_s = counter_mj, now_s
        if last_mj is None:
            return
        most_w = LARGEST_BOARD_POWER_W
        step_mj = counter_mj - last_mj
        if step_mj < 0:
            self.resets += 1
            step_mj = counter_mj
            most_w = most_w if power_limit_w is None else power_limit_w * OVER_LIMIT
        if step_mj > most_w * 1000 * max(elapsed_s, SHORTEST_JUDGED_S):
            self.dropped += 1
            return
        self.energy_mj += step_mj
        self.metered_s += max(elapsed_s, 0.0)

    def forget(self) -> None:
        """Drop the base: the next value is a new start, not a step."""
        self._last_mj = None
