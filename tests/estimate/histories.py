"""Recorded histories of nodes with the true use of each pod.

The truth of each step of 5 s: CPU seconds of each pod (and the part of them that short-lived children
used), of the system, and the energy of each GPU. How old a kubelet's answer is, is drawn for each
window. `python -m tests.estimate.histories` makes them.
"""

import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path

from tests.estimate.simulation import Node, Pod, uuid_of

DIRECTORY = Path(__file__).parent.parent / "data" / "histories"
STEP_S = 5
WINDOW_S = 15
STEPS_PER_WINDOW = WINDOW_S // STEP_S
SEED = 20261122


@dataclass(frozen=True)
class PodHistory:
    name: str
    cpus: float
    memory_gib: float
    gpus: list[int]
    working_set_gib: float
    children: float
    cpu_s: list[float]
    kubelet_age_s: list[float]


@dataclass(frozen=True)
class NodeHistory:
    name: str
    cpus: int
    memory_gib: float
    system_cpu_s: list[float]
    gpu_j: list[list[float]]
    pods: list[PodHistory]

    @property
    def windows(self):
        return len(self.system_cpu_s) // STEPS_PER_WINDOW

    def busy_s(self, window):
        return in_window(self.system_cpu_s, window) + sum(
            in_window(pod.cpu_s, window) for pod in self.pods
        )


def in_window(steps, window):
    return sum(steps[window * STEPS_PER_WINDOW : (window + 1) * STEPS_PER_WINDOW])


def used_until(pod, moment_s):
    """CPU seconds since the beginning; none before it."""
    whole, rest = divmod(max(0.0, moment_s), STEP_S)
    done = sum(pod.cpu_s[: int(whole)])
    return done + (pod.cpu_s[int(whole)] * rest / STEP_S if rest else 0.0)


def read_history(name):
    values = json.loads((DIRECTORY / f"{name}.json").read_text())
    pods = [PodHistory(**pod) for pod in values.pop("pods")]
    return NodeHistory(pods=pods, **values)


def simulated(history):
    """The same as a node of the simulation, whose pods hold their GPUs whole."""
    pods = [
        Pod(
            pod.name, pod.cpus, pod.memory_gib, dict.fromkeys(pod.gpus, 1.0), 0,
            STEP_S * len(pod.cpu_s), cpu_s=_seconds_of(pod.cpu_s), used_gib=pod.working_set_gib,
            device_ids=[*map(uuid_of, pod.gpus)], requested_gpus=float(len(pod.gpus)),
        )
        for pod in history.pods
    ]  # fmt: skip
    busy_s = [
        system_s + sum(pod.cpu_s[n] for pod in history.pods)
        for n, system_s in enumerate(history.system_cpu_s)
    ]
    gpu_mj = [_seconds_of([1000 * used_j for used_j in steps]) for steps in history.gpu_j]
    return Node(
        history.cpus, history.memory_gib, len(gpu_mj), STEP_S * len(busy_s), pods,
        _seconds_of(busy_s), gpu_mj, [1.0],
    )  # fmt: skip


def _seconds_of(steps):
    """A counter at each second of what is used in steps of 5 s, from nothing."""
    return [0.0, *itertools.accumulate(used / STEP_S for used in steps for _ in range(STEP_S))]


def history_names():
    return sorted(path.stem for path in DIRECTORY.glob("*.json"))


# -- making them -------------------------------------------------------------------------------------

STEPS = 120


def pod(rng, name, *, cpus, memory_gib, gpus, working_set_gib, children, load):
    """A pod that works in phases: `load` are the CPUs that a phase uses, each of random length."""
    used, level, left = [], 0.0, 0
    for _ in range(STEPS):
        if left == 0:
            level, left = rng.choice(load), rng.randint(1, 12)
        left -= 1
        used.append(round(STEP_S * level * rng.uniform(0.9, 1.0), 3))
    ages = [round(rng.uniform(10.0, 15.0), 1) for _ in range(STEPS // STEPS_PER_WINDOW + 1)]
    return {
        "name": name, "cpus": cpus, "memory_gib": memory_gib, "gpus": gpus,
        "working_set_gib": working_set_gib, "children": children, "cpu_s": used, "kubelet_age_s": ages,
    }  # fmt: skip


def gpu_node(rng):
    """24 CPUs and two A100: one trains, one is held by a notebook and idles; data is prepared."""
    return {
        "name": "gpu-node", "cpus": 24, "memory_gib": 220.0,
        "system_cpu_s": [round(STEP_S * rng.uniform(0.1, 0.2), 3) for _ in range(STEPS)],
        "gpu_j": [
            [round(STEP_S * rng.uniform(230, 290), 1) for _ in range(STEPS)],
            [round(STEP_S * rng.uniform(50, 54), 1) for _ in range(STEPS)],
        ],
        "pods": [
            pod(rng, "training", cpus=8, memory_gib=100, gpus=[0], working_set_gib=60,
                children=0.0, load=[2.0, 3.0],
            ),
            pod(rng, "notebook", cpus=4, memory_gib=64, gpus=[1], working_set_gib=12,
                children=0.0, load=[0.0, 0.0, 0.1],
            ),
            pod(rng, "preparing", cpus=4, memory_gib=16, gpus=[], working_set_gib=8,
                children=0.8, load=[0.2, 4.0],
            ),
        ],
    }  # fmt: skip


def cpu_node(rng):
    """32 CPUs, busy: a pod beyond its request, one within, one that compiles in short processes."""
    return {
        "name": "cpu-node", "cpus": 32, "memory_gib": 128.0,
        "system_cpu_s": [round(STEP_S * rng.uniform(0.3, 0.6), 3) for _ in range(STEPS)],
        "gpu_j": [],
        "pods": [
            pod(rng, "bursting", cpus=4, memory_gib=16, gpus=[], working_set_gib=14,
                children=0.0, load=[1.0, 12.0],
            ),
            pod(rng, "steady", cpus=12, memory_gib=48, gpus=[], working_set_gib=30,
                children=0.0, load=[9.0, 10.0],
            ),
            pod(rng, "compiling", cpus=8, memory_gib=32, gpus=[], working_set_gib=6,
                children=0.95, load=[0.5, 8.0],
            ),
        ],
    }  # fmt: skip


def made():
    """The text of each file."""
    rng = random.Random(SEED)
    values = [gpu_node(rng), cpu_node(rng)]
    return {value["name"]: json.dumps(value, indent=None) + "\n" for value in values}


if __name__ == "__main__":
    for name, text in made().items():
        (DIRECTORY / f"{name}.json").write_text(text)
