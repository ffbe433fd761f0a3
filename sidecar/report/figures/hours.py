"""What the same computing would have caused at another hour of the day (UTC).

emissions at h = facility energy · I_h, with I_h = Σ intensity · duration / Σ duration over the windows
that began in that hour. It is told only where records carry an intensity that varies with time: of one
region, from one source and year, at one level, with more than one value.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.report.figures.inputs import FactorUse
from sidecar.report.figures.numbers import finite, quotient
from sidecar.report.measures import Measures, Row

HOURS: Final = range(24)

VARIES: Final = 1e-6
"""Relative difference from which on two intensities are two."""

NOT_ASKED: Final = "the factors of the records were not looked at"
YEARLY: Final = (
    "the intensities of these records are averages of a year, or were set: the same at every hour"
)
MIXED: Final = "no project with an intensity that varies stays in one region and with one source"


@dataclass(slots=True)
class _Hour:
    weighted: float = 0.0
    duration_s: float = 0.0
    facility_energy_kwh: float = 0.0
    emissions_g: float = 0.0

    def add(self, measures: Measures) -> None:
        intensity = measures.carbon_intensity_time_weighted_g_per_kwh
        if intensity is None or not measures.duration_s:
            return
        self.weighted += intensity * measures.duration_s
        self.duration_s += measures.duration_s
        self.facility_energy_kwh += measures.facility_energy_kwh or 0.0
        self.emissions_g += measures.emissions_g or 0.0


@dataclass(slots=True)
class _Region:
    hours: dict[int, _Hour] = field(default_factory=lambda: {hour: _Hour() for hour in HOURS})


def what_if_hours(
    project_hours: Iterable[Row], factors: Sequence[FactorUse] | None
) -> dict[str, Any]:
    """Return for each region with a varying intensity what each hour would have come to.

    `known` is false, with the reason, where nothing can be said: a yearly average has no hours.
    """
    if factors is None:
        return _unknown(NOT_ASKED)
    if not any(map(_varies, factors)):
        return _unknown(YEARLY)
    region_of = _regions_of_projects(factors)
    regions: dict[str, _Region] = {}
    for row in project_hours:
        region, hour = region_of.get(row.keys.get("project")), row.keys.get("hour")
        if region is not None and isinstance(hour, int) and hour in HOURS:
            regions.setdefault(region, _Region()).hours[hour].add(row.measures)
    rows = [_region_row(name, region) for name, region in sorted(regions.items())]
    rows = [row for row in rows if row["hours_known"] > 1]
    return {"known": True, "reason": None, "regions": rows} if rows else _unknown(MIXED)


def _unknown(reason: str) -> dict[str, Any]:
    return {"known": False, "reason": reason, "regions": []}


def _varies(factor: FactorUse) -> bool:
    least = factor.carbon_intensity_least_g_per_kwh
    greatest = factor.carbon_intensity_greatest_g_per_kwh
    if least is None or greatest is None:
        return False
    return greatest - least > VARIES * greatest


def _regions_of_projects(factors: Iterable[FactorUse]) -> Mapping[Any, str]:
    """Return the region of each project whose intensity varies and whose records have one origin."""
    origins: dict[str, set[tuple[Any, ...]]] = {}
    varying: set[str] = set()
    for factor in factors:
        origin = (
            factor.region,
            factor.carbon_intensity_source,
            factor.carbon_intensity_level,
        )
        origins.setdefault(factor.project, set()).add(origin)
        if _varies(factor):
            varying.add(factor.project)
    return {
        project: next(iter(found))[0]
        for project, found in origins.items()
        if project in varying and len(found) == 1 and next(iter(found))[0] is not None
    }


def _region_row(name: str, region: _Region) -> dict[str, Any]:
    energy_kwh = sum(hour.facility_energy_kwh for hour in region.hours.values())
    emissions_g = sum(hour.emissions_g for hour in region.hours.values())
    rows = [_hour_row(number, hour, energy_kwh) for number, hour in region.hours.items()]
    for row in rows:
        row["difference_g"] = (
            None if row["emissions_g"] is None else finite(row["emissions_g"] - emissions_g)
        )
    known = [row for row in rows if row["emissions_g"] is not None]
    best = min(known, key=lambda row: (row["emissions_g"], row["hour"]), default=None)
    return {
        "region": name,
        "facility_energy_kwh": finite(energy_kwh),
        "emissions_g": finite(emissions_g),
        "carbon_intensity_g_per_kwh": quotient(emissions_g, energy_kwh),
        "best_hour": None if best is None else best["hour"],
        "difference_at_best_g": None if best is None else best["difference_g"],
        "hours_known": len(known),
        "hours": rows,
    }


def _hour_row(number: int, hour: _Hour, energy_kwh: float) -> dict[str, Any]:
    intensity = quotient(hour.weighted, hour.duration_s)
    return {
        "hour": number,
        "carbon_intensity_g_per_kwh": intensity,
        "duration_s": hour.duration_s,
        "facility_energy_kwh": finite(hour.facility_energy_kwh),
        "emissions_g": None if intensity is None else finite(intensity * energy_kwh),
    }
