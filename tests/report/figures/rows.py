"""Rows and inputs as the engine hands them over."""

from datetime import UTC, datetime

from sidecar.catalogue.lookup import Catalogue
from sidecar.report.figures.inputs import ReportInputs
from sidecar.report.measures import Measures, Row
from sidecar.report.tables import Tables

NOW = datetime(2026, 11, 12, 12, tzinfo=UTC)
CATALOGUE = Catalogue()


def measures(**changes):
    """1 kWh in West Europe: 1.14 · 253 g."""
    known = {
        "records": 4,
        "runs": 2,
        "pods": 3,
        "window_start": "2026-11-01T00:00:00.000Z",
        "window_end": "2026-11-11T00:00:00.000Z",
        "duration_s": 7200.0,
        "gap_s": 0.0,
        "cpu_energy_kwh": 0.5,
        "ram_energy_kwh": 0.1,
        "gpu_energy_kwh": 0.4,
        "energy_kwh": 1.0,
        "facility_energy_kwh": 1.14,
        "emissions_g": 288.42,
        "emissions_low_g": 200.0,
        "emissions_high_g": 400.0,
        "embodied_g": 20.0,
        "gpu_hours": 4.0,
        "cpu_reserved_idle_energy_kwh": 0.1,
        "gpu_reserved_idle_energy_kwh": 0.2,
        "carbon_intensity_g_per_kwh": 253.0,
        "energy_estimated_kwh": 1.0,
        "energy_zone_kwh": 1.0,
    }
    known |= changes
    if known["emissions_g"] is not None:
        known.setdefault("energy_with_emissions_kwh", known["energy_kwh"])
        known.setdefault("facility_energy_with_emissions_kwh", known["facility_energy_kwh"])
    for part in ("of_runs", "of_gpus"):
        for name in ("emissions", "emissions_low", "emissions_high", "embodied"):
            known.setdefault(f"{name}_{part}_g", known[f"{name}_g"])
    return Measures(**known)


def row(keys=None, **changes):
    return Row(keys or {}, measures(**changes))


def day(text, emissions_g, **keys):
    return row(
        {**keys, "day": text},
        emissions_g=emissions_g,
        emissions_low_g=emissions_g / 2,
        emissions_high_g=emissions_g * 2,
        energy_kwh=emissions_g / 100,
    )


def inputs(tables=None, **changes):
    facts = changes.pop("runs", {})
    known = {"tables": Tables(tables or {}, facts), "catalogue": CATALOGUE, "now": NOW}
    return ReportInputs(**(known | changes))


def report_of(name="demo", **changes):
    """All tables of one project with one run in one region."""
    return {
        "total": (row(**changes),),
        "projects": (row({"project": name}, **changes),),
        "experiments": (row({"project": name, "experiment": None}, **changes),),
        "runs": (row({"project": name, "run": f"run of {name}"}, **changes),),
        "namespaces": (row({"namespace": "ml"}, **changes),),
        "workloads": (row({"namespace": "ml", "workload": "train"}, **changes),),
        "pools": (row({"pool": None}, **changes),),
        "regions": (row({"region": "westeurope"}, **changes),),
        "project_regions": (row({"project": name, "region": "westeurope"}, **changes),),
        "days": (row({"day": "2026-11-10"}, **changes),),
        "project_days": (row({"project": name, "day": "2026-11-10"}, **changes),),
        "project_day_regions": (
            row({"project": name, "day": "2026-11-10", "region": "westeurope"}, **changes),
        ),
        "hours": (row({"weekday": 1, "hour": 8}, **changes),),
        "project_hours": (row({"project": name, "weekday": 1, "hour": 8}, **changes),),
    }
