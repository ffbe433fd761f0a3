"""What a report adds up, and along what: the rows that the engine hands to figures and pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Dimension = Literal[
    "project",
    "experiment",
    "run",
    "phase",
    "namespace",
    "workload",
    "pool",
    "region",
    "day",
    "weekday",
    "hour",
]

GROUPINGS: Final[Mapping[str, tuple[Dimension, ...]]] = {
    "total": (),
    "projects": ("project",),
    "experiments": ("project", "experiment"),
    "runs": ("project", "run"),
    "phases": ("project", "run", "phase"),
    "namespaces": ("namespace",),
    "workloads": ("namespace", "workload"),
    "pools": ("pool",),
    "regions": ("region",),
    "project_regions": ("project", "region"),
    "days": ("day",),
    "project_days": ("project", "day"),
    "project_day_regions": ("project", "day", "region"),
    "hours": ("weekday", "hour"),
    "project_hours": ("project", "weekday", "hour"),
}
"""The tables of a report by name, and what each is grouped by. Days and hours are UTC; 0 is Monday.

`phases` has the runs of which any phase was marked; None is what is in none of them, and that row alone
counts records.
"""


@dataclass(frozen=True, slots=True)
class Measures:
    """Sums over settled records, in the units of their names; None = no record knew it, never 0.

    Bounds are sums too: of a record that knows its emissions and no bounds, the emissions themselves.
    `records_without_bounds` counts such records, and where there are no others the bounds are None.

    `runs` counts runs of projects: one id in two projects is two. `gpu_hours` is Σ over devices
    share · duration. Utilisations are means weighted by duration, `carbon_intensity_g_per_kwh` the mean
    weighted by facility energy (emissions / facility energy), `carbon_intensity_time_weighted_g_per_kwh`
    that by duration. `energy_with_emissions_kwh` and `facility_energy_with_emissions_kwh` are of the
    records whose emissions are known: what emissions may be divided by. Energies by quality and by level
    of the intensity sum to `energy_kwh`. What ends in `_of_runs_g` is of records that name a run, in
    `_of_gpus_g` of those that had GPUs. Times are RFC 3339 in UTC.
    """

    records: int = 0
    records_without_emissions: int = 0
    records_without_bounds: int = 0
    records_without_embodied: int = 0
    runs: int = 0
    pods: int = 0
    window_start: str | None = None
    window_end: str | None = None
    duration_s: float | None = None
    gap_s: float | None = None
    cpu_energy_kwh: float | None = None
    ram_energy_kwh: float | None = None
    gpu_energy_kwh: float | None = None
    energy_kwh: float | None = None
    energy_with_emissions_kwh: float | None = None
    facility_energy_kwh: float | None = None
    facility_energy_with_emissions_kwh: float | None = None
    water_l: float | None = None
    emissions_g: float | None = None
    emissions_low_g: float | None = None
    emissions_high_g: float | None = None
    embodied_g: float | None = None
    cpu_reserved_idle_energy_kwh: float | None = None
    gpu_reserved_idle_energy_kwh: float | None = None
    energy_taken_off_kwh: float = 0.0
    gpu_hours: float | None = None
    cpu_utilization: float | None = None
    gpu_utilization: float | None = None
    carbon_intensity_g_per_kwh: float | None = None
    carbon_intensity_time_weighted_g_per_kwh: float | None = None
    energy_measured_kwh: float = 0.0
    energy_estimated_kwh: float = 0.0
    energy_modelled_kwh: float = 0.0
    energy_zone_kwh: float = 0.0
    energy_country_kwh: float = 0.0
    energy_world_kwh: float = 0.0
    energy_set_kwh: float = 0.0
    emissions_of_runs_g: float | None = None
    emissions_low_of_runs_g: float | None = None
    emissions_high_of_runs_g: float | None = None
    embodied_of_runs_g: float | None = None
    emissions_of_gpus_g: float | None = None
    emissions_low_of_gpus_g: float | None = None
    emissions_high_of_gpus_g: float | None = None
    embodied_of_gpus_g: float | None = None


PARTS_OF_RATES: Final = tuple(
    name for name in Measures.__dataclass_fields__ if name.endswith(("_of_runs_g", "_of_gpus_g"))
)
"""What rates per run and per GPU-hour are made of: the rates are told, these are not."""


CELL_COLUMNS: Final = (
    "cpu_energy_kwh",
    "ram_energy_kwh",
    "gpu_energy_kwh",
    "energy_kwh",
    "facility_energy_kwh",
    "emissions_g",
    "emissions_low_g",
    "emissions_high_g",
    "embodied_g",
    "water_l",
    "cpu_reserved_idle_energy_kwh",
    "gpu_reserved_idle_energy_kwh",
    "gpu_hours",
    "energy_measured_kwh",
    "energy_estimated_kwh",
    "energy_modelled_kwh",
)
"""Measures that are sums, and so can be added up further."""


@dataclass(frozen=True, slots=True)
class Row:
    """One group: its keys by dimension (None where the records name none), and its measures."""

    keys: Mapping[Dimension, str | int | None]
    measures: Measures
