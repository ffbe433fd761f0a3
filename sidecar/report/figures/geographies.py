"""Which regions lie near one another, as Azure groups them."""

from collections.abc import Mapping
from typing import Final

from sidecar.catalogue.rows import Region

_COUNTRIES: Final = {
    "Africa": "ZAF",
    "Asia Pacific": "AUS CHN HKG IDN IND JPN KOR MYS NZL SGP TWN",
    "Canada": "CAN",
    "Europe": "AUT BEL CHE DEU DNK ESP FRA GBR GRC IRL ITA NLD NOR POL SWE",
    "Mexico": "MEX",
    "Middle East": "ARE ISR QAT SAU",
    "South America": "BRA CHL",
    "US": "USA",
}
GEOGRAPHY_OF_COUNTRY: Final[Mapping[str, str]] = {
    country: name for name, countries in _COUNTRIES.items() for country in countries.split()
}
"""Geography group by ISO 3166 alpha-3 code, after `metadata.geographyGroup` of `az account
list-locations` (the United Kingdom is in Europe here)."""


def geography_of(region: Region) -> str:
    """Return the geography group of a region; a country that no group lists is one of its own."""
    return GEOGRAPHY_OF_COUNTRY.get(region.country_iso3, region.country_iso3)
