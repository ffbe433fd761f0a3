"""Rows for the tests of emissions.csv."""

from datetime import UTC, datetime
from typing import Any

from sidecar.exporters.codecarbon_csv import CodeCarbonRow


def a_row(**changes: Any) -> CodeCarbonRow:
    """One hour of a pod in West Europe; 0.8 kWh in the machine, 0.96 kWh with PUE."""
    fields: dict[str, Any] = {
        "timestamp": datetime(2026, 11, 20, 12, 30, 15, tzinfo=UTC),
        "project": "vision",
        "run_id": "run-1",
        "experiment_id": "baseline",
        "duration_s": 3600.0,
        "facility_energy_kwh": 0.96,
        "cpu_energy_kwh": 0.2,
        "gpu_energy_kwh": 0.5,
        "ram_energy_kwh": 0.1,
        "emissions_g": 256.9,
        "version": "emissions-sidecar 1.0",
        "water_l": 0.05,
        "pue": 1.2,
        "wue_l_per_kwh": 0.05,
        "country_name": "Netherlands",
        "country_iso3": "NLD",
        "cloud_provider": "azure",
        "cloud_region": "westeurope",
        "os": "Linux",
        "python_version": "3.11.2",
        "cpu_count": 24,
        "cpu_model": "AMD EPYC 7V13 64-Core Processor",
        "gpu_count": 1,
        "gpu_model": "1 x NVIDIA A100 80GB PCIe",
        "ram_total_gib": 220.0,
        "ram_used_gib": 44.0,
        "cpu_utilization": 0.25,
        "gpu_utilization": 0.9,
        "ram_utilization": 0.2,
    }
    return CodeCarbonRow(**(fields | changes))
