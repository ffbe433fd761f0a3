import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.proc import ProcMeter, RisingSeconds, parse_stat
from tests.fakes.trees import ProcTree


def test_iowait_is_idle_and_steal_is_neither(proc_tree: ProcTree):
    proc_tree.stat(user=10, nice=1, system=2, idle=50, iowait=20, irq=0.5, softirq=0.5, steal=1000)
    reading = ProcMeter(proc_tree.root).cpu()
    assert reading is not None
    assert reading.busy_s == pytest.approx(14.0)
    assert reading.total_s == pytest.approx(84.0)
    assert reading.cpus == 2


def test_the_real_proc_can_be_read():
    meter = ProcMeter(Path("/proc"))
    cpu, memory = meter.cpu(), meter.memory()
    assert cpu is not None
    assert memory is not None
    assert 0 < cpu.busy_s <= cpu.total_s
    assert 0 < memory.available_bytes <= memory.total_bytes
    assert all(status.available for status in meter.status())


def test_memory_is_in_bytes(proc_tree: ProcTree):
    proc_tree.meminfo(total_kib=1000, free_kib=1, available_kib=250)
    reading = ProcMeter(proc_tree.root).memory()
    assert reading is not None
    assert (reading.total_bytes, reading.available_bytes) == (1_024_000, 256_000)


def test_iowait_that_falls_is_held(proc_tree: ProcTree):
    meter = ProcMeter(proc_tree.stat(user=10, idle=90, iowait=10).root)
    before = meter.cpu()
    proc_tree.stat(user=11, idle=90, iowait=8)
    after = meter.cpu()
    assert before is not None
    assert after is not None
    assert after.busy_s - before.busy_s == pytest.approx(1)
    assert after.total_s - before.total_s == pytest.approx(1)


def test_a_small_dip_that_lasts_and_recovers_counts_once():
    counter = RisingSeconds()
    assert [counter.advance(value) for value in (10, 8, 8.5, 9, 10, 12)] == [10, 10, 10, 10, 10, 12]


def test_a_confirmed_restart_of_the_counter_goes_on_counting(proc_tree: ProcTree):
    meter = ProcMeter(proc_tree.stat(user=5000, idle=9000).root)
    values = [meter.cpu()]
    for user_s in (10, 12, 15):
        proc_tree.stat(user=user_s, idle=9000)
        values.append(meter.cpu())
    busy = [reading.busy_s for reading in values if reading]
    assert busy == pytest.approx([5000, 5000, 5002, 5005])


@pytest.mark.parametrize("size", range(60))
def test_a_stat_torn_anywhere_in_its_cpu_lines_is_no_reading(proc_tree: ProcTree, size: int):
    proc_tree.stat(user=10, idle=90)
    content = (proc_tree.root / "stat").read_bytes()
    torn = content[:size]
    first_line_end = content.index(b"\n")
    if size > first_line_end and torn.endswith(b"\n") and torn.count(b"\n") > 1:
        pytest.fail("the sizes must all lie within the CPU lines")
    with pytest.raises(ValueError, match="torn"):
        parse_stat(torn)


def test_a_torn_file_is_logged_once_and_recovers(
    proc_tree: ProcTree, caplog: pytest.LogCaptureFixture
):
    meter = ProcMeter(proc_tree.stat(user=10, idle=90).root)
    content = (proc_tree.root / "stat").read_text()
    (proc_tree.root / "stat").write_text("cpu  1 2")
    assert [meter.cpu() for _ in range(5)] == [None] * 5
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert not meter.status()[0].available
    assert "stat" in meter.status()[0].detail
    (proc_tree.root / "stat").write_text(content)
    assert meter.cpu() is not None
    assert meter.status()[0].available


def test_a_meter_that_flaps_does_not_fill_the_log(
    proc_tree: ProcTree, caplog: pytest.LogCaptureFixture
):
    meter = ProcMeter(proc_tree.root)
    stat = proc_tree.root / "stat"
    content = stat.read_text()
    for round_number in range(100):
        stat.write_text(content if round_number % 2 else "")
        meter.cpu()
    assert len(caplog.records) <= 10


def test_missing_files_are_no_readings(tmp_path: Path):
    meter = ProcMeter(tmp_path)
    assert meter.cpu() is None
    assert meter.memory() is None
    assert [status.available for status in meter.status()] == [False, False]


@pytest.mark.parametrize(
    "content", ["", "MemTotal: 10 kB", "MemTotal: x kB\nMemAvailable: 1 kB\n", "MemTotal: 1 kB\n"]
)
def test_a_torn_meminfo_is_no_reading(proc_tree: ProcTree, content: str):
    (proc_tree.root / "meminfo").write_text(content)
    assert ProcMeter(proc_tree.root).memory() is None


def test_a_machine_of_1792_cpus_is_read_whole(tmp_path: Path):
    reading = ProcMeter(ProcTree(tmp_path, cpus=1792).stat(user=1e6, idle=1e7).root).cpu()
    assert reading is not None
    assert reading.cpus == 1792


@given(st.lists(st.floats(0, 1e9, allow_nan=False)))
def test_cpu_seconds_never_fall(values: list[float]):
    counter = RisingSeconds()
    totals = [counter.advance(value) for value in values]
    assert all(later >= earlier - 1e-3 for earlier, later in itertools.pairwise(totals))


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_cpu_seconds_of_a_rising_counter_are_the_counter(steps_s: list[float]):
    counter, true_s = RisingSeconds(), 0.0
    for step_s in steps_s:
        true_s += step_s
        assert counter.advance(true_s) == true_s
