import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.nvml import NvmlMeter
from sidecar.meters.reading import GpuReading, MeterStatus
from sidecar.node_meter.gpus import FORGET_S, NodeGpus
from sidecar.node_meter.grpc_unary import GrpcError
from sidecar.node_meter.mig_parts import MigParts
from sidecar.node_meter.pod_resources import PodDevices, PodName, PodResources
from tests.e2e.commands import PATIENCE_S
from tests.fakes.nvml.fixture import FakeNvml
from tests.fakes.pod_resources import FakePodResources

A, B = PodName("team", "a"), PodName("team", "b")
GPU0, GPU1 = (f"GPU-{n:08x}-0000-4000-8000-000000000000" for n in range(2))


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Counters:
    """GPUs whose counters a test sets."""

    needs_sampling = False

    def __init__(self, **energy_mj: int | None) -> None:
        self.energy_mj = dict(energy_mj)
        self.sliced: set[str] = set()

    def sample(self, monotonic_s: float) -> None:
        pass

    def read(self, monotonic_s: float) -> tuple[GpuReading, ...]:
        return tuple(
            GpuReading(
                f"GPU-{name}",
                "H100",
                energy_mj,
                "energy-counter",
                0.0,
                0.0,
                None,
                mig=name in self.sliced,
            )
            for name, energy_mj in self.energy_mj.items()
        )

    def status(self) -> tuple[MeterStatus, ...]:
        return (MeterStatus("nvml", available=True, detail="as a test says"),)

    def close(self) -> None:
        pass


class Holders:
    """Who holds what, as a test says."""

    def __init__(self) -> None:
        self.held: dict[PodName, tuple[str, ...]] = {}
        self.claim: set[PodName] = set()
        self.fails = False

    def pods(self) -> tuple[PodDevices, ...]:
        if self.fails:
            raise GrpcError("kubelet is away")
        return tuple(PodDevices(pod, ids, pod in self.claim) for pod, ids in self.held.items())

    def allocatable(self) -> tuple[str, ...]:
        return ()


class Scene:
    """Counters, holders and a clock that goes on with each look."""

    def __init__(self, **energy_mj: int | None) -> None:
        self.clock = Clock()
        self.boards = Counters(**energy_mj)
        self.holders = Holders()
        self.ended: set[PodName] = set()
        self.gpus = NodeGpus(
            self.boards, self.holders, MigParts(), self.ended.__contains__, self.clock
        )

    def look(self, **energy_mj: int | None) -> None:
        self.clock.now_s += 5
        self.boards.energy_mj |= energy_mj
        self.gpus.look()

    def of(self, pod: PodName) -> dict[str, int | None]:
        self.clock.now_s += 5
        return {gpu.uuid: gpu.pod_energy_mj for gpu in self.gpus.of(pod)}

    def rest(self) -> dict[str, int | None]:
        return {gpu.uuid: gpu.pod_energy_mj for gpu in self.gpus.unallocated()}


def test_all_energy_of_a_board_is_its_holders_from_when_it_has_it():
    scene = Scene(x=0, y=0)
    scene.look()
    scene.holders.held[A] = ("GPU-x",)
    scene.look(x=100)
    scene.look(x=400, y=50)
    assert scene.of(A) == {"GPU-x": 300, "GPU-y": 0}
    assert scene.rest() == {"GPU-x": 100, "GPU-y": 50}


def test_a_pod_that_let_go_keeps_what_it_had():
    scene = Scene(x=0)
    scene.holders.held[A] = ("GPU-x",)
    scene.look()
    scene.holders.held = {B: ("GPU-x",)}
    scene.look(x=100)
    scene.look(x=150)
    assert (scene.of(A), scene.of(B)) == ({"GPU-x": 100}, {"GPU-x": 50})


def test_a_slice_that_nvml_does_not_show_is_not_nothing():
    scene = Scene(x=0, y=0, z=0)
    scene.boards.sliced = {"x", "z"}
    scene.holders.held = {A: ("MIG-hidden",), B: ("GPU-z",)}
    scene.look()
    scene.look(x=100, y=50, z=30)
    assert scene.of(A) == {"GPU-x": None, "GPU-y": 0, "GPU-z": 0}
    assert scene.of(B) == {"GPU-x": 0, "GPU-y": 0, "GPU-z": 30}
    assert scene.rest() == {"GPU-x": None, "GPU-y": 50, "GPU-z": 0}
    assert [gpu.pod_share for gpu in scene.gpus.of(A)] == [None, 0.0, 0.0]


def test_a_claim_of_gpus_may_be_any_board_that_nobody_has_whole():
    scene = Scene(x=0, y=0)
    scene.holders.held, scene.holders.claim = {A: (), B: ("GPU-y",)}, {A}
    scene.look()
    scene.look(x=100, y=50)
    assert scene.of(A) == {"GPU-x": None, "GPU-y": 0}
    assert scene.of(B) == {"GPU-x": 0, "GPU-y": 50}
    assert scene.rest() == {"GPU-x": None, "GPU-y": 0}


