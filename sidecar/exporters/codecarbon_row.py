"""The running totals as a row of `emissions.csv`."""

import platform
import sys
from datetime import datetime

from sidecar.exporters.codecarbon_csv import CodeCarbonRow
from sidecar.identity.fields import Hardware
from sidecar.record import EmissionRecord
from sidecar.version import VERSION


def codecarbon_row(
    totals: EmissionRecord, hardware: Hardware, country_name: str | None
) -> CodeCarbonRow:
    """Turn the merged record of a run into its cumulative row."""
    models = [gpu.model for gpu in totals.gpus]
    total_gib, used_gib = hardware.memory_total_gib, totals.ram_used_gib
    return CodeCarbonRow(
        timestamp=datetime.fromisoformat(totals.window_end),
        project=totals.project,
        run_id=totals.run_id or totals.record_id,
        experiment_id=totals.experiment or "",
        duration_s=totals.duration_s,
        facility_energy_kwh=totals.facility_energy_kwh or 0.0,
        cpu_energy_kwh=totals.cpu_energy_kwh,
        gpu_energy_kwh=totals.gpu_energy_kwh,
        ram_energy_kwh=totals.ram_energy_kwh,
        emissions_g=totals.emissions_g,
        version=f"emissions-sidecar {VERSION}",
        tracking_mode="machine" if totals.pod_method == "whole-node" else "process",
        water_l=totals.water_l,
        pue=totals.pue or 1.0,
        wue_l_per_kwh=_water_usage(totals),
        country_name=country_name,
        country_iso3=totals.country_iso3,
        cloud_provider=totals.provider,
        cloud_region=totals.region,
        os=platform.platform(),
        python_version=".".join(map(str, sys.version_info[:3])),
        cpu_count=hardware.logical_cpus,
        cpu_model=hardware.cpu_model,
        gpu_count=len(models) or None,
        gpu_model=f"{len(models)} x {models[0]}" if models else None,
        ram_total_gib=total_gib,
        ram_used_gib=used_gib,
        cpu_utilization=totals.cpu_utilization,
        gpu_utilization=totals.gpu_utilization,
        ram_utilization=used_gib / total_gib if used_gib and total_gib else None,
    )


def _water_usage(totals: EmissionRecord) -> float:
    """Water usage effectiveness in L/kWh that the totals amount to."""
    if not totals.energy_kwh or totals.water_l is None:
        return 0.0
    return totals.water_l / totals.energy_kwh
