"""Results of a run, or of a part of it, under CodeCarbon's names. Loads nothing: programs import it."""

from dataclasses import asdict, dataclass
from typing import Any


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
