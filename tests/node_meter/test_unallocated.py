"""What the node's own records say no pod used, beside what its pods' sidecars would say they did."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.estimate.attribution import shares_of
from sidecar.meters.pod.cgroup_tree import CgroupTree
from sidecar.meters.pod.requests import Reservation
from sidecar.meters.reading import CpuReading, GpuReading, MemoryReading, NodeReading, PodReading
from sidecar.meters.usage import usage_between
from sidecar.node_meter.gpus import NodeGpus
from sidecar.node_meter.mig_parts import MigParts
from sidecar.node_meter.pod_resources import PodName
from sidecar.node_meter.pods import NodePods, PodUse
from sidecar.node_meter.unallocated import UnallocatedGpus, UnallocatedSource
from tests.node_meter.cgroup_node import CgroupNode
from tests.node_meter.test_gpus import Clock, Counters, Holders

CPUS = 96
TOTAL_BYTES = 1 << 40
UIDS = ("aaaa-1", "bbbb-2", "cccc-3")
WEIGHTS = (39, 1, 400)
NAMES = tuple(PodName("team", uid) for uid in UIDS)


class Node:
    """A node with three pods and two GPUs; its own records' meters, and its pods' answers."""

    def __init__(self, root: Path) -> None:
        self.clock = Clock()
        self.cgroups = CgroupNode(root)
        self.boards, self.holders = Counters(x=0, y=0), Holders()
        for uid, weight in zip(UIDS, WEIGHTS, strict=True):
            self.cgroups.add(uid, weight=weight)
        self.used = dict.fromkeys(UIDS, 0.0)
        self.busy_s = 0.0
        self.pods = NodePods(self.cgroups.tree, self.clock)
        self.gpus = NodeGpus(self.boards, self.holders, MigParts(), clock=self.clock)
        self.source, self.meter = UnallocatedSource(self.pods), UnallocatedGpus(self.gpus)

    def pass_time(self, seconds: float, cpu_s: list[float], memory: list[int]) -> None:
        self.clock.now_s += seconds
        for uid, used_s, size in zip(UIDS, cpu_s, memory, strict=True):
            self.used[uid] += used_s * seconds
            self.cgroups.use(uid, self.used[uid], size)
        self.busy_s += seconds * (sum(cpu_s) + 1.0)

    def reading(self, pod: PodReading, gpus: tuple[GpuReading, ...]) -> NodeReading:
        now_s = self.clock.now_s
        return NodeReading(
            monotonic_s=now_s,
            cpu=CpuReading(self.busy_s, CPUS * now_s, CPUS),
            memory=MemoryReading(TOTAL_BYTES, TOTAL_BYTES // 2),
            rapl=None,
            gpus=gpus,
            pod=(pod,),
        )

    def own(self) -> NodeReading:
        return self.reading(self.source.read(), self.meter.read(0.0))

    def of_pods(self) -> list[NodeReading]:
        answers = [(self.pods.read(uid), name) for uid, name in zip(UIDS, NAMES, strict=True)]
        return [self.reading(_pod_reading(use), self.gpus.of(name)) for use, name in answers]


def _pod_reading(use: PodUse | None) -> PodReading:
    assert use is not None
    return PodReading(use.cpu_s, use.working_set_bytes, use.memory_byte_s, "node-meter")


SHARE = st.floats(0, 20)
SIZE = st.integers(0, 1 << 38)


@given(
    st.lists(
        st.tuples(
            st.floats(1, 60), st.lists(SHARE, min_size=3, max_size=3),
            st.lists(SIZE, min_size=3, max_size=3), st.tuples(st.integers(0, 10**9), st.integers(0, 9)),
            st.lists(st.sampled_from(["GPU-x", "GPU-y", "GPU-x::0", "GPU-x::1", "no"]),
                     min_size=3, max_size=3),
        ),
        min_size=1, max_size=5,
    )
)  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_pods_and_unallocated_are_the_node_to_1e_9(tmp_path_factory, windows):
    node = Node(tmp_path_factory.mktemp("node") / "cgroup")
    node.pods.look()
    node.gpus.look()
    before, pods_before = node.own(), node.of_pods()
    reserved = [max(0.0, (2 + (weight - 1) * 262142 / 9999) / 1024) for weight in WEIGHTS]
    reserved[1] = 0.0
    for seconds, cpu_s, memory, (x_mj, y_mj), held in windows:
        node.holders.held = {name: (one,) for name, one in zip(NAMES, held, strict=True)}
        node.pass_time(seconds, cpu_s, memory)
        node.boards.energy_mj["x"] += x_mj
        node.boards.energy_mj["y"] += y_mj
        node.gpus.look()
        after, pods_after = node.own(), node.of_pods()
        usage = usage_between(before, after)
        rest = shares_of(usage, Reservation(), 2)
        pods = [usage_between(*ends) for ends in zip(pods_before, pods_after, strict=True)]
        told = [
            shares_of(pod, Reservation(cpus=cpus, memory_gib=0, gpus=0), 2)
            for pod, cpus in zip(pods, reserved, strict=True)
        ]
        for part in ("cpu", "idle", "ram"):
            whole = sum(getattr(one, part) for one in told) + getattr(rest, part)
            assert whole == pytest.approx(1.0, abs=1e-9)
        for index, gpu in enumerate(usage.gpus):
            if gpu.energy_mj:
                parts = [pod.gpus[index].pod_share for pod in pods]
                assert sum(parts) + gpu.pod_share == pytest.approx(1.0, abs=1e-9)
        before, pods_before = after, pods_after


def test_what_no_pod_reserved_or_used_is_the_rest(tmp_path: Path):
    node = Node(tmp_path / "cgroup")
    node.pods.look()
    before = node.own()
    node.pass_time(10.0, [3.0, 0.0, 0.0], [0, 0, 0])
    usage = usage_between(before, node.own())
    assert usage.pod_method == "unallocated"
    shares = shares_of(usage, Reservation(), 2)
    assert shares.cpu == pytest.approx(1 - 3 / 4)
    assert shares.idle == pytest.approx(1 - usage.pod_reserved_cpu_s / (CPUS * 10))


def test_a_node_whose_cgroups_cannot_be_read_claims_nothing(tmp_path: Path):
    reading = UnallocatedSource(NodePods(CgroupTree(tmp_path))).read()
    assert (reading.cpu_s, reading.memory_byte_s, reading.method) == (None, None, "unallocated")


def test_the_gpus_are_let_go_at_the_end():
    gpus = NodeGpus(Counters(x=1), Holders(), MigParts(), clock=Clock())
    meter = UnallocatedGpus(gpus)
    assert [reading.uuid for reading in meter.read(0.0)] == ["GPU-x"]
    meter.close()
    assert meter.status()[0].available
