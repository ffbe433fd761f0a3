"""Whose energy is it: the share of a node's energy that belongs to one pod.

Every denominator belongs to the node, never to "the pods I know", so that sidecars conserve energy
without talking to one another: over all pods of a node each share sums to at most 1, because their
busy time is part of the node's, their reservations fit on it, and their working sets fit into its
memory. What no pod used stays unallocated; it is never spread.
"""

from dataclasses import dataclass
from typing import Final

from sidecar.meters.pod.requests import Reservation
from sidecar.meters.reading import NodeUsage, PodMethod

MEASURED: Final = frozenset[PodMethod](
    {"node-meter", "cgroup", "kubelet", "shared-pid", "metrics-api", "process-tree"}
)
"""The methods that count CPU time; what they tell comes before what reservations suggest."""

LATE: Final = frozenset[PodMethod]({"kubelet", "metrics-api"})
"""Those of them whose CPU figures are of some seconds ago, and blurred by some seconds more."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Share (0..1) of the node's dynamic CPU, idle CPU, RAM and GPU energy; None = not known.

    `gpu` is the share of the devices of which nothing better is known.
    """

    cpu: float | None
    idle: float | None
    ram: float | None
    gpu: float | None


WHOLE_NODE = Shares(cpu=1.0, idle=1.0, ram=1.0, gpu=1.0)


def shares_of(usage: NodeUsage, reserved: Reservation, gpu_count: float) -> Shares:
    """Work out the shares of one window by its method; `gpu_count` is the number of the node's GPUs.

    - `whole-node`: the pod has the node for itself; all shares are 1.
    - `requests`: r_p / C for CPU (dynamic and idle), memory request / MemTotal, GPU request / GPUs.
      A request that is not told gives an unknown share; one of zero gives zero. Whole GPUs requested
      where boards are sliced (MIG) give an unknown share, unless the meter tells it.
    - measured ones: dynamic CPU by CPU time ΔT_p / max(Δbusy, ΔT_p), idle CPU by reservation r_p / C
      (by CPU time over capacity, ΔT_p / Δtotal, where none is told), RAM by working set (by request
      where it is not told), GPUs by reservation (`process-tree`: all where none is told).
    - `unallocated`: what all pods together, measured so, leave: 1 − Σ.
    """
    match usage.pod_method:
        case "whole-node":
            return WHOLE_NODE
        case "requests":
            return _request_shares(usage, reserved, gpu_count)
        case "unallocated":
            return _rest(usage)
        case _:
            return _measured_shares(usage, reserved, gpu_count)


def _request_shares(usage: NodeUsage, reserved: Reservation, gpu_count: float) -> Shares:
    cpu = _part(reserved.cpus, usage.cpus)
    return Shares(
        cpu=cpu,
        idle=cpu,
        ram=_part(reserved.memory_gib, usage.memory_total_gib),
        gpu=_gpu_part(usage, reserved, gpu_count),
    )


def _measured_shares(usage: NodeUsage, reserved: Reservation, gpu_count: float) -> Shares:
    if reserved.cpus is not None:
        idle = _part(reserved.cpus, usage.cpus)
    else:
        idle = _part(usage.pod_cpu_s, usage.cpu_total_s)
    memory_gib = usage.pod_working_set_gib
    if memory_gib is None:
        memory_gib = reserved.memory_gib
    gpu = _gpu_part(usage, reserved, gpu_count)
    if reserved.gpus is None and usage.pod_method == "process-tree":
        gpu = 1.0
    return Shares(
        cpu=_busy_part(usage), idle=idle, ram=_part(memory_gib, usage.memory_total_gib), gpu=gpu
    )


def _gpu_part(usage: NodeUsage, reserved: Reservation, gpu_count: float) -> float | None:
    """Return the GPUs requested of those there are; None where that may be of slices.

    With MIG strategy "single" a slice has the name of a whole GPU; a part of one ("mixed") is told.
    """
    has_slices = any(gpu.mig and gpu.pod_share is None for gpu in usage.gpus)
    if has_slices and reserved.gpus is not None and reserved.gpus > 0 and reserved.gpus % 1 == 0:
        return None
    return _part(reserved.gpus, gpu_count)


def _rest(usage: NodeUsage) -> Shares:
    """Return what the pods leave; of GPUs each device's own reading tells it."""
    reserved_s = usage.pod_reserved_cpu_s
    return Shares(
        cpu=_complement(_busy_part(usage)),
        idle=_complement(_part(reserved_s, usage.cpu_total_s)),
        ram=_complement(_part(usage.pod_working_set_gib, usage.memory_total_gib)),
        gpu=None,
    )


def _busy_part(usage: NodeUsage) -> float | None:
    """Return ΔT_p / max(Δbusy, ΔT_p).

    Both are of the same time (`meters.usage`). But /proc/stat counts in ticks, a cgroup in
    microseconds, and a source that looks now and then draws a line between its looks: ΔT_p may exceed
    Δbusy a little.
    """
    used_s, busy_s = usage.pod_cpu_s, usage.cpu_busy_s
    if used_s is None or busy_s is None:
        return None
    return used_s / max(busy_s, used_s) if used_s > 0 else 0.0


def _complement(share: float | None) -> float | None:
    return None if share is None else 1.0 - share


def _part(numerator: float | None, denominator: float | None) -> float | None:
    if numerator is None or denominator is None or denominator <= 0:
        return None
    return min(1.0, numerator / denominator)
