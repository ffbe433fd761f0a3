"""Carbon intensity over time for all sidecars of the cluster: asked for once, told to each.

A pod is told of the zone of its own node alone, and of a zone of the catalogue where its token names no
node or the node no region. So pods can make the collector ask about no more zones than the cluster is
in, or than the catalogue has, each once an hour; while one question is under way, all wait for it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from anyio import CapacityLimiter, to_thread

from sidecar.carbon.api import IntensityApi, NoIntensityError
from sidecar.carbon.choose import (
    WITHOUT_TIME,
    all_zones,
    intensity_keeper,
    intensity_service,
    zones_of,
)
from sidecar.carbon.encoding import between, encoded
from sidecar.carbon.feed import ZoneOf
from sidecar.carbon.keeper import IntensityKeeper, What
from sidecar.carbon.series import Series
from sidecar.catalogue.lookup import Catalogue
from sidecar.collector.node_facts import NodeFacts
from sidecar.collector.refusal import Refusal, shown
from sidecar.collector.shared_series import SharedSeries
from sidecar.collector.token_review import Caller
from sidecar.settings import Settings

CALLS_MAX: Final = 4
"""Zones that are asked about at a time."""

TOLD_BACK_S: Final = 6 * 3600.0
TOLD_AHEAD_S: Final = 72 * 3600.0
"""The values that sidecars are told lie between; more would be too long an answer for them."""

COME_AGAIN_S: Final = (60, 3600)
"""At least, and at most, until a pod that could not be told anything comes again."""

CallOutcome = Literal["answered", "failed"]
Facts = Callable[[str | None], Awaitable[NodeFacts]]
"""Returns what is known of a node. Raises Refusal."""


@dataclass(frozen=True, slots=True)
class IntensitySource:
    """The service that is asked, and which zone it has for a region.

    `shared` is what the replicas keep together; without it each keeps its own.
    """

    api: IntensityApi
    zone_of: ZoneOf
    zones: frozenset[str]
    settings: Settings
    clock: Callable[[], float] = time.time
    shared: SharedSeries | None = None


def open_intensity(
    settings: Settings, shared: SharedSeries | None = None
) -> IntensitySource | None:
    """Open the source that the settings name; None for averages. Raises SettingsError."""
    if settings.intensity_source == WITHOUT_TIME:
        return None
    catalogue = Catalogue()
    zone_of = zones_of(settings, catalogue)
    zones = all_zones(zone_of, catalogue)
    return IntensitySource(intensity_service(settings), zone_of, zones, settings, shared=shared)


@dataclass(slots=True)
class _Told:
    series: Series
    content: bytes


@dataclass(slots=True)
class _Counted:
    """Counts the calls to a service."""

    api: IntensityApi
    told: Callable[[CallOutcome], None]
    provider: str = field(init=False)

    def __post_init__(self) -> None:
        self.provider = self.api.provider

    def observed(self, zone: str, now_s: float) -> Series:
        return self._counted(lambda: self.api.observed(zone, now_s))

    def forecast(self, zone: str, now_s: float) -> Series:
        return self._counted(lambda: self.api.forecast(zone, now_s))

    def _counted(self, ask: Callable[[], Series]) -> Series:
        try:
            series = ask()
        except NoIntensityError:
            self.told("failed")
            raise
        self.told("answered")
        return series


class Intensities:
    """Answers pods; all of it in one event loop but for the calls themselves."""

    def __init__(
        self, source: IntensitySource, facts: Facts, told: Callable[[CallOutcome], None]
    ) -> None:
        self._source = source
        self._facts = facts
        api = _Counted(source.api, told)
        self._keeper: IntensityKeeper = intensity_keeper(
            source.settings, api, clock=source.clock, shared=source.shared
        )
        self._threads = CapacityLimiter(CALLS_MAX)
        self._asking: dict[tuple[str, What], asyncio.Task[Series | None]] = {}
        self._told: dict[str, _Told] = {}
        self._zone_of_region: dict[str, str | None] = {}

    async def answer(self, caller: Caller, zone: str, *, with_forecast: bool) -> bytes:
        """Return the values of a zone as JSON. Raises Refusal: 400, 403 not the pod's, 503 none."""
        await self._check(caller, zone)
        series = await self._fresh(zone, "observed")
        if with_forecast:
            series = await self._fresh(zone, "forecast") or series
            if series is not None and series.forecast_asked_at_s is None:
                series = None
        if series is None:
            raise self._none(zone, "forecast" if with_forecast else "observed")
        return self._content(zone, series)

    def close(self) -> None:
        """End the connections to what the replicas share."""
        if self._source.shared is not None:
            self._source.shared.close()

    async def _check(self, caller: Caller, zone: str) -> None:
        if zone not in self._source.zones:
            raise Refusal(
                400,
                "no_such_zone",
                f"{shown(zone)} is no zone of {self._keeper.provider} that a region of the catalogue is "
                "in; the collector's EMISSIONS_INTENSITY_ZONE would name another",
            )
        own = await self._zone_of_node(caller.node)
        if own is not None and zone != own:
            raise Refusal(
                403, "other_zone", f"the pod's node is in zone {shown(own)}, not in {shown(zone)}"
            )

    async def _zone_of_node(self, node: str | None) -> str | None:
        try:
            region = (await self._facts(node)).region
        except Refusal as refusal:
            if refusal.status != 404:
                raise
            return None
        if region is None:
            return None
        if region not in self._zone_of_region:
            self._zone_of_region[region] = self._source.zone_of(region)
        return self._zone_of_region[region]

    async def _fresh(self, zone: str, what: What) -> Series | None:
        """Return what is kept; where it is time, ask, one question for all who want it."""
        if not self._keeper.is_due(zone, what):
            return self._keeper.kept(zone)
        task = self._asking.get((zone, what))
        if task is None:
            task = asyncio.create_task(self._renewed(zone, what))
            self._asking[zone, what] = task
            task.add_done_callback(lambda _: self._asking.pop((zone, what)))
        # Shielded: others wait for the same answer when this caller goes away.
        return await asyncio.shield(task)

    async def _renewed(self, zone: str, what: What) -> Series | None:
        return await to_thread.run_sync(
            lambda: self._keeper.renew(zone, what), limiter=self._threads
        )

    def _content(self, zone: str, series: Series) -> bytes:
        told = self._told.get(zone)
        if told is None or told.series is not series:
            now_s = self._source.clock()
            near = between(series, now_s - TOLD_BACK_S, now_s + TOLD_AHEAD_S)
            told = self._told[zone] = _Told(series, encoded(near))
        return told.content

    def _none(self, zone: str, what: What) -> Refusal:
        left_s = self._keeper.due_s(zone, what) - self._source.clock()
        least_s, most_s = COME_AGAIN_S
        return Refusal(
            503,
            "no_intensity",
            f"{self._keeper.provider} told nothing of zone {zone}: {self._keeper.why_not(zone, what)}",
            retry_after_s=int(min(max(left_s, least_s), most_s)),
        )
