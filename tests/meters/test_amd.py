import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.catalogue.lookup import Catalogue
from sidecar.meters.amd import AmdMeter
from sidecar.meters.board_meter import LOOK_AGAIN_S
from sidecar.meters.reading import GpuReading
from tests.fakes.amd_smi import (
    DRIVER_NOT_LOADED,
    NOT_FOUND,
    NOT_INIT,
    NOT_SUPPORTED,
    FakeAmdSmi,
    FakeGpu,
)

ENERGY = "amdsmi_get_energy_count"
POWER = "amdsmi_get_power_info"


def driver(**known: object) -> FakeAmdSmi:
    gpus = [FakeGpu("74ff74a1-0000-1000-8000-000000000001", "0000:03:00.0")]
    return FakeAmdSmi(gpus, **known)  # type: ignore[arg-type]


def only(readings: tuple[GpuReading, ...]) -> GpuReading:
    assert len(readings) == 1
    return readings[0]


@pytest.mark.parametrize("version", [(6, 0), (6, 1), (6, 2), (7, 0)], ids=str)
def test_the_energy_accumulator_is_counted_in_its_resolution(version: tuple[int, int]):
    smi = driver(version=version)
    meter = AmdMeter(smi.module)
    meter.read(0.0)
    smi.advance(15.0, watts=500.0)
    reading = only(meter.read(15.0))
    assert reading.energy_mj == pytest.approx(7_500_000, abs=1)
    assert (reading.energy_source, reading.metered_s, reading.meter) == (
        "energy-counter",
        15.0,
        "amd",
    )
    assert (reading.power_limit_w, reading.mig, reading.virtual) == (750.0, False, False)
    assert reading.notes == ()


def test_the_model_is_the_one_of_the_catalogue():
    model = only(AmdMeter(driver().module).read(0.0)).model
    assert model == "AMD Instinct MI300X"
    assert Catalogue().gpu(model) is not None


@pytest.mark.parametrize("cap", [750, 750_000_000])
def test_a_power_limit_may_be_told_in_watts_or_microwatts(cap: int):
    smi = driver()
    smi.gpus[0].cap = cap
    assert only(AmdMeter(smi.module).read(0.0)).power_limit_w == 750.0


def test_a_limit_that_is_no_number_gives_way_to_the_default_one():
    smi = driver()
    smi.gpus[0].cap = "N/A"
    assert only(AmdMeter(smi.module).read(0.0)).power_limit_w == 750.0


def test_activity_is_the_utilisation():
    smi = driver()
    meter = AmdMeter(smi.module)
    meter.sample(0.0)
    smi.gpus[0].activity = 80
    meter.sample(1.0)
    reading = only(meter.read(2.0))
    assert (reading.utilization_s, reading.observed_s) == (pytest.approx(1.6), 2.0)


@pytest.mark.parametrize("version", [(6, 1), (7, 0)], ids=str)
def test_an_activity_that_is_not_told_is_not_zero(version: tuple[int, int]):
    smi = driver(version=version)
    smi.gpus[0].activity = "N/A" if version >= (6, 2) else 0xFFFF
    meter = AmdMeter(smi.module)
    meter.sample(0.0)
    assert only(meter.read(1.0)).observed_s == 0.0


def test_without_a_counter_power_samples_are_integrated():
    smi = driver()
    smi.gpus[0].errors[ENERGY] = NOT_SUPPORTED
    meter = AmdMeter(smi.module)
    for second in range(4):
        meter.sample(float(second))
    reading = only(meter.read(3.0))
    assert (reading.energy_mj, reading.energy_source) == (1_500_000, "power-samples")


@pytest.mark.parametrize("version", [(6, 1), (7, 0)], ids=str)
def test_a_power_that_is_not_available_is_no_power(version: tuple[int, int]):
    smi = driver(version=version)
    smi.gpus[0].errors[ENERGY] = NOT_SUPPORTED
    smi.gpus[0].power = "N/A"
    meter = AmdMeter(smi.module)
    meter.sample(0.0)
    assert only(meter.read(1.0)).energy_mj is None


@pytest.mark.parametrize("energy_unit", [0.0, 0.001, 100.0])
def test_a_counter_that_contradicts_the_sensor_gives_way_to_it(energy_unit: float):
    smi = driver(energy_unit=energy_unit)
    meter = AmdMeter(smi.module)
    meter.read(0.0)
    for second in range(1, 11):
        smi.advance(1.0)
        meter.sample(float(second))
        reading = only(meter.read(float(second)))
    assert reading.energy_source == "power-samples"
    assert (reading.energy_mj or 0) <= 10 * 500_000
    assert (reading.energy_mj or 0) >= 8 * 500_000


def test_a_load_that_comes_and_goes_does_not_make_the_counter_incredible():
    smi = driver()
    smi.gpus[0].power = 140
    meter = AmdMeter(smi.module)
    meter.read(0.0)
    smi.advance(15.0, watts=700.0)
    assert only(meter.read(15.0)).energy_source == "energy-counter"


def test_the_partitions_of_one_module_are_one_gpu():
    """In CPX mode each XCD is a processor, and the power that each tells is that of the module."""
    smi = FakeAmdSmi(
        [FakeGpu(f"uuid-{module}-{part}", f"0000:{module:02x}:00.{part}") for module in (3, 38)
         for part in range(8)]
    )  # fmt: skip
    readings = AmdMeter(smi.module).read(0.0)
    assert [reading.uuid for reading in readings] == ["uuid-3-0", "uuid-38-0"]


