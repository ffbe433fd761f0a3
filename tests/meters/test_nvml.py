import itertools
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.meters.board_meter import LOOK_AGAIN_S, MOST_BOARDS
from sidecar.meters.nvml import NvmlMeter
from sidecar.meters.reading import GpuReading
from tests.fakes.nvml.fixture import FakeNvml

pytestmark = pytest.mark.needs("gcc")

NOT_SUPPORTED = 3
UNKNOWN = 999


@pytest.fixture
def meters() -> Iterator[list[NvmlMeter]]:
    """Meters to close at the end: the library counts its openings per process."""
    opened: list[NvmlMeter] = []
    yield opened
    for meter in opened:
        meter.close()


@pytest.fixture
def a100(fake_nvml: FakeNvml) -> FakeNvml:
    return fake_nvml.gpu(0, power_mw=250_000, energy_mj=1_000_000, util=50, limit_mw=400_000)


def opened(meters: list[NvmlMeter], *selected: str) -> NvmlMeter:
    meters.append(NvmlMeter(selected=selected or None))
    return meters[-1]


def only(readings: tuple[GpuReading, ...]) -> GpuReading:
    assert len(readings) == 1
    return readings[0]


def test_the_energy_counter_is_differenced(a100: FakeNvml, meters: list[NvmlMeter]):
    meter = opened(meters)
    first = only(meter.read(10.0))
    a100.gpu(0, energy_mj=1_300_123)
    reading = only(meter.read(11.0))
    assert first.energy_mj == 0
    assert reading.energy_mj == 300_123
    assert reading.energy_source == "energy-counter"
    assert reading.uuid == "GPU-00000000-0000-4000-8000-000000000000"
    assert reading.model == "NVIDIA A100-SXM4-80GB"
    assert reading.power_limit_w == 400.0
    assert reading.metered_s == 1.0
    assert reading.notes == ()


def test_utilisation_is_an_integral_over_observed_seconds(a100: FakeNvml, meters: list[NvmlMeter]):
    meter = opened(meters)
    meter.sample(0.0)
    for second, percent in ((1.0, 50), (2.0, 100), (60.0, 100)):
        a100.gpu(0, util=percent)
        meter.sample(second)
    reading = only(meter.read(60.0))
    assert reading.utilization_s == pytest.approx(0.5 + 1.0 + 3.0)
    assert reading.observed_s == pytest.approx(5.0)
    assert meter.needs_sampling


def test_without_a_counter_power_samples_are_integrated(a100: FakeNvml, meters: list[NvmlMeter]):
    a100.gpu(0, energy_mj=None)
    meter = opened(meters)
    for second, power_mw in enumerate((100_000, 100_000, 200_000, 60_000)):
        a100.gpu(0, power_mw=power_mw)
        meter.sample(float(second))
    reading = only(meter.read(3.0))
    assert reading.energy_mj == 360_000
    assert reading.energy_source == "power-samples"
    assert reading.metered_s == 3.0


def test_a_late_power_sample_is_noted_as_a_gap(a100: FakeNvml, meters: list[NvmlMeter]):
    a100.gpu(0, energy_mj=None)
    meter = opened(meters)
    meter.sample(0.0)
    reading = only(meter.read(1000.0))
    assert reading.energy_mj == 3 * 250_000
    assert "1 gaps between power samples" in reading.notes


def test_a_driver_reload_goes_on_from_zero(a100: FakeNvml, meters: list[NvmlMeter]):
    meter = opened(meters)
    meter.read(0.0)
    a100.gpu(0, energy_mj=1_200_000)
    meter.read(1.0)
    a100.gpu(0, energy_mj=90_000).set({"epoch": 2})
    ended = only(meter.read(2.0))
    assert ended.energy_mj == 200_000
    assert any("lost" in note for note in ended.notes)
    reading = only(meter.read(10.0))
    assert reading.energy_mj == 290_000
    assert "energy counter restarted 1 times" in reading.notes
    assert not any("lost" in note for note in reading.notes)