def test_what_was_unclear_between_two_answers_is_told_once_and_is_never_unallocated():
    scene = Scene(x=0)
    scene.boards.sliced = {"x"}
    scene.holders.held[A] = ("MIG-hidden",)
    scene.look()
    scene.look(x=100)
    scene.holders.held = {}
    scene.look(x=140)
    scene.boards.energy_mj["x"] = 150
    scene.clock.now_s += 5
    assert scene.rest() == {"GPU-x": 10}
    assert (scene.of(A), scene.of(A)) == ({"GPU-x": None}, {"GPU-x": 0})


def test_a_request_reads_the_counters_anew():
    scene = Scene(x=0)
    scene.holders.held[A] = ("GPU-x",)
    scene.look()
    scene.boards.energy_mj["x"] = 70
    assert scene.of(A) == {"GPU-x": 70}


def test_a_pod_that_is_not_known_yet_is_looked_for_when_it_asks():
    scene = Scene(x=0)
    scene.look()
    scene.holders.held[A] = ("GPU-x",)
    assert scene.of(A) == {"GPU-x": 0}
    scene.boards.energy_mj["x"] = 70
    assert scene.of(A) == {"GPU-x": 70}


def test_while_kubelet_does_not_answer_its_last_answer_holds():
    scene = Scene(x=0)
    scene.holders.held[A] = ("GPU-x",)
    scene.look()
    scene.holders.fails = True
    scene.look(x=100)
    assert scene.of(A) == {"GPU-x": 100}
    assert scene.gpus.status()[1] == MeterStatus("pod-resources", False, "kubelet is away")


def test_before_kubelet_has_answered_nothing_is_said_of_whose_a_gpu_is():
    scene = Scene(x=0)
    scene.holders.fails = True
    scene.look(x=100)
    assert scene.of(A) == scene.rest() == {"GPU-x": None}
    scene.holders.fails = False
    scene.holders.held[A] = ("GPU-x",)
    scene.look(x=300)
    assert scene.of(A) == scene.rest() == {"GPU-x": 0}
    scene.look(x=310)
    assert (scene.of(A), scene.rest()) == ({"GPU-x": 10}, {"GPU-x": 0})


def test_a_pod_that_ended_holds_nothing_though_kubelet_lists_it():
    scene = Scene(x=0)
    scene.holders.held[A] = ("GPU-x",)
    scene.look()
    scene.ended.add(A)
    scene.look(x=100)
    scene.look(x=250)
    assert (scene.of(A), scene.rest()) == ({"GPU-x": 100}, {"GPU-x": 150})


def test_what_a_forgotten_pod_had_stays_in_the_sum():
    scene = Scene(x=0)
    scene.holders.held[A] = ("GPU-x",)
    scene.look()
    scene.holders.held.clear()
    scene.look(x=100)
    scene.clock.now_s += FORGET_S
    scene.look(x=150)
    assert scene.rest() == {"GPU-x": 50}
    assert A not in scene.gpus._boards["GPU-x"].pods_mj


def test_a_board_without_a_counter_still_tells_its_shares():
    scene = Scene(x=None)
    scene.holders.held = {A: ("GPU-x::0",), B: ("GPU-x::1",)}
    scene.look()
    (reading,) = scene.gpus.of(A)
    assert (reading.pod_energy_mj, reading.pod_share) == (None, 0.5)


def test_a_counter_that_went_back_counts_nothing():
    scene = Scene(x=500)
    scene.holders.held[A] = ("GPU-x",)
    scene.look()
    scene.look(x=100)
    scene.look(x=130)
    assert scene.of(A) == {"GPU-x": 30}


def test_a_driver_that_hangs_holds_up_no_answer_for_long(monkeypatch):
    monkeypatch.setattr("sidecar.node_meter.gpus.PATIENCE_S", 0.05)
    scene = Scene(x=0)
    scene.look()
    hanging, goes_on = threading.Event(), threading.Event()

    def hang(monotonic_s: float) -> None:
        hanging.set()
        assert goes_on.wait(PATIENCE_S)

    scene.boards.sample = hang
    stuck = threading.Thread(target=scene.gpus.sample)
    stuck.start()
    assert hanging.wait(PATIENCE_S)
    assert scene.gpus.of(A) == ()
    goes_on.set()
    stuck.join()
    assert scene.of(A) == {"GPU-x": 0}


def test_a_kubelet_that_hangs_holds_up_no_answer():
    scene = Scene(x=0)
    scene.look()
    hanging, goes_on = threading.Event(), threading.Event()

    def hang() -> tuple[PodDevices, ...]:
        hanging.set()
        assert goes_on.wait(PATIENCE_S)
        return ()

    scene.holders.pods = hang
    scene.clock.now_s += 5
    stuck = threading.Thread(target=scene.gpus.look)
    stuck.start()
    assert hanging.wait(PATIENCE_S)
    assert scene.of(A) == {"GPU-x": 0}
    goes_on.set()
    stuck.join()


POD_IDS = st.dictionaries(
    st.sampled_from([A, B, PodName("other", "a")]),
    st.lists(st.sampled_from(["GPU-x", "GPU-y", "GPU-x::0", "GPU-x::1", "GPU-y::2"])).map(tuple),
)


