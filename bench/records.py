"""Records of pods as they are on AKS, made by the agent itself under a clock of the benchmark.

Procfs, IMDS and the downward API are the fakes of the tests; load and power change from window to
window, as those of training jobs do, because records that repeat themselves would compress too well.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sidecar.agent import Agent, Clock, Parts, Waiter, Wake
from sidecar.catalogue.lookup import Catalogue
from sidecar.identity.resolve import IdentityResolver, ResolverConfig
from sidecar.meters.node import NodeMeter
from sidecar.meters.pod.ladder import PodLadder
from sidecar.meters.pod.requests import RequestsSource, Reservation
from sidecar.meters.proc import ProcMeter
from sidecar.meters.rapl import RaplMeter
from sidecar.meters.reading import GpuReading, MeterStatus
from sidecar.record import EmissionRecord
from sidecar.segment import decompressed
from sidecar.settings import load_settings
from sidecar.transport.delivery import Transport
from sidecar.validation import RecordValidator
from tests.fakes.imds import AKS_SPOT_GPU, FakeImds, serve
from tests.fakes.trees import ProcTree

WINDOW_S: Final = 15.0
LATENESS_MAX_S: Final = 0.02
"""A window ends up to this much after its boundary: timers and schedulers are never early."""

START_S: Final = 1_800_000_000.0 + 12 * 3600 - 15.0
"""2027-01-15T19:59:45Z: a pod of some hours sees midnight, which begins a new segment."""

POD: Final = "llm-finetune-lora-r16-worker-0"
POD_UID: Final = "6d0c1f4e-8e0f-4a8e-9f2f-0f3a5b6c7d8e"
NAMESPACE: Final = "team-language-models"
NODE: Final = "aks-gpupool-12628255-vmss000002"
BOOT_ID: Final = "0a1b2c3d4e5f"

_ENVIRON: Final = {
    "POD_NAME": POD,
    "POD_NAMESPACE": NAMESPACE,
    "POD_UID": POD_UID,
    "NODE_NAME": NODE,
    "HOST_IP": "10.224.0.5",
}
_LABELS: Final = {
    "app.kubernetes.io/instance": "llm-finetune-lora-r16",
    "app.kubernetes.io/managed-by": "Helm",
    "app.kubernetes.io/name": "llm-finetune",
    "app.kubernetes.io/part-of": "language-models",
    "batch.kubernetes.io/controller-uid": "1f0f8c5e-5d1c-4b8e-8f6d-1a2b3c4d5e6f",
    "batch.kubernetes.io/job-completion-index": "0",
    "batch.kubernetes.io/job-name": "llm-finetune-lora-r16-worker",
    "topology.kubernetes.io/region": "westeurope",
    "topology.kubernetes.io/zone": "westeurope-1",
}
_ANNOTATIONS: Final = {
    "emissions/budget": "5 kg",
    "emissions/experiment": "lora-r16",
    "emissions/track": "true",
}
_CPUINFO: Final = """processor\t: {0}
vendor_id\t: {1.cpu_vendor}
model name\t: {1.cpu_model}
physical id\t: 0
siblings\t: {1.cpus}
cpu cores\t: {1.cpus}

"""


@dataclass(frozen=True, slots=True)
class PodKind:
    """A VM size and the pod on it, which has half the CPUs and memory, and all GPUs."""

    gpus: int
    vm_size: str
    cpus: int
    memory_gib: int
    cpu_vendor: str
    cpu_model: str
    gpu_model: str = ""
    gpu_power_w: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.gpus} GPU" if self.gpus == 1 else f"{self.gpus} GPUs"


KINDS: Final = (
    PodKind(
        0, "Standard_D8s_v5", 8, 32,
        "GenuineIntel", "Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz",
    ),
    PodKind(
        1, "Standard_NC24ads_A100_v4", 24, 220,
        "AuthenticAMD", "AMD EPYC 7V13 64-Core Processor",
        "NVIDIA A100 80GB PCIe", 300.0,
    ),
    PodKind(
        8, "Standard_ND96is_H100_v5", 96, 1900,
        "GenuineIntel", "Intel(R) Xeon(R) Platinum 8480C",
        "NVIDIA H100 80GB HBM3", 700.0,
    ),
)  # fmt: skip


def write_cpuinfo(kind: PodKind, proc_root: Path) -> None:
    cpuinfo = "".join(_CPUINFO.format(cpu, kind) for cpu in range(kind.cpus))
    (proc_root / "cpuinfo").write_text(cpuinfo)


@dataclass
class _Node:
    """A machine whose time and counters move when told."""

    kind: PodKind
    proc: ProcTree
    chance: random.Random
    wall_s: float = START_S
    monotonic_s: float = 1000.0
    energies_mj: list[int] = field(default_factory=list)
    utilization_s: list[float] = field(default_factory=list)

    @classmethod
    def made(cls, kind: PodKind, directory: Path, seed: int) -> "_Node":
        proc = ProcTree(directory / "proc", cpus=kind.cpus)
        write_cpuinfo(kind, proc.root)
        node = cls(kind, proc, random.Random(seed))
        node.energies_mj = [0] * kind.gpus
        node.utilization_s = [0.0] * kind.gpus
        node.run(0.0)
        return node

    def run(self, seconds: float) -> None:
        kind, chance = self.kind, self.chance
        self.wall_s += seconds
        self.monotonic_s += seconds
        busy_s = seconds * kind.cpus * chance.uniform(0.3, 0.7)
        times_s = self.proc.times_s
        idle_s = seconds * kind.cpus - busy_s
        self.proc.stat(user=times_s["user"] + busy_s, idle=times_s["idle"] + idle_s)
        total_kib = kind.memory_gib * 1024**2
        available_kib = int(total_kib * chance.uniform(0.4, 0.6))
        self.proc.meminfo(
            total_kib=total_kib, free_kib=available_kib // 2, available_kib=available_kib
        )
        for index in range(kind.gpus):
            utilization = chance.uniform(0.6, 1.0)
            self.utilization_s[index] += seconds * utilization
            self.energies_mj[index] += int(seconds * kind.gpu_power_w * utilization * 1000)


class _Gpus:
    """The counters of the node's GPUs, in place of NVML."""

    needs_sampling = False

    def __init__(self, node: _Node) -> None:
        self._node = node
        self._uuids = [
            f"GPU-{node.chance.getrandbits(32):08x}-5b1d-4e0a-9c3f-{node.chance.getrandbits(48):012x}"
            for _ in range(node.kind.gpus)
        ]

    def sample(self, monotonic_s: float) -> None:
        """There is nothing to sample."""

    def read(self, monotonic_s: float) -> tuple[GpuReading, ...]:
        node = self._node
        return tuple(
            GpuReading(
                uuid=uuid,
                model=node.kind.gpu_model,
                energy_mj=node.energies_mj[index],
                energy_source="energy-counter",
                utilization_s=node.utilization_s[index],
                observed_s=monotonic_s,
                power_limit_w=node.kind.gpu_power_w,
            )
            for index, uuid in enumerate(self._uuids)
        )

    def status(self) -> tuple[MeterStatus, ...]:
        return ()

    def close(self) -> None:
        """There is nothing to let go of."""


