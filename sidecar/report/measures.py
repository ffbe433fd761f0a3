"""What a report adds up, and along what: the rows that the engine hands to figures and pages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Dimension = Literal[
    "project",
    "experiment",
    "run",
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
"""The tables of a report by name, and what each is grouped by. Days and hours are UTC; 0 is Monday."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Sums over settled records, in the units of their names; None = no record knew it, never 0.

    `gpu_hours` is Σ over devices share · duration. Utilisations are means weighted by duration,
    `carbon_intensity_g_per_kwh` the mean weighted by facility energy (emissions / facility energy),
    `carbon_intensity_time_weighted_g_per_kwh` that by duration. Energies by quality and by level of
    the intensity sum to `energy_kwh`. Times are RFC 3339 in UTC.
    """

    records: int = 0
    records_without_emissions: int = 0
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
    facility_energy_kwh: float | None = None
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


@dataclass(frozen=True, slots=True)
class Row:
    """One group: its keys by dimension (None where the records name none), and its measures."""

    keys: Mapping[Dimension, str | int | None]
    measures: Measures


@dataclass(frozen=True, slots=True)
class Tables:
    """All tables of one report, by the names of `GROUPINGS`, largest emissions first."""

    rows: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
