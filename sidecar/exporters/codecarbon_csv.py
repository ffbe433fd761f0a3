"""`emissions.csv` in the column order of CodeCarbon 3.3.2, so that carbonboard can open it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sidecar.exporters.run_table import RunTable
from sidecar.exporters.spreadsheet import one_line
from sidecar.units import JOULES_PER_KWH

COLUMNS = (
    "timestamp",
    "project_name",
    "run_id",
    "experiment_id",
    "duration",
    "emissions",
    "emissions_rate",
    "cpu_power",
    "gpu_power",
    "ram_power",
    "cpu_energy",
    "gpu_energy",
    "ram_energy",
    "energy_consumed",
    "water_consumed",
    "country_name",
    "country_iso_code",
    "region",
    "cloud_provider",
    "cloud_region",
    "os",
    "python_version",
    "codecarbon_version",
    "cpu_count",
    "cpu_model",
    "gpu_count",
    "gpu_model",
    "longitude",
    "latitude",
    "ram_total_size",
    "tracking_mode",
    "cpu_utilization_percent",
    "gpu_utilization_percent",
    "ram_utilization_percent",
    "ram_used_gb",
    "on_cloud",
    "pue",
    "wue",
)
"""The columns of CodeCarbon 3.3.2's emissions.csv, in its order."""

EMISSIONS_CSV = RunTable(COLUMNS, key="run_id", kind="that of CodeCarbon 3.3.2")

NO_PROJECT = "unnamed"
NO_COUNTRY = "unknown"

# fmt: off
_READ_AS_MISSING = frozenset({
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
})
# fmt: on
"""What pandas.read_csv, and so carbonboard, takes for a missing value (its `na_values`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeCarbonRow:
    """The totals of one run so far. None = unknown: its cell stays empty.

    Unknown emissions stay empty too, rather than 0: carbonboard sums what is known and shows no
    equivalents for such a project.

    The energies of CPU, GPU and RAM are those of the record, without PUE; `facility_energy_kwh` is
    their sum with PUE, window by window. CodeCarbon's columns all hold energy with PUE: the parts
    are scaled so that they sum to it.
    Utilisations are 0..1, `ram_*_gib` GiB, `timestamp` carries its zone.
    """

    timestamp: datetime
    project: str
    run_id: str
    experiment_id: str
    duration_s: float
    facility_energy_kwh: float
    cpu_energy_kwh: float | None
    gpu_energy_kwh: float | None
    ram_energy_kwh: float | None
    emissions_g: float | None
    version: str
    tracking_mode: str = "machine"
    water_l: float | None = None
    pue: float = 1.0
    wue_l_per_kwh: float = 0.0
    country_name: str | None = None
    country_iso3: str | None = None
    region: str | None = None
    cloud_provider: str | None = None
    cloud_region: str | None = None
    longitude: float | None = None
    latitude: float | None = None
    os: str | None = None
    python_version: str | None = None
    cpu_count: int | None = None
    cpu_model: str | None = None
    gpu_count: int | None = None
    gpu_model: str | None = None
    ram_total_gib: float | None = None
    ram_used_gib: float | None = None
    cpu_utilization: float | None = None
    gpu_utilization: float | None = None
    ram_utilization: float | None = None

    def __post_init__(self) -> None:
        if not self.run_id.strip():
            raise ValueError(
                "a row of emissions.csv needs a run_id: it is what its run is known by"
            )
        if self.timestamp.tzinfo is None:
            raise ValueError(f"timestamp {self.timestamp} has no time zone; give it one")


def write_row(path: Path, row: CodeCarbonRow) -> None:
    """Put a run's totals into `path`: in place of that run's row, or as a new one at the end.

    Raises OSError (TimeoutError if another writer holds the lock for too long) where the row could
    not be written; the file is then what it was.
    """
    cells = row_cells(row)
    EMISSIONS_CSV.put(path, tuple(cells[column] for column in COLUMNS))


# --- what the row says ----------------------------------------------------------------------------


def row_cells(row: CodeCarbonRow) -> dict[str, str | float | None]:
    """Return the cells by CodeCarbon's names of columns: in its units, energies and powers with PUE."""
    return {
        "timestamp": row.timestamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "project_name": _readable_as_text(row.project, NO_PROJECT),
        "run_id": row.run_id,
        "experiment_id": row.experiment_id,
        "duration": row.duration_s,
        "water_consumed": row.water_l,
        "country_name": row.country_name,
        "country_iso_code": _readable_as_text(row.country_iso3 or "", NO_COUNTRY),
        "region": row.region,
        "cloud_provider": row.cloud_provider,
        "cloud_region": row.cloud_region,
        "os": row.os,
        "python_version": row.python_version,
        "codecarbon_version": row.version,
        "cpu_count": row.cpu_count,
        "cpu_model": row.cpu_model,
        "gpu_count": row.gpu_count,
        "gpu_model": row.gpu_model,
        "longitude": row.longitude,
        "latitude": row.latitude,
        "ram_total_size": row.ram_total_gib,
        "ram_used_gb": row.ram_used_gib,
        "tracking_mode": row.tracking_mode,
        # Carbonboard 3.3.2 knows no region of Azure and fails on any row of it that says Y.
        "on_cloud": "N",
        "pue": row.pue,
        "wue": row.wue_l_per_kwh,
        **_energy_cells(row),
        **_utilization_cells(row),
    }


def _energy_cells(row: CodeCarbonRow) -> dict[str, float | None]:
    """Energies in kWh and mean powers in W with PUE, emissions in kg and kg/s."""
    parts = {"cpu": row.cpu_energy_kwh, "gpu": row.gpu_energy_kwh, "ram": row.ram_energy_kwh}
    it_energy_kwh = sum(energy or 0.0 for energy in parts.values())
    overhead = row.facility_energy_kwh / it_energy_kwh if it_energy_kwh > 0 else 1.0
    emissions_kg = None if row.emissions_g is None else row.emissions_g / 1000
    cells = {
        "energy_consumed": row.facility_energy_kwh,
        "emissions": emissions_kg,
        "emissions_rate": _per_second(emissions_kg, row.duration_s),
    }
    for part, energy_kwh in parts.items():
        facility_kwh = None if energy_kwh is None else energy_kwh * overhead
        facility_j = None if facility_kwh is None else facility_kwh * JOULES_PER_KWH
        cells[f"{part}_energy"] = facility_kwh
        cells[f"{part}_power"] = _per_second(facility_j, row.duration_s)
    return cells


def _per_second(amount: float | None, duration_s: float) -> float | None:
    return None if amount is None or duration_s <= 0 else amount / duration_s


def _utilization_cells(row: CodeCarbonRow) -> dict[str, float | None]:
    fractions = {
        "cpu": row.cpu_utilization,
        "gpu": row.gpu_utilization,
        "ram": row.ram_utilization,
    }
    return {
        f"{part}_utilization_percent": None if fraction is None else fraction * 100
        for part, fraction in fractions.items()
    }


def _readable_as_text(text: str, default: str) -> str:
    """Never empty, and never one of the words that a reader of CSV takes for a missing value."""
    text = one_line(text).strip() or default
    return f"'{text}" if text in _READ_AS_MISSING else text