@dataclass(frozen=True, slots=True)
class Course:
    """What happens to a pod: it runs, its end may be announced some seconds before it comes.

    `watch` is called with the agent after each wait, and sees the seconds that have passed.
    """

    hours: float
    announced_s: float = 0.0
    watch: Callable[[Agent, float], None] | None = None


def simulate(
    kind: PodKind,
    course: Course,
    directory: Path,
    *,
    seed: int = 0,
    open_transport: Callable[[], Transport] | None = None,
) -> Agent:
    """Run the agent of one pod to its end; its volume is `directory`/volume."""
    node = _Node.made(kind, directory, seed)
    settings = load_settings({"volume": str(directory / "volume")}, {})
    clock = Clock(lambda: node.wall_s, lambda: node.monotonic_s)
    reserved = Reservation(kind.cpus / 2, kind.memory_gib / 2, float(kind.gpus))
    meter = NodeMeter(
        ProcMeter(node.proc.root),
        RaplMeter(directory / "sys", clock=clock.monotonic_s),
        _Gpus(node),
        PodLadder((), RequestsSource(reserved)),
        clock=clock.monotonic_s,
    )
    identity = identified(kind, directory, node.proc.root)
    agent = Agent(
        Parts(
            settings=settings,
            identity=identity,
            meter=meter,
            catalogue=Catalogue(),
            reserved=reserved,
            clock=clock,
            open_transport=open_transport,
            boot_id=BOOT_ID,
        )
    )
    agent.open()
    agent.close(agent.run(_waiter(agent, node, course)))
    return agent


def identified(kind: PodKind, directory: Path, proc_root: Path) -> IdentityResolver:
    """Return who and where, found out as in a pod on AKS."""
    with FakeImds(serve({**AKS_SPOT_GPU, "vmSize": kind.vm_size})) as imds:
        identity = _identity(directory, proc_root, imds.url)
        identity.start()
        if not identity.wait(10.0).settled:
            raise RuntimeError("the fake IMDS has not answered in 10 s")
    return identity


def _identity(directory: Path, proc_root: Path, imds_url: str) -> IdentityResolver:
    podinfo = directory / "podinfo"
    podinfo.mkdir()
    for name, pairs in (("labels", _LABELS), ("annotations", _ANNOTATIONS)):
        lines = "".join(f'{key}="{value}"\n' for key, value in pairs.items())
        (podinfo / name).write_text(lines)
    config = ResolverConfig(
        settings={"cluster": "ml-cluster", "run_id": "lora-r16-2027-01-15"},
        environ=_ENVIRON,
        podinfo_dir=podinfo,
        proc_root=proc_root,
        imds_endpoint=imds_url,
        start_delay_s=0.0,
    )
    return IdentityResolver(config)


def _waiter(agent: Agent, node: _Node, course: Course) -> Waiter:
    begun_s = node.monotonic_s
    end_s = begun_s + course.hours * 3600
    announced_at_s = end_s - course.announced_s if course.announced_s else float("inf")
    told = False

    def wait(timeout_s: float) -> Wake:
        nonlocal told
        node.run(timeout_s + node.chance.uniform(0.001, LATENESS_MAX_S))
        if course.watch is not None:
            course.watch(agent, node.monotonic_s - begun_s)
        if node.monotonic_s >= end_s:
            return Wake(stop="pod ended")
        if node.monotonic_s >= announced_at_s and not told:
            told = True
            return Wake(hurry=True)
        return Wake()

    return wait


def recorded(kind: PodKind, hours: float, directory: Path) -> list[EmissionRecord]:
    """Return the records of one pod, from start to end."""
    simulate(kind, Course(hours), directory)
    validator = RecordValidator()
    records = []
    for path in sorted((directory / "volume" / "records").glob("*.ndjson*")):
        content = path.read_bytes()
        ndjson = decompressed(content) if path.suffix == ".gz" else content
        records += [validator.record_of(line) for line in ndjson.splitlines()]
    return records
