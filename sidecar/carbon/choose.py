"""Which source of carbon intensity over time the settings name, and for which zone.

What is not chosen is not loaded.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.carbon.api import IntensityApi
from sidecar.carbon.cache import SeriesStore
from sidecar.carbon.feed import FixedFeed, LiveFeed, ZoneOf
from sidecar.carbon.intensity import IntensityFeed
from sidecar.carbon.keeper import IntensityKeeper
from sidecar.catalogue.lookup import Catalogue
from sidecar.settings import Settings, SettingsError, origin_of

if TYPE_CHECKING:
    from sidecar.carbon.schedule import Schedule

# ruff: noqa: PLC0415 - what is not chosen is not loaded

WITHOUT_TIME: Final = "catalogue"
"""The source that has averages of a year, which hold at every hour."""

EVERYWHERE: Final = "schedule"
"""The zone of a schedule, which holds wherever it is read."""

CACHE: Final = "intensity"
"""Directory on the volume."""

_NO_FILE: Final = (
    "intensity_source schedule needs a file; set --intensity-file or EMISSIONS_INTENSITY_FILE"
)


def intensity_feed(settings: Settings, catalogue: Catalogue) -> IntensityFeed | None:
    """Return the feed of the source chosen; None for the catalogue alone. Raises SettingsError."""
    if settings.intensity_source == WITHOUT_TIME:
        return None
    if settings.intensity_file is not None:
        return FixedFeed(schedule_of(settings))
    zone_of = zones_of(settings, catalogue)
    asks_collector = settings.transport == "collector"
    api = collected(settings) if asks_collector else intensity_api(settings)
    return LiveFeed(intensity_keeper(settings, api, settings.volume / CACHE), zone_of)


def intensity_keeper(
    settings: Settings,
    api: IntensityApi,
    directory: Path | None = None,
    clock: Callable[[], float] = time.time,
    shared: SeriesStore | None = None,
) -> IntensityKeeper:
    """Return who asks this service as often as the settings allow, and keeps its answers."""
    kept_in = settings.intensity_cache or directory
    return IntensityKeeper(api, kept_in, settings.intensity_refresh, clock, shared)


def intensity_api(settings: Settings) -> IntensityApi:
    """Open the service that the settings name, to be asked directly. Raises SettingsError."""
    source, url = settings.intensity_source, settings.intensity_url
    if source == "electricity-maps":
        from sidecar.carbon import electricity_maps

        if settings.intensity_token_file is None:
            raise SettingsError(
                "intensity_source electricity-maps needs a token; write it into a file and set "
                "--intensity-token-file or EMISSIONS_INTENSITY_TOKEN_FILE"
            )
        return electricity_maps.ElectricityMaps(
            settings.intensity_token_file, url or electricity_maps.URL
        )
    if source == "carbon-aware":
        from sidecar.carbon.carbon_aware import CarbonAware

        if url is None:
            raise SettingsError(
                "intensity_source carbon-aware needs the address of your Carbon Aware SDK Web API; "
                "set --intensity-url or EMISSIONS_INTENSITY_URL"
            )
        return CarbonAware(url)
    if source == "uk":
        from sidecar.carbon import uk

        return uk.Uk(url or uk.URL)
    raise SettingsError(_NO_FILE)


def intensity_service(settings: Settings) -> IntensityApi:
    """Open what the collector asks for all: a service, or a schedule. Raises SettingsError."""
    if settings.intensity_source != EVERYWHERE:
        return intensity_api(settings)
    from sidecar.carbon.schedule import ScheduleService

    schedule_of(settings)  # what is wrong with the file is told at once
    return ScheduleService(lambda: schedule_of(settings))


def collected(settings: Settings) -> IntensityApi:
    """Return the collector as the service that is asked. Raises SettingsError."""
    from sidecar.carbon.collected import Collected
    from sidecar.collector_client import CollectorClient

    if settings.collector_url is None:
        raise SettingsError(
            "the collector is to be asked for carbon intensity, and its address is not known; set "
            "--collector-url or EMISSIONS_COLLECTOR_URL"
        )
    client = CollectorClient(
        settings.collector_url, settings.collector_token_file, settings.collector_ca_file
    )
    return Collected(client, settings.intensity_source)


def schedule_of(settings: Settings) -> "Schedule":
    """Read the schedule file of the settings. Raises SettingsError."""
    from sidecar.carbon.schedule_file import read_schedule

    if settings.intensity_file is None:
        raise SettingsError(_NO_FILE)
    try:
        return read_schedule(settings.intensity_file)
    except ValueError as error:
        raise SettingsError(f"{origin_of('intensity_file', settings.origins)}: {error}") from error


def zones_of(settings: Settings, catalogue: Catalogue) -> ZoneOf:
    """Return how a region's zone is found for the source chosen. Raises SettingsError."""
    source, chosen = settings.intensity_source, settings.intensity_zone
    if chosen is not None:
        if source == "uk":
            _check_uk(chosen, settings)
        return lambda _: chosen
    if source == EVERYWHERE:
        return lambda _: EVERYWHERE

    def zone_of(region: str | None) -> str | None:
        row = catalogue.region(region) if region else None
        if row is None:
            return None
        if source == "carbon-aware":
            return row.name
        # The British API knows no other grid.
        return row.grid_zone if source != "uk" or row.grid_zone == "GB" else None

    return zone_of


def all_zones(zone_of: ZoneOf, catalogue: Catalogue) -> frozenset[str]:
    """Return the zones of all regions."""
    found = (zone_of(region.name) for region in catalogue.regions())
    return frozenset(zone for zone in found if zone is not None)


def _check_uk(zone: str, settings: Settings) -> None:
    from sidecar.carbon.uk import region_id

    try:
        region_id(zone)
    except ValueError as error:
        raise SettingsError(f"{origin_of('intensity_zone', settings.origins)}: {error}") from error
