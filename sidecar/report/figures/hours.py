"""What the same computing would have caused at another hour of the day (UTC).

emissions at h = facility energy · I_h, with I_h = Σ intensity · duration / Σ duration over the windows
that began in that hour. It is told for each region, source and level of the intensity, where it varies
with time: two regions, or a source and its fallback, are never taken for two hours.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sidecar.report.figures.inputs import FactorUse, HourOfRegion
from sidecar.report.figures.numbers import finite, quotient

HOURS: Final = range(24)

VARIES: Final = 1e-6
"""Relative difference from which on two intensities are two."""

NOT_ASKED: Final = "the intensities of the records were not looked at"
YEARLY: Final = (
    "the intensities of these records are averages of a year, or were set: the same at every hour"
)
ONE_HOUR: Final = "the records with an intensity that varies are all of one hour of the day"

_INTENSITIES: Final = (
    "carbon_intensity_g_per_kwh",
    "carbon_intensity_least_g_per_kwh",
    "carbon_intensity_greatest_g_per_kwh",
)

Origin = tuple[str, str | None, str | None]
"""Region, source and level."""


def what_if_hours(hours: Sequence[HourOfRegion] | None) -> dict[str, Any]:
    """Return for each region with a varying intensity what each hour would have come to.

    `known` is false, with the reason, where nothing can be said: a yearly average has no hours.
    """
    if hours is None:
        return _unknown(NOT_ASKED)
    varying = {
        origin: of_hours for origin, of_hours in _by_origin(hours).items() if _varies(of_hours)
    }
    if not varying:
        return _unknown(YEARLY)
    rows = [_region_row(origin, varying[origin]) for origin in sorted(varying, key=str)]
    rows = [row for row in rows if row["hours_known"] > 1]
    return {"known": True, "reason": None, "regions": rows} if rows else _unknown(ONE_HOUR)


def best_hours(what_if: Mapping[str, Any], factors: Iterable[FactorUse]) -> list[dict[str, Any]]:
    """Return what a project's work would have come to at the cleanest hour of each of its regions.

    `what_if` is of all projects: the means of an hour are those of the region, whoever ran then. Energy
    and emissions are its own, by its factors: facility energy = energy · PUE, grams = that · mean
    intensity. What ran by a source that does not vary, or a fallback, is not among them.
    """
    told = {_origin(row): row for row in what_if["regions"]}
    sums: dict[Origin, tuple[float, float]] = {}
    for item in factors:
        origin = (item.region or "", item.carbon_intensity_source, item.carbon_intensity_level)
        intensity, pue = item.carbon_intensity_g_per_kwh, item.pue
        if origin in told and None not in (intensity, pue, item.energy_kwh):
            energy_kwh, emissions_g = sums.get(origin, (0.0, 0.0))
            facility_kwh = (item.energy_kwh or 0.0) * (pue or 0.0)
            grams = facility_kwh * (intensity or 0.0)
            sums[origin] = energy_kwh + facility_kwh, emissions_g + grams
    return [_best_hour(told[origin], *amounts) for origin, amounts in sums.items()]


def _origin(row: Mapping[str, Any]) -> Origin:
    return row["region"], row["carbon_intensity_source"], row["carbon_intensity_level"]


def _best_hour(
    of_region: Mapping[str, Any], energy_kwh: float, emissions_g: float
) -> dict[str, Any]:
    hour = of_region["hours"][of_region["best_hour"]]
    at_best_g = hour["carbon_intensity_g_per_kwh"] * energy_kwh
    names = ("carbon_intensity_source", "carbon_intensity_level")
    return {
        **{name: of_region[name] for name in ("region", *names)},
        "facility_energy_kwh": finite(energy_kwh),
        "emissions_g": finite(emissions_g),
        "best_hour": of_region["best_hour"],
        **{name: hour[name] for name in _INTENSITIES},
        "emissions_at_best_g": finite(at_best_g),
        "difference_at_best_g": finite(at_best_g - emissions_g),
    }


def _unknown(reason: str) -> dict[str, Any]:
    return {"known": False, "reason": reason, "regions": []}


def _by_origin(hours: Iterable[HourOfRegion]) -> dict[Origin, dict[int, HourOfRegion]]:
    found: dict[Origin, dict[int, HourOfRegion]] = {}
    for item in hours:
        if item.hour in HOURS and item.carbon_intensity_g_per_kwh is not None:
            origin = (item.region, item.carbon_intensity_source, item.carbon_intensity_level)
            found.setdefault(origin, {})[item.hour] = item
    return found


def _varies(hours: Mapping[int, HourOfRegion]) -> bool:
    least = [item.carbon_intensity_least_g_per_kwh for item in hours.values()]
    greatest = [item.carbon_intensity_greatest_g_per_kwh for item in hours.values()]
    most = max((amount for amount in greatest if amount is not None), default=0.0)
    return most - min((amount for amount in least if amount is not None), default=most) > (
        VARIES * most
    )


def _region_row(origin: Origin, hours: Mapping[int, HourOfRegion]) -> dict[str, Any]:
    region, source, level = origin
    energy_kwh = sum(item.facility_energy_kwh or 0.0 for item in hours.values())
    emissions_g = sum(item.emissions_g or 0.0 for item in hours.values())
    rows = [_hour_row(hour, hours.get(hour), energy_kwh) for hour in HOURS]
    for row in rows:
        row["difference_g"] = (
            None if row["emissions_g"] is None else finite(row["emissions_g"] - emissions_g)
        )
    known = [row for row in rows if row["emissions_g"] is not None]
    best = min(known, key=lambda row: (row["emissions_g"], row["hour"]), default=None)
    return {
        "region": region,
        "carbon_intensity_source": source,
        "carbon_intensity_level": level,
        "facility_energy_kwh": finite(energy_kwh),
        "emissions_g": finite(emissions_g),
        "carbon_intensity_g_per_kwh": quotient(emissions_g, energy_kwh),
        "best_hour": None if best is None else best["hour"],
        "difference_at_best_g": None if best is None else best["difference_g"],
        "hours_known": len(known),
        "hours": rows,
    }


def _hour_row(hour: int, item: HourOfRegion | None, energy_kwh: float) -> dict[str, Any]:
    if item is None:
        item = HourOfRegion("", hour)
    intensity = item.carbon_intensity_g_per_kwh
    return {
        "hour": hour,
        "carbon_intensity_g_per_kwh": intensity,
        "carbon_intensity_least_g_per_kwh": item.carbon_intensity_least_g_per_kwh,
        "carbon_intensity_greatest_g_per_kwh": item.carbon_intensity_greatest_g_per_kwh,
        "duration_s": item.duration_s or 0.0,
        "facility_energy_kwh": finite(item.facility_energy_kwh or 0.0),
        "emissions_g": None if intensity is None else finite(intensity * energy_kwh),
    }
