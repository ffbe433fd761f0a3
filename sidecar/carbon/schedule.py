"""A carbon intensity that the user says in advance: by hour and day, or with a time each.

Hours are those of a named time zone, and move with its summer time: each instant has one local hour, so
that the hour which its end repeats takes the same value twice, and the one that its beginning leaves out
is not used.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final, Literal

from sidecar.carbon.api import NoIntensityError
from sidecar.carbon.intensity import Level
from sidecar.carbon.series import Series, Span

PROVIDER: Final = "schedule"

LOOKED_BACK_S: Final = 24 * 3600.0
LOOKED_AHEAD_S: Final = 48 * 3600.0

STEP_S: Final = 900.0
"""Local hours begin at quarters of a UTC hour everywhere, whatever a zone's offset is."""

By = Literal["hour", "weekday", "month"]


@dataclass(frozen=True, slots=True)
class HourTable:
    """24 values for each weekday, each month, or all days alike; repeats for ever."""

    by: By
    columns: tuple[tuple[float, ...], ...]
    timezone: tzinfo
    source: str
    level: Level | None = None

    def at(self, at_s: float) -> float:
        """Return the value in g/kWh at an instant, by the local hour of the table's zone."""
        local = datetime.fromtimestamp(at_s, UTC).astimezone(self.timezone)
        column = {"hour": 0, "weekday": local.weekday(), "month": local.month - 1}[self.by]
        return self.columns[column][local.hour]

    def spans_over(self, start_s: float, end_s: float) -> Iterator[Span]:
        """Yield what holds from start to end, quarter of an hour by quarter."""
        at_s = start_s
        while at_s < end_s:
            quarter_s = at_s // STEP_S * STEP_S
            until_s = min(quarter_s + STEP_S, end_s)
            yield Span(at_s, until_s, self.at(at_s), "scheduled", self._hour_s(quarter_s))
            at_s = until_s

    def _hour_s(self, quarter_s: float) -> float:
        """Return when the local hour of a quarter began."""
        local = datetime.fromtimestamp(quarter_s, UTC).astimezone(self.timezone)
        return quarter_s - local.minute // 15 * STEP_S


@dataclass(frozen=True, slots=True)
class TimedValues:
    """Values with a time each, in order and without overlap; nothing is known beside them."""

    spans: tuple[Span, ...]
    source: str
    level: Level | None = None

    def spans_over(self, start_s: float, end_s: float) -> Iterator[Span]:
        """Yield what holds from start to end, cut to it; gaps are left out."""
        for span in self.spans:
            begin_s, until_s = max(span.start_s, start_s), min(span.end_s, end_s)
            if begin_s < until_s:
                yield Span(begin_s, until_s, span.g_per_kwh, "scheduled", span.start_s)


Schedule = HourTable | TimedValues


class ScheduleService:
    """A schedule as something to ask: how the collector tells it to sidecars, as hours of a zone.

    The file is read anew each time, so that it can be changed.
    """

    provider: Final = PROVIDER

    def __init__(self, read: Callable[[], Schedule]) -> None:
        self._read = read

    def observed(self, zone: str, now_s: float) -> Series:
        """Return the values around now. Raises NoIntensityError for a file that is no schedule."""
        try:
            schedule = self._read()
        except ValueError as error:
            raise NoIntensityError(str(error)) from error
        begin_s = (now_s - LOOKED_BACK_S) // 3600 * 3600
        spans = tuple(joined(schedule.spans_over(begin_s, now_s + LOOKED_AHEAD_S)))
        return Series(
            PROVIDER, zone, schedule.source, schedule.level,
            known=spans, asked_at_s=now_s, forecast_asked_at_s=now_s,
        )  # fmt: skip

    forecast = observed


def joined(spans: Iterable[Span]) -> Iterator[Span]:
    """Join neighbours that are parts of one published value."""
    last: Span | None = None
    for span in spans:
        if last is not None and last.end_s == span.start_s and _are_one(last, span):
            last = Span(last.start_s, span.end_s, last.g_per_kwh, last.kind, last.of_s)
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last


def _are_one(first: Span, second: Span) -> bool:
    return (first.published_for_s, first.g_per_kwh) == (second.published_for_s, second.g_per_kwh)
