"""Conservation over random nodes and histories: no energy is given to pods that the node did not use.

The whole way of the product, from sources and meters to records, and to `settle` (`sidecars`). Pods
come, go, burst and restart; ticks are late and rounded; GPUs are whole, time-sliced or sliced; sources
lag, fail and mix; the node meter begins anew and writes records of its own.

One method per node: straight from the records. `/proc/stat` is read in ticks, so that busy time between
two readings is less than 6 ticks from the truth; with dynamic energy k · Δbusy the pods may together
exceed a window's by k · 6 ticks, and no more. Methods that mix, or lag: after settling, exactly.

`make conservation` runs 120,000 of them, 10,000 for each statement.
"""

import logging
import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.report.claims import Claims, Nodes, Place
from sidecar.report.settle import COMPONENTS, settle
from sidecar.units import kwh_from_millijoules, kwh_from_power
from tests.estimate.far_ends import IDLE_W, MAX_W
from tests.estimate.sidecars import LATE, METHODS, Scene
from tests.estimate.simulation import TICKS_S, random_node, uuid_of

seeds = st.integers(0, 2**32)
SHORT_S, LONG_S = 60, 150


@pytest.fixture(autouse=True)
def _without_logs():
    """Sources that fail say so; pytest would keep what thousands of nodes have to say."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


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


def of_whole_node(node, *, has_rapl=False):
    """The node's energy over the whole history, as one who is there all the time reads it."""
    scene = Scene(node, has_rapl=has_rapl)
    life = max(node.pods, key=lambda pod: pod.ends_s - pod.begins_s)
    observer = type(life)("observer", 0.0, 0.0, {}, 0, node.seconds, [0.0, 0.0], 0.0)
    sidecar = scene.add(observer, "whole-node")
    sidecar.interval_s = node.seconds
    scene.run()
    (record,) = sidecar.records
    return record


# -- one method, straight from the records -----------------------------------------------------------


@pytest.mark.parametrize("method", ["cgroup", "node-meter", "requests"])
@given(seed=seeds)
def test_in_each_window_pods_have_at_most_the_node(method, seed):
    rng = random.Random(seed)
    node = random_node(rng, SHORT_S, stay=True)
    scene = Scene(node, rng, has_rapl=rng.random() < 0.2)
    for pod in node.pods:
        scene.add(pod, method, sees_gpus=node.slicing != "replicas")
    windows = {}
    for record in scene.run():
        windows.setdefault(record.window_start, []).append(record)
    assert len(windows) == 4
    for records in windows.values():
        assert {record.pod_method for record in records} == {method}
        for name in COMPONENTS:
            of_node = getattr(records[0], f"node_{name}_energy_kwh") or 0.0
            slack = tick_kwh() if name == "cpu" else 0.0
            assert total(records, f"{name}_energy_kwh") <= of_node * (1 + 1e-9) + slack


@given(seed=seeds)
def test_pods_that_come_and_go_at_any_time_and_late_ticks_take_no_more_than_the_node(seed):
    """E_dyn = k · Δbusy, so a pod's is k · ΔT_p in any window: it adds up whatever the windows are."""
    rng = random.Random(seed)
    node = random_node(rng, SHORT_S)
    scene = Scene(node, rng)
    method = rng.choice(["cgroup", "node-meter"])
    for pod in node.pods:
        pod.restarts_s = None
        scene.add(pod, method, interval_s=rng.choice([5, 15, 20]), sees_gpus=False)
    records = scene.run(late=lambda: rng.random() * 1.9)
    whole = of_whole_node(node)
    for name in COMPONENTS:
        of_node = getattr(whole, f"node_{name}_energy_kwh") or 0.0
        slack = tick_kwh(len(records)) if name == "cpu" else 1e-9
        assert total(records, f"{name}_energy_kwh") <= of_node * (1 + 1e-9) + slack


@given(seed=seeds)
def test_what_the_node_meter_calls_unallocated_is_what_its_pods_leave(seed):
    rng = random.Random(seed)
    node = random_node(rng, SHORT_S, stay=True)
    scene = Scene(node, rng)
    for pod in node.pods:
        scene.add(pod, "node-meter", sees_gpus=False)
    own = scene.add_node_meters_own()
    windows = {}
    for record in scene.run():
        windows.setdefault(record.window_start, []).append(record)
    for records in windows.values():
        (of_node,) = (record for record in records if record in own.records)
        assert of_node.node_pods_energy_kwh + of_node.energy_kwh == pytest.approx(
            of_node.node_energy_kwh, rel=1e-9
        )
        for name in COMPONENTS:
            energy, most = f"{name}_energy_kwh", getattr(of_node, f"node_{name}_energy_kwh") or 0.0
            slack = tick_kwh() if name == "cpu" else 1e-12
            assert total(records, energy) == pytest.approx(most, rel=1e-9, abs=slack) or (
                total(records, energy) <= most * (1 + 1e-9) + slack
            )


@pytest.mark.parametrize("method", LATE)
@given(seed=seeds)
def test_a_source_that_lags_gives_no_more_than_was_used_over_all_windows(method, seed):
    rng = random.Random(seed)
    node = random_node(rng, LONG_S)
    scene = Scene(node, rng)
    for pod in node.pods:
        scene.add(pod, method, sees_gpus=False)
    late = rng.choice([lambda: 0.0, lambda: rng.random() * 1.9])
    measured = [record for record in scene.run(late) if record.pod_method == method]
    idle = math.fsum(
        kwh_from_power(IDLE_W * node.cpus, record.duration_s) * record.share_idle
        for record in measured
    )
    dynamic = total(measured, "cpu_energy_kwh") - idle
    most = kwh_from_power(MAX_W - IDLE_W, node.busy_s[-1])
    assert dynamic <= most * (1 + 1e-6) + tick_kwh(len(measured))


