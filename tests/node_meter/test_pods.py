import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.meters.pod.cgroup_tree import CgroupTree
from sidecar.node_meter.pods import FORGET_S, REQUEST_PERIOD_S, NodePods
from tests.meters.pod.cgroup_files import BURSTABLE, TREES
from tests.node_meter.cgroup_node import CgroupNode

A, B, C = "aaaa-1", "bbbb-2", "cccc-3"


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node(tmp_path: Path) -> CgroupNode:
    return CgroupNode(tmp_path / "cgroup")


@pytest.fixture
def pods(node: CgroupNode, clock: Clock) -> NodePods:
    return NodePods(node.tree, clock)


def cpu_s(pods: NodePods) -> float:
    total = pods.total()
    assert total is not None
    return total.cpu_s


@pytest.mark.parametrize("tree", ["v2-systemd", "v2-cgroupfs", "v1-systemd", "v1-cgroupfs"])
def test_a_pod_has_the_counter_of_its_cgroup(tree: str):
    use = NodePods(CgroupTree(TREES / tree)).read(BURSTABLE)
    assert use is not None
    assert use.cpu_s == pytest.approx(91.203877)


def test_what_was_used_before_the_first_look_is_in_no_sum(node, pods):
    node.add(A, cpu_s=1000.0)
    pods.look()
    node.use(A, 1002.5)
    pods.look()
    assert cpu_s(pods) == pytest.approx(2.5)
    assert pods.read(A).cpu_s == pytest.approx(1002.5)


def test_all_that_a_new_pod_used_is_in_the_sum(node, pods):
    node.add(A)
    pods.look()
    node.add(B, cpu_s=3.0)
    pods.look()
    assert cpu_s(pods) == pytest.approx(3.0)


def test_a_pod_that_ended_keeps_what_it_was_seen_to_use(node, pods):
    node.add(A)
    node.add(B)
    pods.look()
    node.use(B, 4.0)
    pods.look()
    node.end(B)
    pods.look()
    assert (cpu_s(pods), pods.total().pods) == (pytest.approx(4.0), 1)
    assert pods.read(B) is None


def test_a_request_reads_the_pod_anew_and_the_sum_has_it_once(node, pods):
    node.add(A)
    pods.look()
    node.use(A, 5.0)
    assert pods.read(A).cpu_s == pytest.approx(5.0)
    pods.look()
    assert cpu_s(pods) == pytest.approx(5.0)


def test_one_bad_reading_counts_nothing_when_the_counter_is_back(node, pods):
    node.add(A, cpu_s=50.0)
    pods.look()
    for counter_s in (1.0, 51.0):
        node.use(A, counter_s)
        pods.look()
    assert cpu_s(pods) == pytest.approx(1.0)


def test_a_counter_that_began_anew_goes_on_from_where_that_is_sure(node, pods):
    node.add(A, cpu_s=50.0)
    pods.look()
    for counter_s in (1.0, 3.0, 4.0):
        node.use(A, counter_s)
        pods.look()
    assert cpu_s(pods) == pytest.approx(3.0)
    assert pods.read(A).cpu_s == pytest.approx(53.0)


def test_memory_is_integrated_for_each_pod_and_for_all(node, pods, clock):
    node.add(A, memory=1000)
    node.add(B, memory=500)
    pods.look()
    clock.now_s += 10
    node.use(A, 0.0, memory=3000)
    pods.look()
    assert pods.read(A).memory_byte_s == pytest.approx(20_000)
    assert pods.total().memory_byte_s == pytest.approx(25_000)
    assert pods.total().working_set_bytes == 3500


def test_reserved_cpus_are_integrated_while_a_pod_is_there(node, pods, clock):
    node.add(A, weight=39)
    node.add(B, weight=1)
    pods.look()
    clock.now_s += 10
    pods.look()
    node.end(A)
    clock.now_s += 10
    pods.look()
    assert pods.total().reserved_cpu_s == pytest.approx(10 * (2 + 38 * 262142 / 9999) / 1024)


def test_a_pod_that_is_resized_reserves_what_it_has_from_then_on(node, pods, clock):
    node.add(A, weight=1)
    pods.look()
    (node.root / f"kubepods.slice/kubepods-pod{A.replace('-', '_')}.slice/cpu.weight").write_text(
        "39"
    )
    clock.now_s += REQUEST_PERIOD_S
    pods.look()
    clock.now_s += 1
    pods.look()
    assert pods.total().reserved_cpu_s == pytest.approx((2 + 38 * 262142 / 9999) / 1024)


def test_a_pod_that_is_gone_for_long_is_forgotten_but_not_what_it_used(node, pods, clock):
    node.add(A)
    pods.look()
    node.add(B, cpu_s=7.0)
    pods.look()
    node.end(B)
    clock.now_s += FORGET_S + 1
    pods.look()
    assert B not in pods._tallies
    assert cpu_s(pods) == pytest.approx(7.0)


def test_without_cgroups_there_is_no_sum_and_the_status_says_why(tmp_path: Path):
    pods = NodePods(CgroupTree(tmp_path))
    pods.look()
    assert pods.total() is None
    assert "no cgroups" in pods.status().detail


def test_a_tree_that_is_away_for_a_while_doubles_nothing(node, pods, clock, tmp_path):
    node.add(A, cpu_s=5.0)
    pods.look()
    shutil.move(node.root, tmp_path / "away")
    clock.now_s += FORGET_S + 1
    pods.look()
    assert pods.total() is None
    shutil.move(tmp_path / "away", node.root)
    node.use(A, 6.0)
    pods.look()
    assert cpu_s(pods) == pytest.approx(1.0)


STEPS = st.lists(
    st.tuples(st.sampled_from([A, B, C]), st.sampled_from(["use", "end", "ask", "look"]),
              st.integers(0, 10)),
    max_size=25,
)  # fmt: skip


@given(STEPS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_pods_that_come_and_go_sum_up_to_no_more_than_they_used(tmp_path_factory, steps):
    clock = Clock()
    node = CgroupNode(tmp_path_factory.mktemp("node") / "cgroup")
    pods = NodePods(node.tree, clock)
    node.add("first", cpu_s=9.0)
    pods.look()
    used: dict[str, float] = {}
    ended_s = seen_s = 0.0
    generation = 0
    for name, action, amount in steps:
        uid = f"{name}-{generation}"
        clock.now_s += 1
        if action == "use":
            if uid not in used:
                used[uid] = 0.0
                node.add(uid)
            used[uid] += amount
            node.use(uid, used[uid])
        elif action == "end" and uid in used:
            pods.look()
            ended_s += used.pop(uid)
            node.end(uid)
            generation += 1
        elif action == "ask" and uid in used:
            assert pods.read(uid).cpu_s == pytest.approx(used[uid])
        else:
            pods.look()
        assert cpu_s(pods) >= seen_s
        seen_s = cpu_s(pods)
        assert seen_s <= ended_s + sum(used.values()) + 1e-9
    pods.look()
    assert cpu_s(pods) == pytest.approx(ended_s + sum(used.values()))
