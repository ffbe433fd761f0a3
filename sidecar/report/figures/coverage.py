"""What the figures rest on: how energy was obtained, and what is missing from them."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from sidecar.report.figures.daily import SECONDS_PER_DAY
from sidecar.report.figures.inputs import FactorUse, PodsLookedUp, ReadFacts
from sidecar.report.figures.numbers import quotient
from sidecar.report.figures.pods import pods_coverage
from sidecar.report.measures import Measures

QUALITIES: Final = ("measured", "estimated", "modelled")
LEVELS: Final = ("zone", "country", "world", "set")


def energy_by(measures: Measures, names: Sequence[str]) -> dict[str, float]:
    """Return the energies of `QUALITIES` or `LEVELS` that are not 0, in kWh."""
    energies = {name: float(getattr(measures, f"energy_{name}_kwh")) for name in names}
    return {name: energy for name, energy in energies.items() if energy}


def mix(measures: Measures, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return energy in kWh and share of each quality or level; the shares sum to 1."""
    energies = {name: float(getattr(measures, f"energy_{name}_kwh")) for name in names}
    whole = sum(energies.values())
    return {
        name: {"energy_kwh": energy, "share": quotient(energy, whole)}
        for name, energy in energies.items()
    }


def freshness(measures: Measures, moment: datetime) -> dict[str, Any]:
    """Return the end of the last window, RFC 3339, and how many days before a moment it was."""
    last = measures.window_end
    if last is None:
        return {"last_record_at": None, "last_record_age_days": None}
    age_s = (moment - datetime.fromisoformat(last)).total_seconds()
    return {"last_record_at": last, "last_record_age_days": max(0.0, age_s / SECONDS_PER_DAY)}


def pue_share(factors: Iterable[FactorUse] | None) -> float | None:
    """Return the part of the energy whose PUE is known, of those factors that are told apart."""
    energies = [(item.pue is not None, item.energy_kwh or 0.0) for item in factors or ()]
    return quotient(sum(kwh for known, kwh in energies if known), sum(kwh for _, kwh in energies))


def coverage(measures: Measures, read: ReadFacts, pods: PodsLookedUp | None) -> dict[str, Any]:
    """Return what is missing."""
    return {
        "records": measures.records,
        "records_without_emissions": measures.records_without_emissions,
        "records_without_emissions_share": quotient(
            measures.records_without_emissions, measures.records
        ),
        "lines_left_out": sum(read.left_out.values()),
        "left_out": dict(read.left_out),
        "duplicates": read.duplicates,
        "late": read.late,
        "records_without_bounds": measures.records_without_bounds,
        "records_without_embodied": measures.records_without_embodied,
        "gap_s": measures.gap_s,
        "gap_share": quotient(measures.gap_s, (measures.gap_s or 0) + (measures.duration_s or 0)),
        "quality": mix(measures, QUALITIES),
        "carbon_intensity_level": mix(measures, LEVELS),
        **pods_coverage(pods),
    }
