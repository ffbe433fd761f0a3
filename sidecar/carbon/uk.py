"""Carbon Intensity API of Great Britain (NESO): half hours, nation and regions, up to 48 h ahead.

CO2 of generation alone, imports and losses included: not the life cycle, and so lower than other
sources. `/intensity/FROM/TO` has the nation's forecast and, once metered, its actual value;
`/regional/intensity/FROM/TO/regionid/N` a forecast alone. No key. Source:
https://carbon-intensity.github.io/api-definitions. Values are under CC BY 4.0.
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
from sidecar.carbon.series import SPAN_MAX_S, Series, Span, in_order

PROVIDER: Final = "uk"
URL: Final = "https://api.carbonintensity.org.uk"
NATION: Final = "GB"

LOOKED_BACK_S: Final = 24 * 3600.0
LOOKED_AHEAD_S: Final = 48 * 3600.0
HALF_HOUR_S: Final = 1800.0

_REGION = re.compile(r"GB-([1-9]|1[0-7])", re.ASCII)
"""The API's regions have numbers: 1 to 14 are network operators', 15 to 17 England, Scotland, Wales."""


def region_id(zone: str) -> int | None:
    """Return the API's region of a zone such as GB-13; None for the nation. Raises ValueError."""
    if zone == NATION:
        return None
    match = _REGION.fullmatch(zone)
    if match is None:
        raise ValueError(f"{zone!r} is neither GB nor one of its regions GB-1 to GB-17")
    return int(match[1])


class Uk:
    """Asks the API; one answer has what was and what is to come."""

    provider: Final = PROVIDER

    def __init__(self, url: str = URL) -> None:
        self._url = url

    def observed(self, zone: str, now_s: float) -> Series:
        """Return the half hours of the last day and the next two."""
        region = region_id(zone)
        begin_s = now_s // HALF_HOUR_S * HALF_HOUR_S
        times = f"{_minute(begin_s - LOOKED_BACK_S)}/{_minute(begin_s + LOOKED_AHEAD_S)}"
        url = f"{self._url}/intensity/{times}"
        if region is not None:
            url = f"{self._url}/regional/intensity/{times}/regionid/{region}"
        rows = _rows(asked(Question(url)), region, url)
        spans = checked(filter(None, map(_span, rows)), now_s, url)
        what = "Great Britain" if region is None else f"region {region} of Great Britain"
        return Series(
            PROVIDER,
            zone,
            f"Carbon Intensity API (NESO), {what}, CO2 of generation, not life cycle",
            "zone",
            known=in_order(span for span in spans if span.kind == "observed"),
            foreseen=in_order(span for span in spans if span.kind == "forecast"),
            asked_at_s=now_s,
            forecast_asked_at_s=now_s,
        )

    forecast = observed


def _rows(content: object, region: int | None, url: str) -> list[Mapping[str, Any]]:
    """Return the half hours of an answer: a region's are one level below, in a list or not."""
    if region is None:
        return rows_in(content, "data")
    found = content.get("data") if isinstance(content, dict) else None
    regions = rows_in([found]) or rows_in(found)
    if len(regions) != 1 or regions[0].get("regionid") != region:
        told = [one.get("regionid") for one in regions]
        raise NoIntensityError(
            f"{url}: asked for region {region}, the answer is about {told!r:.60}", is_final=True
        )
    return rows_in(regions[0], "data")


def _span(row: Mapping[str, Any]) -> Span | None:
    start_s, end_s = time_in(row.get("from")), time_in(row.get("to"))
    intensity = row.get("intensity")
    if start_s is None or end_s is None or not isinstance(intensity, dict):
        return None
    if not 0 < end_s - start_s <= SPAN_MAX_S:
        return None
    actual, forecast = number_in(intensity.get("actual")), number_in(intensity.get("forecast"))
    if actual is not None:
        return Span(start_s, end_s, actual, "observed")
    return None if forecast is None else Span(start_s, end_s, forecast, "forecast")


def _minute(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%MZ")
