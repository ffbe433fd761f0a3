"""`usage_between`: what was used between two readings. Pure."""

import math

from sidecar.meters.reading import (
    CpuReading,
    GpuReading,
    GpuUsage,
    MemoryReading,
    NodeReading,
    NodeUsage,
    PodReading,
    RaplReading,
)
from sidecar.units import BYTES_PER_GIB


def usage_between(before: NodeReading, after: NodeReading) -> NodeUsage:
    """Difference two readings of one `NodeMeter`; what either lacks, or what went back, is None.

    Memory is the mean of both instants. A GPU that only `after` knows counts from its first sight.
    """
    duration_s = max(0.0, after.monotonic_s - before.monotonic_s)
    memory = after.memory or before.memory
    known = {(gpu.uuid, gpu.meter): gpu for gpu in before.gpus}
    pod_before, pod_after = _pod_ends(before.pod, after.pod)
    cpu_busy_s, cpu_total_s, package_energy_uj = _node_between(before, after, pod_before, pod_after)
    return NodeUsage(
        duration_s=duration_s,
        cpus=after.cpu.cpus if after.cpu else None,
        cpu_busy_s=cpu_busy_s,
        cpu_total_s=cpu_total_s,
        memory_total_gib=memory.total_bytes / BYTES_PER_GIB if memory else None,
        memory_used_gib=_mean_gib(_used_bytes(before.memory), _used_bytes(after.memory)),
        package_energy_uj=package_energy_uj,
        gpus=tuple(
            _gpu_between(known.get((gpu.uuid, gpu.meter)), gpu, duration_s) for gpu in after.gpus
        ),
        pod_cpu_s=_forward(pod_before.cpu_s, pod_after.cpu_s),
        pod_working_set_gib=_working_set_gib(pod_before, pod_after, duration_s),
        pod_method=pod_after.method,
        pod_reserved_cpu_s=_forward(pod_before.reserved_cpu_s, pod_after.reserved_cpu_s),
    )


def _pod_ends(
    before: tuple[PodReading, ...], after: tuple[PodReading, ...]
) -> tuple[PodReading, PodReading]:
    """Return both ends of the best source whose counter continues; else those of the last one."""
    earlier = {(reading.method, reading.epoch): reading for reading in before}
    for reading in after[:-1]:
        start = earlier.get((reading.method, reading.epoch))
        if start is not None and _forward(start.cpu_s, reading.cpu_s) is not None:
            return start, reading
    return before[-1], after[-1]


def _forward(before: float | None, after: float | None) -> float | None:
    """Return the step of a cumulative value; None if unknown, backwards, or no number."""
    if before is None or after is None:
        return None
    step = after - before
    return step if math.isfinite(step) and step >= 0 else None


def _node_between(
    before: NodeReading, after: NodeReading, pod_before: PodReading, pod_after: PodReading
) -> tuple[float | None, float | None, int | None]:
    """Return busy and total CPU time and package energy, over the time that the pod's counter is of.

    Where that is not known (metering has just begun), or not as long, over the window itself.
    """
    then_before, then_after = pod_before.node_then, pod_after.node_then
    if then_before is None or then_after is None or pod_before.age_s != pod_after.age_s:
        busy_s, total_s = _cpu_between(before.cpu, after.cpu)
        return busy_s, total_s, _package_energy_between(before.rapl, after.rapl)
    busy_s, total_s = _cpu_between(then_before.cpu, then_after.cpu)
    return busy_s, total_s, _package_energy_between(then_before.rapl, then_after.rapl)


def _cpu_between(
    before: CpuReading | None, after: CpuReading | None
) -> tuple[float | None, float | None]:
    if before is None or after is None:
        return None, None
    busy_s = _forward(before.busy_s, after.busy_s)
    total_s = _forward(before.total_s, after.total_s)
    if busy_s is None or total_s is None:
        return None, None
    return min(busy_s, total_s), total_s


def _used_bytes(memory: MemoryReading | None) -> int | None:
    return None if memory is None else max(0, memory.total_bytes - memory.available_bytes)


def _mean_gib(before: int | None, after: int | None) -> float | None:
    known = [size for size in (before, after) if size is not None]
    return sum(known) / len(known) / BYTES_PER_GIB if known else None


def _working_set_gib(before: PodReading, after: PodReading, duration_s: float) -> float | None:
    """Mean working set: its integral over the time, or the mean of both ends without one."""
    byte_s = _forward(before.memory_byte_s, after.memory_byte_s)
    if byte_s is not None and duration_s > 0:
        return byte_s / duration_s / BYTES_PER_GIB
    return _mean_gib(before.working_set_bytes, after.working_set_bytes)


def _package_energy_between(before: RaplReading | None, after: RaplReading | None) -> int | None:
    if before is None or after is None or before.domains != after.domains:
        return None
    step_uj = after.energy_uj - before.energy_uj
    return step_uj if step_uj >= 0 else None


def _gpu_between(before: GpuReading | None, after: GpuReading, duration_s: float) -> GpuUsage:
    observed_s = after.observed_s - (before.observed_s if before else 0.0)
    utilization_s = after.utilization_s - (before.utilization_s if before else 0.0)
    energy_mj, metered_s = _gpu_energy_between(before, after, duration_s)
    pod_share, share_method = _pod_share_between(before, after)
    return GpuUsage(
        uuid=after.uuid,
        model=after.model,
        energy_mj=energy_mj,
        energy_source=after.energy_source if energy_mj is not None else "none",
        utilization=min(max(utilization_s / observed_s, 0.0), 1.0) if observed_s > 0 else None,
        power_limit_w=after.power_limit_w,
        mig=after.mig,
        virtual=after.virtual,
        metered_s=metered_s,
        notes=after.notes,
        pod_share=pod_share,
        share_method=share_method,
    )


def _pod_share_between(
    before: GpuReading | None, after: GpuReading
) -> tuple[float | None, str | None]:
    """Return the pod's part of a device over the window: by energy, else the constant share."""
    began_without = before is not None and before.pod_energy_mj is None
    if after.pod_energy_mj is None or began_without:
        return after.pod_share, after.share_method
    device_mj = _energy_step(before, after)
    pod_mj = after.pod_energy_mj - ((before.pod_energy_mj or 0) if before else 0)
    if device_mj is None or pod_mj < 0:
        return after.pod_share, after.share_method
    if device_mj == 0:
        return after.pod_share or 0.0, after.share_method
    return min(1.0, pod_mj / device_mj), after.share_method


def _gpu_energy_between(
    before: GpuReading | None, after: GpuReading, duration_s: float
) -> tuple[int | None, float | None]:
    """Energy of the window, and the seconds of it that this covers.

    A window in which the GPU told nothing has None and is modelled. When the GPU is back its
    counter has gone on, and the step covers those windows too: more seconds than the window has.
    """
    energy_mj = _energy_step(before, after)
    if energy_mj is None or after.metered_s is None:
        return energy_mj, None
    metered_s = after.metered_s - ((before.metered_s or 0.0) if before else 0.0)
    if metered_s <= 0:
        return (None, None) if duration_s > 0 else (energy_mj, None)
    return energy_mj, metered_s


def _energy_step(before: GpuReading | None, after: GpuReading) -> int | None:
    if after.energy_mj is None:
        return None
    step_mj = after.energy_mj - ((before.energy_mj or 0) if before else 0)
    return step_mj if step_mj >= 0 else None
