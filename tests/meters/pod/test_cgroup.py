import contextlib
import itertools
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.pod.cgroup import CgroupSource, CounterBackError, PodCpuTime
from sidecar.meters.pod.ourselves import Ourselves
from sidecar.meters.pod.source import PodSource
from tests.meters.pod.cgroup_files import (
    BEST_EFFORT,
    BURSTABLE,
    TREES,
    copied,
    directory_of,
    write_cpu_s,
    write_memory,
)


@dataclass
class KnownOurselves(Ourselves):
    """What we use, as a test says."""

    used_s: float = 0.0
    has_bytes: int = 0

    def cpu_s(self) -> float:
        return self.used_s

    def resident_bytes(self) -> int:
        return self.has_bytes


class SteppedClock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def node(tmp_path: Path) -> Path:
    return copied("v2-systemd", tmp_path)


def source_of(node: Path, ourselves: Ourselves | None = None) -> CgroupSource:
    return CgroupSource(BURSTABLE, node, ourselves or KnownOurselves())


def test_the_pods_cpu_time_and_memory_come_without_ours():
    ourselves = KnownOurselves(used_s=1.5, has_bytes=30 << 20)
    reading = CgroupSource(BURSTABLE, TREES / "v2-systemd", ourselves).read()
    assert reading.method == "cgroup"
    assert reading.cpu_s == pytest.approx(91.203877 - 1.5)
    assert reading.working_set_bytes == 1_288_490_188 - 268_435_456 - (30 << 20)


def test_a_pod_that_used_less_than_we_did_used_nothing():
    ourselves = KnownOurselves(used_s=1e6, has_bytes=1 << 50)
    reading = CgroupSource(BEST_EFFORT, TREES / "v2-systemd", ourselves).read()
    assert (reading.cpu_s, reading.working_set_bytes) == (0.0, 0)


def test_our_own_work_between_two_readings_is_not_the_pods(node: Path):
    ourselves = KnownOurselves(used_s=2.0)
    source = source_of(node, ourselves)
    write_cpu_s(node, BURSTABLE, 50.0)
    before = source.read()
    ourselves.used_s = 3.0
    write_cpu_s(node, BURSTABLE, 61.0)
    assert source.read().cpu_s - before.cpu_s == pytest.approx(10.0)


def test_a_pod_made_anew_begins_a_new_epoch_once_that_is_sure(node: Path):
    ourselves = KnownOurselves(used_s=5.0)
    source = source_of(node, ourselves)
    write_cpu_s(node, BURSTABLE, 50.0)
    assert source.read().epoch == 0
    write_cpu_s(node, BURSTABLE, 1.0)
    assert source.read().cpu_s is None
    assert "went back from 50 s to 1 s" in source.status()[0].detail
    write_cpu_s(node, BURSTABLE, 2.0)
    begun = source.read()
    assert (begun.epoch, begun.cpu_s) == (1, 0.0)
    write_cpu_s(node, BURSTABLE, 6.0)
    ourselves.used_s = 5.5
    assert source.read().cpu_s == pytest.approx(3.5)


def test_one_bad_reading_neither_begins_an_epoch_nor_counts_its_way_back(node: Path):
    source = source_of(node)
    write_cpu_s(node, BURSTABLE, 50.0)
    before = source.read()
    write_cpu_s(node, BURSTABLE, 0.0)
    assert source.read().cpu_s is None
    write_cpu_s(node, BURSTABLE, 51.0)
    after = source.read()
    assert after.epoch == before.epoch
    assert after.cpu_s - before.cpu_s == pytest.approx(1.0)


