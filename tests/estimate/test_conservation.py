"""Conservation over random nodes and histories: no energy is given to pods that the node did not use.

One method per node: straight from the records. `/proc/stat` is read in ticks, so that busy time between
two readings is less than 6 ticks from the truth; with dynamic energy k · Δbusy the pods may together
exceed a window's by k · 6 ticks, and no more. Methods that mix: after settling, exactly.
"""

import itertools
import math
import random
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.carbon.intensity import CarbonIntensity
from sidecar.estimate.attribution import shares_of
from sidecar.estimate.emissions import Factors, estimate_window
from sidecar.estimate.power import GpuPower, RamPerGib, VmShareModel
from sidecar.meters.pod.requests import Reservation
from sidecar.meters.reading import NodeUsage, PodReading
from sidecar.meters.usage import usage_between
from sidecar.record import EmissionRecord
from sidecar.recording import estimate_columns
from sidecar.report.claims import Claims, Nodes, Place
from sidecar.report.settle import COMPONENTS, Claim, settle
from sidecar.units import Figure, kwh_from_power
from sidecar.windows import rfc3339
from tests.estimate.simulation import TICKS_S, counted, parts_of_one, random_node

START_S = 1_795_000_000.0
IDLE_W, MAX_W = 0.78, 3.76
MEASURED_METHODS = ("node-meter", "cgroup", "kubelet", "shared-pid", "metrics-api", "process-tree")
seeds = st.integers(0, 2**32)


def figure(value):
    return Figure(value, "W", value, value, "test", 2026)


def factors_of(node):
    return Factors(
        carbon=CarbonIntensity(figure(300.0), "zone", None),
        pue=figure(1.2),
        wue=None,
        embodied=None,
        cpu=VmShareModel(figure(IDLE_W), figure(MAX_W), node.cpus, node.cpus, "test"),
        ram=RamPerGib(),
        gpu_powers={"NVIDIA A100 80GB PCIe": GpuPower("A100", figure(50.0), figure(300.0))},
        table_gpus=(),
    )


def records_of(node, pod, boundaries_s, ladder):
    """The records of one pod's sidecar; `ladder` gives what its sources tell at a moment."""
    reservation = Reservation(pod.cpus, pod.memory_gib, sum(pod.gpus.values()))
    factors, records = factors_of(node), []
    readings = [
        node.reading(pod, s, *ladder(pod, s), tells_gpus=len(ladder(pod, s)) > 1)
        for s in boundaries_s
    ]
    for sequence, (before, after) in enumerate(itertools.pairwise(readings)):
        usage = usage_between(before, after)
        shares = shares_of(usage, reservation, float(node.gpus))
        estimate = estimate_window(usage, shares, factors)
        record = EmissionRecord(
            record_id=f"{pod.name}.boot.{sequence}",
            node="node",
            window_start=rfc3339(START_S + before.monotonic_s),
            window_end=rfc3339(START_S + after.monotonic_s),
            duration_s=usage.duration_s,
            pod_method=usage.pod_method,
            **estimate_columns(estimate),
        )
        records.append(record)
    return records


def measured(pod, moment_s):
    """A measured source that has counted since the pod began, whatever restarts."""
    return counted(replace(pod, restarts_s=None), moment_s), PodReading(
        None, None, method="requests"
    )


def restarting(pod, moment_s):
    """The same, whose counter begins anew: the window in between is by requests."""
    return counted(pod, moment_s), PodReading(None, None, method="requests")


def by_requests(pod, moment_s):
    return (PodReading(None, None, method="requests"),)


def windows_of(pod, interval_s, late=lambda: 0.0):
    """Where the pod's windows begin and end: at boundaries, and late where a tick is."""
    inner = [
        s + late()
        for s in range(0, pod.ends_s, interval_s)
        if pod.begins_s < s and s + 2 < pod.ends_s
    ]
    return [float(pod.begins_s), *inner, float(pod.ends_s)]


def settled(records):
    claims = Claims(Nodes())
    for record in records:
        claims.add(record, Place.of(record))
    return [stretch for node in claims.node_numbers() for stretch in settle(claims.of_node(node))]


def total(records, column):
    return math.fsum(getattr(record, column) or 0.0 for record in records)


def tick_kwh(windows=1):
    """What rounding to ticks may add: k · 6 ticks, k = P_max − P_idle of one thread."""
    return windows * kwh_from_power(MAX_W - IDLE_W, TICKS_S) + 1e-12


# -- one method, aligned windows ---------------------------------------------------------------------


@pytest.mark.parametrize("ladder", [measured, by_requests])
@given(seed=seeds)
def test_in_aligned_windows_pods_have_at_most_the_node_straight_from_the_records(ladder, seed):
    node = random_node(random.Random(seed))
    windows = {}
    for pod in node.pods:
        present = replace(pod, begins_s=0, ends_s=node.seconds)
        for record in records_of(node, present, [0.0, 15.0, 30.0, 45.0, 60.0], ladder):
            windows.setdefault(record.window_start, []).append(record)
    assert len(windows) == 4
    for records in windows.values():
        for name in COMPONENTS:
            of_node = getattr(records[0], f"node_{name}_energy_kwh") or 0.0
            slack = tick_kwh() if name == "cpu" else 0.0
            assert total(records, f"{name}_energy_kwh") <= of_node * (1 + 1e-9) + slack


