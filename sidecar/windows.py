"""Windows: how a stretch of metered time is named on the wall clock.

Windows end at multiples of the interval since midnight UTC (a 15 s window ends at :00, :15, :30,
:45), so that windows of different pods can be compared. Durations come from the monotonic clock; the
wall clock only names. A machine that was suspended, or a wall clock that jumped ahead, leaves a gap:
wall time without metering. A late tick is no gap: counters cover it. A wall clock that is set back
names windows that overlap those before; their energy is still counted once.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

SNAP_S: Final = 0.5
"""A tick this close to its boundary is named by the boundary."""

GAP_TOLERANCE_S: Final = 1.0
"""Wall clock and monotonic clock may differ by this much (snapping, a small step) without a gap."""

SLEW: Final = 0.001
"""… and by this part of the duration: Linux slews the clock by at most 500 ppm, chrony by more."""


YEARS: Final = range(2000, 2200)
"""Years that are reckoned with, whatever the zone: no window is of another."""


@dataclass(frozen=True, slots=True)
class Window:
    """Wall-clock seconds since the epoch; `end_s − start_s = duration_s + gap_s`, save slew."""

    start_s: float
    end_s: float
    duration_s: float
    gap_s: float


def next_boundary_s(wall_s: float, interval_s: float) -> float:
    """Return the first multiple of the interval that lies more than `SNAP_S` ahead."""
    boundary = (wall_s // interval_s + 1) * interval_s
    return boundary if boundary - wall_s > SNAP_S else boundary + interval_s


def snapped_s(wall_s: float, interval_s: float) -> float:
    """Return the boundary a tick stands for, or its own time when none is near."""
    boundary = round(wall_s / interval_s) * interval_s
    return boundary if abs(wall_s - boundary) <= SNAP_S else wall_s


def window_between(start_s: float, now_s: float, duration_s: float) -> Window:
    """Name the time since `start_s`; where the wall clock went back, end where it would have."""
    wall_elapsed_s = now_s - start_s
    gap_s = wall_elapsed_s - duration_s
    tolerance_s = max(GAP_TOLERANCE_S, SLEW * duration_s)
    if gap_s < -tolerance_s:
        return Window(start_s, start_s + duration_s, duration_s, 0.0)
    if gap_s <= tolerance_s:
        gap_s = 0.0
    return Window(start_s, max(now_s, start_s), duration_s, gap_s)


def rfc3339(wall_s: float) -> str:
    """Format seconds since the epoch as RFC 3339 in UTC with milliseconds and `Z`."""
    moment = datetime.fromtimestamp(round(wall_s, 3), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
