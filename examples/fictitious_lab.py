"""Records of a fictitious lab, to see what a report looks like before there are any of one's own.

usage: python examples/fictitious_lab.py DIR [--days 75] [--until 2026-11-29]

Ten projects train in four Azure regions, with one record an hour. Who ran what and how busily is made
up, from a seed, and so is the hourly intensity of one region; energies and grams are what the sidecar
itself computes of it, with the factors and bounds of its catalogue.
"""

import argparse
import gzip
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import UUID

from sidecar.carbon.intensity import CarbonIntensity
from sidecar.catalogue.lookup import Catalogue
from sidecar.estimate.attribution import shares_of
from sidecar.estimate.emissions import Factors, estimate_window
from sidecar.factors import Place, SeenGpu, choose_factors
from sidecar.identity.fields import Hardware, Identity
from sidecar.meters.pod.requests import Reservation
from sidecar.meters.reading import GpuUsage, NodeUsage
from sidecar.record import EmissionRecord, to_ndjson
from sidecar.recording import Metered, Occasion, window_record
from sidecar.settings import Settings
from sidecar.windows import Window

HOUR_S = 3600.0
SEED = 20261129


@dataclass(frozen=True)
class Machine:
    """A VM size: what a node of it has."""

    vm_size: str
    cpus: int
    memory_gib: float
    gpus: int = 0
    model: str = ""
    limit_w: float = 0.0
    idle_w: float = 0.0


A100 = {"model": "NVIDIA A100 80GB PCIe", "limit_w": 300.0, "idle_w": 52.0}
MACHINES = {
    "cpu": Machine("Standard_D16s_v5", 16, 64),
    "a100": Machine("Standard_NC24ads_A100_v4", 24, 220, 1, **A100),
    "a100x2": Machine("Standard_NC48ads_A100_v4", 48, 440, 2, **A100),
    "a100x4": Machine("Standard_NC96ads_A100_v4", 96, 880, 4, **A100),
    "t4": Machine("Standard_NC16as_T4_v3", 16, 110, 1, "Tesla T4", 70.0, 10.0),
}


@dataclass(frozen=True)
class Project:
    """Who trains: how often a week, on what, where, and how busily."""

    name: str
    team: str
    runs_a_week: float
    hours: float
    busy: float
    machines: tuple[str, ...]
    regions: tuple[str, ...]
    experiments: tuple[str, ...]
    budget: str | None = None


PROJECTS = (
    Project("protein-folding", "biology", 5, 16, 0.86, ("a100x4", "a100x2"), ("westeurope",),
            ("baseline", "longer-context", "distilled"), "60kg"),
    Project("flood-forecast", "climate", 6, 9, 0.78, ("a100x2", "a100"), ("germanywestcentral",),
            ("radar", "radar-and-gauges"), "90kg"),
    Project("speech-dialects", "languages", 6, 8, 0.64, ("a100",), ("westeurope", "swedencentral"),
            ("wav2vec", "whisper-small", "adapters")),
    Project("tumour-atlas", "medicine", 3, 12, 0.8, ("a100x2",), ("germanywestcentral",),
            ("unet", "vit"), "45kg"),
    Project("street-trees", "city", 4, 6, 0.71, ("a100", "t4"), ("swedencentral",),
            ("aerial", "aerial-and-lidar")),
    Project("archive-ocr", "library", 5, 5, 0.52, ("t4",), ("westeurope",), ("print", "handwriting")),
    Project("battery-ageing", "materials", 3, 10, 0.9, ("cpu",), ("eastus",), ("grid-a", "grid-b")),
    Project("bird-calls", "biology", 4, 4, 0.6, ("t4", "a100"), ("swedencentral",), ("cnn",)),
    Project("shared-notebooks", "infrastructure", 9, 11, 0.07, ("a100",), ("westeurope",),
            ("interactive",), "10kg"),
    Project("nightly-evaluation", "infrastructure", 7, 2, 0.75, ("a100",), ("eastus",), ("suite",)),
)  # fmt: skip

POOLS = {"cpu": "cpu", "t4": "t4", "a100": "a100", "a100x2": "a100", "a100x4": "a100big"}
HOURLY = "germanywestcentral"
"""The region whose intensity goes by the hour: by a made-up curve."""


