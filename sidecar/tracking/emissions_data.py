"""Results of a run, or of a part of it, under CodeCarbon's names."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from sidecar.agent import RunSoFar
from sidecar.exporters.codecarbon_csv import row_cells
from sidecar.exporters.codecarbon_row import codecarbon_row
from sidecar.exporters.summary import Totals
from sidecar.record import AVERAGED, SUMMED, EmissionRecord


@dataclass(slots=True)
class EmissionsData:
    """What was used and emitted, in CodeCarbon's columns. None = not known.

    Emissions are in kg CO2e, energies in kWh and powers in W, all with PUE; durations in seconds.
    """

    timestamp: str
    project_name: str
    run_id: str
    experiment_id: str
    duration: float
    emissions: float | None
    emissions_rate: float | None
    cpu_power: float | None
    gpu_power: float | None
    ram_power: float | None
    cpu_energy: float | None
    gpu_energy: float | None
    ram_energy: float | None
    energy_consumed: float | None
    water_consumed: float | None
    country_name: str | None
    country_iso_code: str | None
    region: str | None
    cloud_provider: str | None
    cloud_region: str | None
    os: str | None
    python_version: str | None
    codecarbon_version: str
    cpu_count: int | None
    cpu_model: str | None
    gpu_count: int | None
    gpu_model: str | None
    longitude: float | None
    latitude: float | None
    ram_total_size: float | None
    tracking_mode: str
    cpu_utilization_percent: float | None
    gpu_utilization_percent: float | None
    ram_utilization_percent: float | None
    ram_used_gb: float | None
    on_cloud: str
    pue: float
    wue: float

    @property
    def values(self) -> dict[str, Any]:
        """All of it by name, in the order of the columns."""
        return asdict(self)


@dataclass(slots=True)
class TaskEmissionsData(EmissionsData):
    """The same of a task; CodeCarbon's file of tasks has no experiment, PUE or WUE."""

    task_name: str

    @property
    def values(self) -> dict[str, Any]:
        """What the file of tasks has, in its order."""
        left_out = ("task_name", "experiment_id", "pue", "wue")
        kept = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {"task_name": self.task_name, **kept}


def task_data(task_name: str, data: EmissionsData) -> TaskEmissionsData:
    """Give a result the name of its task."""
    return TaskEmissionsData(**asdict(data), task_name=task_name)


def emissions_data(run: RunSoFar, before: Totals | None = None) -> EmissionsData:
    """Return the results of a run, or of what came after `before`."""
    record = run.totals.merged if before is None else record_since(before, run.totals)
    cells = dict(row_cells(codecarbon_row(record, run.hardware, run.country_name)))
    if not record.gpus:  # there is none: that is known
        cells |= {"gpu_energy": 0.0, "gpu_power": 0.0}
    if record.facility_energy_kwh is None:
        cells |= dict.fromkeys(("energy_consumed", "emissions", "emissions_rate"))
    return EmissionsData(**{item.name: cells[item.name] for item in fields(EmissionsData)})  # type: ignore[arg-type]


def record_since(before: Totals, now: Totals) -> EmissionRecord:
    """Return the totals of a run without those of its beginning: sums less sums, means apart again.

    Nothing is less than 0: where factors became known in between, what came before was counted anew.
    """
    first, whole = before.merged, now.merged
    changes: dict[str, Any] = {
        name: _less(getattr(whole, name), getattr(first, name)) for name in SUMMED
    }
    for name in AVERAGED:
        changes[name] = _mean_since(
            (getattr(first, name), first.duration_s), (getattr(whole, name), whole.duration_s)
        )
    return replace(
        whole,
        window_start=first.window_end or whole.window_start,
        phases=_phases_since(first.phases, whole.phases),
        **changes,
    )


def _less(whole: float | None, part: float | None) -> float | None:
    return None if whole is None else max(0.0, whole - (part or 0.0))


def _mean_since(
    first: tuple[float | None, float], whole: tuple[float | None, float]
) -> float | None:
    mean, duration_s = whole
    before, before_s = first
    if mean is None or before is None or duration_s <= before_s:
        return mean
    return max(0.0, (mean * duration_s - before * before_s) / (duration_s - before_s))


def _phases_since(
    first: Mapping[str, float] | None, whole: Mapping[str, float] | None
) -> Mapping[str, float] | None:
    if whole is None:
        return None
    left = {name: _less(part, (first or {}).get(name)) or 0.0 for name, part in whole.items()}
    return {name: part for name, part in left.items() if part > 0} or None
