"""The rows of CodeCarbon 3.3.2's tables that Azure needs: CPU powers and carbon intensities.

CodeCarbon is under the MIT licence; each row names the file it stood in and where that had it from.
"""

import csv
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from sidecar.catalogue.shipped import TABLES
from sidecar.units import Figure


def codecarbon_tdp() -> Mapping[str, Figure]:
    """TDP of one chip in W, by CPU name in lower case without trade marks, clock and core count."""
    return MappingProxyType(
        {row["cpu_name"]: _figure(row, "tdp_w", "W") for row in _rows("codecarbon_tdp.csv")}
    )


def codecarbon_intensity() -> Mapping[tuple[str, str], Figure]:
    """Carbon intensity in g/kWh by (ISO 3166 alpha-3, state or province; empty for the country)."""
    return MappingProxyType(
        {
            (row["iso3"], row["region"]): _figure(row, "g_per_kwh", "g/kWh")
            for row in _rows("codecarbon_intensity.csv")
        }
    )


def _figure(row: Mapping[str, str], column: str, unit: str) -> Figure:
    value = float(row[column])
    return Figure(value, unit, value, value, row["source"], int(row["year"]))


def _rows(name: str) -> Iterator[dict[str, str]]:
    yield from csv.DictReader((TABLES / name).read_text(encoding="utf-8").splitlines())
