from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.pod.cgroup_tree import (
    CgroupTree,
    CgroupUnreadableError,
    cpus_of_shares,
    shares_of_weight,
)
from tests.meters.pod.cgroup_files import (
    BEST_EFFORT,
    BURSTABLE,
    GUARANTEED,
    STATIC,
    TREES,
    copied,
    directory_of,
)

NODES = ["v2-systemd", "v2-cgroupfs", "v2-kind", "v1-systemd", "v1-cgroupfs"]
STATIC_PODS = {"v2-systemd": {STATIC}}


@pytest.fixture
def node(tmp_path: Path) -> Path:
    return copied("v2-systemd", tmp_path)


@pytest.mark.parametrize("layout", NODES)
def test_all_pods_of_a_node_are_listed_and_nothing_else(layout: str):
    pods = CgroupTree(TREES / layout).pods()
    assert pods.keys() == {GUARANTEED, BURSTABLE, BEST_EFFORT} | STATIC_PODS.get(layout, set())


@pytest.mark.parametrize("layout", NODES)
def test_a_pod_looked_up_is_the_one_in_the_list(layout: str):
    tree = CgroupTree(TREES / layout)
    pods = tree.pods()
    assert len(pods) >= 3
    assert {uid: tree.pod(uid) for uid in pods} == pods


@pytest.mark.parametrize("layout", NODES)
def test_a_pods_cpu_time_is_that_of_all_its_containers_together(layout: str):
    pod = CgroupTree(TREES / layout).pod(GUARANTEED)
    assert pod is not None
    assert pod.read().cpu_s == pytest.approx(7384.512913, abs=1e-6)


@pytest.mark.parametrize("layout", NODES)
def test_the_working_set_is_used_memory_without_inactive_file_pages(layout: str):
    pod = CgroupTree(TREES / layout).pod(BURSTABLE)
    assert pod is not None
    assert pod.read().working_set_bytes == 1_288_490_188 - 268_435_456


@pytest.mark.parametrize("layout", NODES)
def test_more_inactive_pages_than_memory_are_a_working_set_of_nothing(layout: str):
    pod = CgroupTree(TREES / layout).pod(BEST_EFFORT)
    assert pod is not None
    assert pod.read().working_set_bytes == 0


@pytest.mark.parametrize("layout", NODES)
def test_the_reserved_cpus_are_read_from_the_weight_within_its_step(layout: str):
    pods = CgroupTree(TREES / layout).pods()
    requests = {uid: pods[uid].read().cpu_request for uid in (GUARANTEED, BURSTABLE, BEST_EFFORT)}
    assert requests[BEST_EFFORT] == 0.0
    assert 6.0 - 0.026 <= requests[GUARANTEED] <= 6.0
    assert 0.5 - 0.026 <= requests[BURSTABLE] <= 0.5