@given(seed=seeds)
def test_with_late_ticks_pods_have_at_most_the_node_over_the_whole_history(seed):
    """E_dyn = k · Δbusy, so a pod's is k · ΔT_p in any window: it adds up whatever the windows are."""
    rng = random.Random(seed)
    node = random_node(rng)
    records, windows = [], 1
    for pod in node.pods:
        present = replace(pod, begins_s=0, ends_s=node.seconds)
        spans = windows_of(present, rng.choice([5, 15, 20]), late=lambda: rng.random() * 1.9)
        windows = max(windows, len(spans))
        records += records_of(node, present, spans, measured)
    whole = records_of(node, replace(node.pods[0]), [0.0, float(node.seconds)], measured)[0]
    for name in COMPONENTS:
        of_node = getattr(whole, f"node_{name}_energy_kwh") or 0.0
        slack = tick_kwh(windows * len(node.pods)) if name == "cpu" else 1e-9
        assert total(records, f"{name}_energy_kwh") <= of_node * (1 + 1e-9) + slack


# -- whatever methods and windows, after settling ----------------------------------------------------


@given(seed=seeds)
def test_after_settling_pods_and_unallocated_are_the_node_to_1e_9(seed):
    rng = random.Random(seed)
    node = random_node(rng)
    records = []
    for pod in node.pods:
        late = rng.choice([lambda: 0.0, lambda: rng.random() * 1.9])
        spans = windows_of(pod, rng.choice([5, 15, 60]), late)
        ladder = rng.choice([measured, restarting, by_requests, whole_node])
        records += records_of(node, pod, spans, ladder)
    stretches = settled(records)
    claimed = 0.0
    for stretch in stretches:
        for balance in stretch.balances:
            parts = balance.pods + balance.untracked + balance.unallocated
            assert balance.pods <= balance.node * (1 + 1e-9)
            assert parts == pytest.approx(balance.node, rel=1e-9, abs=1e-18)
            claimed += balance.claimed
    assert claimed == pytest.approx(total(records, "energy_kwh"), rel=1e-9, abs=1e-18)


def whole_node(pod, moment_s):
    return (PodReading(None, None, method="whole-node"),)


@given(seed=seeds)
def test_settling_leaves_a_node_of_one_method_alone_but_for_ticks(seed):
    node = random_node(random.Random(seed))
    records = []
    for pod in node.pods:
        present = replace(pod, begins_s=0, ends_s=node.seconds)
        records += records_of(node, present, [0.0, 15.0, 30.0, 45.0, 60.0], measured)
    for stretch in settled(records):
        for balance in stretch.balances:
            assert balance.claimed - balance.pods <= tick_kwh()


# -- 100,000 nodes -----------------------------------------------------------------------------------

NODES = 100_000
WINDOWS = 2
WINDOW_S = 15.0


def light_node(rng):
    """One node and its pods as numbers alone: CPUs, per window busy time and each pod's use."""
    cpus, count = rng.randint(4, 96), rng.randint(1, 5)
    capacity_s = cpus * WINDOW_S
    reserved, memory = parts_of_one(rng, count), parts_of_one(rng, count)
    methods = rng.choice(
        [rng.choices(["cgroup", "requests", "whole-node"], k=count), ["cgroup"] * count]
    )
    windows = []
    for _ in range(WINDOWS):
        used_s = [capacity_s * part for part in parts_of_one(rng, count)]
        busy_s = math.fsum(used_s) + rng.choice([0.0, 0.01 * capacity_s])
        busy_s = max(0.0, busy_s + rng.uniform(-TICKS_S, TICKS_S))
        windows.append((min(capacity_s, busy_s), used_s))
    return cpus, reserved, memory, methods, windows


def claims_of(node):
    cpus, reserved, memory, methods, windows = node
    for number, (busy_s, used_s) in enumerate(windows):
        idle = kwh_from_power(IDLE_W * cpus, WINDOW_S)
        dynamic = kwh_from_power(MAX_W - IDLE_W, busy_s)
        ram = kwh_from_power(0.4 * 8 * cpus, WINDOW_S)
        for boot, method in enumerate(methods):
            usage = NodeUsage(
                WINDOW_S, cpus, busy_s, cpus * WINDOW_S, 8.0 * cpus, None, None, (),
                used_s[boot], 8.0 * cpus * memory[boot], method,
            )  # fmt: skip
            shares = shares_of(
                usage, Reservation(cpus * reserved[boot], 8 * cpus * memory[boot]), 0
            )
            energy = (dynamic * shares.cpu + idle * shares.idle, ram * shares.ram, math.nan)
            span = (number * WINDOW_S, (number + 1) * WINDOW_S)
            told = (idle + dynamic, ram, math.nan)
            is_measured = method == "cgroup"
            yield Claim(boot, boot, *span, False, is_measured, (0, 0, 0), energy, told)


def violations(nodes, seed=20261122):
    """How many of so many random nodes break conservation, and how many were settled by how much."""
    rng = random.Random(seed)
    broken = settled_nodes = one_method = 0
    for _ in range(nodes):
        node = light_node(rng)
        is_one = set(node[3]) == {"cgroup"}
        one_method += is_one
        cut = 0.0
        for stretch in settle(claims_of(node)):
            for balance in stretch.balances:
                rest = balance.node - balance.pods - balance.untracked - balance.unallocated
                broken += abs(rest) > 1e-9 * balance.node or balance.pods > balance.node * (
                    1 + 1e-9
                )
                cut = max(cut, balance.claimed - balance.pods)
        broken += is_one and cut > tick_kwh()
        settled_nodes += cut > tick_kwh()
    return broken, one_method, settled_nodes


def test_100_000_random_nodes_conserve_energy():
    broken, one_method, settled_nodes = violations(NODES)
    assert broken == 0
    assert one_method > NODES / 3, "nodes of one measured method are among them"
    assert settled_nodes > NODES / 10, "and such as have to be settled"


if __name__ == "__main__":
    sys.exit(violations(int(sys.argv[1]) if len(sys.argv) > 1 else NODES)[0])