def main() -> None:
    """Write the records, and say how many."""
    parser = argparse.ArgumentParser(description="Records of a fictitious lab.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--days", type=int, default=75)
    parser.add_argument("--until", type=date.fromisoformat, help="last day (UTC) [today]")
    asked = parser.parse_args()
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    if asked.until is not None:
        end = datetime.combine(asked.until + timedelta(days=1), datetime.min.time(), UTC)
    records = asked.directory / "records"
    records.mkdir(parents=True, exist_ok=True)
    count = 0
    lab = Lab(random.Random(SEED), Catalogue())
    for run in lab.runs(end - timedelta(days=asked.days), end):
        lines = [to_ndjson(record) for record in lab.records(run, end)]
        path = records / f"{run.uid}.boot.0.ndjson.gz"
        path.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
        count += len(lines)
    print(f"{count:,} records of a fictitious lab in {records}")


@dataclass(frozen=True)
class Run:
    """One run: a pod that has a node for itself, or most of it."""

    project: Project
    number: int
    uid: str
    start: datetime
    hours: int
    machine: Machine
    pool: str
    region: str
    experiment: str
    busy: float

    @property
    def name(self) -> str:
        """Its id."""
        return f"{self.project.name}-{self.number:03d}"


class Lab:
    """Makes it all up; the same from the same dice."""

    def __init__(self, dice: random.Random, catalogue: Catalogue) -> None:
        self.dice = dice
        self.catalogue = catalogue
        self._factors: dict[tuple[str, str, int], Factors] = {}

    def runs(self, begin: datetime, end: datetime) -> Iterator[Run]:
        """Yield the runs: people begin them by day, fewer at weekends; evaluation runs at night."""
        for project in PROJECTS:
            number = 0
            for day in range((end - begin).days + 1):
                date_ = begin + timedelta(days=day)
                is_weekend = date_.weekday() >= 5
                rate = project.runs_a_week / 7 * (0.45 if is_weekend else 1.22)
                for _ in range(self._poisson(rate)):
                    number += 1
                    run = self._run(project, number, date_)
                    if run.start < end:
                        yield run

    def _run(self, project: Project, number: int, day: datetime) -> Run:
        dice = self.dice
        night = project.name == "nightly-evaluation"
        hour = 2 if night else dice.choice((7, 8, 8, 9, 9, 10, 11, 13, 14, 15, 16, 18, 20))
        machine = dice.choices(project.machines, [2, 1][: len(project.machines)])[0]
        region = dice.choices(project.regions, [4, 1][: len(project.regions)])[0]
        return Run(
            project=project,
            number=number,
            uid=str(UUID(int=dice.getrandbits(128), version=4)),
            start=day.replace(hour=hour),
            hours=max(1, round(dice.lognormvariate(math.log(project.hours), 0.45))),
            machine=MACHINES[machine],
            pool=f"{POOLS[machine]}{region[:2]}",
            region=region,
            experiment=dice.choice(project.experiments),
            busy=min(0.98, max(0.02, dice.gauss(project.busy, 0.09))),
        )

    def _poisson(self, mean: float) -> int:
        count, product = 0, self.dice.random()
        while product > math.exp(-mean):
            count, product = count + 1, product * self.dice.random()
        return count

    def records(self, run: Run, end: datetime) -> Iterator[EmissionRecord]:
        """Yield a record for each hour."""
        factors, identity = self._factors_of(run), _identity(run)
        for number in range(run.hours):
            start = run.start + timedelta(hours=number)
            if start >= end:
                return
            usage = self._usage(run)
            timed = replace(factors, carbon=_carbon(factors.carbon, run.region, start))
            shares = shares_of(usage, _reserved(run.machine), float(run.machine.gpus))
            estimate = estimate_window(usage, shares, timed)
            gap_s = 240.0 if self.dice.random() < 0.01 else 0.0
            window = Window(start.timestamp(), start.timestamp() + HOUR_S, HOUR_S - gap_s, gap_s)
            is_last = number == run.hours - 1
            occasion = Occasion(
                f"{run.uid}.boot.{number}",
                window,
                "end" if is_last else "window",
                "the pod ended" if is_last else None,
            )
            yield window_record(identity, timed, occasion, Metered(usage, estimate))

    def _factors_of(self, run: Run) -> Factors:
        key = (run.machine.vm_size, run.region, _seen(run))
        if key not in self._factors:
            machine = run.machine
            seen = tuple(SeenGpu(machine.model, machine.limit_w) for _ in range(_seen(run)))
            hardware = Hardware(logical_cpus=machine.cpus, memory_total_gib=machine.memory_gib)
            place = Place(_identity(run), hardware, seen)
            self._factors[key] = choose_factors(place, Settings(), self.catalogue)
        return self._factors[key]

    def _usage(self, run: Run) -> NodeUsage:
        """Make up what an hour used."""
        machine, dice = run.machine, self.dice
        busy = min(0.99, max(0.0, run.busy * dice.uniform(0.9, 1.08)))
        if run.project.name == "shared-notebooks" and dice.random() < 0.7:
            busy = 0.0  # somebody holds the GPU and thinks
        total_s = machine.cpus * HOUR_S
        cpu = busy if not machine.gpus else 0.08 + 0.2 * busy
        pod_s = total_s * cpu * 0.95
        return NodeUsage(
            duration_s=HOUR_S,
            cpus=machine.cpus,
            cpu_busy_s=total_s * cpu,
            cpu_total_s=total_s,
            memory_total_gib=machine.memory_gib,
            memory_used_gib=machine.memory_gib * 0.45,
            package_energy_uj=None,
            gpus=tuple(_gpu(run, index, busy, dice) for index in range(_seen(run))),
            pod_cpu_s=pod_s,
            pod_working_set_gib=machine.memory_gib * dice.uniform(0.25, 0.4),
            pod_method="cgroup",
        )


