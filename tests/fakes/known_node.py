"""A node whose energy is known at every moment, so that what was recorded can be compared with it.

Its counters are files as the kernel's (`/proc`, powercap), and its meters are the real ones; all follow
from one clock. CPU power is constant for a minute at a time and a whole number of watts, so energy is
exact to the microjoule. Memory has its watts per GiB.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sidecar.meters.gpu_meter import GpuMeter
from sidecar.meters.node import NodeMeter
from sidecar.meters.nvml import NvmlMeter
from sidecar.meters.pod.ladder import PodLadder
from sidecar.meters.proc import ProcMeter
from sidecar.meters.rapl import RaplMeter
from sidecar.meters.reading import GpuReading, MeterStatus, NodeReading
from tests.fakes.trees import PowercapTree, ProcTree

STEP_S: Final = 60
JOULES_PER_KWH: Final = 3.6e6
RAM_W_PER_GIB: Final = 0.3725 * 1.073741824
"""Green Algorithms v3.0: 0.3725 W/GB."""

_ZONE: Final = "intel-rapl:0"


@dataclass
class Power:
    """Watts over time, from 0 s on, drawn from a seed."""

    seed: object
    low_w: int = 40
    high_w: int = 280
    _watts: list[int] = field(default_factory=list)
    _before_j: list[int] = field(default_factory=lambda: [0])

    def __post_init__(self) -> None:
        self._dice = random.Random(repr(self.seed))

    def energy_uj(self, at_s: float) -> int:
        """Microjoules since 0 s, a whole number."""
        step = int(at_s // STEP_S)
        while len(self._watts) <= step:
            self._watts.append(self._dice.randint(self.low_w, self.high_w))
            self._before_j.append(self._before_j[-1] + self._watts[-1] * STEP_S)
        into_step_us = round((at_s - step * STEP_S) * 1e6)
        return self._before_j[step] * 1_000_000 + self._watts[step] * into_step_us


@dataclass
class KnownNode:
    """The machine; `at` brings its files to a moment of its clock."""

    root: Path
    power: Power
    cpus: int = 8
    memory_gib: int = 32

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        """Of the files: other pods of this node may be in other threads."""
        self._at_s: float | None = None
        self.proc = ProcTree(self.root / "proc", cpus=self.cpus)
        self.powercap = PowercapTree(self.root / "sys")
        total_kib = self.memory_gib * 1024**2
        self.proc.meminfo(
            total_kib=total_kib, free_kib=total_kib // 4, available_kib=total_kib // 2
        )
        # Without a range: it never wraps.
        self.powercap.zone(_ZONE, "package-0", self.power.energy_uj(0), range_uj=None)
        self.at(0.0)

    def at(self, monotonic_s: float) -> None:
        """Write all counters as they are at this moment: the CPUs are half busy."""
        if monotonic_s == self._at_s:
            return
        self._at_s = monotonic_s
        half_s = monotonic_s * self.cpus / 2
        self.proc.stat(user=half_s, idle=half_s)
        self.powercap.count(_ZONE, self.power.energy_uj(monotonic_s))

    def energy_kwh(self, start_s: float, end_s: float) -> float:
        """What it used between two moments: CPU and memory."""
        cpu_uj = self.power.energy_uj(end_s) - self.power.energy_uj(start_s)
        ram_j = RAM_W_PER_GIB * self.memory_gib * (end_s - start_s)
        return (cpu_uj / 1e6 + ram_j) / JOULES_PER_KWH

    def meter(
        self, ladder: PodLadder, monotonic_s: Callable[[], float], gpus: GpuMeter | None = None
    ) -> NodeMeter:
        """The real meters of this node; its files are brought up to date for each reading."""
        return _Meter(self, ladder, monotonic_s, gpus or NvmlMeter(selected=()))


class _Meter(NodeMeter):
    """Reads all counters at one very moment, whatever time reading them takes."""

    def __init__(
        self,
        node: KnownNode,
        ladder: PodLadder,
        monotonic_s: Callable[[], float],
        gpus: GpuMeter,
    ) -> None:
        self._node, self._real_s = node, monotonic_s
        self._now_s = monotonic_s()
        node.at(self._now_s)

        def moment() -> float:
            return self._now_s

        proc, sys_root = ProcMeter(node.proc.root), node.powercap.root
        super().__init__(proc, RaplMeter(sys_root, clock=moment), gpus, ladder, clock=moment)

    @property
    def needs_sampling(self) -> bool:
        return False  # its counters never wrap

    def sample(self) -> None:
        with self._node.lock:
            self._come_to_now()
            super().sample()

    def read(self, *, gpus: bool = True) -> NodeReading:
        with self._node.lock:
            self._come_to_now()
            return super().read(gpus=gpus)

    def _come_to_now(self) -> None:
        self._now_s = self._real_s()
        self._node.at(self._now_s)


@dataclass
class KnownGpus:
    """GPUs with energy counters, each of its own power over time; in place of NVML."""

    model: str
    powers: list[Power]
    limit_w: float
    node: int = 0
    needs_sampling = False

    def sample(self, monotonic_s: float) -> None:
        """There is nothing to sample."""

    def read(self, monotonic_s: float) -> tuple[GpuReading, ...]:
        return tuple(
            GpuReading(
                uuid=f"GPU-{number:08x}-5b1d-4e0a-9c3f-{self.node:012x}",
                model=self.model,
                energy_mj=self.energy_mj(number, monotonic_s),
                energy_source="energy-counter",
                utilization_s=monotonic_s * 0.8,
                observed_s=monotonic_s,
                power_limit_w=self.limit_w,
            )
            for number in range(len(self.powers))
        )

    def energy_mj(self, number: int, at_s: float) -> int:
        """Millijoules of one since 0 s."""
        return self.powers[number].energy_uj(at_s) // 1000

    def energy_kwh(self, start_s: float, end_s: float) -> float:
        """What all used between two moments."""
        numbers = range(len(self.powers))
        used_mj = (self.energy_mj(n, end_s) - self.energy_mj(n, start_s) for n in numbers)
        return sum(used_mj) / 1000 / JOULES_PER_KWH

    def status(self) -> tuple[MeterStatus, ...]:
        return ()

    def close(self) -> None:
        """There is nothing to let go of."""
