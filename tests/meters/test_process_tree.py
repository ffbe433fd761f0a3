import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.kernel_file import read_kernel_file
from sidecar.meters.pod.process_tree import (
    CpuTimeLedger,
    MemoryIntegral,
    ProcessTimes,
    ProcessTreeSource,
    parse_process_stat,
)
from tests.fakes.trees import PAGE_BYTES, TICKS_PER_S, ProcTree

ROOT = 100


def ticks_of(source: ProcessTreeSource) -> int:
    cpu_s = source.read().cpu_s
    assert cpu_s is not None
    return round(cpu_s * TICKS_PER_S)


@pytest.fixture
def tree(proc_tree: ProcTree) -> ProcTree:
    return proc_tree.process(1, 0).process(ROOT, 1, own_ticks=5000)


def test_descendants_count_and_the_root_and_strangers_do_not(tree: ProcTree):
    source = ProcessTreeSource(ROOT, tree.root)
    tree.process(ROOT, 1, own_ticks=9000).process(101, ROOT, own_ticks=10)
    tree.process(102, 101, own_ticks=7, reaped_ticks=3).process(200, 1, own_ticks=100_000)
    assert ticks_of(source) == 20


def test_a_program_that_meters_itself_counts_its_own_time(tree: ProcTree):
    source = ProcessTreeSource(ROOT, tree.root, include_root=True)
    tree.process(ROOT, 1, own_ticks=5030)
    assert ticks_of(source) == 30


def test_what_was_used_before_opening_does_not_count(tree: ProcTree):
    tree.process(101, ROOT, own_ticks=400, reaped_ticks=50)
    source = ProcessTreeSource(ROOT, tree.root)
    assert ticks_of(source) == 0
    tree.process(101, ROOT, own_ticks=410, reaped_ticks=50)
    assert ticks_of(source) == 10


def test_a_child_that_ends_is_not_counted_again_as_its_parents(tree: ProcTree):
    source = ProcessTreeSource(ROOT, tree.root)
    tree.process(101, ROOT, own_ticks=500)
    assert ticks_of(source) == 500
    tree.end(101).process(ROOT, 1, own_ticks=5000, reaped_ticks=520)
    assert ticks_of(source) == 520
    assert ticks_of(source) == 520


def test_a_child_that_lived_between_two_readings_counts(tree: ProcTree):
    source = ProcessTreeSource(ROOT, tree.root)
    tree.process(ROOT, 1, own_ticks=5000, reaped_ticks=33)
    assert ticks_of(source) == 33


def test_a_child_nobody_waited_for_does_not_hide_later_work(tree: ProcTree):
    source = ProcessTreeSource(ROOT, tree.root)
    tree.process(101, ROOT, own_ticks=1000)
    assert ticks_of(source) == 1000
    tree.end(101).process(102, ROOT, own_ticks=50)
    assert ticks_of(source) == 1050
    tree.process(102, ROOT, own_ticks=80)
    assert ticks_of(source) == 1080


def test_what_nobody_waited_for_is_owed_for_one_reading_only(tree: ProcTree):
    tree.process(101, ROOT)
    source = ProcessTreeSource(ROOT, tree.root)
    tree.process(101, ROOT, own_ticks=1000)
    assert ticks_of(source) == 1000
    tree.end(101)
    assert [ticks_of(source), ticks_of(source)] == [1000, 1000]
    tree.process(ROOT, 1, own_ticks=5000, reaped_ticks=50)
    assert ticks_of(source) == 1050


def test_a_child_that_ends_while_the_tree_is_read_counts_once(
    tree: ProcTree, monkeypatch: pytest.MonkeyPatch
):
    """The child's pid is lower, so it is listed first; it ends before its parent is looked at."""
    source = ProcessTreeSource(ROOT, tree.root)
    tree.process(500, ROOT).process(30, 500, own_ticks=10)

    def read_and_end_the_child(path: str, **options: bytes) -> bytes:
        if path.endswith("/500/stat") and (tree.root / "30").exists():
            tree.end(30).process(500, ROOT, reaped_ticks=12)
        return read_kernel_file(path, **options)

    monkeypatch.setattr("sidecar.meters.pod.process_tree.read_kernel_file", read_and_end_the_child)
    assert ticks_of(source) == 12


def test_time_taken_over_one_reading_late_is_not_counted_again(tree: ProcTree):
    source = ProcessTreeSource(ROOT, tree.root)
    tree.process(101, ROOT, own_ticks=500)
    assert ticks_of(source) == 500
    tree.end(101)
    assert ticks_of(source) == 500
    tree.process(ROOT, 1, own_ticks=5000, reaped_ticks=510)
    assert ticks_of(source) == 510


