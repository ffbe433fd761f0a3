"""Carbon Aware SDK Web API, which its users run themselves before a source of their choice.

`emissions/bylocation` tells the observed values of a location, which are named as Azure regions,
`emissions/forecasts/current` those to come. Source: Green Software Foundation, Carbon Aware SDK 1.8,
its Web API's data types. What the values describe depends on the source behind it: those of WattTime
are marginal, those of Electricity Maps average. The licence of the values is that source's.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sidecar.carbon.api import (
    NoIntensityError,
    Question,
    asked,
    checked,
    number_in,
    rows_in,
    time_in,
)
from sidecar.carbon.series import Kind, Series, Span

PROVIDER: Final = "carbon-aware"

LOOKED_BACK_S: Final = 23 * 3600.0
"""Less than a day: for more, the SDK asks its source for what many plans do not have."""

LONGEST_S: Final = 3600.0
"""A value without a duration holds until the next one, and so long at most."""

_TIMESPAN = re.compile(r"(?:(\d{1,3})\.)?(\d{1,2}):(\d{2}):(\d{2})(?:\.\d{1,7})?", re.ASCII)
"""A duration as .NET writes it: `[days.]hours:minutes:seconds[.fraction]`."""


class CarbonAware:
    """Asks the Web API at this address."""

    provider: Final = PROVIDER

    def __init__(self, url: str) -> None:
        self._url = url

    def observed(self, zone: str, now_s: float) -> Series:
        """Return what was observed in the last hours. `zone` is a location of the SDK."""
        times = {"time": _rfc3339(now_s - LOOKED_BACK_S), "toTime": _rfc3339(now_s)}
        url = f"{self._url}/emissions/bylocation"
        rows = rows_in(asked(Question(url, {"location": zone, **times})))
        _refuse_mixture(rows, url)
        # A rating of -1 stands for one that is missing; `checked` leaves it out.
        spans = [_span(row, "time", "rating", _timespan_s(row.get("duration"))) for row in rows]
        known = checked(filter(None, spans), now_s, url)
        return self._series(zone, known=known, asked_at_s=now_s)

    def forecast(self, zone: str, now_s: float) -> Series:
        """Return what is foreseen, as far as the source behind the SDK does."""
        url = f"{self._url}/emissions/forecasts/current"
        rows: list[Mapping[str, Any]] = []
        for forecast in rows_in(asked(Question(url, {"location": zone}))):
            if str(forecast.get("location")).casefold() != zone.casefold():
                told = str(forecast.get("location"))
                raise NoIntensityError(
                    f"{url}: asked for location {zone}, the answer is about {told!r:.60}",
                    is_final=True,
                )
            rows += rows_in(forecast, "forecastData")
        _refuse_mixture(rows, url)
        spans = [
            _span(row, "timestamp", "value", _minutes_s(row.get("duration")), "forecast")
            for row in rows
        ]
        foreseen = checked(filter(None, spans), now_s, url)
        return self._series(zone, foreseen=foreseen, forecast_asked_at_s=now_s)

    def _series(self, zone: str, **fields: Any) -> Series:  # noqa: ANN401 - fields of Series
        source = f"Carbon Aware SDK Web API, location {zone}, average or marginal as its source is"
        return Series(PROVIDER, zone, source, "zone", **fields)


def _span(
    row: Mapping[str, Any], at: str, value: str, length_s: float | None, kind: Kind = "observed"
) -> Span | None:
    start_s, g_per_kwh = time_in(row.get(at)), number_in(row.get(value))
    if start_s is None or g_per_kwh is None:
        return None
    return Span(start_s, start_s + (length_s or LONGEST_S), g_per_kwh, kind)


def _refuse_mixture(rows: list[Mapping[str, Any]], url: str) -> None:
    """Refuse values of several places. One place may have a name of the source behind, such as `IE`."""
    places = {str(row.get("location")) for row in rows}
    if len(places) > 1:
        named = ", ".join(sorted(places))
        raise NoIntensityError(f"{url}: values of several places: {named:.100}", is_final=True)


def _timespan_s(value: object) -> float | None:
    match = _TIMESPAN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _minutes_s(value: object) -> float | None:
    minutes = number_in(value)
    return None if minutes is None or minutes <= 0 else minutes * 60


def _rfc3339(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
