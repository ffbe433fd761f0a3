import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.dcgm import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    LONGEST_PAUSE_WITHOUT_S,
    DcgmMeter,
    exporter_urls,
)
from sidecar.meters.dcgm_gpu import STILL_S, Allocation, DcgmGpu, PodName
from sidecar.meters.dcgm_page import read_page
from sidecar.meters.reading import GpuReading, GpuUsage, NodeReading, PodReading
from sidecar.meters.usage import usage_between
from tests.fakes.dcgm import ACTIVE, ENERGY, POWER, UTIL, FakeDcgm, Gpu, page

PAGES = Path(__file__).parent.parent / "data" / "dcgm"
OURS = PodName("team-a", "train-0")
POD = ("team-a", "train-0", "trainer")
NEIGHBOUR = ("team-b", "serve-0", "server")


@pytest.fixture
def exporter() -> Iterator[FakeDcgm]:
    with FakeDcgm() as server:
        yield server


def whole(energy_mj: object, *pods: tuple[str, ...], uuid: str = "GPU-1") -> Gpu:
    return Gpu(uuid, {ENERGY: energy_mj, POWER: 250.0, UTIL: 50}, pods=pods)


def only(readings: tuple[GpuReading, ...]) -> GpuReading:
    assert len(readings) == 1
    return readings[0]


def golden(name: str, pod: PodName) -> dict[str, GpuReading]:
    """The readings of a meter whose second page has 10 kJ more than the first, 100 s later."""
    content = (PAGES / f"{name}.prom").read_bytes()
    gpus: dict[str, DcgmGpu] = {}
    for more_mj, now_s in ((0, 0.0), (10_000_000, 100.0)):
        devices = read_page([content], len(content))
        allocation = Allocation.of(pod, devices.values(), 1)
        for uuid, seen in devices.items():
            if seen.energy_mj is not None:
                seen.energy_mj += more_mj
            gpu = gpus.setdefault(uuid, DcgmGpu(uuid, lambda model: 40.0))
            gpu.take(seen, allocation, now_s)
    return {uuid: gpu.reading() for uuid, gpu in gpus.items()}


def window(before: tuple[GpuReading, ...], after: tuple[GpuReading, ...]) -> tuple[GpuUsage, ...]:
    """The GPUs of a window of 15 s between two readings of a node."""
    nothing = (PodReading(None, None),)
    ends = (NodeReading(0.0, None, None, None, before, nothing),
            NodeReading(15.0, None, None, None, after, nothing))  # fmt: skip
    return usage_between(*ends).gpus


def test_the_energy_counter_is_differenced(exporter: FakeDcgm):
    meter = DcgmMeter([exporter.show(whole(5_000_000, POD)).url], OURS)
    meter.sample(0.0)
    exporter.show(whole(8_750_123, POD))
    reading = only(meter.read(15.0))
    assert (reading.energy_mj, reading.energy_source) == (3_750_123, "energy-counter")
    assert (reading.metered_s, reading.utilization_s, reading.observed_s) == (15.0, 7.5, 15.0)
    assert (reading.pod_energy_mj, reading.pod_share, reading.share_method) == (
        3_750_123,
        1.0,
        "dcgm",
    )
    assert (reading.uuid, reading.model, reading.meter) == (
        "GPU-1",
        "NVIDIA A100-SXM4-80GB",
        "dcgm",
    )
    assert reading.notes == ()


def test_only_the_first_page_is_taken_between_readings(exporter: FakeDcgm):
    meter = DcgmMeter([exporter.show(whole(5)).url], OURS)
    for second in range(10):
        meter.sample(float(second))
    assert exporter.requests == 1
    assert not meter.needs_sampling


def test_without_a_counter_power_is_integrated(exporter: FakeDcgm):
    meter = DcgmMeter([exporter.url], OURS)
    for second in (0.0, 15.0, 30.0):
        exporter.show(Gpu("GPU-1", {POWER: 200.0 if second < 30 else 100.0}, pods=(POD,)))
        meter.read(second)
    reading = only(meter.read(30.0))
    assert (reading.energy_mj, reading.energy_source) == (4_500_000, "power-samples")
    assert reading.pod_energy_mj == reading.energy_mj


