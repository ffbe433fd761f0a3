"""Asks a service at most once per zone and period, and keeps what it answered.

Periods are aligned to the wall clock. A service that does not answer, or answers that it is too busy,
is asked again after 5, 10, 20 … minutes, and not before its Retry-After; one that refuses, in the next
period.
"""

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from sidecar.carbon.api import IntensityApi, NoIntensityError
from sidecar.carbon.cache import SeriesFiles, SeriesStore
from sidecar.carbon.series import Series

PERIOD_S: Final = 3600.0

FIRST_PAUSE_S: Final = 300.0
"""Before a service that gave no answer is asked again; doubled each time, one period at most."""

ZONES_MAX: Final = 64

What = Literal["observed", "forecast"]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Asking:
    """How asking for one thing went: since when it fails, and until when it is not asked again."""

    failures: int = 0
    not_before_s: float = -math.inf
    why: str = ""


@dataclass(slots=True)
class _Zone:
    series: Series | None = None
    is_read: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    asking: dict[What, _Asking] = field(
        default_factory=lambda: {"observed": _Asking(), "forecast": _Asking()}
    )


class IntensityKeeper:
    """Keeps the series of some zones; any thread may call. `renew` alone takes time.

    `shared` goes before `directory`.
    """

    def __init__(
        self,
        api: IntensityApi,
        directory: Path | None = None,
        period_s: float = PERIOD_S,
        clock: Callable[[], float] = time.time,
        shared: SeriesStore | None = None,
    ) -> None:
        self._api = api
        self._files: SeriesStore = SeriesFiles(directory) if shared is None else shared
        self._period_s = period_s
        self._clock = clock
        self._zones: OrderedDict[str, _Zone] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def provider(self) -> str:
        """The word of the setting intensity_source."""
        return self._api.provider

    def kept(self, zone: str) -> Series | None:
        """Return what is in memory."""
        return self._zone(zone).series

    def why_not(self, zone: str, what: What = "observed") -> str:
        """Return why the last call failed; empty where it did not."""
        return self._zone(zone).asking[what].why

    def due_s(self, zone: str, what: What = "observed") -> float:
        """Return when the service may be asked next, in seconds since the epoch; past = now."""
        known = self._zone(zone)
        asked_s, now_s = _asked_s(known.series, what), self._clock()
        # An answer from far ahead is one from before the clock was set back.
        is_known = asked_s is not None and asked_s < now_s + self._period_s
        period_ends_s = self._next_period_s(asked_s) if asked_s and is_known else -math.inf
        return max(known.asking[what].not_before_s, period_ends_s)

    def is_due(self, zone: str, what: What = "observed") -> bool:
        """Whether `renew` would ask, for all that is in memory."""
        return self._clock() >= self.due_s(zone, what)

    def renew(self, zone: str, what: What = "observed") -> Series | None:
        """Ask if that is due, and return what is kept; some seconds at most. Never raises."""
        known = self._zone(zone)
        with known.lock:
            if self.is_due(zone, what):
                with self._files.alone(self.provider, zone):
                    self._read(zone, known)  # another process may have asked meanwhile
                    if self.is_due(zone, what):
                        self._ask(zone, known, what)
        return known.series

    def read(self, zone: str) -> Series | None:
        """Return what is kept, on disk at least."""
        known = self._zone(zone)
        with known.lock:
            if not known.is_read:
                self._read(zone, known)
        return known.series

    def _ask(self, zone: str, known: _Zone, what: What) -> None:
        asking, now_s = known.asking[what], self._clock()
        ask = self._api.observed if what == "observed" else self._api.forecast
        try:
            answer = ask(zone, now_s)
        except NoIntensityError as error:
            self._note_failure(asking, error, now_s)
            return
        known.series = answer if known.series is None else known.series.plus(answer, now_s)
        asked_s = _asked_s(answer, what)
        if asked_s is None or self._next_period_s(asked_s) <= now_s:
            # Whoever stands between has nothing newer itself.
            stale = NoIntensityError("the answer is of an earlier hour")
            self._note_failure(asking, stale, now_s)
        else:
            known.asking[what] = _Asking()
        self._files.write(known.series)

    def _note_failure(self, asking: _Asking, error: NoIntensityError, now_s: float) -> None:
        asking.failures += 1
        pause_s = FIRST_PAUSE_S * 2.0 ** min(asking.failures - 1, 10)
        next_s = now_s + min(
            max(pause_s, error.retry_after_s), max(self._period_s, error.retry_after_s)
        )
        if error.is_final:
            next_s = max(next_s, self._next_period_s(now_s))
        asking.not_before_s = next_s
        if asking.why != str(error):
            _log.warning("carbon intensity of %s: %s; asked again later", self.provider, error)
        asking.why = str(error)

    def _read(self, zone: str, known: _Zone) -> None:
        known.is_read = True
        found = self._files.read(self.provider, zone)
        if found is not None:
            known.series = (
                found if known.series is None else known.series.plus(found, self._clock())
            )

    def _next_period_s(self, at_s: float) -> float:
        return (at_s // self._period_s + 1) * self._period_s

    def _zone(self, zone: str) -> _Zone:
        with self._lock:
            known = self._zones.setdefault(zone, _Zone())
            self._zones.move_to_end(zone)
            while len(self._zones) > ZONES_MAX:
                self._zones.popitem(last=False)
            return known


def _asked_s(series: Series | None, what: What) -> float | None:
    if series is None:
        return None
    return series.asked_at_s if what == "observed" else series.forecast_asked_at_s