@given(st.lists(st.tuples(st.floats(0, 1e13), st.floats(0, 10)), min_size=1, max_size=30))
def test_cpu_time_never_falls_and_never_exceeds_the_counters_rise(
    steps: list[tuple[float, float]],
):
    cpu_time, own_s = PodCpuTime(), 0.0
    seen: dict[int, list[tuple[float, float]]] = {}
    for pod_s, own_step_s in steps:
        own_s += own_step_s
        with contextlib.suppress(CounterBackError):
            used_s = cpu_time.advance(pod_s, own_s)
            seen.setdefault(cpu_time.epoch, []).append((used_s, pod_s))
    assert seen
    for readings in seen.values():
        for (before_s, pod_before_s), (used_s, pod_s) in itertools.pairwise(readings):
            assert 0 <= before_s <= used_s <= pod_s
            assert pod_before_s <= pod_s


def test_memory_used_between_two_readings_is_not_missed(node: Path):
    clock = SteppedClock()
    source = CgroupSource(BURSTABLE, node, KnownOurselves(), clock)
    write_memory(node, BURSTABLE, 0)
    before = source.read()
    write_memory(node, BURSTABLE, 1000)
    for _ in range(10):
        clock.now_s += 1
        source.sample()
    write_memory(node, BURSTABLE, 0)
    clock.now_s += 1
    after = source.read()
    # half of the first and of the last second, and nine whole ones between
    assert after.memory_byte_s - before.memory_byte_s == pytest.approx(10 * 1000)


def test_memory_is_not_looked_at_more_than_once_a_second(node: Path):
    clock = SteppedClock()
    source = CgroupSource(BURSTABLE, node, KnownOurselves(), clock)
    write_memory(node, BURSTABLE, 0)
    source.read()
    clock.now_s += 0.5
    write_memory(node, BURSTABLE, 8000)
    source.sample()
    write_memory(node, BURSTABLE, 0)
    assert source.read().memory_byte_s == 0.0


def test_sampling_before_the_pod_is_found_does_nothing(tmp_path: Path):
    source = CgroupSource(BURSTABLE, tmp_path, KnownOurselves())
    source.sample()
    assert source.read().cpu_s is None


def test_memory_that_cannot_be_read_leaves_cpu_time(node: Path):
    (directory_of(node, BURSTABLE) / "memory.current").write_text("lots\n")
    reading = source_of(node).read()
    assert reading.working_set_bytes is None
    assert reading.cpu_s is not None


def test_a_container_that_sees_only_itself_is_ordinary_and_said(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    source = source_of(TREES / "v2-private-namespace")
    assert source.read().cpu_s is None
    status = source.status()[0]
    assert not status.available
    assert "private cgroup namespace" in status.detail
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_another_nodes_cgroups_are_told_by_the_missing_uid():
    source = CgroupSource("no-such-pod", TREES / "v2-systemd", KnownOurselves())
    assert source.read().cpu_s is None
    assert "no cgroup of pod no-such-pod" in source.status()[0].detail


def test_a_pod_whose_cgroup_goes_away_is_a_warning_and_one_that_returns_counts_again(
    node: Path, caplog: pytest.LogCaptureFixture
):
    source = source_of(node)
    assert source.read().cpu_s is not None
    directory = directory_of(node, BURSTABLE)
    shutil.move(directory, node / "kept")
    assert source.read().cpu_s is None
    assert source.read().cpu_s is None
    assert "no cgroup of pod" in source.status()[0].detail
    assert "WARNING" in [record.levelname for record in caplog.records]
    shutil.move(node / "kept", directory)
    assert source.read().cpu_s is not None
    assert source.status()[0].available


@pytest.mark.parametrize(
    "content", ["usage_usec -1\n", "usage_usec nan\n", "x" * 3_000_000, "usage_usec 5 6\n"]
)
def test_a_file_that_lies_is_no_reading_and_said(node: Path, content: str):
    (directory_of(node, BURSTABLE) / "cpu.stat").write_text(content)
    source = source_of(node)
    assert source.read().cpu_s is None
    detail = source.status()[0].detail
    assert "cpu.stat" in detail
    assert len(detail) < 500


def test_it_is_a_local_source_that_says_what_it_needs():
    source: PodSource = source_of(TREES / "v2-systemd")
    assert source.is_local
    assert source.needs_sampling
    assert "hostPath" in source.needs
