"""A node whose true use is known to the second, and the readings that meters take of it.

True use is piecewise linear: each pod, and the system, uses so many CPU seconds in each second. What
meters see of it is blurred as on a real machine: `/proc/stat` in whole ticks per column, sources that
answer late, counters that begin anew.
"""

import itertools
import math
import random
from dataclasses import dataclass

from sidecar.meters.reading import CpuReading, GpuReading, MemoryReading, NodeReading, PodReading
from sidecar.units import BYTES_PER_GIB

TICK_S = 0.01
"""USER_HZ is 100 on every architecture Linux runs on today (include/uapi/asm-generic/param.h)."""

BUSY_COLUMNS = 6
"""user, nice, system, irq, softirq, steal: each is cut to whole ticks when `/proc/stat` is read."""

TICKS_S = BUSY_COLUMNS * TICK_S
"""Two readings of busy time differ from the truth by less, as each column is off by less than a tick."""


@dataclass
class Pod:
    """What a pod reserves and truly uses. `gpus` maps a device to the share of it the pod holds."""

    name: str
    cpus: float
    memory_gib: float
    gpus: dict[int, float]
    begins_s: int
    ends_s: int
    cpu_s: list[float]
    used_gib: float
    restarts_s: int | None = None

    def used_s(self, moment_s):
        return at(self.cpu_s, moment_s)


@dataclass
class Node:
    cpus: int
    memory_gib: float
    gpus: int
    seconds: int
    pods: list[Pod]
    busy_s: list[float]
    gpu_mj: list[list[float]]
    column_parts: list[float]

    def cpu(self, moment_s):
        """`/proc/stat` at this moment: each column in whole ticks."""
        true_s = at(self.busy_s, moment_s)
        ticks = [math.floor(true_s * part / TICK_S + 1e-6) for part in self.column_parts]
        return CpuReading(sum(ticks) * TICK_S, self.cpus * moment_s, self.cpus)

    def reading(self, pod, moment_s, *pod_readings, tells_gpus=True):
        """What a sidecar in this pod reads; `pod_readings` are what the sources on its ladder told."""
        gpus = tuple(
            GpuReading(
                uuid=f"GPU-{number}",
                model="NVIDIA A100 80GB PCIe",
                energy_mj=int(at(self.gpu_mj[number], moment_s)),
                energy_source="energy-counter",
                utilization_s=0.5 * moment_s,
                observed_s=moment_s,
                power_limit_w=300.0,
                pod_share=pod.gpus.get(number, 0.0) if tells_gpus else None,
                share_method="node-meter" if tells_gpus else None,
            )
            for number in range(self.gpus)
        )
        memory = MemoryReading(int(self.memory_gib * BYTES_PER_GIB), 0)
        return NodeReading(moment_s, self.cpu(moment_s), memory, None, gpus, pod_readings)


def at(cumulative, moment_s):
    """A counter given at each second, linear in between."""
    second = min(max(int(moment_s), 0), len(cumulative) - 2)
    begin, end = cumulative[second], cumulative[second + 1]
    return begin + (end - begin) * (moment_s - second)


def counted(pod, moment_s, method="cgroup"):
    """The pod's counter as a source tells it: it begins anew with a restart."""
    used_s, epoch = pod.used_s(moment_s), 0
    if pod.restarts_s is not None and moment_s >= pod.restarts_s:
        used_s, epoch = used_s - pod.used_s(pod.restarts_s), 1
    return PodReading(used_s, int(pod.used_gib * BYTES_PER_GIB), method=method, epoch=epoch)


def parts_of_one(rng, count):
    """Random parts that sum to at most one; often some are zero, and often nothing is left."""
    weights = [rng.choice([0.0, rng.random(), rng.random()]) for _ in range(count)]
    total = sum(weights) or 1.0
    fill = rng.choice([1.0, rng.random()])
    return [fill * weight / total for weight in weights]


def random_node(rng, seconds=60, pods_max=4):
    """A node of 4 to 96 CPUs and 0 to 8 GPUs, with pods that come, go, burst and restart."""
    cpus, gpus = rng.randint(4, 96), rng.choice([0, 0, 1, 2, 4, 8])
    memory_gib = cpus * rng.choice([2.0, 4.0, 9.0])
    count = rng.randint(1, pods_max)
    reserved, memory = parts_of_one(rng, count), parts_of_one(rng, count)
    used, slices = parts_of_one(rng, count), [parts_of_one(rng, count) for _ in range(gpus)]
    use = true_use(rng, cpus, seconds, count)
    pods = []
    for n in range(count):
        begins_s = rng.choice([0, 0, rng.randint(0, seconds - 2)])
        ends_s = rng.choice([seconds, seconds, rng.randint(begins_s + 1, seconds)])
        alive = [use[s][n] if begins_s <= s < ends_s else 0.0 for s in range(seconds)]
        pods.append(
            Pod(
                name=f"pod-{n}",
                cpus=cpus * reserved[n],
                memory_gib=memory_gib * memory[n],
                gpus={d: slices[d][n] for d in range(gpus) if slices[d][n]},
                begins_s=begins_s,
                ends_s=ends_s,
                cpu_s=[0.0, *itertools.accumulate(alive)],
                used_gib=memory_gib * used[n],
                restarts_s=rng.choice([None, None, rng.randint(begins_s, ends_s)]),
            )
        )
    system = rng.choice([0.0, 0.01]) * cpus
    busy = [
        min(float(cpus), system + sum(pod.cpu_s[s + 1] - pod.cpu_s[s] for pod in pods))
        for s in range(seconds)
    ]
    return Node(
        cpus, memory_gib, gpus, seconds, pods,
        busy_s=[0.0, *itertools.accumulate(busy)],
        gpu_mj=[
            [0.0, *itertools.accumulate(rng.uniform(5e4, 3e5) for _ in range(seconds))]
            for _ in range(gpus)
        ],
        column_parts=normalised([rng.random() for _ in range(BUSY_COLUMNS)]),
    )  # fmt: skip


def normalised(weights):
    return [weight / sum(weights) for weight in weights]


def true_use(rng, cpus, seconds, count):
    """CPU seconds of each pod in each second: phases of work, with bursts to the whole node."""
    use, parts = [], parts_of_one(rng, count)
    for _ in range(seconds):
        if rng.random() < 0.2:
            parts = parts_of_one(rng, count)
        use.append([cpus * part for part in parts])
    return use


def seeded(seed):
    return random.Random(seed)