def test_an_orphan_that_moves_away_stays_in(tree: ProcTree):
    tree.process(101, ROOT).process(102, 101, own_ticks=10)
    source = ProcessTreeSource(ROOT, tree.root)
    tree.end(101).process(102, 1, own_ticks=25)
    assert ticks_of(source) == 15
    tree.process(102, 1, own_ticks=30)
    assert ticks_of(source) == 20


def test_a_reused_pid_is_another_process(tree: ProcTree):
    tree.process(101, ROOT, own_ticks=100, started=1)
    source = ProcessTreeSource(ROOT, tree.root)
    tree.process(101, ROOT, own_ticks=4, started=2)
    assert ticks_of(source) == 4
    tree.process(101, 1, own_ticks=900, started=3)
    assert ticks_of(source) == 4


def test_a_child_with_a_lower_pid_than_its_parent_counts_once(tree: ProcTree):
    source = ProcessTreeSource(ROOT, tree.root)
    tree.process(500, ROOT, own_ticks=1).process(30, 500, own_ticks=10).process(40, 30, own_ticks=5)
    assert ticks_of(source) == 16
    assert ticks_of(source) == 16


def test_a_process_that_cannot_be_read_for_once_is_as_it_was(tree: ProcTree):
    tree.process(101, ROOT, own_ticks=100)
    source = ProcessTreeSource(ROOT, tree.root)
    (tree.root / "101" / "stat").write_text("101 (pyth")
    assert ticks_of(source) == 0
    tree.process(101, ROOT, own_ticks=130)
    assert ticks_of(source) == 30


def test_a_root_that_is_gone_is_no_reading_and_said(tree: ProcTree):
    source = ProcessTreeSource(ROOT, tree.root)
    tree.end(ROOT)
    reading = source.read()
    assert (reading.cpu_s, reading.working_set_bytes) == (None, None)
    assert not source.status()[0].available
    assert str(ROOT) in source.status()[0].detail


def test_the_working_set_takes_shared_pages_once(tree: ProcTree):
    tree.process(101, ROOT, resident_pages=150, shared_pages=50)
    tree.process(102, 101, resident_pages=70, shared_pages=40)
    reading = ProcessTreeSource(ROOT, tree.root).read()
    assert reading.working_set_bytes == (100 + 30 + 50) * PAGE_BYTES


def test_the_working_set_is_never_more_than_the_node_uses(tree: ProcTree):
    tree.meminfo(total_kib=1000, free_kib=400, available_kib=500)
    for pid in range(101, 110):
        tree.process(pid, ROOT, resident_pages=10_000, shared_pages=0)
    reading = ProcessTreeSource(ROOT, tree.root).read()
    assert reading.working_set_bytes == 600 * 1024


@pytest.mark.parametrize("name", ["a b", "a) S 1 (b", "(((", "x\ny"])
def test_a_name_with_spaces_and_parentheses_is_no_hindrance(tree: ProcTree, name: str):
    tree.process(101, ROOT, own_ticks=10, reaped_ticks=5, started=77, name=name)
    content = (tree.root / "101" / "stat").read_bytes()
    assert parse_process_stat(101, content) == ProcessTimes(101, ROOT, 77, 10, 5)


@pytest.mark.parametrize("content", [b"", b"1", b"1 (a", b"1 (a)", b"1 (a) S 1 1 1 0 -1"])
def test_a_torn_process_stat_is_refused(content: bytes):
    with pytest.raises(ValueError, match="torn"):
        parse_process_stat(1, content)


BURN = "import time\nwhile time.process_time() < 0.25: pass"


def test_the_cpu_time_of_real_children_is_seen_alive_and_after_they_end():
    source = ProcessTreeSource(os.getpid(), Path("/proc"))
    burner = f"{BURN}\nprint(flush=True)\nimport sys\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", burner], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        alive = source.read()
        child.stdin.close()
        child.wait()
    ended = source.read()
    assert alive.cpu_s is not None
    assert ended.cpu_s is not None
    assert alive.working_set_bytes is not None
    assert alive.cpu_s >= 0.2
    assert alive.working_set_bytes > 1 << 20
    assert alive.cpu_s <= ended.cpu_s <= alive.cpu_s + 0.2


