"""A node whose true use is known to the second, with pods that come, go, burst and restart.

True use is piecewise linear: each pod, and the system, uses so many CPU seconds in each second. GPUs are
held whole, as replicas (time-slicing), or as MIG slices. What meters see of it: `far_ends`.
"""

import itertools
import math
import random
from dataclasses import dataclass, field

from sidecar.meters.reading import CpuReading

TICK_S = 0.01
"""USER_HZ is 100 on every architecture Linux runs on today (include/uapi/asm-generic/param.h)."""

BUSY_COLUMNS = 6
"""user, nice, system, irq, softirq, steal: each is cut to whole ticks when `/proc/stat` is read."""

TICKS_S = BUSY_COLUMNS * TICK_S
"""Two readings of busy time differ from the truth by less, as each column is off by less than a tick."""

SLICES = 7
"""Compute slices of a MIG board."""

MODEL = "NVIDIA A100 80GB PCIe"


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
    device_ids: list[str] = field(default_factory=list)
    requested_gpus: float = 0.0

    def used_s(self, moment_s):
        return at(self.cpu_s, moment_s)

    def is_there(self, moment_s):
        return self.begins_s <= moment_s <= self.ends_s


@dataclass
class Node:
    """`slicing` is how GPUs are handed out: "whole", "replicas" (`replicas` of each), or "mig"."""

    cpus: int
    memory_gib: float
    gpus: int
    seconds: int
    pods: list[Pod]
    busy_s: list[float]
    gpu_mj: list[list[float]]
    column_parts: list[float]
    slicing: str = "whole"
    replicas: int = 1

    def cpu(self, moment_s):
        """`/proc/stat` at this moment: each column in whole ticks."""
        true_s = at(self.busy_s, moment_s)
        ticks = [math.floor(true_s * part / TICK_S + 1e-6) for part in self.column_parts]
        return CpuReading(sum(ticks) * TICK_S, self.cpus * moment_s, self.cpus)


def at(cumulative, moment_s):
    """A counter given at each second, linear in between."""
    second = min(max(int(moment_s), 0), len(cumulative) - 2)
    begin, end = cumulative[second], cumulative[second + 1]
    return begin + (end - begin) * (moment_s - second)


def parts_of_one(rng, count):
    """Random parts that sum to at most one; often some are zero, and often nothing is left."""
    weights = [rng.choice([0.0, rng.random(), rng.random()]) for _ in range(count)]
    total = sum(weights) or 1.0
    fill = rng.choice([1.0, rng.random()])
    return [fill * weight / total for weight in weights]


def random_node(rng, seconds=60, pods_max=4, *, stay=False):
    """A node of 4 to 96 CPUs and 0 to 8 GPUs; pods that `stay` are there from beginning to end."""
    cpus, gpus = rng.randint(4, 96), rng.choice([0, 0, 1, 2, 4, 8])
    memory_gib = cpus * rng.choice([2.0, 4.0, 9.0])
    count = rng.randint(1, pods_max)
    reserved, memory, used = (parts_of_one(rng, count) for _ in range(3))
    use = true_use(rng, cpus, seconds, count)
    pods = []
    for n in range(count):
        begins_s = 0 if stay else rng.choice([0, 0, rng.randint(0, seconds - 2)])
        ends_s = (
            seconds if stay else rng.choice([seconds, seconds, rng.randint(begins_s + 1, seconds)])
        )
        alive = [use[s][n] if begins_s <= s < ends_s else 0.0 for s in range(seconds)]
        pods.append(
            Pod(
                name=f"pod-{n}",
                cpus=cpus * reserved[n],
                memory_gib=memory_gib * memory[n],
                gpus={},
                begins_s=begins_s,
                ends_s=ends_s,
                cpu_s=[0.0, *itertools.accumulate(alive)],
                used_gib=memory_gib * used[n],
                restarts_s=None
                if stay
                else rng.choice([None, None, rng.randint(begins_s, ends_s)]),
            )
        )
    system = rng.choice([0.0, 0.01]) * cpus
    busy = [
        min(float(cpus), system + sum(pod.cpu_s[s + 1] - pod.cpu_s[s] for pod in pods))
        for s in range(seconds)
    ]
    node = Node(
        cpus, memory_gib, gpus, seconds, pods,
        busy_s=[0.0, *itertools.accumulate(busy)],
        gpu_mj=[
            [0.0, *itertools.accumulate(rng.uniform(5e4, 3e5) for _ in range(seconds))]
            for _ in range(gpus)
        ],
        column_parts=normalised([rng.random() for _ in range(BUSY_COLUMNS)]),
        slicing=rng.choice(["whole", "replicas", "mig"]),
        replicas=rng.choice([2, 4]),
    )  # fmt: skip
    hand_out_gpus(rng, node)
    return node


def uuid_of(device):
    return f"GPU-{device:08x}-0000-4000-8000-000000000000"


def slice_of(device, number, slices):
    """The UUID of a MIG device; real ones do not tell what they are of."""
    return f"MIG-{device:08x}-{number:04x}-{slices:04x}-8000-000000000000"


def read_slice(uuid):
    """Its board, and how many slices it has."""
    _, device, _, slices, *_ = uuid.split("-")
    return int(device, 16), int(slices, 16)


def pieces_of(rng, node, device):
    """What the device plugin gives out of a board: ids, the part of the board, and of a request."""
    if node.slicing == "whole":
        return [(uuid_of(device), 1.0, 1.0)]
    if node.slicing == "replicas":
        return [(f"{uuid_of(device)}::{n}", 1 / node.replicas, 1.0) for n in range(node.replicas)]
    sizes = rng.choice([[7], [4, 3], [3, 3], [2, 2, 3], [1] * 7, [3, 1, 1]])
    return [(slice_of(device, n, g), g / SLICES, g / SLICES) for n, g in enumerate(sizes)]


def hand_out_gpus(rng, node):
    """Give each piece of each board to one pod, or to none."""
    if node.slicing != "replicas":
        node.replicas = 1
    for device in range(node.gpus):
        for name, part, request in pieces_of(rng, node, device):
            pod = rng.choice([*node.pods, None])
            if pod is not None:
                pod.device_ids.append(name)
                pod.gpus[device] = pod.gpus.get(device, 0.0) + part
                pod.requested_gpus += request


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
