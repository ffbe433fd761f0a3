"""Electricity Maps API v3: hours of a grid zone, consumption-based, life cycle.

`carbon-intensity/history` tells the last 24 hours up to the present one, `carbon-intensity/latest` the
present one alone (asked where a plan has no history), `carbon-intensity/forecast` the next ones (not in
the free plan). Source: https://app.electricitymaps.com/docs, API reference v3. Values are under the
terms of the caller's own plan; the free one is for personal, non-commercial use.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from sidecar.bounded_http import TokenError, read_token
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

PROVIDER: Final = "electricity-maps"
URL: Final = "https://api.electricitymaps.com/v3"

HOUR_S: Final = 3600.0

_NOT_IN_THE_PLAN: Final = (403, 404)


class ElectricityMaps:
    """Asks the API with the token in a file, which is read anew each time."""

    provider: Final = PROVIDER

    def __init__(self, token_file: Path, url: str = URL) -> None:
        self._token_file = token_file
        self._url = url
        self._observed_path = "history"

    def observed(self, zone: str, now_s: float) -> Series:
        """Return the last 24 hours, or the present one where the plan has no more."""
        try:
            content = self._asked(self._observed_path, zone)
        except NoIntensityError as error:
            if self._observed_path == "latest" or error.status not in _NOT_IN_THE_PLAN:
                raise
            content = self._asked("latest", zone)
            self._observed_path = "latest"  # the plan does not change while this runs
        rows = rows_in(content, "history") or rows_in([content])
        spans = self._spans(rows, zone, now_s)
        return self._series(zone, known=spans, asked_at_s=now_s)

    def forecast(self, zone: str, now_s: float) -> Series:
        """Return the hours to come, as many as the plan has."""
        content = self._asked("forecast", zone)
        rows = rows_in(content, "forecast")
        spans = self._spans(rows, zone, now_s, "forecast")
        return self._series(zone, foreseen=spans, forecast_asked_at_s=now_s)

    def _series(self, zone: str, **fields: Any) -> Series:  # noqa: ANN401 - fields of Series
        source = f"Electricity Maps API v3, zone {zone}, hourly, life cycle"
        return Series(PROVIDER, zone, source, "zone", **fields)

    def _asked(self, path: str, zone: str) -> Mapping[str, Any]:
        try:
            token = read_token(self._token_file)
        except TokenError as error:
            raise NoIntensityError(f"{error}; check EMISSIONS_INTENSITY_TOKEN_FILE") from error
        url = f"{self._url}/carbon-intensity/{path}"
        # Without the last one, a zone that is not known is answered with that of the caller's address.
        query = {
            "zone": zone,
            "emissionFactorType": "lifecycle",
            "temporalGranularity": "hourly",
            "disableCallerLookup": "true",
        }
        content = asked(Question(url, query, {"auth-token": token}, token))
        told = content.get("zone") if isinstance(content, dict) else None
        if told != zone:
            raise NoIntensityError(
                f"{url}: asked for zone {zone}, the answer is about {str(told)!r:.60}",
                is_final=True,
            )
        return dict(content)

    def _spans(
        self, rows: Iterable[Mapping[str, Any]], zone: str, now_s: float, kind: Kind | None = None
    ) -> tuple[Span, ...]:
        spans = []
        for row in rows:
            at_s, value = time_in(row.get("datetime")), number_in(row.get("carbonIntensity"))
            if at_s is None or value is None or row.get("zone", zone) != zone:
                continue
            start_s = at_s // HOUR_S * HOUR_S
            spans.append(Span(start_s, start_s + HOUR_S, value, kind or _kind(row)))
        return checked(spans, now_s, self._url)


def _kind(row: Mapping[str, Any]) -> Kind:
    """Return what the API says of a value; where it does not say, it is not taken for measured."""
    return "observed" if row.get("isEstimated") is False else "estimated"
