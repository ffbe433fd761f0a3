"""From node energy and shares to the pod's energy, facility energy, water and grams of CO2e.

E_pod    = E_dyn·s_cpu + E_idle·s_idle + E_ram·s_ram + Σ_d E_d·s_gpu        [kWh]
facility = E_pod · PUE                                                      [kWh]
water    = E_pod · WUE       (WUE is litres per kWh of IT energy, The Green Grid 2011)
CO2e     = facility · carbon intensity                                      [g]
"""

import itertools
from dataclasses import dataclass, replace
from typing import Literal

from sidecar.carbon.intensity import CarbonIntensity
from sidecar.estimate.attribution import MEASURED, Shares
from sidecar.estimate.bounded import NOTHING, Bounded
from sidecar.estimate.embodied import EmbodiedRate
from sidecar.estimate.power import (
    UNOBSERVED_GPU_UTILIZATION,
    CpuEnergy,
    CpuPowerModel,
    GpuEnergy,
    GpuPower,
    RamPowerModel,
    gpu_energy,
    table_gpu_energy,
)
from sidecar.meters.reading import NodeUsage
from sidecar.units import Figure

Quality = Literal["measured", "estimated", "modelled"]


@dataclass(frozen=True, slots=True)
class Factors:
    """Everything that turns usage into grams, chosen once per identity, each with its origin.

    `gpu_powers` are found by the model name NVML gives; `table_gpus` stand for the GPUs that the VM
    size has but nothing here can see (one entry per device; the last may be a fraction).
    `uncounted` says which GPUs are there without any figure.
    """

    carbon: CarbonIntensity
    pue: Figure
    wue: Figure | None
    embodied: EmbodiedRate | None
    cpu: CpuPowerModel
    ram: RamPowerModel
    gpu_powers: dict[str, GpuPower]
    table_gpus: tuple[GpuPower, ...]
    uncounted: str | None = None
    table_gpu_utilization: Bounded = UNOBSERVED_GPU_UTILIZATION

    def gpu_count(self, usage: NodeUsage) -> float:
        """Return the number of GPUs of the node: those seen, else those the VM size has."""
        return float(len(usage.gpus)) or sum(gpu.fraction for gpu in self.table_gpus)


@dataclass(frozen=True, slots=True)
class PodGpu:
    """One GPU of the node and the energy of it that is this pod's."""

    device: GpuEnergy
    share: float | None
    energy: Bounded | None
    share_method: str | None = None


@dataclass(frozen=True, slots=True)
class WindowEstimate:
    """Energies in kWh, emissions in g; None = could not be known.

    `cpu_reserved_idle_kwh` and `gpu_reserved_idle_kwh` are the parts of the pod's energy that were
    spent because it held CPUs and GPUs that it did not use.
    """

    node_cpu: Bounded | None
    node_ram: Bounded | None
    node_gpu: Bounded | None
    node_total: Bounded | None
    shares: Shares
    cpu: Bounded | None
    ram: Bounded | None
    gpu: Bounded | None
    total: Bounded | None
    gpus: tuple[PodGpu, ...]
    facility: Bounded | None
    water_l: Bounded | None
    emissions_g: Bounded | None
    embodied_g: Bounded | None
    cpu_method: str | None
    cpu_source: str | None
    gpu_method: str | None
    ram_source: str | None
    gpu_source: str | None
    quality: Quality
    cpu_reserved_idle_kwh: float | None = None
    gpu_reserved_idle_kwh: float | None = None


def estimate_window(usage: NodeUsage, shares: Shares, factors: Factors) -> WindowEstimate:
    """Estimate one window of this pod. Pure: the same arguments give the same numbers."""
    cpu = factors.cpu.energy_kwh(usage)
    included = cpu.includes_ram_gib if cpu else NOTHING
    node_ram = factors.ram.energy_kwh(usage, included)
    devices = _devices(usage, factors)
    node_gpu = _sum([device.energy for device in devices])
    pod_cpu = _pod_cpu(cpu, shares)
    pod_ram = _scaled(node_ram, shares.ram)
    gpus = _pod_gpus(devices, usage, shares)
    pod_gpu = _sum([item.energy for item in gpus])
    shares = replace(shares, gpu=_gpu_share(gpus, shares.gpu))
    total = _sum([pod_cpu, pod_ram, pod_gpu])
    facility = total * Bounded.of(factors.pue) if total else None
    return WindowEstimate(
        node_cpu=cpu.total if cpu else None,
        node_ram=node_ram,
        node_gpu=node_gpu,
        node_total=_sum([cpu.total if cpu else None, node_ram, node_gpu]),
        shares=shares,
        cpu=pod_cpu,
        ram=pod_ram,
        gpu=pod_gpu,
        total=total,
        gpus=gpus,
        facility=facility,
        water_l=total * Bounded.of(factors.wue) if total and factors.wue else None,
        emissions_g=facility * Bounded.of(factors.carbon.figure) if facility else None,
        embodied_g=_embodied(factors.embodied, usage, shares),
        cpu_method=cpu.method if cpu else None,
        cpu_source=cpu.source if cpu else None,
        gpu_method=_gpu_method(devices),
        ram_source=factors.ram.source if node_ram else None,
        gpu_source=_gpu_source(devices) or factors.uncounted,
        quality="modelled" if factors.uncounted and not devices else _quality(cpu, devices),
        cpu_reserved_idle_kwh=_cpu_reserved_idle(cpu, usage, shares),
        gpu_reserved_idle_kwh=_gpu_reserved_idle(gpus),
    )