def test_a_counter_that_comes_back_does_not_count_what_power_did(exporter: FakeDcgm):
    meter = DcgmMeter([exporter.show(whole(1_000_000)).url], OURS)
    meter.read(0.0)
    exporter.show(Gpu("GPU-1", {POWER: 100.0}))
    meter.read(10.0)
    meter.read(20.0)
    exporter.show(whole(9_000_000))
    meter.read(30.0)
    exporter.show(whole(9_500_000))
    assert only(meter.read(40.0)).energy_mj == 1_000_000 + 500_000


def test_golden_exclusive_devices_are_ours_wholly_or_not_at_all():
    readings = list(golden("exclusive", OURS).values())
    assert [reading.pod_share for reading in readings] == [1.0, 1.0, 0.0, 0.0]
    assert [reading.pod_energy_mj for reading in readings] == [10_000_000, 10_000_000, 0, 0]


@pytest.mark.parametrize(
    ("pod", "slices", "activity"),
    [
        (PodName("team-a", "small-0"), 1, 0.5),
        (PodName("team-a", "middle-0"), 2, 0.25),
        (PodName("team-b", "large-0"), 3, 0.75),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_golden_mig_idle_goes_by_slices_and_the_rest_by_activity(
    pod: PodName, slices: int, activity: float
):
    """100 W over 100 s, 40 W of them idle: 4 kJ by slices of seven, 6 kJ by slices times activity."""
    board, other = golden("mig", pod).values()
    work = 1 * 0.5 + 2 * 0.25 + 3 * 0.75
    expected_mj = 4_000_000 * slices / 7 + 6_000_000 * slices * activity / work
    assert board.energy_mj == 10_000_000
    assert board.pod_energy_mj == int(expected_mj)
    assert board.pod_share == pytest.approx(slices / 7)
    assert board.mig
    assert board.observed_s == 0
    assert any("estimate by slices" in note for note in board.notes)
    assert (other.mig, other.pod_share) == (False, 0.0)


def test_golden_mig_pods_and_what_nobody_holds_make_the_board():
    names = (("team-a", "small-0"), ("team-a", "middle-0"), ("team-b", "large-0"))
    parts = [next(iter(golden("mig", PodName(*name)).values())).pod_energy_mj for name in names]
    unheld_mj = 4_000_000 / 7  # the idle energy of the slice that no instance has
    assert sum(part or 0 for part in parts) == pytest.approx(10_000_000 - unheld_mj, abs=3)


@pytest.mark.parametrize(("name", "share"), [("small-0", 1 / 4), ("middle-0", 2 / 4)])
def test_golden_a30_without_profiling_goes_by_slices_of_four(name: str, share: float):
    board = only(tuple(golden("mig-a30", PodName("team-a", name)).values()))
    assert board.pod_share == share
    assert board.pod_energy_mj == 10_000_000 * share


def test_golden_one_instance_of_all_slices_is_the_whole_board():
    board = only(tuple(golden("mig-7g", OURS).values()))
    assert (board.pod_energy_mj, board.pod_share) == (10_000_000, 1.0)


@pytest.mark.parametrize(
    ("pod", "rows"),
    [(PodName("team-a", "notebook-0"), 2), (PodName("team-b", "notebook-1"), 1)],
    ids=lambda value: getattr(value, "name", None),
)
def test_golden_time_slicing_each_row_shows_all_power_and_has_a_part(pod: PodName, rows: int):
    board = only(tuple(golden("time-slicing", pod).values()))
    assert board.energy_mj == 10_000_000
    assert board.pod_energy_mj == int(10_000_000 * rows / 3)


def test_golden_without_pods_nobody_knows_whose_a_device_is():
    for reading in golden("no-pods", OURS).values():
        assert (reading.pod_share, reading.pod_energy_mj, reading.share_method) == (None,) * 3
        assert reading.energy_mj == 10_000_000


def test_golden_a_vgpu_is_ours_but_tells_nothing():
    reading = only(tuple(golden("vgpu", OURS).values()))
    assert (reading.energy_mj, reading.energy_source, reading.observed_s) == (None, "none", 0.0)
    assert reading.virtual
    assert reading.pod_share == 1.0


def test_golden_blank_values_are_no_values():
    assert list(golden("blank", OURS)) == ["GPU-00000003-1ee7-4ce9-9c5e-80ebf0f66714"]


def test_time_slicing_by_known_replicas_leaves_the_unheld_ones_unallocated(exporter: FakeDcgm):
    shared = whole(5, (*POD, "0"), (*NEIGHBOUR, "2"))
    meter = DcgmMeter([exporter.show(shared).url], OURS, replicas=4)
    assert only(meter.read(0.0)).pod_share == 0.25


def test_one_label_for_several_replicas_tells_nothing(exporter: FakeDcgm):
    """Without KUBERNETES_VIRTUAL_GPUS one pod of those that share a device is named: not all of it
    is that one's, and not nothing of it is the others'."""
    meter = DcgmMeter([exporter.show(whole(5, POD)).url], OURS, replicas=4)
    assert only(meter.read(0.0)).pod_share is None


def test_a_pod_that_no_label_names_gets_nothing_of_a_device_of_another(exporter: FakeDcgm):
    free = whole(5, uuid="GPU-2")
    meter = DcgmMeter([exporter.show(whole(5, NEIGHBOUR), free).url], OURS)
    assert [reading.pod_share for reading in meter.read(0.0)] == [0.0, None]


def test_a_pod_of_the_same_name_that_went_before_is_another(exporter: FakeDcgm):
    earlier = Gpu("GPU-1", {ENERGY: 5}, pods=(POD,), labels={"pod_uid": "uid-old"})
    meter = DcgmMeter([exporter.show(earlier).url], PodName("team-a", "train-0", "uid-new"))
    assert only(meter.read(0.0)).pod_share == 0.0


def test_without_a_name_of_our_own_no_device_is_ours_or_not(exporter: FakeDcgm):
    meter = DcgmMeter([exporter.show(whole(5, POD)).url], None)
    assert only(meter.read(0.0)).pod_share is None


def test_a_neighbour_that_comes_takes_its_part_from_then_on(exporter: FakeDcgm):
    meter = DcgmMeter([exporter.show(whole(0, (*POD, "0"))).url], OURS)
    meter.read(0.0)
    exporter.show(whole(1_000_000, (*POD, "0")))
    meter.read(10.0)
    exporter.show(whole(2_000_000, (*POD, "0"), (*NEIGHBOUR, "1")))
    reading = only(meter.read(20.0))
    assert reading.pod_energy_mj == 1_000_000 + 500_000
    assert reading.pod_share == 0.5


def test_a_window_in_which_the_labels_come_back_has_only_its_own_energy(exporter: FakeDcgm):
    meter = DcgmMeter([exporter.show(whole(0, POD)).url], OURS)
    meter.read(0.0)
    exporter.show(whole(10_000_000, POD))
    meter.read(100.0)
    exporter.show(whole(11_000_000))
    unknown = meter.read(115.0)
    exporter.show(whole(12_000_000, (*POD, "0"), (*NEIGHBOUR, "1")))
    known = meter.read(130.0)
    assert only(unknown).pod_energy_mj is None
    assert [gpu.pod_share for gpu in window(unknown, known)] == [0.5]


def test_a_driver_reload_goes_on_from_zero(exporter: FakeDcgm):
    meter = DcgmMeter([exporter.show(whole(5_000_000, POD)).url], OURS)
    meter.read(0.0)
    exporter.show(whole(40_000, POD))
    reading = only(meter.read(15.0))
    assert (reading.energy_mj, reading.pod_energy_mj) == (40_000, 40_000)
    assert "energy counter restarted 1 times" in reading.notes


def test_a_counter_that_jumps_impossibly_counts_nothing_of_it(exporter: FakeDcgm):
    meter = DcgmMeter([exporter.url], OURS)
    for second, value in enumerate((5_000_000_000, 2**62, 5_000_100_000, 5_000_300_000)):
        exporter.show(whole(value, POD))
        reading = only(meter.read(second * 15.0))
    assert (reading.energy_mj, reading.pod_energy_mj) == (200_000, 200_000)
    assert "2 impossible steps of the energy counter dropped" in reading.notes


def test_a_page_that_is_older_than_the_window_is_made_up_by_the_next(exporter: FakeDcgm):
    """The exporter looks each 30 s: windows of 15 s see a step of 0, then one of twice the energy."""
    meter = DcgmMeter([exporter.show(whole(0, POD)).url], OURS)
    ends = [meter.read(0.0)]
    for second, counter in ((15.0, 0), (30.0, 7_500_000), (45.0, 7_500_000), (60.0, 15_000_000)):
        exporter.show(whole(counter, POD))
        ends.append(meter.read(second))
    steps = [window(*pair)[0].energy_mj for pair in itertools.pairwise(ends)]
    assert steps == [0, 7_500_000, 0, 7_500_000]


def test_a_counter_that_stands_still_for_minutes_is_no_energy_of_zero(exporter: FakeDcgm):
    meter = DcgmMeter([exporter.show(whole(5_000_000, POD)).url], OURS)
    meter.read(0.0)
    before = meter.read(STILL_S + 15)
    after = meter.read(STILL_S + 30)
    assert [gpu.energy_mj for gpu in window(before, after)] == [None]
    assert any("has not moved" in note for note in only(after).notes)
    assert [status.available for status in meter.status()] == [True, False]


def test_a_device_that_is_not_shown_any_more_keeps_totals_and_share(exporter: FakeDcgm):
    both = (whole(0, POD), whole(0, POD, uuid="GPU-2"))
    meter = DcgmMeter([exporter.show(*both).url], OURS)
    meter.read(0.0)
    exporter.show(whole(100, POD), whole(200, POD, uuid="GPU-2"))
    meter.read(15.0)
    exporter.show(whole(300, POD))
    here, lost = meter.read(30.0)
    assert (here.energy_mj, lost.energy_mj, lost.pod_share) == (300, 200, 1.0)
    assert lost.metered_s == 15.0
    assert any(note.startswith("lost") for note in lost.notes)


@pytest.mark.parametrize("mode", ["error", "redirect", "cut", "garbage", "empty"])
def test_a_broken_exporter_is_a_status_and_the_totals_stay(exporter: FakeDcgm, mode: str):
    meter = DcgmMeter([exporter.show(whole(0, POD)).url], OURS)
    meter.read(0.0)
    exporter.show(whole(1_000_000, POD))
    before = meter.read(15.0)
    exporter.mode = mode
    asked = exporter.requests
    assert meter.read(30.0) == before
    assert exporter.requests == asked + 1  # no redirect is followed, nothing is tried twice
    (status,) = meter.status()
    assert not status.available
    assert exporter.url in status.detail
    exporter.mode = "well"
    exporter.show(whole(2_000_000, POD))
    assert only(meter.read(45.0)).energy_mj == 2_000_000
    assert meter.status()[0].available


@pytest.mark.parametrize("mode", ["hang", "drip"])
def test_a_slow_exporter_is_left_after_a_second(exporter: FakeDcgm, mode: str):
    exporter.mode = mode
    meter = DcgmMeter([exporter.show(whole(0, POD)).url], OURS)
    assert meter.read(0.0) == ()
    assert "no answer" in meter.status()[0].detail


def test_an_endless_page_is_left(exporter: FakeDcgm):
    exporter.mode = "endless"
    exporter.page = b"#" * 1_000_000 + b"\n"
    meter = DcgmMeter([exporter.url], OURS)
    assert meter.read(0.0) == ()
    assert not meter.status()[0].available


def test_the_first_address_that_shows_gpus_is_kept(exporter: FakeDcgm):
    with FakeDcgm() as without:
        meter = DcgmMeter([without.url, exporter.show(whole(0)).url], OURS)
        for second in (0.0, 15.0, 30.0):
            meter.read(second)
        assert (without.requests, exporter.requests) == (1, 3)
    assert exporter.url in meter.status()[0].detail


def test_a_slow_address_does_not_keep_the_next_from_being_asked(exporter: FakeDcgm):
    with FakeDcgm() as slow:
        slow.mode = "hang"
        meter = DcgmMeter([slow.url, exporter.show(whole(0)).url], OURS)
        assert meter.read(0.0) == ()
        assert len(meter.read(FIRST_PAUSE_S)) == 1


def refusing_url() -> str:
    with FakeDcgm() as gone:
        return gone.url


def pauses(meter: DcgmMeter, duration_s: int, start_s: int = 0) -> list[float]:
    asked: list[float] = []
    for second in range(start_s, start_s + duration_s):
        before = meter._ask_after_s
        meter.read(float(second))
        if meter._ask_after_s != before:
            asked.append(meter._ask_after_s - second)
    return asked


def test_an_exporter_that_never_answered_is_asked_ever_more_seldom(
    caplog: pytest.LogCaptureFixture,
):
    meter = DcgmMeter([refusing_url()], OURS)
    with caplog.at_level(logging.INFO):
        found = pauses(meter, 3000)
    assert found[:3] == [5.0, 10.0, 20.0]
    assert found[-1] == LONGEST_PAUSE_WITHOUT_S
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "no dcgm-exporter" in caplog.text


def test_an_exporter_that_went_away_is_asked_each_minute_and_warned_of(
    caplog: pytest.LogCaptureFixture,
):
    with FakeDcgm() as exporter:
        meter = DcgmMeter([exporter.show(whole(0)).url], OURS)
        meter.read(0.0)
    found = pauses(meter, 600, start_s=1)
    assert found[-1] == LONGEST_PAUSE_S
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


def test_a_closed_meter_asks_no_more(exporter: FakeDcgm):
    meter = DcgmMeter([exporter.show(whole(0)).url], OURS)
    before = meter.read(0.0)
    meter.close()
    assert meter.read(15.0) == before
    assert exporter.requests == 1


def test_without_an_address_there_is_no_exporter():
    meter = DcgmMeter([], OURS)
    assert meter.read(0.0) == ()
    assert not meter.status()[0].available


@pytest.mark.parametrize(
    ("host_ip", "first"),
    [
        ("10.224.0.4", "http://10.224.0.4:19400/metrics"),
        ("fd00::4", "http://[fd00::4]:19400/metrics"),
    ],
)
def test_the_addresses_are_those_of_aks_and_of_the_exporter(host_ip: str, first: str):
    urls = exporter_urls(host_ip)
    assert urls[0] == first
    assert urls[1].endswith(":9400/metrics")


PODS = [("team-a", f"pod-{index}", "c") for index in range(3)]
MOMENTS = st.lists(
    st.tuples(
        st.integers(0, 700 * 15 * 1000),
        st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2), st.floats(0, 1)), max_size=4),
        st.lists(st.integers(0, 2), max_size=4),
    ),
    min_size=2,
    max_size=12,
)


