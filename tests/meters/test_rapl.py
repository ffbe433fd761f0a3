import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.rapl import LARGEST_PACKAGE_POWER_W, PackageDomain, RaplMeter
from tests.fakes.trees import PowercapTree

RANGE_UJ = 262_143_328_850


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def energy_of(meter: RaplMeter) -> int | None:
    reading = meter.read()
    return None if reading is None else reading.energy_uj


def test_packages_are_summed_and_parts_of_them_are_not(powercap: PowercapTree):
    powercap.zone("intel-rapl:0", "package-0", 1000).zone("intel-rapl:1", "package-1", 70_000)
    powercap.zone("intel-rapl:0:0", "core", 10).zone("intel-rapl:0:1", "dram", 10)
    powercap.zone("intel-rapl:2", "psys", 10).zone("intel-rapl:3", "dram", 10)
    meter = RaplMeter(powercap.root)
    for zone in ("intel-rapl:0", "intel-rapl:1"):
        powercap.count(zone, 100_000)
    for zone in ("intel-rapl:0:0", "intel-rapl:0:1", "intel-rapl:2", "intel-rapl:3"):
        powercap.count(zone, 9_999_999)
    reading = meter.read()
    assert reading is not None
    assert reading.energy_uj == 99_000 + 30_000
    assert reading.domains == ("package-0", "package-1")


def test_the_wrap_around_of_codecarbon_case_is_exact(powercap: PowercapTree):
    powercap.zone("intel-rapl:0", "package-0", 262_143_000_000, RANGE_UJ)
    meter = RaplMeter(powercap.root)
    powercap.count("intel-rapl:0", 1_500_000_000)
    assert energy_of(meter) == 1_500_328_850


def test_sampling_sees_both_of_two_wraps(powercap: PowercapTree):
    clock = Clock()
    meter = RaplMeter(powercap.zone("intel-rapl:0", "package-0", 0, 1_000).root, clock)
    true_uj = 0
    for _ in range(7):
        true_uj += 400
        powercap.count("intel-rapl:0", true_uj % 1_000)
        meter.sample()
    assert energy_of(meter) == true_uj


def test_the_mmio_view_of_a_package_is_not_added(powercap: PowercapTree):
    powercap.zone("intel-rapl-mmio:0", "package-0", 555).zone("intel-rapl:0", "package-0", 1000)
    meter = RaplMeter(powercap.root)
    powercap.count("intel-rapl:0", 1500).count("intel-rapl-mmio:0", 9000)
    assert energy_of(meter) == 500


def test_dies_that_show_one_counter_count_once(powercap: PowercapTree):
    powercap.zone("intel-rapl:0", "package-0-die-0", 68_000_000)
    powercap.zone("intel-rapl:1", "package-0-die-1", 68_000_000)
    meter = RaplMeter(powercap.root)
    powercap.count("intel-rapl:0", 69_000_000).count("intel-rapl:1", 69_000_000)
    reading = meter.read()
    assert reading is not None
    assert (reading.energy_uj, reading.domains) == (1_000_000, ("package-0-die-0",))


def test_two_packages_at_zero_are_two_packages(powercap: PowercapTree):
    powercap.zone("intel-rapl:0", "package-0", 0).zone("intel-rapl:1", "package-1", 0)
    reading = RaplMeter(powercap.root).read()
    assert reading is not None
    assert reading.domains == ("package-0", "package-1")


def test_a_virtual_machine_has_no_rapl_and_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    meter = RaplMeter(tmp_path)
    meter.sample()
    assert meter.read() is None
    assert not meter.needs_sampling
    assert "virtual machine" in meter.status()[0].detail
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_package_that_vanishes_ends_the_sum_and_its_return_goes_on(powercap: PowercapTree):
    powercap.zone("intel-rapl:0", "package-0", 1000).zone("intel-rapl:1", "package-1", 70_000)
    meter = RaplMeter(powercap.root)
    counter = powercap.zones / "intel-rapl:1" / "energy_uj"
    counter.unlink()
    assert meter.read() is None
    assert "energy_uj" in meter.status()[0].detail
    assert not meter.status()[0].available
    counter.write_text("80000\n")
    assert energy_of(meter) == 10_000