@given(seed=seeds)
def test_what_gpus_used_while_they_did_not_answer_is_not_lost(seed):
    """Where no table knows them: then nothing is modelled meanwhile."""
    rng = random.Random(seed)
    node = random_node(rng, SHORT_S, stay=True)
    node.slicing, node.replicas = "whole", 1
    scene = Scene(node, rng, outages=0.5)
    scene.factors = replace(scene.factors, gpu_powers={})
    for pod in node.pods:
        pod.gpus, pod.device_ids, pod.requested_gpus = {}, [], 0.0
    first, *_ = node.pods
    first.device_ids, first.requested_gpus = [*map(uuid_of, range(node.gpus))], float(node.gpus)
    sidecar = scene.add(first, "cgroup")
    records = scene.run()
    _, last = sidecar._mark
    told = kwh_from_millijoules(sum(gpu.energy_mj for gpu in last.gpus))
    assert total(records, "gpu_energy_kwh") == pytest.approx(told, rel=1e-9, abs=1e-15)


# -- whatever methods and windows, after settling ----------------------------------------------------


def any_scene(rng, node, *, has_own=False):
    """Sidecars of any methods, intervals and fortunes."""
    scene = Scene(
        node, rng, has_rapl=rng.random() < 0.2, outages=rng.choice([0.0, 0.0, 0.2]),
        hidden=frozenset(
            name for pod in node.pods for name in pod.device_ids if rng.random() < 0.1
        ),
    )  # fmt: skip
    one = rng.choice([None, *METHODS])
    for pod in node.pods:
        method = one or rng.choice(METHODS)
        scene.add(pod, method, interval_s=rng.choice([5, 15, 15, 60]), sees_gpus=rng.random() < 0.5)
    own = scene.add_node_meters_own() if has_own else None
    return scene, own


@given(seed=seeds)
def test_after_settling_pods_and_unallocated_are_the_node_to_1e_9(seed):
    rng = random.Random(seed)
    node = random_node(rng, rng.choice([SHORT_S, LONG_S]))
    scene, _ = any_scene(rng, node)
    restarts_s = [rng.uniform(1, node.seconds - 1)] if rng.random() < 0.3 else []
    records = scene.run(rng.choice([lambda: 0.0, lambda: rng.random() * 1.9]), restarts_s)
    claimed = 0.0
    for stretch in settled(records):
        for balance in stretch.balances:
            parts = balance.pods + balance.untracked + balance.unallocated
            assert balance.pods <= balance.node * (1 + 1e-9)
            assert parts == pytest.approx(balance.node, rel=1e-9, abs=1e-18)
            claimed += balance.claimed
        for kept in stretch.kept or ():
            assert all(0 <= part <= 1 for part in kept), "claims are only ever cut"
    assert claimed == pytest.approx(total(records, "energy_kwh"), rel=1e-9, abs=1e-18)


@given(seed=seeds)
def test_with_a_node_meter_pods_untracked_ones_and_unallocated_are_the_node_it_tells(seed):
    rng = random.Random(seed)
    node = random_node(rng, rng.choice([SHORT_S, LONG_S]))
    scene, own = any_scene(rng, node, has_own=True)
    scene.run()
    pods = [
        record for sidecar in scene.sidecars if sidecar is not own for record in sidecar.records
    ]
    tracked = [record for record in pods if rng.random() < 0.8]
    sums = dict.fromkeys(COMPONENTS, 0.0)
    for stretch in settled([*tracked, *own.records]):
        for name, balance in zip(COMPONENTS, stretch.balances, strict=True):
            assert balance.pods <= balance.node * (1 + 1e-9)
            sums[name] += balance.pods + balance.untracked + balance.unallocated
    for name, energy in sums.items():
        told = total(own.records, f"node_{name}_energy_kwh")
        assert energy == pytest.approx(told, rel=1e-9, abs=1e-18)


@pytest.mark.parametrize("method", ["cgroup", "node-meter"])
@given(seed=seeds)
def test_settling_leaves_a_node_of_one_method_alone_but_for_ticks(method, seed):
    rng = random.Random(seed)
    node = random_node(rng, SHORT_S, stay=True)
    scene = Scene(node, rng)
    for pod in node.pods:
        scene.add(pod, method, sees_gpus=node.slicing == "whole")
    for stretch in settled(scene.run()):
        for balance in stretch.balances:
            assert balance.claimed - balance.pods <= tick_kwh()


# -- what the random nodes are ------------------------------------------------------------------------


def test_among_the_random_scenes_is_all_that_matters():
    seen = Counter()
    for seed in range(200):
        rng = random.Random(seed)
        node = random_node(rng, SHORT_S)
        scene, own = any_scene(rng, node, has_own=True)
        records = scene.run()
        seen[node.slicing] += node.gpus > 0
        seen["burst"] += max(node.busy_s[s + 1] - node.busy_s[s] for s in range(SHORT_S)) > 3
        for pod in node.pods:
            seen["comes"] += pod.begins_s > 0
            seen["goes"] += pod.ends_s < node.seconds
            seen["restarts"] += pod.restarts_s is not None
        seen["hidden slice"] += any("MIG" in name for name in scene.hidden)
        seen["outages"] += scene.outages > 0
        seen.update(record.pod_method for record in records if record not in own.records)
        seen["own"] += bool(own.records)
        seen["cut"] += any(stretch.kept for stretch in settled(records))
    wanted = ["whole", "replicas", "mig", "burst", "comes", "goes", "restarts", "hidden slice"]
    wanted += ["outages", "own", "cut", "node-meter", "cgroup", *LATE, "requests", "whole-node"]
    assert [name for name in wanted if seen[name] < 10] == []