def test_only_selected_gpus_are_metered():
    smi = FakeAmdSmi([FakeGpu(f"uuid-{index}", f"0000:0{index}:00.0") for index in range(4)])
    readings = AmdMeter(smi.module, ("1", "3")).read(0.0)
    assert [reading.uuid for reading in readings] == ["uuid-1", "uuid-3"]


def test_a_lost_gpu_keeps_its_totals_and_is_found_again():
    smi = driver()
    meter = AmdMeter(smi.module)
    meter.read(0.0)
    smi.advance(1.0)
    meter.read(1.0)
    for function in (ENERGY, POWER, "amdsmi_get_gpu_activity"):
        smi.gpus[0].errors[function] = NOT_FOUND
    smi.advance(1.0)
    lost = only(meter.read(2.0))
    assert any(note.startswith("lost") for note in lost.notes)
    smi.gpus[0].errors.clear()
    smi.advance(LOOK_AGAIN_S)
    found = only(meter.read(2.0 + LOOK_AGAIN_S))
    assert found.energy_mj == pytest.approx((2 + LOOK_AGAIN_S) * 500_000, abs=2)


def test_a_driver_that_is_not_loaded_yet_is_tried_again():
    smi = driver(errors={"amdsmi_init": DRIVER_NOT_LOADED})
    meter = AmdMeter(smi.module)
    assert meter.read(0.0) == ()
    assert "trying again" in meter.status()[0].detail
    smi.errors.clear()
    assert len(meter.read(10.0)) == 1


def test_a_driver_that_went_away_is_opened_anew():
    smi = driver()
    meter = AmdMeter(smi.module)
    meter.read(0.0)
    smi.initialised = 0
    smi.advance(1.0)
    assert any("lost" in note for note in only(meter.read(1.0)).notes)
    smi.advance(9.0)
    assert only(meter.read(10.0)).energy_mj == pytest.approx(5_000_000, abs=2)
    meter.close()
    assert smi.initialised == 0


@pytest.mark.parametrize("answer", [{}, {"energy_accumulator": None}, {"energy_accumulator": "N/A"},
                                    {"energy_accumulator": float("nan")}, {"energy_accumulator": -5}],
                         ids=str)  # fmt: skip
def test_an_odd_answer_is_no_energy(answer: dict[str, object]):
    smi = driver()
    module = smi.module
    module.amdsmi_get_energy_count = lambda handle: {  # type: ignore[attr-defined]
        **answer, "counter_resolution": 1.0, "timestamp": 1}  # fmt: skip
    meter = AmdMeter(module)
    meter.sample(0.0)
    assert only(meter.read(1.0)).energy_source == "power-samples"


def test_an_exception_of_the_modules_own_conversions_is_a_note():
    def broken(handle: object) -> dict[str, object]:
        raise ValueError("invalid literal for int() with base 16: ''")

    smi = driver()
    module = smi.module
    module.amdsmi_get_gpu_asic_info = broken  # type: ignore[attr-defined]
    reading = only(AmdMeter(module).read(0.0))
    assert reading.model == "unknown"
    assert any("invalid literal" in note for note in reading.notes)


FUNCTIONS = [name for name in dir(FakeAmdSmi) if name.startswith("amdsmi_")]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(FUNCTIONS), st.sampled_from([0, 1, 2, 10, 12, NOT_FOUND, NOT_INIT, 34])
    ),
    max_size=15,
)


@given(EVENTS)
def test_amd_smi_may_fail_at_any_call_at_any_time(events: list[tuple[str, int]]):
    smi = driver()
    meter, now_s, before_mj = AmdMeter(smi.module), 0.0, 0
    for function, code in [*events, ("", 0), ("", 0)]:
        smi.errors = {function: code} if code else {}
        smi.gpus[0].errors = {function: code} if code else {}
        now_s += 1.0
        smi.advance(1.0)
        meter.sample(now_s)
        for reading in meter.read(now_s):
            energy_mj = reading.energy_mj or 0
            assert before_mj <= energy_mj <= now_s * 500_000 + 1
            before_mj = energy_mj
        meter.status()
    meter.close()


def detail(environment: dict[str, str]) -> tuple[str, bool, str]:
    code = (
        "import json, sys\nfrom sidecar.meters.amd import AmdMeter\nmeter = AmdMeter()\n"
        "meter.read(0.0)\n"
        "sys.stderr.write(json.dumps([meter.status()[0].detail, 'amdsmi' in sys.modules]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    told, loaded = json.loads(run.stderr)
    return told, loaded, run.stdout


def test_without_the_module_there_are_no_amd_gpus():
    told, loaded, printed = detail({})
    assert told.startswith("not found")
    assert (loaded, printed) == (False, "")


def test_a_module_without_its_library_is_not_imported_because_it_would_print(tmp_path: Path):
    (tmp_path / "amdsmi.py").write_text(
        "print('unable to find libamd_smi.so')\nraise KeyError(1)\n"
    )
    told, loaded, printed = detail({"PYTHONPATH": str(tmp_path)})
    assert told.startswith("not found")
    assert (loaded, printed) == (False, "")


def test_a_module_that_does_not_fit_its_library_is_as_good_as_none(tmp_path: Path):
    (tmp_path / "amdsmi.py").write_text("raise AttributeError('undefined symbol')\n")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libamd_smi.so").symlink_to(some_shared_library())
    told, loaded, _ = detail({"PYTHONPATH": str(tmp_path), "ROCM_PATH": str(tmp_path)})
    assert told.startswith("not found")
    assert not loaded


def some_shared_library() -> Path:
    maps = Path("/proc/self/maps").read_text().split()
    return next(Path(word) for word in maps if word.startswith("/") and "/libc.so" in word)