def test_a_counter_that_restarts_while_unreadable_loses_the_interval(powercap: PowercapTree):
    meter = RaplMeter(powercap.zone("intel-rapl:0", "package-0", 900_000, 1_000_000).root)
    (powercap.zones / "intel-rapl:0" / "energy_uj").unlink()
    meter.sample()
    powercap.count("intel-rapl:0", 5)
    assert energy_of(meter) == 0
    assert "1 intervals lost" in meter.status()[0].detail
    powercap.count("intel-rapl:0", 25)
    assert energy_of(meter) == 20


@pytest.mark.parametrize("content", ["", "12", "x\n", "-5\n", "1 2\n"])
def test_a_torn_counter_is_no_reading(powercap: PowercapTree, content: str):
    meter = RaplMeter(powercap.zone("intel-rapl:0", "package-0", 5).root)
    (powercap.zones / "intel-rapl:0" / "energy_uj").write_text(content)
    assert meter.read() is None


def test_without_a_range_a_counter_that_falls_has_restarted(powercap: PowercapTree):
    meter = RaplMeter(powercap.zone("intel-rapl:0", "package-0", 900, range_uj=None).root)
    powercap.count("intel-rapl:0", 100)
    assert energy_of(meter) == 0
    powercap.count("intel-rapl:0", 150)
    assert energy_of(meter) == 50


def test_a_fall_no_package_could_cause_is_a_restart(powercap: PowercapTree):
    clock = Clock()
    meter = RaplMeter(powercap.zone("intel-rapl:0", "package-0", 9_000_000, RANGE_UJ).root, clock)
    clock.now_s += 15
    powercap.count("intel-rapl:0", 1_000)
    assert energy_of(meter) == 0


@pytest.mark.needs("root")
def test_without_permission_the_status_says_what_to_do(powercap: PowercapTree):
    powercap.zone("intel-rapl:0", "package-0", 5)
    (powercap.zones / "intel-rapl:0" / "energy_uj").chmod(0o400)
    for directory in (powercap.root, *powercap.root.parents):
        if directory.stat().st_uid == os.getuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    code = (
        "import json, os, sys\nfrom pathlib import Path\n"
        "from sidecar.meters.rapl import RaplMeter\n"
        "os.setuid(65534)\nmeter = RaplMeter(Path(sys.argv[1]))\n"
        "sys.stdout.write(json.dumps([meter.read() is None, meter.status()[0].detail]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(powercap.root)], capture_output=True, text=True, check=True
    )
    is_none, detail = json.loads(run.stdout)
    assert is_none
    assert detail.startswith("permission denied")
    assert "run as root" in detail


@given(
    st.lists(st.tuples(st.integers(0, 400_000_000), st.booleans()), min_size=1),
    st.integers(0, RANGE_UJ),
)
def test_over_any_wraps_the_sum_is_the_true_energy(steps: list[tuple[int, bool]], start_uj: int):
    """A step is at most 400 J here: what a package can use in the second between two looks."""
    domain = PackageDomain("package-0", "", RANGE_UJ, start_uj % RANGE_UJ, 0.0)
    counter_uj, true_uj, now_s = start_uj % RANGE_UJ, 0, 0.0
    for step_uj, _ in steps:
        counter_uj = (counter_uj + step_uj) % RANGE_UJ
        true_uj += step_uj
        now_s += 1
        domain.advance(counter_uj, now_s)
        assert domain.energy_uj == true_uj


@given(st.lists(st.tuples(st.integers(0, RANGE_UJ), st.floats(0, 1e5))), st.booleans())
def test_whatever_the_counter_does_energy_never_falls_nor_exceeds_what_a_package_can_use(
    values: list[tuple[int, float]], has_range: bool
):
    domain = PackageDomain("package-0", "", RANGE_UJ if has_range else None, 0, 0.0)
    now_s, last_uj = 0.0, 0
    for counter_uj, wait_s in values:
        now_s += wait_s
        before_uj = domain.energy_uj
        domain.advance(counter_uj, now_s)
        step_uj = domain.energy_uj - before_uj
        assert step_uj >= 0
        if counter_uj >= last_uj:
            assert step_uj == counter_uj - last_uj
        else:
            assert step_uj <= LARGEST_PACKAGE_POWER_W * 1e6 * max(wait_s, 1.0) + 1
        last_uj = counter_uj