def _seen(run: Run) -> int:
    """Return how many GPUs are metered: the library's are known by the table alone."""
    return 0 if run.project.name == "archive-ocr" else run.machine.gpus


def _gpu(run: Run, index: int, busy: float, dice: random.Random) -> GpuUsage:
    machine = run.machine
    used = min(1.0, busy * dice.uniform(0.97, 1.03))
    watts = machine.idle_w + (machine.limit_w - machine.idle_w) * used * 0.93
    return GpuUsage(
        uuid=f"GPU-{run.uid[:8]}-{index}",
        model=machine.model,
        energy_mj=round(watts * HOUR_S * 1000),
        energy_source="energy-counter",
        utilization=used,
        power_limit_w=machine.limit_w,
        mig=False,
        virtual=False,
        pod_share=1.0,
        share_method="dcgm",
    )


def _reserved(machine: Machine) -> Reservation:
    """Return what the pod asked for: not quite the whole node, as nobody gets that."""
    return Reservation(machine.cpus * 0.8, machine.memory_gib * 0.6, float(machine.gpus))


def _carbon(usual: CarbonIntensity, region: str, at: datetime) -> CarbonIntensity:
    """Return the intensity of an hour: cleanest at noon, in the region of the made-up curve."""
    if region != HOURLY:
        return usual
    sun = max(0.0, math.cos((at.hour - 12) / 24 * 2 * math.pi))
    evening = math.exp(-(((at.hour - 18.5) / 2.2) ** 2))
    value = round(usual.figure.value * (1.12 - 0.45 * sun + 0.25 * evening), 1)
    figure = replace(
        usual.figure,
        value=value,
        low=value * 0.92,
        high=value * 1.08,
        source="made-up hourly curve of the example",
        year=at.year,
    )
    return CarbonIntensity(figure, None, None, "scheduled", at.timestamp())


def _identity(run: Run) -> Identity:
    node = f"aks-{run.pool}-31415926-vmss{int(run.uid[:8], 16) % 36**5:06d}"
    budget = run.project.budget
    return Identity(
        project=run.project.name,
        experiment=run.experiment,
        run_id=run.name,
        cluster="example",
        namespace=run.project.team,
        pod=f"{run.name}-{run.uid[:5]}",
        pod_uid=run.uid,
        workload=f"Job/{run.name}",
        node=node,
        provider="azure",
        vm_size=run.machine.vm_size,
        vm_id=f"{run.uid[:23]}-{run.uid[-12:]}",
        region=run.region,
        subscription_id="00000000-0000-0000-0000-000000000000",
        vm_scale_set=f"aks-{run.pool}-31415926-vmss",
        annotations={"emissions/budget": budget} if budget else {},
    )


if __name__ == "__main__":
    main()
