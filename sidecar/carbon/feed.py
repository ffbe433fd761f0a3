"""Carbon intensity over time for the loop: a thread keeps it fresh, a window only reads memory.

Nothing here raises for a service that fails, and nothing but `wait` waits: a time for which there is no
value takes the fallback that the caller gives, marked as one.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from sidecar.carbon.intensity import CarbonIntensity
from sidecar.carbon.keeper import IntensityKeeper
from sidecar.carbon.series import Timeline, matched
from sidecar.units import Figure

JITTER_S: Final = 120.0
"""Those who ask at the turn of the hour are spread over so long."""

LOOK_PERIOD_S: Final = 30.0
"""The wall clock is looked at this often: it may jump."""

UNIT: Final = "gCO2e/kWh"
FALLBACK: Final = "fallback"

ZoneOf = Callable[[str | None], str | None]
"""Return the zone of an Azure region; None where there is none."""

_log = logging.getLogger(__name__)


class FixedFeed:
    """The feed of what needs nobody to be asked."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline

    def start(self) -> None:
        """Do nothing: all is there."""

    def aim(self, region: str | None) -> None:
        """Do nothing: it is the same everywhere."""

    @property
    def is_settled(self) -> bool:
        """Always."""
        return True

    def wait(self, timeout_s: float) -> None:
        """Return at once."""

    def during(self, start_s: float, end_s: float, otherwise: CarbonIntensity) -> CarbonIntensity:
        """Return what holds by the timeline."""
        return intensity_during(self._timeline, (start_s, end_s), otherwise)

    def close(self) -> None:
        """Do nothing."""


class LiveFeed:
    """The feed of what a service tells hour by hour."""

    def __init__(
        self,
        keeper: IntensityKeeper,
        zone_of: ZoneOf,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._keeper = keeper
        self._zone_of = zone_of
        self._clock = clock
        self._jitter = jitter
        self._zone: str | None = None
        self._timeline: Timeline | None = None
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._settled = threading.Event()
        self._is_closed = False
        self._thread = threading.Thread(target=self._keep_fresh, name="intensity", daemon=True)

    def start(self) -> None:
        """Begin to ask, once it is said where."""
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads allowed here
            _log.error("carbon intensity cannot be asked for: %s; averages are used", error)
            self._settled.set()

    def aim(self, region: str | None) -> None:
        """Take the zone of this region; where there is none, nothing is asked."""
        zone = self._zone_of(region)
        with self._lock:
            if zone == self._zone:
                if zone is None:
                    self._settled.set()
                return
            self._zone, self._timeline = zone, None
            if zone is None:
                self._settled.set()
            else:
                self._settled.clear()
            self._changed.set()

    @property
    def is_settled(self) -> bool:
        """Whether the service answered, or failed, since it is known where the machine is."""
        return self._settled.is_set()

    def wait(self, timeout_s: float) -> None:
        """Wait at most so long for that."""
        self._settled.wait(timeout_s)

    def during(self, start_s: float, end_s: float, otherwise: CarbonIntensity) -> CarbonIntensity:
        """Return what is known by now; else the fallback."""
        timeline = self._timeline
        if timeline is None:
            return fallen_back(otherwise, self._keeper.provider)
        return intensity_during(timeline, (start_s, end_s), otherwise, self._keeper.provider)

    def close(self) -> None:
        """Stop asking, without waiting for a question under way: its daemon thread ends soon."""
        self._is_closed = True
        self._changed.set()
        self._settled.set()

    def _keep_fresh(self) -> None:
        while not self._is_closed:
            self._changed.clear()
            with self._lock:
                zone = self._zone
            if zone is not None:
                self._renew(zone)
            self._pause(zone)

    def _renew(self, zone: str) -> None:
        try:
            series = self._keeper.read(zone)
            if self._keeper.is_due(zone):
                series = self._keeper.renew(zone)
        except Exception:  # noqa: BLE001 - training first: whatever it is, averages are used
            _log.exception("carbon intensity cannot be asked for; averages are used")
            series = None
        with self._lock:
            if zone == self._zone and series is not None:
                self._timeline = series
            if zone == self._zone:
                self._settled.set()

    def _pause(self, zone: str | None) -> None:
        """Wait until it is time to ask again, or something changed."""
        late_s = self._jitter() * JITTER_S
        while not self._is_closed and not self._changed.is_set():
            left_s = LOOK_PERIOD_S
            if zone is not None:
                left_s = self._keeper.due_s(zone) + late_s - self._clock()
            if left_s <= 0:
                return
            self._changed.wait(min(left_s, LOOK_PERIOD_S))


def intensity_during(
    timeline: Timeline,
    window: tuple[float, float],
    otherwise: CarbonIntensity,
    provider: str = "schedule",
) -> CarbonIntensity:
    """Return what held over a window, as a figure with its origin; else the fallback, marked."""
    found = matched(timeline, *window)
    if found is None:
        return fallen_back(otherwise, provider)
    year = datetime.fromtimestamp(found.at_s, UTC).year
    figure = Figure(found.g_per_kwh, UNIT, found.low, found.high, timeline.source, year)
    return CarbonIntensity(figure, timeline.level, None, found.kind, found.at_s)


def fallen_back(otherwise: CarbonIntensity, provider: str) -> CarbonIntensity:
    """Mark a value as the one that stands in. The text never varies, so that reports group by it."""
    note = f"{provider} gave no value for this time; average used"
    told = note if otherwise.note is None else f"{otherwise.note}; {note}"
    return replace(otherwise, kind=FALLBACK, note=told)
