"""A node whose true use the test knows: counters of pods and GPUs that go on while they are told to."""

import threading
from pathlib import Path

from tests.fakes.nvml.build import build_fake_nvml
from tests.fakes.nvml.fixture import FakeNvml
from tests.node_meter.cgroup_node import CgroupNode

UID, OTHER = "11111111-0000-4000-8000-000000000001", "22222222-0000-4000-8000-000000000002"
GPUS = tuple(f"GPU-{n:08x}-0000-4000-8000-000000000000" for n in range(3))


class TrueNode:
    """Counters of pods and GPUs that go on, each while it is switched on."""

    def __init__(self, directory: Path) -> None:
        self.cgroups = CgroupNode(directory / "cgroup")
        self.nvml = FakeNvml(directory / "nvml.state", build_fake_nvml())
        self.cpu_s = 1000.0
        self.energy_mj = [7_000_000] * 3
        self.cpu_goes_on = False
        self.gpus_go_on = [False] * 3
        self._lock = threading.Lock()
        self.cgroups.add(UID, self.cpu_s, memory=1 << 30)
        self.cgroups.add(OTHER, 5.0)
        for index in range(3):
            self.nvml.gpu(index, name="A board that no table knows", mig=0)
        self.step()

    def step(self) -> None:
        with self._lock:
            if self.cpu_goes_on:
                self.cpu_s += 10.0
                self.cgroups.use(UID, self.cpu_s)
            for index, goes_on in enumerate(self.gpus_go_on):
                if goes_on:
                    self.energy_mj[index] += 6_000
                self.nvml.gpu(index, energy_mj=self.energy_mj[index])
