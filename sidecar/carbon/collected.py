"""Carbon intensity as the collector tells it: one of them asks for the whole cluster.

A sidecar asks with its own token and trusts the answer no more than any other: it must be about the
source and the zone that the sidecar itself would ask about.
"""

from http import HTTPStatus
from typing import Final

from sidecar.carbon.api import NoIntensityError
from sidecar.carbon.encoding import series_of
from sidecar.carbon.series import Series
from sidecar.collector_client import Answer, CollectorClient, CollectorError

TIMEOUT_S: Final = 15.0
"""The collector may have to ask first, which takes 10 s at most."""

_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


class Collected:
    """Asks the collector for what this provider says."""

    def __init__(self, client: CollectorClient, provider: str) -> None:
        self._client = client
        self._provider = provider

    @property
    def provider(self) -> str:
        """The word of the setting intensity_source."""
        return self._provider

    def observed(self, zone: str, now_s: float) -> Series:
        """Return what the collector keeps. Raises NoIntensityError alone."""
        del now_s
        return self._told(zone, with_forecast=False)

    def forecast(self, zone: str, now_s: float) -> Series:
        """Return the same, with a forecast."""
        del now_s
        return self._told(zone, with_forecast=True)

    def _told(self, zone: str, *, with_forecast: bool) -> Series:
        try:
            answer = self._client.intensity(zone, TIMEOUT_S, with_forecast=with_forecast)
        except CollectorError as error:
            raise NoIntensityError(str(error)) from error
        if answer.status != HTTPStatus.OK:
            raise _refused(answer, self._client.url)
        try:
            series = series_of(answer.payload)
        except ValueError as error:
            raise NoIntensityError(
                f"{self._client.url}: its answer is not used: {error}"
            ) from error
        if (series.provider, series.zone) != (self._provider, zone):
            raise NoIntensityError(
                f"{self._client.url} told of {series.provider} and zone {series.zone:.40}, this sidecar "
                f"wants {self._provider} and {zone}; set EMISSIONS_INTENSITY_SOURCE and "
                "EMISSIONS_INTENSITY_ZONE alike in both",
                is_final=True,
            )
        return series


def _refused(answer: Answer, url: str) -> NoIntensityError:
    may_pass = answer.status in _PASSING or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return NoIntensityError(
        f"{url} answered {answer.status}: {answer.reason}",
        retry_after_s=answer.retry_after_s or 0.0,
        is_final=not may_pass,
        status=answer.status,
    )