def test_a_daemon_reload_that_keeps_the_driver_loses_nothing(
    a100: FakeNvml, meters: list[NvmlMeter]
):
    meter = opened(meters)
    meter.read(0.0)
    a100.gpu(0, energy_mj=1_100_000).set({"error.nvmlDeviceGetUtilizationRates": UNKNOWN})
    a100.set({"error.nvmlDeviceGetTotalEnergyConsumption": UNKNOWN, "error.nvmlInit": UNKNOWN})
    meter.read(1.0)
    meter.read(2.0)
    assert not meter.status()[0].available
    a100.gpu(0, energy_mj=1_500_000)
    a100.set(dict.fromkeys([key for key in a100.state if key.startswith("error")]))
    meter.read(100.0)
    assert only(meter.read(101.0)).energy_mj == 500_000
    assert meter.status()[0].available


@pytest.mark.parametrize(
    "errors",
    [
        {"nvmlInit": 9},
        {"nvmlDeviceGetCount": UNKNOWN},
        {"nvmlDeviceGetTotalEnergyConsumption": 1},
        {"nvmlDeviceGetTotalEnergyConsumption": UNKNOWN, "nvmlDeviceGetUtilizationRates": UNKNOWN},
    ],
    ids=str,
)
def test_reopening_is_tried_with_growing_pauses(
    a100: FakeNvml, meters: list[NvmlMeter], errors: dict[str, int]
):
    a100.set({f"error.{function}": code for function, code in errors.items()})
    meter = opened(meters)
    openings = []
    for second in range(300):
        before = meter._open_after_s
        meter.sample(float(second))
        if meter._open_after_s != before:
            openings.append(second)
    pauses = [later - earlier for earlier, later in itertools.pairwise(openings)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 60
    assert len(openings) < 12


def test_a_lost_gpu_keeps_its_totals_and_the_others_go_on(a100: FakeNvml, meters: list[NvmlMeter]):
    a100.gpu(1, power_mw=100_000, energy_mj=0, util=10)
    meter = opened(meters)
    meter.read(0.0)
    a100.gpu(0, energy_mj=1_100_000).gpu(1, energy_mj=50_000)
    meter.read(1.0)
    a100.gpu(0, lost=1).gpu(1, energy_mj=90_000)
    lost, other = meter.read(2.0)
    assert lost.energy_mj == 100_000
    assert lost.metered_s == 1.0
    assert any(note.startswith("lost") for note in lost.notes)
    assert other.energy_mj == 90_000
    assert [status.available for status in meter.status()] == [True, False]


def test_a_lost_gpu_is_looked_for_each_30_seconds(a100: FakeNvml, meters: list[NvmlMeter]):
    a100.gpu(1, energy_mj=0, util=10)
    meter = opened(meters)
    meter.read(0.0)
    a100.gpu(0, lost=1)
    meter.read(1.0)
    a100.gpu(0, lost=None, energy_mj=1_700_000)
    meter.read(1.0 + LOOK_AGAIN_S - 0.5)
    assert meter.read(1.0 + LOOK_AGAIN_S - 0.5)[0].energy_mj == 0
    found = meter.read(1.0 + LOOK_AGAIN_S)[0]
    assert found.energy_mj == 700_000
    assert not found.notes


def test_a_gpu_that_is_lost_at_the_start_is_found_later(a100: FakeNvml, meters: list[NvmlMeter]):
    a100.gpu(0, lost=1)
    meter = opened(meters)
    assert meter.read(0.0) == ()
    a100.gpu(0, lost=None)
    assert only(meter.read(LOOK_AGAIN_S)).energy_mj == 0


def test_while_nvml_is_away_nothing_is_sampled_nor_made_up(a100: FakeNvml, meters: list[NvmlMeter]):
    a100.gpu(0, energy_mj=None)
    meter = opened(meters)
    meter.sample(0.0)
    a100.set({"epoch": 2})
    meter.sample(1.0)
    meter.sample(2.5)
    reading = only(meter.read(3.5))
    assert reading.energy_mj == 250_000
    assert (reading.metered_s, reading.observed_s) == (1.0, 1.0)


def test_a_name_that_is_no_text_is_unknown(a100: FakeNvml, meters: list[NvmlMeter]):
    a100.gpu(0, name="Tesla caf\udce9")
    reading = only(opened(meters).read(0.0))
    assert reading.model == "unknown"
    assert reading.energy_mj == 0


def test_one_broken_call_does_not_end_the_session(a100: FakeNvml, meters: list[NvmlMeter]):
    a100.set({"0.error.nvmlDeviceGetUtilizationRates": UNKNOWN})
    meter = opened(meters)
    meter.read(0.0)
    a100.gpu(0, energy_mj=1_000_500)
    for second in range(1, 9):
        meter.sample(float(second))
    reading = only(meter.read(9.0))
    assert reading.energy_mj == 500
    assert reading.observed_s == 0
    assert any("nvmlDeviceGetUtilizationRates" in note for note in reading.notes)
    assert meter.status()[0].available


def test_mig_is_the_board_without_utilisation(a100: FakeNvml, meters: list[NvmlMeter]):
    a100.gpu(0, mig=1)
    meter = opened(meters)
    meter.read(0.0)
    a100.gpu(0, energy_mj=1_000_900)
    reading = only(meter.read(1.0))
    assert reading.mig
    assert reading.energy_mj == 900
    assert reading.observed_s == 0
    assert not meter.needs_sampling
    assert "MIG: energy is that of the whole board" in reading.notes


def test_a_selected_mig_device_is_its_board(a100: FakeNvml, meters: list[NvmlMeter]):
    a100.gpu(1, energy_mj=7, mig_uuids="MIG-11,MIG-12", uuid="GPU-parent")
    reading = only(opened(meters, "MIG-12").read(0.0))
    assert (reading.uuid, reading.mig) == ("GPU-parent", True)


@pytest.mark.parametrize(
    "how", [{"virt": 2}, {"name": "NVIDIA A10-24Q"}, {"virt": 2, "power_mw": 0, "energy_mj": 0}]
)
def test_a_vgpu_without_power_is_unknown_and_never_idle(
    fake_nvml: FakeNvml, meters: list[NvmlMeter], how: dict[str, object]
):
    fake_nvml.gpu(0, util=0, **how)
    meter = opened(meters)
    for second in range(5):
        meter.sample(float(second))
    reading = only(meter.read(5.0))
    assert reading.virtual
    assert reading.energy_mj is None
    assert reading.energy_source == "none"
    assert reading.observed_s == 0
    assert not meter.needs_sampling


@pytest.mark.parametrize(
    "name", ["NVIDIA H100 80GB HBM3", "Tesla V100-SXM2-32GB", "Tesla T4", "NVIDIA A10"]
)
def test_a_whole_board_passed_through_is_no_vgpu(
    a100: FakeNvml, meters: list[NvmlMeter], name: str
):
    a100.gpu(0, virt=1, name=name)
    assert not only(opened(meters).read(0.0)).virtual
    a100.gpu(0, virt=None)
    assert not only(opened(meters).read(0.0)).virtual


def test_the_managed_limit_stands_in_for_the_enforced_one(a100: FakeNvml, meters: list[NvmlMeter]):
    a100.gpu(0, limit_mw=None, managed_limit_mw=300_000)
    assert only(opened(meters).read(0.0)).power_limit_w == 300.0


def test_a_changed_power_limit_is_seen_within_minutes(a100: FakeNvml, meters: list[NvmlMeter]):
    meter = opened(meters)
    meter.read(0.0)
    a100.gpu(0, limit_mw=200_000)
    assert only(meter.read(61.0)).power_limit_w == 200.0


def test_a_counter_that_is_taken_away_hands_over_to_power_samples(
    a100: FakeNvml, meters: list[NvmlMeter]
):
    meter = opened(meters)
    meter.read(0.0)
    a100.gpu(0, energy_mj=1_400_000)
    meter.read(1.0)
    a100.gpu(0, energy_mj=None)
    meter.read(2.0)
    meter.sample(3.0)
    reading = only(meter.read(4.0))
    assert reading.energy_source == "power-samples"
    assert reading.energy_mj == 400_000 + 250_000


def test_a_counter_that_comes_back_does_not_count_what_samples_did(
    a100: FakeNvml, meters: list[NvmlMeter]
):
    meter = opened(meters)
    meter.read(0.0)
    a100.gpu(0, energy_mj=None).set({"epoch": 1})
    for second in (1.0, 2.0, 3.0, 4.0):
        meter.sample(second)
    a100.gpu(0, energy_mj=2_000_000).set({"epoch": 2})
    for second in (5.0, 6.0, 7.0, 8.0):
        meter.sample(second)
    a100.gpu(0, energy_mj=2_000_000)
    assert only(meter.read(9.0)).energy_mj == 2 * 250_000


def test_an_old_driver_without_the_calls_is_metered_by_power(
    a100: FakeNvml, meters: list[NvmlMeter]
):
    missing = ("TotalEnergyConsumption", "MigMode", "VirtualizationMode", "EnforcedPowerLimit")
    a100.set({f"error.nvmlDeviceGet{call}": 13 for call in missing})
    meter = opened(meters)
    meter.sample(0.0)
    reading = only(meter.read(1.0))
    assert (reading.energy_mj, reading.mig, reading.virtual) == (250_000, False, False)


@pytest.mark.parametrize(
    ("selected", "uuids"),
    [
        (("1",), ["GPU-b"]),
        (("GPU-c",), ["GPU-c"]),
        (("GPU-b", "0"), ["GPU-b", "GPU-a"]),
        (("7",), []),
    ],
)
def test_only_selected_gpus_are_metered(
    fake_nvml: FakeNvml, meters: list[NvmlMeter], selected: tuple[str, ...], uuids: list[str]
):
    for index, uuid in enumerate(("GPU-a", "GPU-b", "GPU-c")):
        fake_nvml.gpu(index, uuid=uuid, energy_mj=5)
    readings = opened(meters, *selected).read(0.0)
    assert [reading.uuid for reading in readings] == uuids


def test_an_unknown_selection_is_a_status_that_names_it(a100: FakeNvml, meters: list[NvmlMeter]):
    meter = opened(meters, "0", "GPU-nonsense")
    state = {status.name: status for status in meter.status()}["gpu-selection"]
    assert not state.available
    assert "GPU-nonsense" in state.detail
    assert "nvidia-smi -L" in state.detail


def test_an_empty_selection_asks_nothing(a100: FakeNvml):
    a100.set({"error.nvmlInit": 9})
    meter = NvmlMeter(selected=())
    assert meter.read(0.0) == ()
    assert meter.status()[0].detail == "no GPU is selected"
    assert not meter.needs_sampling


def test_no_gpu_is_no_warning(
    fake_nvml: FakeNvml, meters: list[NvmlMeter], caplog: pytest.LogCaptureFixture
):
    meter = opened(meters)
    assert meter.read(0.0) == ()
    assert "no GPU" in meter.status()[0].detail
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_closed_meter_repeats_its_totals(a100: FakeNvml):
    meter = NvmlMeter()
    meter.read(0.0)
    a100.gpu(0, energy_mj=1_000_100)
    meter.read(1.0)
    meter.close()
    meter.close()
    a100.gpu(0, energy_mj=9_000_000)
    assert only(meter.read(2.0)).energy_mj == 100


def test_more_boards_than_any_machine_has_are_bounded(fake_nvml: FakeNvml, meters: list[NvmlMeter]):
    fake_nvml.gpu(MOST_BOARDS + 10, energy_mj=1)
    meter = opened(meters)
    assert len(meter.read(0.0)) == MOST_BOARDS
    for index in range(3):
        fake_nvml.gpu(index, uuid=f"GPU-new-{index}")
    fake_nvml.set({"epoch": 5})
    meter.read(1.0)
    assert len(meter.read(100.0)) == MOST_BOARDS


def test_without_a_library_there_are_no_gpus_and_no_binding_is_loaded():
    code = (
        "import json, logging, sys\nfrom sidecar.meters.nvml import NvmlMeter\n"
        "meter = NvmlMeter()\nmeter.sample(0.0)\n"
        "sys.stdout.write(json.dumps([len(meter.read(1.0)), meter.status()[0].detail,"
        " meter.needs_sampling, 'pynvml' in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    gpus, detail, needs_sampling, loaded = json.loads(run.stdout)
    assert gpus == 0
    assert detail.startswith("not found")
    assert not needs_sampling
    assert not loaded


def test_a_child_process_finds_the_library_on_its_loader_path(a100: FakeNvml):
    code = (
        "import sys\nfrom sidecar.meters.nvml import NvmlMeter\n"
        "sys.stdout.write(NvmlMeter().read(0.0)[0].model)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=a100.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "NVIDIA A100-SXM4-80GB"


FUNCTIONS = [
    "nvmlInit",
    "nvmlShutdown",
    "nvmlDeviceGetCount",
    "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetHandleByUUID",
    "nvmlDeviceGetDeviceHandleFromMigDeviceHandle",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetName",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetEnforcedPowerLimit",
    "nvmlDeviceGetPowerManagementLimit",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetVirtualizationMode",
]
CODES = st.one_of(st.integers(1, 30), st.sampled_from([UNKNOWN, 12345]))
EVENTS = st.one_of(
    st.tuples(st.just("fail"), st.sampled_from(FUNCTIONS), CODES),
    st.tuples(st.just("fail 0"), st.sampled_from(FUNCTIONS), CODES),
    st.tuples(st.just("heal"), st.just(""), st.just(0)),
    st.tuples(st.just("lose"), st.just(""), st.integers(0, 1)),
    st.tuples(st.just("reload"), st.just(""), st.integers(0, 9)),
    st.tuples(st.just("wait"), st.just(""), st.integers(0, 100)),
)


def happen(fake: FakeNvml, event: str, function: str, number: int) -> None:
    if event == "heal":
        fake.set(dict.fromkeys([key for key in fake.state if "error" in key]))
    elif event == "lose":
        fake.gpu(0, lost=number)
    elif event == "reload":
        fake.gpu(0, energy_mj=0).gpu(1, energy_mj=0).set({"epoch": number})
    elif event != "wait":
        fake.set({f"{'0.' if event == 'fail 0' else ''}error.{function}": number})


@given(
    st.lists(EVENTS, max_size=25),
    st.sampled_from([None, ("0", "MIG-1"), ("GPU-b",)]),
    st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nvml_may_fail_at_any_call_at_any_time(
    fake_nvml: FakeNvml,
    events: list[tuple[str, str, int]],
    selected: tuple[str, ...] | None,
    has_counter: bool,
):
    """200 W in truth all the time: whatever fails, energy never falls and never exceeds that."""
    fake_nvml.state.clear()
    counter = 5_000 if has_counter else None
    fake_nvml.gpu(0, uuid="GPU-a", energy_mj=counter, power_mw=200_000, util=100)
    fake_nvml.gpu(1, uuid="GPU-b", energy_mj=counter, power_mw=200_000, util=100, limit_mw=300_000)
    fake_nvml.set({"1.mig_uuids": "MIG-1"})
    meter, now_s, before = NvmlMeter(selected=selected), 0.0, {}
    for event, function, number in [*events, ("heal", "", 0), ("wait", "", 100), ("wait", "", 1)]:
        happen(fake_nvml, event, function, number)
        waited_s = number if event == "wait" else 1
        now_s += waited_s
        if has_counter:
            for gpu in ("0", "1"):
                counted = int(str(fake_nvml.state[f"{gpu}.energy_mj"]))
                fake_nvml.set({f"{gpu}.energy_mj": counted + waited_s * 200_000})
        meter.sample(now_s)
        if event == "reload":  # a round without a read
            continue
        readings = {reading.uuid: reading for reading in meter.read(now_s)}
        meter.status()
        assert set(before) <= set(readings)
        for uuid, reading in readings.items():
            earlier = before.get(uuid)
            assert (reading.energy_mj or 0) <= now_s * 200_000 + 1
            assert reading.utilization_s <= reading.observed_s <= now_s
            if earlier is not None:
                assert (reading.energy_mj or 0) >= (earlier.energy_mj or 0)
                assert (reading.metered_s or 0.0) >= (earlier.metered_s or 0.0)
        before = readings
    meter.close()
