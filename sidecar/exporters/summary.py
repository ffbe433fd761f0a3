"""Running totals of a run, and `summary.json` for the training code to read.

The keys are the record's field names; the file is replaced atomically at each window.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sidecar.amounts import amount
from sidecar.durable_file import replace_file
from sidecar.record import EmissionRecord, merge_records

_TOTAL_COLUMNS: Final = (
    "tool_version", "project", "experiment", "run_id", "cluster", "namespace", "pod", "pod_uid",
    "node", "provider", "vm_size", "region", "country_iso3",
    "window_start", "window_end", "duration_s", "gap_s",
    "cpu_utilization", "gpu_utilization", "pod_cpu_seconds",
    "node_energy_kwh", "cpu_energy_kwh", "ram_energy_kwh", "gpu_energy_kwh", "energy_kwh",
    "pue", "facility_energy_kwh", "water_l",
    "carbon_intensity_g_per_kwh", "carbon_intensity_source", "carbon_intensity_year",
    "carbon_intensity_level", "emissions_g", "emissions_low_g", "emissions_high_g", "embodied_g",
    "cpu_power_method", "gpu_method", "pod_method", "quality",
    "cpu_reserved_idle_energy_kwh", "gpu_reserved_idle_energy_kwh", "phases",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Totals:
    """The sum of all windows so far, as one merged record, and how many they were."""

    merged: EmissionRecord
    windows: int

    def plus(self, record: EmissionRecord) -> "Totals":
        """Return the totals with one more record; its factors and identity are the newer ones."""
        if record.event == "start":
            return self
        if self.windows == 0:
            start = replace(record, window_start=self.merged.window_start)
            return Totals(start, 1)
        return Totals(merge_records(self.merged, record), self.windows + 1)


def totals_of(record: EmissionRecord) -> Totals:
    """Begin the totals with a run's start record."""
    return Totals(record, 0)


def summary_mapping(totals: Totals, failure: str | None) -> dict[str, Any]:
    """Return `summary.json` as a mapping. `failure` says why records are not on the volume, or null."""
    row = {name: getattr(totals.merged, name) for name in _TOTAL_COLUMNS}
    return {"schema": totals.merged.schema, "windows": totals.windows, **row, "failure": failure}


def write_summary(path: Path, totals: Totals, failure: str | None) -> None:
    """Replace `summary.json`. Raises OSError where the volume cannot be written."""
    text = json.dumps(summary_mapping(totals, failure), indent=2, allow_nan=False)
    replace_file(path, text.encode() + b"\n")


def totals_text(totals: Totals) -> str:
    """One line of totals for people: energy, emissions with bounds, duration, project."""
    record = totals.merged
    if record.energy_kwh is None or record.emissions_g is None:
        return f"no energy could be metered in {record.duration_s:.1f} s · project {record.project}"
    if record.energy_kwh == 0 and record.pod_method == "requests":
        return (
            "no share of the node: the pod requests no CPU, memory or GPU, in "
            f"{record.duration_s:.1f} s · project {record.project}"
        )
    if record.energy_kwh == 0:
        return (
            f"too short to meter: less than a tick of CPU time (10 ms) in {record.duration_s:.1f} s · "
            f"project {record.project}"
        )
    place = "" if record.carbon_intensity_level != "world" else " · region unknown: world average"
    bounds = f"{amount(record.emissions_low_g)} to {amount(record.emissions_high_g)}"
    whole = "" if record.pod_method == "whole-node" else _of_the_machine(record)
    energy = f"{amount(record.energy_kwh * 1000)} Wh{whole}"
    return (
        f"{energy}, {amount(record.emissions_g)} g CO2e ({bounds} g) "
        f"in {record.duration_s:.1f} s · project {record.project}{place}"
    )


def _of_the_machine(record: EmissionRecord) -> str:
    """Say what the whole machine used meanwhile: its idle power may be most of it."""
    if record.node_energy_kwh is None:
        return ""
    return f" (the whole machine: {amount(record.node_energy_kwh * 1000)} Wh)"