@given(MOMENTS, st.booleans(), st.sampled_from([None, 40.0]))
def test_the_parts_of_all_pods_never_exceed_the_device(
    moments: list[tuple[int, list[tuple[int, int, float]], list[int]]],
    is_mig: bool,
    idle_w: float | None,
):
    """Three pods come and go on one board; each has a meter of its own, of the same pages."""
    gpus = [DcgmGpu("GPU-1", lambda model: idle_w) for _ in PODS]
    counter_mj = 0
    for tick, (step_mj, instances, sharers) in enumerate(moments):
        counter_mj += step_mj
        shown = [
            Gpu("GPU-1", {ENERGY: counter_mj, ACTIVE: activity}, profile=f"{slices}g.5gb",
                instance=str(index), pods=(PODS[pod],))
            for index, (slices, pod, activity) in enumerate(instances)
        ]  # fmt: skip
        pods = tuple((*PODS[pod], str(replica)) for replica, pod in enumerate(sharers))
        content = page(*shown) if is_mig and shown else page(whole(counter_mj, *pods))
        devices = read_page([content], len(content))
        for gpu, pod in zip(gpus, PODS, strict=True):
            allocation = Allocation.of(PodName(pod[0], pod[1]), devices.values(), 1)
            gpu.take(devices["GPU-1"], allocation, tick * 15.0)
    readings = [gpu.reading() for gpu in gpus]
    energy_mj = readings[0].energy_mj or 0
    assert energy_mj <= counter_mj
    assert sum(reading.pod_energy_mj or 0 for reading in readings) <= energy_mj
    assert sum(reading.pod_share or 0.0 for reading in readings) <= 1 + 1e-9
