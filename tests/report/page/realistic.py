"""Reports as a lab has them: projects that train for months in several regions, made from a seed."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sidecar.catalogue.lookup import Catalogue
from sidecar.report.balance import Balance
from sidecar.report.figures.budget import Budget
from sidecar.report.figures.inputs import (
    Amounts,
    FactorUse,
    MissingPod,
    PodsLookedUp,
    ReadFacts,
    ReportInputs,
)
from sidecar.report.figures.model import report_model
from sidecar.report.measures import GROUPINGS, Measures, Row
from sidecar.report.tables import Tables

NAMES = (
    "protein-folding", "speech-de", "weather-nowcast", "llm-pretrain", "radiology", "recsys",
    "vision-backbone", "robotics-sim", "fraud-graph", "translation", "materials", "sandbox",
)  # fmt: skip
REGIONS = {
    "westeurope": 268.0, "swedencentral": 21.0, "francecentral": 35.0, "uksouth": 190.0,
    "eastus": 385.0, "southeastasia": 471.0,
}  # fmt: skip
NOW = datetime(2026, 9, 24, 9, 30, tzinfo=UTC)
PUE = 1.17


@dataclass(frozen=True)
class Scale:
    """How large a report is."""

    projects: int = 12
    days: int = 90
    runs: int = 300
    regions: int = 6
    names: tuple[str, ...] = NAMES

    def name(self, number: int) -> str:
        return self.names[number] if number < len(self.names) else f"project-{number:05}"


Cell = tuple[dict[str, Any], dict[str, float]]


def hours_of_runs(scale: Scale, seed: int = 7) -> Iterator[Cell]:
    """Yield every hour of every run: its keys, and its amounts."""
    dice = random.Random(seed)
    regions = list(REGIONS)[: scale.regions]
    first = NOW.replace(hour=0, minute=0) - timedelta(days=scale.days - 1)
    weights = [1 / (place + 1.5) for place in range(scale.projects)]
    for run in range(scale.runs):
        place = run if run < scale.projects else dice.choices(range(scale.projects), weights)[0]
        name = scale.name(place)
        region = regions[(place + (dice.random() < 0.25)) % len(regions)]
        day = dice.triangular(0, scale.days - 0.5, scale.days * 0.7)
        start = first + timedelta(days=int(day), hours=dice.choice((7, 8, 9, 10, 14, 16, 19, 22)))
        gpus = dice.choice((0, 1, 1, 2, 4, 8)) if place != scale.projects - 1 else 0
        busy = dice.uniform(0.25, 0.97)
        for hour in range(int(dice.lognormvariate(2.2, 0.8)) + 1):
            moment = start + timedelta(hours=hour)
            if moment >= NOW:
                break
            keys = {
                "project": name,
                "experiment": f"trial-{run % 4}",
                "run": f"{name}-{run:04}",
                "namespace": f"team-{place % 3}",
                "workload": f"job-{run}",
                "pool": "gpu" if gpus else "cpu",
                "region": region,
                "phase": "train" if run == 0 else None,
                "day": moment.date().isoformat(),
                "weekday": moment.weekday(),
                "hour": moment.hour,
            }
            yield keys, _amounts(gpus, busy * dice.uniform(0.9, 1.05), REGIONS[region])


def _amounts(gpus: int, busy: float, intensity: float) -> dict[str, float]:
    cpu, ram = 0.03 + 0.05 * busy, 0.012
    gpu = gpus * (0.055 + 0.245 * busy)
    energy = cpu + ram + gpu
    emissions = energy * PUE * intensity
    return {
        "records": 240,
        "duration_s": 3600.0,
        "cpu_energy_kwh": cpu,
        "ram_energy_kwh": ram,
        "gpu_energy_kwh": gpu,
        "energy_kwh": energy,
        "facility_energy_kwh": energy * PUE,
        "water_l": energy * 0.27,
        "emissions_g": emissions,
        "emissions_low_g": emissions * 0.86,
        "emissions_high_g": emissions * 1.19,
        "embodied_g": 12.0 + 30.0 * gpus,
        "cpu_reserved_idle_energy_kwh": 0.02 * (1 - min(1, busy)),
        "gpu_reserved_idle_energy_kwh": gpus * 0.05 * (1 - min(1, busy)),
        "gpu_hours": float(gpus),
        "energy_measured_kwh": gpu,
        "energy_estimated_kwh": cpu,
        "energy_modelled_kwh": ram,
        "energy_zone_kwh": energy,
        "energy_with_emissions_kwh": energy,
        "facility_energy_with_emissions_kwh": energy * PUE,
        **{
            f"{name}_{part}_g": grams
            for name, grams in (
                ("emissions", emissions),
                ("emissions_low", emissions * 0.86),
                ("emissions_high", emissions * 1.19),
                ("embodied", 12.0 + 30.0 * gpus),
            )
            for part in ("of_runs", "of_gpus")
            if gpus or part == "of_runs"
        },
    }


class _Sum:
    def __init__(self) -> None:
        self.amounts: dict[str, float] = {}
        self.runs: set[str] = set()
        self.start, self.end = "9", "0"

    def add(self, keys: dict[str, Any], amounts: dict[str, float]) -> None:
        for name, amount in amounts.items():
            self.amounts[name] = self.amounts.get(name, 0) + amount
        self.runs.add(keys["run"])
        self.start = min(self.start, f"{keys['day']}T{keys['hour']:02}:00:00Z")
        self.end = max(self.end, f"{keys['day']}T{keys['hour']:02}:59:45Z")

    def measures(self) -> Measures:
        known = {item.name for item in fields(Measures)}
        sums = {name: amount for name, amount in self.amounts.items() if name in known}
        facility = sums["facility_energy_kwh"]
        mean = sums["emissions_g"] / facility if facility else None
        return replace(
            Measures(**sums),
            runs=len(self.runs),
            pods=len(self.runs),
            window_start=self.start,
            window_end=self.end,
            gap_s=0.0,
            cpu_utilization=0.34,
            gpu_utilization=0.71 if sums["gpu_hours"] else None,
            carbon_intensity_g_per_kwh=mean,
            carbon_intensity_time_weighted_g_per_kwh=mean,
        )


def tables_of(cells: Iterable[Cell]) -> Tables:
    """Add the cells up along every grouping."""
    groups: dict[str, dict[tuple[Any, ...], _Sum]] = {name: {} for name in GROUPINGS}
    for keys, amounts in cells:
        for name, dimensions in GROUPINGS.items():
            if name == "phases" and keys["phase"] is None:
                continue  # of runs of which a phase was marked
            key = tuple(keys[dimension] for dimension in dimensions)
            groups[name].setdefault(key, _Sum()).add(keys, amounts)
    rows = {}
    for name, found in groups.items():
        made = [
            Row(dict(zip(GROUPINGS[name], key, strict=True)), group.measures())
            for key, group in found.items()
        ]
        made.sort(key=lambda row: -(row.measures.emissions_g or 0))
        rows[name] = tuple(made)
    return Tables(rows)


def realistic_inputs(scale: Scale = Scale()) -> ReportInputs:
    """Return all that a report is made from."""
    tables = tables_of(hours_of_runs(scale))
    total = next((row.measures for row in tables.rows["total"]), Measures())
    used = total.energy_kwh or 0.0
    balance = Balance(
        node="aks-gpu-1-vmss000001",
        start_s=NOW.timestamp() - 86400,
        end_s=NOW.timestamp(),
        node_energy_kwh=used * 1.31,
        claimed_energy_kwh=used,
        pods_energy_kwh=used,
        untracked_energy_kwh=used * 0.02,
        unallocated_energy_kwh={"cpu": used * 0.07, "ram": used * 0.02, "gpu": used * 0.2},
        unallocated_emissions_g=(total.emissions_g or 0.0) * 0.29,
    )
    budgets = {
        scale.name(0): Budget.parse("12kg"),
        scale.name(1): Budget.parse("2kg"),
        scale.name(3): Budget.parse("60kg"),
    }
    return ReportInputs(
        tables=tables,
        catalogue=Catalogue(),
        now=NOW,
        read=ReadFacts(4100, total.records, 12, {"torn line": 3}, 2, "az://emissions"),
        nodes=[balance],
        budgets=budgets,
        factors=[_factors(row) for row in tables.rows["project_regions"]],
        pods=PodsLookedUp(
            64,
            [
                MissingPod("team-1", "eval-7", "silent", "its sidecar waits: 'ImagePullBackOff'"),
                MissingPod("team-2", "prep-0", "skipped", "skipped: Windows pods are not metered"),
                MissingPod(
                    "team-0",
                    "train-9",
                    "incomplete",
                    "its sidecar ended with 12 records that were not shipped",
                    "speech-de",
                    12,
                    Amounts(0.8, 155.0, 130.0, 190.0),
                ),
            ],
        ),
    )


def _factors(row: Row) -> FactorUse:
    return FactorUse(
        project=str(row.keys["project"]),
        region=str(row.keys["region"]),
        carbon_intensity_source="Electricity Maps yearly average",
        carbon_intensity_year=2025,
        carbon_intensity_level="zone",
        pue=PUE,
        pue_source="Microsoft FY25",
        energy_kwh=row.measures.energy_kwh,
    )


def realistic_model(scale: Scale = Scale()) -> dict[str, Any]:
    """Return the document of `report_model`."""
    return report_model(realistic_inputs(scale))