def test_a_real_grandchild_that_is_killed_is_counted():
    source = ProcessTreeSource(os.getpid(), Path("/proc"))
    parent = (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {BURN!r}])\nprint(flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait()
    reading = source.read()
    assert reading.cpu_s is not None
    assert reading.cpu_s >= 0.2


class SimulatedKernel:
    """Processes below a root that run, fork and end, waited for or not; keeps the truth."""

    def __init__(self) -> None:
        self.own = {ROOT: 0}
        self.reaped = {ROOT: 0}
        self.parent = {ROOT: 1}
        self.used = 0
        self.unseen = 0
        self.last_seen: dict[int, int] = {}
        self.next_pid = ROOT + 1

    def step(self, action: str, choice: int, ticks: int) -> None:
        alive = sorted(self.own)
        pid = alive[choice % len(alive)]
        if action == "fork":
            self.own[self.next_pid] = self.reaped[self.next_pid] = 0
            self.parent[self.next_pid] = pid
            self.next_pid += 1
        elif pid == ROOT:
            return
        elif action == "run":
            self.own[pid] += ticks
            self.used += ticks
        else:
            self.end(pid, waited_for=action == "end")

    def end(self, pid: int, *, waited_for: bool) -> None:
        for child, parent in self.parent.items():
            if parent == pid:
                self.parent[child] = ROOT
        total = self.own.pop(pid) + self.reaped.pop(pid)
        parent = self.parent.pop(pid)
        if waited_for:
            self.reaped[parent] += total
        else:
            self.unseen += total

    def listed(self) -> dict[int, ProcessTimes]:
        return {
            pid: ProcessTimes(pid, self.parent[pid], pid, self.own[pid], self.reaped[pid])
            for pid in self.own
        }


ACTIONS = st.tuples(
    st.sampled_from(["fork", "run", "run", "end", "lose", "read"]),
    st.integers(0, 20),
    st.integers(0, 1000),
)


@given(st.lists(ACTIONS, max_size=80))
def test_cpu_time_never_falls_and_never_exceeds_what_was_used(actions: list[tuple[str, int, int]]):
    kernel, ledger = SimulatedKernel(), CpuTimeLedger()
    ledger.advance(kernel.listed())
    for action, choice, ticks in actions:
        if action != "read":
            kernel.step(action, choice, ticks)
            continue
        before = ledger.total_ticks
        ledger.advance(kernel.listed())
        assert before <= ledger.total_ticks <= kernel.used


@given(st.lists(ACTIONS.filter(lambda action: action[0] != "lose"), max_size=80))
def test_where_all_are_waited_for_all_cpu_time_is_counted(actions: list[tuple[str, int, int]]):
    kernel, ledger = SimulatedKernel(), CpuTimeLedger()
    ledger.advance(kernel.listed())
    for action, choice, ticks in [*actions, ("read", 0, 0)]:
        if action != "read":
            kernel.step(action, choice, ticks)
            continue
        ledger.advance(kernel.listed())
        assert ledger.total_ticks == kernel.used


class SteppedClock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_memory_used_between_two_readings_is_not_missed(tree: ProcTree):
    clock = SteppedClock()
    source = ProcessTreeSource(ROOT, tree.root, clock=clock)
    before = source.read()
    tree.process(77, ROOT, resident_pages=1000)
    for _ in range(10):
        clock.now_s += 1
        source.sample()
    tree.end(77)
    clock.now_s += 1
    after = source.read()
    # half of the first and of the last second, and nine whole ones between
    grown_byte_s = after.memory_byte_s - before.memory_byte_s
    assert grown_byte_s == pytest.approx(10 * 1000 * PAGE_BYTES)
    assert after.working_set_bytes == before.working_set_bytes


def test_memory_is_not_looked_at_more_often_than_it_may_cost(tree: ProcTree):
    clock = SteppedClock()
    source = ProcessTreeSource(ROOT, tree.root, clock=clock)
    tree.process(77, ROOT, resident_pages=1000)
    source.sample()  # the period has not passed
    clock.now_s += 0.5
    source.sample()
    assert source.read().memory_byte_s == pytest.approx(0.5 * 1000 * PAGE_BYTES / 2)


@given(st.lists(st.tuples(st.floats(0, 100), st.none() | st.integers(0, 10**12)), max_size=30))
def test_the_memory_integral_never_falls_and_stays_between_its_bounds(steps):
    integral, now_s, totals = MemoryIntegral(), 0.0, [0.0]
    for elapsed_s, size in steps:
        now_s += elapsed_s
        totals.append(integral.advance(now_s, size))
    assert totals == sorted(totals)
    largest = max((size for _, size in steps if size is not None), default=0)
    assert totals[-1] <= now_s * largest * (1 + 1e-9)
