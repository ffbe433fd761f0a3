import os
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecar.meters.node import NodeMeter
from sidecar.meters.nvml import NvmlMeter
from sidecar.meters.pod.ladder import PodLadder
from sidecar.meters.pod.process_tree import ProcessTreeSource
from sidecar.meters.pod.source import PodSource
from sidecar.meters.pod.whole_node import WholeNodeSource
from sidecar.meters.proc import ProcMeter
from sidecar.meters.rapl import RaplMeter
from sidecar.meters.reading import MeterStatus, PodMethod, PodReading
from sidecar.meters.usage import usage_between
from tests.fakes.nvml.fixture import FakeNvml
from tests.fakes.trees import PowercapTree, ProcTree


class Clock:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def node(proc: Path, sys: Path, clock: Clock, pod: PodSource | None = None) -> NodeMeter:
    return NodeMeter(
        ProcMeter(proc),
        RaplMeter(sys, clock),
        NvmlMeter(),
        PodLadder((), pod or WholeNodeSource()),
        clock,
    )


@pytest.mark.needs("gcc")
def test_a_window_of_the_whole_node(
    proc_tree: ProcTree, powercap: PowercapTree, fake_nvml: FakeNvml
):
    proc_tree.stat(user=10, idle=90).process(7, 1).process(8, 7)
    powercap.zone("intel-rapl:0", "package-0", 1000)
    fake_nvml.gpu(0, energy_mj=0, util=80, limit_mw=400_000)
    clock = Clock()
    meter = node(proc_tree.root, powercap.root, clock, ProcessTreeSource(7, proc_tree.root))
    before = meter.read()
    for _ in range(15):
        clock.now_s += 1
        meter.sample()
    proc_tree.stat(user=25, idle=105).process(8, 7, own_ticks=900)
    powercap.count("intel-rapl:0", 5_001_000)
    fake_nvml.gpu(0, energy_mj=4_500_000)
    usage = usage_between(before, meter.read())
    meter.close()
    assert usage.duration_s == 15
    assert (usage.cpu_busy_s, usage.cpu_total_s) == (pytest.approx(15), pytest.approx(30))
    assert usage.package_energy_uj == 5_000_000
    assert usage.pod_cpu_s == pytest.approx(900 / os.sysconf("SC_CLK_TCK"))
    (gpu,) = usage.gpus
    assert (gpu.energy_mj, gpu.utilization) == (4_500_000, pytest.approx(0.8))


@pytest.mark.needs("gcc")
def test_gpus_opened_after_the_first_reading_count_from_their_opening(
    proc_tree: ProcTree, powercap: PowercapTree, fake_nvml: FakeNvml
):
    fake_nvml.gpu(0, energy_mj=1_000_000, util=80, limit_mw=400_000)
    clock = Clock()
    meter = NodeMeter(
        ProcMeter(proc_tree.root),
        RaplMeter(powercap.root, clock),
        NvmlMeter(lazy=True),
        PodLadder((), WholeNodeSource()),
        clock,
    )
    before = meter.read(gpus=False)
    assert before.gpus == ()
    meter.sample()
    clock.now_s += 15
    fake_nvml.gpu(0, energy_mj=4_000_000)
    (gpu,) = usage_between(before, meter.read()).gpus
    meter.close()
    assert gpu.energy_mj == 3_000_000


def test_a_machine_that_shows_nothing_still_gives_a_reading(tmp_path: Path):
    meter = node(tmp_path / "proc", tmp_path / "sys", Clock())
    meter.sample()
    reading = meter.read()
    assert (reading.cpu, reading.memory, reading.rapl, reading.gpus) == (None, None, None, ())
    assert not meter.needs_sampling
    names = [status.name for status in meter.status()]
    assert names == ["cpu-time", "memory", "rapl", "nvml", "pod"]


@dataclass
class LateSource:
    """A source whose counter is of half a minute ago."""

    name: PodMethod = "kubelet"
    needs: str = ""
    is_local: bool = True
    needs_sampling: bool = False

    def sample(self) -> None:
        """Nothing."""

    def read(self) -> PodReading:
        return PodReading(1.0, None, method=self.name, age_s=30.0)

    def status(self) -> tuple[MeterStatus, ...]:
        return ()


def test_a_counter_of_half_a_minute_ago_comes_with_the_nodes_of_that_moment(
    proc_tree: ProcTree, powercap: PowercapTree
):
    powercap.zone("intel-rapl:0", "package-0", 0)
    clock = Clock()
    meter = node(proc_tree.root, powercap.root, clock, LateSource())
    told = []
    for second in range(0, 61, 5):
        clock.now_s = 50.0 + second
        proc_tree.stat(user=second, idle=9 * second)
        powercap.count("intel-rapl:0", 1000 * second)
        meter.sample()
        if second % 15 == 0:
            told.append(meter.read().pod[-1].node_then)
    assert meter.needs_sampling
    assert told[:2] == [None, None], "nobody saw the node then"
    for then, second in zip(told[2:], (0, 15, 30), strict=True):
        assert then is not None
        assert (then.cpu.busy_s, then.cpu.total_s) == (second, 10 * second)
        assert then.rapl is not None
        assert then.rapl.energy_uj == 1000 * second


def test_threads_that_sample_and_read_at_once_count_nothing_twice(
    proc_tree: ProcTree, powercap: PowercapTree
):
    meter = node(proc_tree.root, powercap.zone("intel-rapl:0", "package-0", 0).root, Clock())
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        for step in range(200):
            (meter.read if step % 2 else meter.sample)()

    powercap.count("intel-rapl:0", 777)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reading = meter.read()
    assert reading.rapl is not None
    assert reading.rapl.energy_uj == 777
