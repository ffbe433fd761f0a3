"""Whose energy is it: the share of a node's energy that belongs to one pod.

Every denominator belongs to the node, never to "the pods I know", so that sidecars conserve energy
without talking to one another: over all pods of a node each share sums to at most 1, because their
busy time is part of the node's, their reservations fit on it, and their working sets fit into its
memory. What no pod used stays unallocated; it is never spread.
"""

from dataclasses import dataclass
from typing import Literal

from sidecar.meters.pod.requests import Reservation
from sidecar.meters.reading import NodeUsage

PodMethod = Literal["whole-node", "requests", "process-tree"]


@dataclass(frozen=True, slots=True)
class Shares:
    """Share (0..1) of the node's dynamic CPU, idle CPU, RAM and GPU energy; None = not known."""

    cpu: float | None
    idle: float | None
    ram: float | None
    gpu: float | None


WHOLE_NODE = Shares(cpu=1.0, idle=1.0, ram=1.0, gpu=1.0)


def shares_of(
    method: PodMethod, usage: NodeUsage, reserved: Reservation, gpu_count: float
) -> Shares:
    """Work out the shares of one window; `gpu_count` is the number of GPUs of the node.

    - `whole-node`: the pod has the node for itself; all shares are 1.
    - `requests`: r_p / C for CPU (dynamic and idle), memory request / MemTotal, GPU request / GPUs.
      A request that is not told gives an unknown share; one of zero gives zero.
    - `process-tree`: dynamic CPU by CPU time ΔT_p / max(Δbusy, ΔT_p), idle CPU by reservation r_p / C
      (by CPU time over capacity, ΔT_p / Δtotal, where nothing is reserved), RAM by working set,
      GPUs by reservation (all visible ones where nothing is reserved).
    """
    if method == "whole-node":
        return WHOLE_NODE
    if method == "requests":
        return _request_shares(usage, reserved, gpu_count)
    return _process_tree_shares(usage, reserved, gpu_count)


def _request_shares(usage: NodeUsage, reserved: Reservation, gpu_count: float) -> Shares:
    cpu = _part(reserved.cpus, usage.cpus)
    return Shares(
        cpu=cpu,
        idle=cpu,
        ram=_part(reserved.memory_gib, usage.memory_total_gib),
        gpu=_part(reserved.gpus, gpu_count),
    )


def _process_tree_shares(usage: NodeUsage, reserved: Reservation, gpu_count: float) -> Shares:
    used_s, busy_s = usage.pod_cpu_s, usage.cpu_busy_s
    cpu = idle = None
    if used_s is not None and busy_s is not None:
        # /proc/stat counts in ticks, a process in microseconds: ΔT_p may exceed Δbusy by a tick.
        cpu = used_s / max(busy_s, used_s) if used_s > 0 else 0.0
        idle = _part(used_s, usage.cpu_total_s)
    if reserved.cpus is not None:
        idle = _part(reserved.cpus, usage.cpus)
    ram = None
    if usage.pod_working_set_gib is not None:
        ram = _part(usage.pod_working_set_gib, usage.memory_total_gib)
    gpu = 1.0 if reserved.gpus is None else _part(reserved.gpus, gpu_count)
    return Shares(cpu=cpu, idle=idle, ram=ram, gpu=gpu)


def _part(numerator: float | None, denominator: float | None) -> float | None:
    if numerator is None or denominator is None or denominator <= 0:
        return None
    return min(1.0, numerator / denominator)
