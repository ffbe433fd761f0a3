from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.gpu_scope import LOOK_AGAIN_S, PodGpus, ScopedGpus, scoped
from sidecar.meters.reading import GpuReading, MeterStatus


def board(uuid: str, **known: object) -> GpuReading:
    reading = GpuReading(
        uuid=uuid,
        model="NVIDIA A100-SXM4-80GB",
        energy_mj=1000,
        energy_source="energy-counter",
        utilization_s=0.0,
        observed_s=0.0,
        power_limit_w=400.0,
    )
    return replace(reading, **known)  # type: ignore[arg-type]


BOARDS = tuple(board(f"GPU-{name}") for name in "abcd")


def shares(readings: tuple[GpuReading, ...], pod: PodGpus) -> list[float | None]:
    return [reading.pod_share for reading in scoped(readings, pod)]


def methods(readings: tuple[GpuReading, ...], pod: PodGpus) -> set[str | None]:
    return {reading.share_method for reading in scoped(readings, pod)}


def test_what_the_meter_tells_comes_first():
    told = (
        board("GPU-a", pod_share=0.0, share_method="dcgm"),
        board("GPU-b", pod_energy_mj=300, share_method="dcgm"),
    )
    pod = PodGpus(requested=2, visible_devices="GPU-a", replicas=4)
    assert scoped(told, pod) == told


def test_a_pod_that_requests_all_gpus_there_are_has_them():
    pod = PodGpus(requested=4)
    assert shares(BOARDS, pod) == [1.0] * 4
    assert methods(BOARDS, pod) == {"all-requested"}


@pytest.mark.parametrize("requested", [None, 0, 3, 5, float("nan")])
def test_any_other_request_leaves_the_share_to_the_request(requested: float | None):
    assert shares(BOARDS, PodGpus(requested=requested)) == [None] * 4


def test_no_request_of_no_gpus_is_no_ownership():
    assert scoped((), PodGpus(requested=0)) == ()


def test_one_gpu_of_a_node_whose_board_is_sliced_may_be_one_slice():
    """Under the device plugin's strategy "single" a slice is requested as nvidia.com/gpu: 1."""
    assert shares((board("GPU-a", mig=True),), PodGpus(requested=1)) == [None]


def test_the_boards_that_the_pod_names_are_its_own_and_the_others_are_not():
    pod = PodGpus(requested=2, visible_devices="GPU-b,GPU-d")
    assert shares(BOARDS, pod) == [0.0, 1.0, 0.0, 1.0]
    assert methods(BOARDS, pod) == {"visible-devices"}


@pytest.mark.parametrize("text", ["all", "void", "none", "", "0,1", "GPU-zzz", "MIG-1", "all,0"])
def test_names_that_name_no_board_tell_nothing(text: str):
    assert shares(BOARDS, PodGpus(requested=2, visible_devices=text)) == [None] * 4


def test_the_share_of_a_sliced_board_is_for_the_meter_to_tell():
    readings = (
        board("GPU-a", mig=True, pod_share=2 / 7, share_method="nvml"),
        board("GPU-b", mig=True),
        board("GPU-c"),
    )
    assert shares(readings, PodGpus(visible_devices="MIG-1")) == [2 / 7, None, 0.0]


def test_a_whole_board_named_leaves_nothing_of_the_sliced_ones():
    readings = (board("GPU-a"), board("GPU-b", mig=True))
    assert shares(readings, PodGpus(requested=1, visible_devices="GPU-a")) == [1.0, 0.0]


def test_golden_time_slicing_by_four_gives_a_quarter_for_each_replica_held():
    pod = PodGpus(requested=1, replicas=4)
    assert shares((board("GPU-a"),), pod) == [0.25]
    assert methods((board("GPU-a"),), pod) == {"time-slicing"}


