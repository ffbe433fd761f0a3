from collections.abc import Callable, Iterator

import pytest

from sidecar.meters.gpu_scope import ScopedGpus
from sidecar.meters.nvml import ASK_AGAIN_S, NvmlMeter
from sidecar.meters.reading import GpuReading
from tests.fakes.nvml.fixture import FakeNvml

pytestmark = pytest.mark.needs("gcc")

NO_PERMISSION = 4

Opener = Callable[..., NvmlMeter]


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Opens meters and closes them at the end: the library counts its openings per process."""
    meters: list[NvmlMeter] = []

    def open_meter(devices: str | None, *selected: str) -> NvmlMeter:
        meters.append(NvmlMeter(selected=selected or None, pod_devices=lambda: devices))
        return meters[-1]

    yield open_meter
    for meter in meters:
        meter.close()


@pytest.fixture
def sliced(fake_nvml: FakeNvml) -> FakeNvml:
    """An A100 in 1g, 2g, 3g beside a whole one."""
    fake_nvml.gpu(
        0, mig=1, mig_uuids="MIG-1,MIG-2,MIG-3", mig_slices="1,2,3", mig_max=7, energy_mj=1_000_000
    )
    return fake_nvml.gpu(1, uuid="GPU-whole", energy_mj=1, util=50)


def board(meter: NvmlMeter, now_s: float = 0.0) -> GpuReading:
    return meter.read(now_s)[0]


@pytest.mark.parametrize(
    ("devices", "slices"),
    [("MIG-1", 1), ("MIG-2", 2), ("MIG-3", 3), ("MIG-1,MIG-3", 4), ("MIG-1,MIG-1", 1)],
)
def test_golden_an_instance_holds_its_slices_of_seven(
    sliced: FakeNvml, opened: Opener, devices: str, slices: int
):
    reading = board(opened(devices))
    assert reading.pod_share == pytest.approx(slices / 7)
    assert reading.share_method == "nvml"
    assert reading.mig
    assert any("estimate by compute slices" in note for note in reading.notes)


def test_golden_one_instance_of_all_slices_is_the_whole_board(sliced: FakeNvml, opened: Opener):
    sliced.gpu(0, mig_uuids="MIG-7", mig_slices="7")
    assert board(opened("MIG-7")).pod_share == 1.0


@pytest.mark.parametrize("mig_max", [4, None])
def test_golden_an_a30_has_four_slices_told_or_by_its_name(
    sliced: FakeNvml, opened: Opener, mig_max: int | None
):
    sliced.gpu(0, name="NVIDIA A30", mig_max=mig_max, mig_uuids="MIG-1,MIG-2", mig_slices="1,2")
    assert board(opened("MIG-2")).pod_share == 0.5


def test_a_compute_instance_that_is_a_part_of_its_gpu_instance_counts_as_that_part(
    sliced: FakeNvml, opened: Opener
):
    sliced.gpu(0, mig_uuids="MIG-1c", mig_slices="1", gi_slices="3")
    assert board(opened("MIG-1c")).pod_share == pytest.approx(1 / 7)


def test_the_energy_stays_that_of_the_board(sliced: FakeNvml, opened: Opener):
    meter = opened("MIG-3")
    meter.read(0.0)
    sliced.gpu(0, energy_mj=1_700_000)
    reading = board(meter, 10.0)
    assert (reading.energy_mj, reading.pod_energy_mj) == (700_000, None)


@pytest.mark.parametrize("devices", [None, "all", "void", "MIG-9", "GPU-whole", "0"])
def test_without_the_pods_instances_the_share_is_unknown(
    sliced: FakeNvml, opened: Opener, devices: str | None
):
    reading = board(opened(devices))
    assert (reading.pod_share, reading.share_method) == (None, None)


@pytest.mark.parametrize(
    "function",
    ["nvmlDeviceGetHandleByUUID", "nvmlDeviceGetAttributes",
     "nvmlDeviceGetDeviceHandleFromMigDeviceHandle"],
)  # fmt: skip
def test_instances_that_nvml_keeps_to_itself_leave_the_share_unknown(
    sliced: FakeNvml, opened: Opener, function: str
):
    """Attributes of MIG devices may need rights that an unprivileged container has not."""
    sliced.set({f"error.{function}": NO_PERMISSION})
    meter = opened("MIG-1")
    assert board(meter).pod_share is None
    assert meter.status()[0].available


def test_instances_are_looked_up_each_minute_and_the_last_share_stays(
    sliced: FakeNvml, opened: Opener
):
    devices: list[str | None] = [None, "MIG-2", None]
    meter = NvmlMeter(pod_devices=lambda: devices.pop(0))
    try:
        times = (0.0, ASK_AGAIN_S - 1, ASK_AGAIN_S, 2 * ASK_AGAIN_S)
        shares = [board(meter, now_s).pod_share for now_s in times]
    finally:
        meter.close()
    assert shares == [None, None, pytest.approx(2 / 7), pytest.approx(2 / 7)]


def test_a_board_that_is_whole_again_has_no_share_of_slices(sliced: FakeNvml, opened: Opener):
    meter = opened("MIG-1")
    assert board(meter).pod_share == pytest.approx(1 / 7)
    sliced.gpu(0, mig=0)
    assert board(meter, 61.0).pod_share is None


def test_a_command_on_a_slice_has_its_part_of_the_board(sliced: FakeNvml, opened: Opener):
    readings = opened("MIG-3", "MIG-3").read(0.0)
    assert [reading.pod_share for reading in readings] == [pytest.approx(3 / 7)]


def test_a_driver_that_goes_while_slices_are_looked_up_is_opened_anew(
    sliced: FakeNvml, opened: Opener
):
    meter = opened("MIG-1")
    sliced.set({"error.nvmlDeviceGetHandleByUUID": 1})
    assert any("lost" in note for note in board(meter).notes)
    assert "trying again" in meter.status()[0].detail
    sliced.set({"error.nvmlDeviceGetHandleByUUID": None})
    assert board(meter, 10.0).pod_share == pytest.approx(1 / 7)


def test_a_power_that_is_not_available_leaves_a_slice_to_the_model(
    sliced: FakeNvml, opened: Opener
):
    sliced.gpu(0, energy_mj=None)
    reading = board(opened("MIG-2"))
    assert (reading.energy_mj, reading.energy_source) == (None, "none")
    assert reading.pod_share == pytest.approx(2 / 7)


def test_the_scope_gives_nothing_of_the_boards_that_the_pods_slices_are_not_on(
    sliced: FakeNvml, opened: Opener
):
    meter = ScopedGpus(opened("MIG-1"), None, visible_devices=lambda: "MIG-1")
    assert [reading.pod_share for reading in meter.read(0.0)] == [pytest.approx(1 / 7), 0.0]
