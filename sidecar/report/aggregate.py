"""Add records up per project. The keys of the result are the record's field names."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Self, TypeVar

from sidecar.record import SUMMED, EmissionRecord

_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class FactorsUsed:
    """The factors behind a part of a project's energy, each with its source."""

    region: str | None
    carbon_intensity_g_per_kwh: float | None
    carbon_intensity_source: str | None
    carbon_intensity_year: int | None
    carbon_intensity_level: str | None
    pue: float | None
    pue_source: str | None
    cpu_power_source: str | None

    @classmethod
    def of(cls, record: EmissionRecord) -> Self:
        """Return the factors of one record."""
        return cls(
            region=record.region,
            carbon_intensity_g_per_kwh=record.carbon_intensity_g_per_kwh,
            carbon_intensity_source=record.carbon_intensity_source,
            carbon_intensity_year=record.carbon_intensity_year,
            carbon_intensity_level=record.carbon_intensity_level,
            pue=record.pue,
            pue_source=record.identity_source.get("pue"),
            cpu_power_source=record.cpu_power_source,
        )


@dataclass(slots=True)
class ProjectTotals:
    """Totals of one project. A sum is None while no record knew the amount: missing is never 0."""

    project: str
    window_start: str = ""
    window_end: str = ""
    records: int = 0
    records_without_emissions: int = 0
    runs: set[str] = field(default_factory=set)
    pods: set[str] = field(default_factory=set)
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
    node_energy_kwh: float | None = None
    energy_kwh_by_quality: dict[str, float] = field(default_factory=dict)
    energy_kwh_by_carbon_intensity_level: dict[str, float] = field(default_factory=dict)
    energy_kwh_by_factors: dict[FactorsUsed, float] = field(default_factory=dict)

    @property
    def carbon_intensity_g_per_kwh(self) -> float | None:
        """Mean intensity, weighted by facility energy."""
        if not self.facility_energy_kwh or self.emissions_g is None:
            return None
        return self.emissions_g / self.facility_energy_kwh

    def add(self, record: EmissionRecord) -> None:
        """Add one record."""
        self.runs.update(filter(None, (record.run_id,)))
        self.pods.update(filter(None, (record.pod_uid or record.pod,)))
        self.window_start = min(filter(None, (self.window_start, record.window_start)), default="")
        self.window_end = max(self.window_end, record.window_end)
        if record.event == "start":
            return
        self.records += 1
        self.records_without_emissions += record.emissions_g is None
        for name in _SUMMED:
            amount = getattr(record, name)
            if amount is not None:
                setattr(self, name, (getattr(self, name) or 0.0) + amount)
        energy_kwh = record.energy_kwh or 0.0
        level = record.carbon_intensity_level or "set"
        _count(self.energy_kwh_by_quality, record.quality, energy_kwh)
        _count(self.energy_kwh_by_carbon_intensity_level, level, energy_kwh)
        _count(self.energy_kwh_by_factors, FactorsUsed.of(record), energy_kwh)


_SUMMED: Final = tuple(name for name in SUMMED if name in ProjectTotals.__dataclass_fields__)


def _count(counts: dict[_Key, float], key: _Key, amount: float) -> None:
    counts[key] = counts.get(key, 0.0) + amount


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records count: projects by name (none = all), and windows by their start, RFC 3339."""

    projects: frozenset[str] = frozenset()
    since: str = ""
    until: str = ""

    def takes(self, record: EmissionRecord) -> bool:
        """Tell whether a record is asked for; `since` is included, `until` is not."""
        if self.projects and record.project not in self.projects:
            return False
        if self.since and record.window_start < self.since:
            return False
        return not self.until or record.window_start < self.until


def aggregate(records: Iterable[EmissionRecord], selection: Selection) -> list[ProjectTotals]:
    """Return the totals per project, the largest emissions first."""
    totals: dict[str, ProjectTotals] = {}
    for record in records:
        if selection.takes(record):
            totals.setdefault(record.project, ProjectTotals(record.project)).add(record)
    return sorted(totals.values(), key=lambda item: (-(item.emissions_g or 0.0), item.project))


def to_row(totals: ProjectTotals) -> dict[str, Any]:
    """Return the totals as JSON types: sets as their sizes, the mean intensity beside the sums.

    `factors` lists what the sums rest on, each with its source and the energy it was used for.
    """
    row: dict[str, Any] = {}
    for item in fields(totals):
        value = getattr(totals, item.name)
        row[item.name] = len(value) if isinstance(value, set) else value
    row["carbon_intensity_g_per_kwh"] = totals.carbon_intensity_g_per_kwh
    used = row.pop("energy_kwh_by_factors")
    row["factors"] = [
        {**asdict(factors), "energy_kwh": energy_kwh} for factors, energy_kwh in used.items()
    ]
    return row
