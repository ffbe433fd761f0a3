"""What the figures rest on: how energy was obtained, and what is missing from them."""

from collections.abc import Sequence
from typing import Any, Final

from sidecar.report.figures.inputs import PodWithoutRecords, ReadFacts
from sidecar.report.figures.numbers import quotient
from sidecar.report.measures import Measures

QUALITIES: Final = ("measured", "estimated", "modelled")
LEVELS: Final = ("zone", "country", "world", "set")

PODS_SHOWN: Final = 1000
"""Pods without records that are named; the count is of all."""


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


def coverage(
    measures: Measures, read: ReadFacts, pods: Sequence[PodWithoutRecords] | None
) -> dict[str, Any]:
    """Return what is missing. `pods_without_records` is null where it was not asked for."""
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
        "gap_s": measures.gap_s,
        "gap_share": quotient(measures.gap_s, (measures.gap_s or 0) + (measures.duration_s or 0)),
        "quality": mix(measures, QUALITIES),
        "carbon_intensity_level": mix(measures, LEVELS),
        "pods_without_records_count": None if pods is None else len(pods),
        "pods_without_records": None
        if pods is None
        else [
            {"namespace": pod.namespace, "pod": pod.pod, "reason": pod.reason}
            for pod in pods[:PODS_SHOWN]
        ],
    }
