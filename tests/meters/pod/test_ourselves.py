import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

from sidecar.meters.pod.ourselves import Ourselves

PROC = Path("/proc")


def test_our_cpu_time_is_that_of_our_process():
    ourselves = Ourselves(PROC)
    before_s, truth_before = ourselves.cpu_s(), os.times()
    deadline_s = time.process_time() + 0.2
    while time.process_time() < deadline_s:
        pass
    after_s, truth_after = ourselves.cpu_s(), os.times()
    truth_s = (truth_after.user + truth_after.system) - (truth_before.user + truth_before.system)
    assert after_s - before_s >= 0.2
    assert abs((after_s - before_s) - truth_s) <= 0.05  # times(2) rounds to ticks


def test_the_work_of_a_command_we_wait_for_is_not_ours():
    ourselves = Ourselves(PROC)
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    before_s, truth_before = ourselves.cpu_s(), os.times()
    subprocess.run([sys.executable, "-c", burn], check=True)
    after_s, truth_after = ourselves.cpu_s(), os.times()
    children_s = (truth_after.children_user + truth_after.children_system) - (
        truth_before.children_user + truth_before.children_system
    )
    assert children_s >= 0.45
    assert after_s - before_s < children_s / 2


def test_our_memory_is_that_of_our_process():
    ourselves = Ourselves(PROC)
    before = ourselves.resident_bytes()
    with mmap.mmap(-1, 64 << 20) as ballast:  # the heap may have room already
        ballast.write(bytes(len(ballast)))
        grown = ourselves.resident_bytes() - before
        assert len(ballast) / 2 < grown < len(ballast) * 2


def test_memory_that_cannot_be_read_is_none_of_ours(tmp_path: Path):
    assert Ourselves(tmp_path).resident_bytes() == 0
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "statm").write_text("12")
    assert Ourselves(tmp_path).resident_bytes() == 0
