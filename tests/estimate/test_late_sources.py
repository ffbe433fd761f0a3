"""Nodes whose pods are all told late (kubelet, metrics-api): right sums, and nothing taken for a fault.

Histories of bursts, through real meters, sources, estimate and records, to `verify` and `settle`.
"""

import functools
import math
import random

import pytest

from sidecar.report.verify import verify
from tests.estimate.far_ends import IDLE_W, MAX_W
from tests.estimate.histories import history_names, read_history, simulated
from tests.estimate.sidecars import Scene
from tests.estimate.simulation import at
from tests.estimate.test_conservation import settled

J_PER_KWH = 3.6e6
LATE = ("kubelet", "metrics-api")
NAMES = history_names()


@functools.cache
def records_of(name, method):
    scene = Scene(simulated(read_history(name)), random.Random(1))
    for pod in scene.node.pods:
        scene.add(pod, method, sees_gpus=False)
    return scene.node, scene.run()


def kinds(found):
    return {item.kind.name for item in found} - {"gap"}  # there are no start records


@pytest.mark.parametrize("method", LATE)
@pytest.mark.parametrize("name", NAMES)
def test_honest_records_of_late_sources_verify(name, method):
    node, records = records_of(name, method)
    by_requests = [record for record in records if record.pod_method == "requests"]
    assert len(by_requests) <= 3 * len(node.pods), "until the source has seen the pod"
    verdict = verify(("a.ndjson", record) for record in records)
    assert kinds(verdict.violations) == set()


@pytest.mark.parametrize("method", LATE)
@pytest.mark.parametrize("name", NAMES)
def test_dynamic_energy_is_that_of_the_cpu_time_told_whatever_the_node_did_meanwhile(name, method):
    node, records = records_of(name, method)
    for pod in node.pods:
        told = [r for r in records if r.pod_uid == pod.name and r.pod_method == method]
        energy_j = J_PER_KWH * math.fsum(record.cpu_energy_kwh for record in told)
        dynamic_j = energy_j - IDLE_W * pod.cpus * math.fsum(record.duration_s for record in told)
        cpu_s = math.fsum(record.pod_cpu_seconds for record in told)
        assert dynamic_j == pytest.approx((MAX_W - IDLE_W) * cpu_s, rel=0.01, abs=1.0)


@pytest.mark.parametrize("name", NAMES)
def test_kubelet_tells_all_cpu_time_but_that_of_the_last_half_minute(name):
    node, records = records_of(name, "kubelet")
    for pod in node.pods:
        told_s = math.fsum(r.pod_cpu_seconds or 0.0 for r in records if r.pod_uid == pod.name)
        assert told_s == pytest.approx(at(pod.cpu_s, node.seconds - 30.0), rel=0.01)


@pytest.mark.parametrize("method", LATE)
@pytest.mark.parametrize("name", NAMES)
def test_settling_takes_next_to_nothing_off_them(name, method):
    _, records = records_of(name, method)
    claimed = kept = 0.0
    for stretch in settled(records):
        cpu, *_ = stretch.balances
        claimed, kept = claimed + cpu.claimed, kept + cpu.pods
    assert claimed - kept <= 1e-4 * claimed


def test_in_single_windows_a_burst_may_be_blurred():
    """Why they are settled over ten minutes: if this ever fails, that is needed no more."""
    _, records = records_of("gpu-node", "kubelet")
    windows = {}
    for record in records:
        windows.setdefault(record.window_start, []).append(record.share_cpu)
    assert max(map(sum, windows.values())) > 1.05