@given(st.integers(0, 250_000))
def test_a_reservation_is_never_overstated_nor_understated_by_more_than_a_step(milli_cpu: int):
    # The kubelet's own arithmetic, in integers: MilliCPUToShares, getCPUWeight
    shares = min(max(2, milli_cpu * 1024 // 1000), 262_144)
    weight = 1 + ((shares - 2) * 9999) // 262_142
    cpus = cpus_of_shares(shares_of_weight(weight))
    assert cpus <= shares / 1024
    assert cpus >= shares / 1024 - 262_142 / 9999 / 1024 - 2 / 1024
    assert cpus_of_shares(shares) == pytest.approx(milli_cpu / 1000, abs=0.003)


def test_best_effort_reserves_nothing():
    assert cpus_of_shares(shares_of_weight(1)) == 0.0
    assert cpus_of_shares(2) == 0.0


def test_a_pod_that_comes_is_seen_at_the_next_listing(node: Path):
    tree = CgroupTree(node)
    before = tree.pods()
    uid = "00000000-0000-0000-0000-00000000000a"
    path = node / f"kubepods.slice/kubepods-pod{uid.replace('-', '_')}.slice"
    path.mkdir()
    assert tree.pods().keys() - before.keys() == {uid}


def test_a_pod_that_goes_away_between_listing_and_reading_is_an_os_error(node: Path):
    pod = CgroupTree(node).pods()[BURSTABLE]
    directory_of(node, BURSTABLE).rename(node / "gone")
    with pytest.raises(FileNotFoundError):
        pod.read()
    assert CgroupTree(node).pod(BURSTABLE) is None


def test_without_the_memory_controller_cpu_time_is_still_told(node: Path):
    for file in directory_of(node, BURSTABLE).glob("memory.*"):
        file.unlink()
    (directory_of(node, BURSTABLE) / "cpu.weight").unlink()
    counters = CgroupTree(node).pods()[BURSTABLE].read()
    assert (counters.working_set_bytes, counters.cpu_request) == (None, None)
    assert counters.cpu_s > 0


@pytest.mark.parametrize(
    "content",
    [
        "",
        "usage_usec",
        "usage_usec 12",  # half a line: the number may go on
        "usage_usec -5\n",
        "usage_usec nan\n",
        "usage_usec 1e9\n",
        "usage_usec 99999999999999999999\n",
        "usage_usec 18446744073709551616\n",
        "usage_usec ²\n",
        "xusage_usec 5\n",
        f"usage_usec {'9' * 100_000}\n",
        "\0" * 2_000_000,
    ],
)
def test_what_is_no_counter_is_refused_and_named(node: Path, content: str):
    path = directory_of(node, BURSTABLE) / "cpu.stat"
    path.write_text(content)
    with pytest.raises(CgroupUnreadableError, match=r"cpu\.stat") as raised:
        CgroupTree(node).pods()[BURSTABLE].read()
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("uid", ["", "..", "../..", "a/b", "A" * 100, "x\0y", "*", "-", "a_b"])
def test_what_is_no_uid_finds_no_pod(node: Path, uid: str):
    assert CgroupTree(node).pod(uid) is None


@given(st.text(max_size=80))
def test_no_text_for_a_uid_raises(uid: str):
    pod = CgroupTree(TREES / "v2-systemd").pod(uid)
    assert pod is None or pod.uid == uid


@pytest.mark.parametrize(
    "name",
    [
        "kubepods-pod.slice",
        "kubepods-pod..slice",
        "kubepods-podUPPER.slice",
        f"kubepods-pod{'a' * 64}.slice",
        "kubepods-pod1f0e",
        "pod1f0e",
        "crio-1f0e.scope",
    ],
)
def test_directories_of_others_are_no_pods(node: Path, name: str):
    (node / "kubepods.slice" / name).mkdir()
    assert CgroupTree(node).pods().keys() == {GUARANTEED, BURSTABLE, BEST_EFFORT, STATIC}


def test_a_whole_node_has_no_problem():
    assert CgroupTree(TREES / "v2-systemd").problem() is None


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ("v2-private-namespace", "this container's own cgroup only (private cgroup namespace)"),
        ("missing", "no cgroups with CPU time below"),
        ("README.md", "no cgroups with CPU time below"),
    ],
)
def test_where_no_pods_can_be_found_it_says_why(layout: str, words: str):
    tree = CgroupTree(TREES / layout)
    assert tree.pods() == {}
    assert tree.pod(GUARANTEED) is None
    problem = tree.problem()
    assert problem is not None
    assert words in problem


def test_a_machine_without_a_kubelet_is_told_from_a_container(tmp_path: Path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    problem = CgroupTree(tmp_path).problem()
    assert problem is not None
    assert "not the cgroups of a Kubernetes node" in problem


def test_a_kubelet_that_starts_later_is_found(tmp_path: Path):
    tree = CgroupTree(tmp_path / "v2-systemd")
    assert tree.pod(GUARANTEED) is None
    copied("v2-systemd", tmp_path)
    assert tree.pod(GUARANTEED) is not None
