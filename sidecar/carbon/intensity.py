"""Sources of carbon intensity, each answering with a figure, its level and why it is that one."""

import math
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol, get_args

from sidecar.carbon.mix import mix_figure, parse_mix
from sidecar.catalogue.lookup import Catalogue
from sidecar.catalogue.rows import Region
from sidecar.units import Figure

Level = Literal["zone", "country", "world"]
Table = Literal["electricity-maps", "ember"]

HIGHEST_G_PER_KWH: Final = 5000.0
"""No grid is near it: the dirtiest single source of IPCC AR5, a reservoir, is 2200 gCO2e/kWh."""


@dataclass(frozen=True, slots=True)
class CarbonIntensity:
    """Grams of CO2e per kWh. `level` is None where the user set it; `note` says why a fallback.

    Of a value that varies with time, `at_s` is the start of the time it describes (seconds since the
    epoch, UTC) and `kind` how well it is known; `fallback` is a value without a time, because there
    is none for the time that was asked for.
    """

    figure: Figure
    level: Level | None
    note: str | None
    kind: str | None = None
    at_s: float | None = None


class IntensityFeed(Protocol):
    """What the loop needs of carbon intensity over time."""

    def start(self) -> None:
        """Begin to keep it fresh; never waits."""

    def aim(self, region: str | None) -> None:
        """Say where the machine is, as far as is known by now; never waits."""

    @property
    def is_settled(self) -> bool:
        """Whether the first answer for this place has come, or will not come soon."""
        ...

    def wait(self, timeout_s: float) -> None:
        """Wait at most so long for that."""

    def during(self, start_s: float, end_s: float, otherwise: CarbonIntensity) -> CarbonIntensity:
        """Return what held from start to end (seconds since the epoch); else the fallback, marked."""
        ...

    def close(self) -> None:
        """Stop, without waiting."""


def forced_intensity(value: float) -> CarbonIntensity:
    """Return the value the user set, in gCO2e/kWh. Raises ValueError outside 0 to 5000."""
    if not math.isfinite(value) or not 0 <= value <= HIGHEST_G_PER_KWH:
        raise ValueError(
            f"carbon intensity {value} g/kWh is outside 0 to {HIGHEST_G_PER_KWH:g} g/kWh; "
            "give grams of CO2e per kWh"
        )
    figure = Figure(value, "gCO2e/kWh", value, value, "set by the user", None)
    return CarbonIntensity(figure, None, None)


def mix_intensity(catalogue: Catalogue, mix: str) -> CarbonIntensity:
    """Return that of an energy mix the user set: `coal=20,gas=30,wind=50`. Raises ValueError."""
    return CarbonIntensity(mix_figure(parse_mix(mix, catalogue.energy_sources())), None, None)


def country_mix_intensity(catalogue: Catalogue, country_iso3: str | None) -> CarbonIntensity:
    """Compute it from the energy mix the catalogue knows of a country. Raises ValueError without one."""
    mix = catalogue.energy_mix(country_iso3) if country_iso3 else None
    if mix is None:
        what = f"of country {country_iso3!r}" if country_iso3 else "without a country"
        raise ValueError(
            f"no energy mix is known {what}; set country, or give the mix itself, such as "
            "coal=20,gas=30,wind=50"
        )
    by_name = {source.name: source for source in catalogue.energy_sources()}
    total_twh = math.fsum(mix.generation_twh.values())
    shares = {by_name[name]: twh / total_twh for name, twh in mix.generation_twh.items()}
    note = f"mix of {mix.iso3} in {mix.year}: {mix.source}"
    return CarbonIntensity(replace(mix_figure(shares), year=mix.year), "country", note)


def average_intensity(
    catalogue: Catalogue,
    region: str | None,
    country_iso3: str | None,
    table: Table = "electricity-maps",
) -> CarbonIntensity:
    """Return the catalogue's yearly average: grid zone, else country, else world, each step noted.

    `table` chooses the primary: `electricity-maps` (zone) or `ember` (country). A known region
    never falls to the world average. The bounds of a fallback span the Azure regions of the country,
    or all of them. Raises ValueError on an unknown table.
    """
    if table not in get_args(Table):
        raise ValueError(f"unknown intensity table {table!r}; use {' or '.join(get_args(Table))}")
    row = catalogue.region(region) if region else None
    if row is not None:
        return _of_region(catalogue, row, table)
    reason = f"region {region!r} is not in the catalogue" if region else "no region is known"
    return _spread(_of_country(catalogue, country_iso3, reason), catalogue, country_iso3, table)


def _of_region(catalogue: Catalogue, region: Region, table: Table) -> CarbonIntensity:
    if table == "electricity-maps" and region.carbon_intensity is not None:
        return CarbonIntensity(region.carbon_intensity, "zone", None)
    if table == "ember":
        if region.carbon_intensity_ember is not None:
            return CarbonIntensity(region.carbon_intensity_ember, "country", None)
        reason = f"no Ember value for region {region.name!r}"
    else:
        reason = f"no grid zone value for region {region.name!r}"
    iso3 = region.country_iso3
    return _spread(_of_country(catalogue, iso3, reason), catalogue, iso3, table)


def _spread(
    fallback: CarbonIntensity, catalogue: Catalogue, iso3: str | None, table: Table
) -> CarbonIntensity:
    """Widen the bounds of an average to the Azure regions it may stand for.

    The average of a country is well known; which of its zones the machine is in is not.
    """
    country = catalogue.country(iso3) if iso3 and fallback.level == "country" else None
    candidates = (
        region.carbon_intensity if table == "electricity-maps" else region.carbon_intensity_ember
        for region in catalogue.regions()
        if country is None or region.country_iso3 == country.iso3
    )
    figures = [fallback.figure, *(figure for figure in candidates if figure is not None)]
    low = min(figure.low for figure in figures)
    high = max(figure.high for figure in figures)
    return replace(fallback, figure=replace(fallback.figure, low=low, high=high))


def _of_country(catalogue: Catalogue, iso: str | None, reason: str) -> CarbonIntensity:
    country = catalogue.country(iso) if iso else None
    if country is not None:
        figure = country.carbon_intensity
        return CarbonIntensity(figure, "country", f"{reason}; country {country.iso3} used")
    lack = f"country {iso!r} is not in the catalogue" if iso else "no country is known"
    world = catalogue.world()
    note = f"{reason} and {lack}; world average used"
    return CarbonIntensity(world.carbon_intensity, "world", note)