def _pod_gpus(
    devices: tuple[GpuEnergy, ...], usage: NodeUsage, shares: Shares
) -> tuple[PodGpu, ...]:
    """Give each device the share its meter knows, else that of the pod's reservation."""
    found: list[PodGpu] = []
    for device, seen in itertools.zip_longest(devices, usage.gpus):
        share, method = shares.gpu, _gpu_share_method(usage, shares)
        if seen is not None and seen.pod_share is not None:
            share, method = seen.pod_share, seen.share_method
        found.append(PodGpu(device, share, _scaled(device.energy, share), method))
    return tuple(found)


def _gpu_share_method(usage: NodeUsage, shares: Shares) -> str | None:
    """Name how a share was found that holds for all devices alike: measured pods reserve theirs."""
    if shares.gpu is None:
        return None
    by_request = usage.pod_method in MEASURED and usage.pod_method != "process-tree"
    return "requests" if by_request else usage.pod_method


def _gpu_share(gpus: tuple[PodGpu, ...], otherwise: float | None) -> float | None:
    """Return the pod's share of all GPU energy; the mean of the shares where there is none."""
    known = [gpu for gpu in gpus if gpu.share is not None]
    shares = {gpu.share for gpu in known}
    if len(shares) <= 1:
        return shares.pop() if shares else otherwise
    total = sum(gpu.device.energy.value for gpu in known if gpu.device.energy)
    if total > 0:
        return sum(gpu.energy.value for gpu in known if gpu.energy) / total
    return sum(gpu.share for gpu in known if gpu.share is not None) / len(known)


def _cpu_reserved_idle(cpu: CpuEnergy | None, usage: NodeUsage, shares: Shares) -> float | None:
    """Return E_idle · s_idle · (1 − used / reserved): idle power held and not used.

    `used / reserved` is ΔT_p / (s_idle · Δtotal); for a pod that has the node for itself that is
    the node's utilisation. Unknown where use is not measured, or where nothing was reserved.
    """
    used_s = usage.cpu_busy_s if usage.pod_method == "whole-node" else usage.pod_cpu_s
    if cpu is None or shares.idle is None or used_s is None or not usage.cpu_total_s:
        return None
    if usage.pod_method == "unallocated":
        return cpu.idle.value * shares.idle
    held_s = shares.idle * usage.cpu_total_s
    used = min(1.0, used_s / held_s) if held_s > 0 else 1.0
    return cpu.idle.value * shares.idle * (1.0 - used)


def _gpu_reserved_idle(gpus: tuple[PodGpu, ...]) -> float | None:
    """Return Σ_d share · min(E_d, P_idle · time in which nothing ran on the device)."""
    known = [
        gpu.share * min(gpu.device.energy.value, gpu.device.idle_energy_kwh)
        for gpu in gpus
        if gpu.share is not None and gpu.device.energy and gpu.device.idle_energy_kwh is not None
    ]
    return sum(known) if known else None


def _devices(usage: NodeUsage, factors: Factors) -> tuple[GpuEnergy, ...]:
    if usage.gpus:
        return tuple(
            gpu_energy(gpu, factors.gpu_powers.get(gpu.model), usage.duration_s)
            for gpu in usage.gpus
        )
    return tuple(
        table_gpu_energy(power, factors.table_gpu_utilization, usage.duration_s)
        for power in factors.table_gpus
    )


def _pod_cpu(cpu: CpuEnergy | None, shares: Shares) -> Bounded | None:
    if cpu is None or shares.cpu is None or shares.idle is None:
        return None
    if shares.cpu == shares.idle:  # keeps a counter's delta exact to the last bit
        return cpu.total.scaled(shares.cpu)
    return cpu.dynamic.scaled(shares.cpu) + cpu.idle.scaled(shares.idle)


def _scaled(energy: Bounded | None, share: float | None) -> Bounded | None:
    return None if energy is None or share is None else energy.scaled(share)


def _sum(parts: list[Bounded | None]) -> Bounded | None:
    known = [part for part in parts if part is not None]
    return sum(known[1:], start=known[0]) if known else None


def _embodied(rate: EmbodiedRate | None, usage: NodeUsage, shares: Shares) -> Bounded | None:
    if rate is None or shares.idle is None:
        return None
    return rate.over(usage.duration_s, shares.idle, shares.gpu or 0.0)


def _gpu_method(devices: tuple[GpuEnergy, ...]) -> str | None:
    """Name the methods of the node's GPUs, each once, in a stable order."""
    names = {
        f"{device.method}, MIG board" if device.mig else device.method
        for device in devices
        if device.method
    }
    return " + ".join(sorted(names)) or None


def _gpu_source(devices: tuple[GpuEnergy, ...]) -> str | None:
    """Name the figures behind the GPUs that were modelled, each once."""
    return "; ".join(dict.fromkeys(device.source for device in devices if device.source)) or None


_MODELLED_GPU = {"table", None}
_MEASURED_GPU = {"energy-counter", "power-samples"}


def _quality(cpu: CpuEnergy | None, devices: tuple[GpuEnergy, ...]) -> Quality:
    """Return the weakest of the CPU's and the GPUs' methods.

    measured: counters; estimated: a power model fed with measured utilisation; modelled: a table
    alone. RAM is modelled everywhere and does not count.
    """
    if cpu is None or any(device.method in _MODELLED_GPU for device in devices):
        return "modelled"
    if cpu.method == "rapl" and all(device.method in _MEASURED_GPU for device in devices):
        return "measured"
    return "estimated"
