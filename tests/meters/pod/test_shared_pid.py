import logging
import os
from pathlib import Path

import pytest

from sidecar.meters.pod.shared_pid import SharedPidSource
from sidecar.meters.pod.source import PodSource
from tests.fakes.trees import PAGE_BYTES, TICKS_PER_S, ProcTree

PAUSE, OURS, TRAINING = 1, 7, 20


def named(tree: ProcTree, pid: int, name: str) -> ProcTree:
    (tree.root / str(pid) / "comm").write_text(f"{name}\n")
    return tree


@pytest.fixture
def pod(proc_tree: ProcTree) -> ProcTree:
    """A pod with a shared PID namespace: containers' first processes have parent 0."""
    proc_tree.process(PAUSE, 0, name="pause", resident_pages=1).process(OURS, 0, own_ticks=500)
    return named(proc_tree, PAUSE, "pause").process(TRAINING, 0)


def ticks_of(source: SharedPidSource) -> int:
    cpu_s = source.read().cpu_s
    assert cpu_s is not None
    return round(cpu_s * TICKS_PER_S)


def test_all_processes_of_the_pod_count_and_we_do_not(pod: ProcTree):
    source = SharedPidSource(OURS, pod.root)
    pod.process(OURS, 0, own_ticks=9000)
    pod.process(TRAINING, 0, own_ticks=10).process(21, TRAINING, own_ticks=20)
    pod.process(40, 0, own_ticks=3)
    assert ticks_of(source) == 33


def test_a_command_of_ours_is_the_work_while_it_runs_and_after(pod: ProcTree):
    source = SharedPidSource(OURS, pod.root)
    pod.process(OURS, 0, own_ticks=9000).process(8, OURS, own_ticks=40).process(9, 8, own_ticks=2)
    assert ticks_of(source) == 42
    pod.end(9).end(8).process(OURS, 0, own_ticks=9900, reaped_ticks=45)
    assert ticks_of(source) == 45


def test_what_was_used_before_opening_does_not_count(pod: ProcTree):
    pod.process(TRAINING, 0, own_ticks=400)
    assert ticks_of(SharedPidSource(OURS, pod.root)) == 0


def test_a_child_that_lived_between_two_readings_counts(pod: ProcTree):
    source = SharedPidSource(OURS, pod.root)
    pod.process(TRAINING, 0, reaped_ticks=33)
    assert ticks_of(source) == 33


def test_an_orphan_that_pause_waited_for_counts_once(pod: ProcTree):
    pod.process(21, TRAINING)
    source = SharedPidSource(OURS, pod.root)
    pod.process(21, PAUSE, own_ticks=70)
    assert ticks_of(source) == 70
    pod.end(21).process(PAUSE, 0, name="pause", reaped_ticks=75)
    assert ticks_of(source) == 75


def test_a_container_that_ended_keeps_its_time_and_hides_nobody_elses(pod: ProcTree):
    """Its parent is outside the PID namespace: its time moves to nobody in here."""
    pod.process(30, 0)
    source = SharedPidSource(OURS, pod.root)
    pod.process(TRAINING, 0, own_ticks=1000)
    assert ticks_of(source) == 1000
    pod.end(TRAINING).process(30, 0, reaped_ticks=40)
    assert ticks_of(source) == 1040


def test_a_container_that_restarts_counts_on(pod: ProcTree):
    source = SharedPidSource(OURS, pod.root)
    pod.process(TRAINING, 0, own_ticks=100)
    assert ticks_of(source) == 100
    pod.end(TRAINING).process(50, 0, own_ticks=7)
    assert ticks_of(source) == 107


def test_the_working_set_is_that_of_the_pods_processes_without_ours(pod: ProcTree):
    pod.process(OURS, 0, resident_pages=9000, shared_pages=10)
    pod.process(TRAINING, 0, resident_pages=150, shared_pages=50)
    reading = SharedPidSource(OURS, pod.root).read()
    assert reading.working_set_bytes == (1 + 100 + 50) * PAGE_BYTES


def test_the_working_set_is_integrated_over_the_samples(pod: ProcTree):
    now_s = [100.0]
    source = SharedPidSource(OURS, pod.root, lambda: now_s[0])
    pod.process(TRAINING, 0, resident_pages=1000)
    for _ in range(5):
        now_s[0] += 2
        source.sample()
    byte_s = source.read().memory_byte_s
    assert byte_s == pytest.approx((10 * (1 + 1000) - 1000) * PAGE_BYTES)


@pytest.mark.parametrize(
    "name", ["systemd", "init", "python", "emissions-sidec", "pauses", "\x1b[2J"]
)
def test_a_pid_namespace_without_pause_is_refused_and_its_first_process_named(
    pod: ProcTree, name: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    source = SharedPidSource(OURS, named(pod, PAUSE, name).root)
    source.sample()
    assert source.read().cpu_s is None
    detail = source.status()[0].detail
    assert f"process 1 is {name!a}" in detail
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_as_process_1_we_are_alone(pod: ProcTree):
    source = SharedPidSource(1, pod.root)
    assert source.read().cpu_s is None
    assert "we are process 1" in source.status()[0].detail


def test_hidden_processes_are_said(pod: ProcTree):
    (pod.root / "1" / "comm").unlink()
    source = SharedPidSource(OURS, pod.root)
    assert source.read().cpu_s is None
    assert "whose PID namespace" in source.status()[0].detail


def test_a_proc_that_goes_away_is_a_warning_and_one_that_returns_counts_on(
    pod: ProcTree, caplog: pytest.LogCaptureFixture
):
    source = SharedPidSource(OURS, pod.root)
    hidden = pod.root.rename(pod.root.parent / "hidden")
    assert source.read().cpu_s is None
    assert "WARNING" in [record.levelname for record in caplog.records]
    hidden.rename(pod.root)
    pod.process(TRAINING, 0, own_ticks=12)
    assert ticks_of(source) == 12


@pytest.mark.parametrize(
    "content",
    ["", "20 (pyth", "20 (a) S 0 1 1 0 -1 4 1 2 3 4 x 1 1 1 20 0 1 0 20 1", "\0" * 100_000],
)
def test_a_process_whose_file_lies_is_as_it_was(pod: ProcTree, content: str):
    source = SharedPidSource(OURS, pod.root)
    (pod.root / str(TRAINING) / "stat").write_text(content)
    assert ticks_of(source) == 0
    pod.process(TRAINING, 0, own_ticks=30)
    assert ticks_of(source) == 30


def test_the_real_namespace_of_this_machine_is_not_a_pods():
    source = SharedPidSource(os.getpid(), Path("/proc"))
    assert source.read().cpu_s is None
    assert not source.status()[0].available


def test_it_is_a_local_source_that_says_what_it_needs(pod: ProcTree):
    source: PodSource = SharedPidSource(OURS, pod.root)
    assert source.is_local
    assert source.needs_sampling
    assert "emissions/share-process-namespace" in source.needs