@given(st.lists(st.tuples(POD_IDS, st.integers(0, 999), st.integers(0, 999), st.booleans())))
def test_pods_and_what_nobody_had_are_all_of_each_board(steps):
    scene = Scene(x=0, y=0)
    scene.look()
    before = {"GPU-x": 0, "GPU-y": 0}
    for held, x_mj, y_mj, fails in steps:
        scene.holders.held, scene.holders.fails = held, fails
        x, y = scene.boards.energy_mj["x"], scene.boards.energy_mj["y"]
        scene.look(x=x + x_mj, y=y + y_mj)
        pods = [scene.of(pod) for pod in (A, B, PodName("other", "a"))]
        rest = scene.rest()
        for name in ("x", "y"):
            uuid = f"GPU-{name}"
            parts = [pod[uuid] for pod in pods]
            assert sum(parts) + rest[uuid] == scene.boards.energy_mj[name]
            assert rest[uuid] >= before[uuid]
        before = rest


# -- with NVML and a kubelet -----------------------------------------------------------------------


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[FakePodResources]:
    with FakePodResources(tmp_path / "kubelet.sock") as fake:
        yield fake


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gpus(fake_nvml: FakeNvml, kubelet: FakePodResources, clock: Clock) -> Iterator[NodeGpus]:
    made = NodeGpus(NvmlMeter(lazy=True), PodResources(kubelet.path), MigParts(), clock=clock)
    yield made
    made.close()


@pytest.mark.needs("gcc")
@pytest.mark.parametrize(
    "board",
    [
        ("NVIDIA A100-SXM4-80GB", 7, "1,2,3", 1 / 7),
        ("NVIDIA A100-SXM4-80GB", None, "3,2,1", 3 / 7),
        ("NVIDIA H100 80GB HBM3", 7, "7", 1.0),
        ("NVIDIA A30", 4, "2,2", 0.5),
        ("NVIDIA A30", None, "1,2", 0.25),
    ],
)
def test_a_mig_device_has_its_slices_of_the_boards_energy(fake_nvml, kubelet, gpus, clock, board):
    model, most, slices, share = board
    fake_nvml.gpu(0, name=model, energy_mj=0, mig=1, mig_max=most, mig_slices=slices)
    fake_nvml.gpu(0, mig_uuids=",".join(f"MIG-{n}" for n in range(len(slices.split(",")))))
    kubelet.give("team", "a", "MIG-0")
    gpus.look()
    fake_nvml.gpu(0, energy_mj=70_000)
    clock.now_s += 5
    (reading,) = gpus.of(A)
    assert reading.mig
    assert reading.pod_energy_mj == int(70_000 * share)
    assert reading.share_method == "node-meter"


@pytest.mark.needs("gcc")
def test_replicas_of_a_time_sliced_gpu_have_their_part_and_the_rest_is_nobodys(
    fake_nvml, kubelet, gpus, clock
):
    fake_nvml.gpu(0, energy_mj=0)
    kubelet.allocatable = [f"{GPU0}::{number}" for number in range(4)]
    kubelet.give("team", "a", f"{GPU0}::0")
    kubelet.give("team", "b", f"{GPU0}::1", f"{GPU0}::3")
    gpus.look()
    fake_nvml.gpu(0, energy_mj=4000)
    clock.now_s += 5
    told = [gpus.of(A)[0].pod_energy_mj, gpus.of(B)[0].pod_energy_mj]
    assert (told, gpus.unallocated()[0].pod_energy_mj) == ([1000, 2000], 1000)


@pytest.mark.needs("gcc")
def test_a_driver_that_is_loaded_anew_doubles_nothing(fake_nvml, kubelet, gpus, clock):
    fake_nvml.gpu(0, energy_mj=90_000)
    kubelet.give("team", "a", GPU0)
    gpus.look()
    fake_nvml.gpu(0, energy_mj=95_000)
    clock.now_s += 5
    gpus.look()
    fake_nvml.set({"epoch": 2, "0.energy_mj": 10})
    for _ in range(20):
        clock.now_s += 5
        gpus.look()
    fake_nvml.gpu(0, energy_mj=1_010)
    clock.now_s += 5
    assert gpus.of(A)[0].pod_energy_mj in (6_000, 6_010)


@pytest.mark.needs("gcc")
def test_without_gpus_kubelet_is_not_asked(fake_nvml, kubelet, gpus):
    gpus.look()
    assert gpus.of(A) == ()
    assert kubelet.calls == []


@pytest.mark.needs("gcc")
def test_a_kubelet_that_limits_calls_is_asked_again(fake_nvml, kubelet, gpus, clock):
    fake_nvml.gpu(0, energy_mj=0)
    kubelet.give("team", "a", GPU0)
    kubelet.failure = (grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
    gpus.look()
    assert not gpus.status()[1].available
    kubelet.failure = None
    clock.now_s += 5
    gpus.look()
    assert gpus.status()[1].detail == "kubelet tells who holds devices: 1 pod"
