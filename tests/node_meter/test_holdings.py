import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.node_meter.holdings import MigPart, holdings
from sidecar.node_meter.pod_resources import PodDevices, PodName

A, B, C = (PodName("team", name) for name in "abc")


def shares(pods, allocatable=(), mig=None):
    held = [PodDevices(pod, tuple(ids)) for pod, ids in pods.items()]
    return holdings(held, allocatable, (mig or {}).get).shares


def test_a_whole_board_is_all_its_pods():
    assert shares({A: ["GPU-1", "GPU-2"], B: ["GPU-3"]}) == {
        "GPU-1": {A: 1.0},
        "GPU-2": {A: 1.0},
        "GPU-3": {B: 1.0},
    }


def test_a_replica_is_one_of_those_that_can_be_allocated():
    allocatable = [f"GPU-1::{number}" for number in range(4)]
    held = shares({A: ["GPU-1::0", "GPU-1::2"], B: ["GPU-1::3"]}, allocatable)
    assert held == {"GPU-1": {A: 0.5, B: 0.25}}


def test_where_nobody_tells_how_many_replicas_there_are_those_held_share_the_board():
    assert shares({A: ["GPU-1::0"], B: ["GPU-1::7"]}) == {"GPU-1": {A: 0.5, B: 0.5}}


@pytest.mark.parametrize("slices", [1, 2, 3, 4, 7])
def test_a_mig_device_is_its_slices_of_the_board(slices: int):
    mig = {"MIG-x": MigPart("GPU-1", slices / 7)}
    assert shares({A: ["MIG-x"]}, mig=mig)["GPU-1"][A] == pytest.approx(slices / 7)


def test_a_replica_of_a_mig_device_is_a_part_of_its_slices():
    mig = {"MIG-x": MigPart("GPU-1", 2 / 4)}
    held = shares({A: ["MIG-x::1"]}, ["MIG-x::0", "MIG-x::1"], mig)
    assert held == {"GPU-1": {A: 0.25}}


def test_seven_slices_of_one_pod_are_the_whole_board():
    mig = {f"MIG-{number}": MigPart("GPU-1", 1 / 7) for number in range(7)}
    assert shares({A: [*mig]}, mig=mig) == {"GPU-1": {A: 1.0}}


def test_a_board_that_two_pods_hold_is_shared():
    assert shares({A: ["GPU-1"], B: ["GPU-1"]}) == {"GPU-1": {A: 0.5, B: 0.5}}


@pytest.mark.parametrize("name", ["MIG-unknown", "0000:0b:00.0", "eth0", "", "::3"])
def test_what_is_no_gpu_of_nvidia_is_held_by_nobody(name: str):
    assert shares({A: [name]}) == {}


def test_who_holds_a_slice_that_cannot_be_placed_is_told_apart_from_who_holds_none():
    found = holdings(
        [PodDevices(A, ("MIG-gone", "GPU-1")), PodDevices(B, ("GPU-2", "eth0"))], (), {}.get
    )
    assert (found.unplaced_slices, found.unplaced) == ({A}, frozenset())
    assert found.shares == {"GPU-1": {A: 1.0}, "GPU-2": {B: 1.0}}


def test_who_claims_gpus_may_hold_any():
    found = holdings([PodDevices(A, (), claims_gpus=True), PodDevices(B, ("GPU-2",))], (), {}.get)
    assert (found.unplaced_slices, found.unplaced) == (frozenset(), {A})


IDS = st.sampled_from(
    [*(f"GPU-{n}" for n in range(2)), *(f"GPU-{n}::{r}" for n in range(2) for r in range(3)),
     *(f"MIG-{n}" for n in range(5)), "MIG-0::1", "x"]
)  # fmt: skip


@given(
    st.dictionaries(st.sampled_from([A, B, C]), st.sets(IDS)),
    st.sets(IDS),
    st.lists(st.floats(0.01, 1), min_size=5, max_size=5),
)
def test_nobody_holds_more_than_there_is(pods, allocatable, parts):
    mig = {f"MIG-{n}": MigPart(f"GPU-{n % 2}", part) for n, part in enumerate(parts)}
    for held in shares(pods, allocatable, mig).values():
        assert sum(held.values()) <= 1.0 + 1e-12
        assert all(share > 0 for share in held.values())