def test_replicas_are_spread_over_the_boards_that_the_pod_names():
    pod = PodGpus(requested=3, visible_devices="GPU-a,GPU-b", replicas=4)
    assert shares(BOARDS, pod) == [3 / 8, 3 / 8, 0.0, 0.0]


def test_replicas_are_spread_over_all_boards_where_none_is_named():
    assert shares(BOARDS, PodGpus(requested=4, replicas=4)) == [0.25] * 4


def test_replicas_of_an_unknown_request_are_unknown():
    assert shares(BOARDS, PodGpus(replicas=4)) == [None] * 4


OWNERS = st.lists(st.integers(0, 4), min_size=1, max_size=8)


@given(OWNERS, st.booleans())
def test_exclusive_boards_are_never_given_twice(owners: list[int], are_named: bool):
    """Each board has at most one of four pods (4 = none), as the device plugin hands them out."""
    readings = tuple(board(f"GPU-{index}x") for index in range(len(owners)))
    total = [0.0] * len(owners)
    for pod in range(4):
        held = [f"GPU-{index}x" for index, owner in enumerate(owners) if owner == pod]
        known = PodGpus(requested=len(held), visible_devices=",".join(held) if are_named else None)
        for index, share in enumerate(shares(readings, known)):
            expected = len(held) / len(owners) if share is None else share  # by the request
            total[index] += expected
    assert max(total) <= 1 + 1e-9


@given(st.lists(st.integers(1, 3), max_size=4), st.integers(1, 3), st.integers(2, 8))
def test_time_sliced_shares_of_all_pods_sum_to_at_most_one(
    requests: list[int], boards: int, replicas: int
):
    readings = tuple(board(f"GPU-{index}") for index in range(boards))
    free, total = boards * replicas, 0.0
    for requested in requests:
        if requested <= free:
            free -= requested
            total += shares(readings, PodGpus(requested=requested, replicas=replicas))[0] or 0.0
    assert total <= 1 + 1e-9


class Told:
    """A meter of two boards that nothing is known of."""

    needs_sampling = True

    def __init__(self, *readings: GpuReading) -> None:
        self.readings = readings
        self.calls: list[str] = []

    def sample(self, monotonic_s: float) -> None:
        self.calls.append(f"sample {monotonic_s}")

    def read(self, monotonic_s: float) -> tuple[GpuReading, ...]:
        return self.readings

    def status(self) -> tuple[MeterStatus, ...]:
        return (MeterStatus("told", available=True, detail="two"),)

    def close(self) -> None:
        self.calls.append("close")


def test_the_wrapper_gives_the_shares_and_is_a_meter_else():
    inner = Told(*BOARDS[:2])
    meter = ScopedGpus(inner, 1.0, visible_devices=lambda: "GPU-b")
    assert [reading.pod_share for reading in meter.read(0.0)] == [0.0, 1.0]
    meter.sample(1.0)
    meter.close()
    assert inner.calls == ["sample 1.0", "close"]
    assert meter.needs_sampling
    assert meter.status()[0].name == "told"


def test_names_are_looked_for_each_minute_and_the_last_ones_stay():
    told = [None, "GPU-a", None]
    asked: list[str | None] = []

    def visible_devices() -> str | None:
        asked.append(told[len(asked)])
        return asked[-1]

    meter = ScopedGpus(Told(*BOARDS[:2]), 1.0, visible_devices=visible_devices)
    found = [
        [reading.pod_share for reading in meter.read(second)]
        for second in (0.0, LOOK_AGAIN_S - 1, LOOK_AGAIN_S, 2 * LOOK_AGAIN_S)
    ]
    assert found == [[None, None], [None, None], [1.0, 0.0], [1.0, 0.0]]
    assert len(asked) == 3


def test_no_process_is_looked_into_where_the_meter_tells():
    def forbidden() -> str | None:
        raise AssertionError

    meter = ScopedGpus(Told(board("GPU-a", pod_share=1.0)), 1.0, visible_devices=forbidden)
    assert meter.read(0.0)[0].pod_share == 1.0
