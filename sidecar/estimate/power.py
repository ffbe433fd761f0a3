"""From usage to node energy: counters where they exist, else a power model of this VM's share.

All energies are in kWh with bounds. Formulas and their twins in prose: docs/explanation/power-model.md.
"""

from dataclasses import dataclass, replace
from typing import Final, Protocol

from sidecar.estimate.bounded import NOTHING, Bounded
from sidecar.meters.reading import GpuUsage, NodeUsage
from sidecar.units import (
    GB_PER_GIB,
    Figure,
    kwh_from_microjoules,
    kwh_from_millijoules,
    kwh_from_power,
)

RAM_POWER: Final = Figure(
    value=0.3725 * GB_PER_GIB,
    unit="W/GiB",
    low=0.284 * GB_PER_GIB,
    high=0.392 * GB_PER_GIB,
    source="Green Algorithms v3.0, 0.3725 W/GB; low Boavizta 0.284, high Cloud Carbon Footprint 0.392",
    year=2021,
)
"""Power of memory per GiB installed, used or not."""

RAM_INCLUDED: Final = Figure(
    value=2.0,
    unit="GiB/thread",
    low=1.0,
    high=3.0,
    source="SPECpower_ssj2008 test systems hold about 1 to 3 GB of RAM per hardware thread",
    year=2026,
)
"""Memory whose power is inside the SPECpower watts already: billed with the CPU, not again as RAM."""

GPU_COUNTER_SPREAD: Final = 0.05
"""NVML power and energy are good to ±5 %: Yang et al., "Part-time Power Measurements: nvidia-smi's
Lack of Attention", arXiv 2312.02741 (2023)."""

GPU_LOAD_LEAST: Final = 0.5
"""Lower bound of the dynamic power at a utilisation, of what the model says. NVML's utilisation is
the share of time in which any kernel ran (nvml.h), not how much of the chip it used: a kernel that
waits for memory leaves a card near half its limit. An assumption, wide on purpose."""

CLOCK_SLACK_S: Final = 0.5
"""A counter's seconds and the window's differ by so much, as one is read after the other."""

UNOBSERVED_GPU_UTILIZATION: Final = Bounded(0.5, 0.0, 1.0)
"""Assumed where a GPU's utilisation cannot be seen: the middle, with idle and full load as bounds."""


@dataclass(frozen=True, slots=True)
class CpuEnergy:
    """CPU energy of the node over a window, split for attribution. `total = idle + dynamic`."""

    total: Bounded
    idle: Bounded
    dynamic: Bounded
    method: str
    source: str
    includes_ram_gib: Bounded


class CpuPowerModel(Protocol):
    """Estimates the CPU energy of a window from usage alone; None where usage does not suffice."""

    def energy_kwh(self, usage: NodeUsage) -> CpuEnergy | None:
        """Return the node's CPU energy over the window."""
        ...


@dataclass(frozen=True, slots=True)
class VmShareModel:
    """Linear between idle and maximum watts per hardware thread, times the threads this VM has.

    `threads` is vCPUs, doubled where one vCPU is a whole SMT core (`threads_high` is the upper bound
    where that is not known). P = threads · (reserved · idle + (max − idle) · u), u = busy / total
    CPU time. `reserved` is 1, more for a constrained-core size: the cores it leaves out idle for it
    alone. The watts are SPECpower's: whole server at the wall, including some RAM.
    """

    idle_per_thread: Figure
    max_per_thread: Figure
    threads: float
    threads_high: float
    source: str
    reserved: float = 1.0
    method: str = "vm-share"

    def energy_kwh(self, usage: NodeUsage) -> CpuEnergy | None:
        """Return threads · (idle + (max − idle) · u) · Δt, None without CPU times."""
        utilization = cpu_utilization(usage)
        if utilization is None:
            return None
        seconds = usage.duration_s
        idle = self._energy(Bounded.of(self.idle_per_thread).scaled(self.reserved), seconds)
        low, value, high = (
            max(0.0, maximum - minimum) * utilization
            for maximum, minimum in (
                (self.max_per_thread.low, self.idle_per_thread.low),
                (self.max_per_thread.value, self.idle_per_thread.value),
                (self.max_per_thread.high, self.idle_per_thread.high),
            )
        )
        dynamic = self._energy(Bounded(value, min(low, value), max(high, value)), seconds)
        threads = Bounded(self.threads, self.threads, self.threads_high)
        included = Bounded.of(RAM_INCLUDED) * threads.scaled(self.reserved)
        return CpuEnergy(idle + dynamic, idle, dynamic, self.method, self.source, included)

    def _energy(self, power_per_thread_w: Bounded, seconds: float) -> Bounded:
        threads = Bounded(self.threads, self.threads, self.threads_high)
        return (power_per_thread_w * threads).scaled(kwh_from_power(1.0, seconds))

    def idle_fraction(self, utilization: float) -> float:
        """Share of idle power in the power at this utilisation: how to split a measured energy."""
        idle_w, max_w = self.idle_per_thread.value, self.max_per_thread.value
        reserved_w = idle_w * self.reserved
        power_w = reserved_w + max(0.0, max_w - idle_w) * utilization
        return reserved_w / power_w if power_w > 0 else 0.0


@dataclass(frozen=True, slots=True)
class ConstantModel:
    """A power the user states, spent whether the CPU works or not."""

    power_w: float
    split: VmShareModel
    source: str = "setting cpu_power"
    method: str = "constant"

    def energy_kwh(self, usage: NodeUsage) -> CpuEnergy | None:
        """Return P · Δt, split into idle and dynamic in the proportion of the VM-share model."""
        total = Bounded.exact(kwh_from_power(self.power_w, usage.duration_s))
        return _split(total, usage, self)


@dataclass(frozen=True, slots=True)
class MeasuredOr:
    """RAPL package energy where a counter was read in this window, else the model behind it."""

    model: CpuPowerModel
    split: VmShareModel
    source: str = (
        "powercap intel-rapl package counters (Linux kernel): CPU packages alone, without power "
        "supply, board and fans"
    )
    method: str = "rapl"

    def energy_kwh(self, usage: NodeUsage) -> CpuEnergy | None:
        """Return the counter's delta exactly, or what the model says without a counter."""
        if usage.package_energy_uj is None:
            return self.model.energy_kwh(usage)
        total = Bounded.exact(kwh_from_microjoules(usage.package_energy_uj))
        return _split(total, usage, self)


class _Splitting(Protocol):
    @property
    def split(self) -> VmShareModel: ...
    @property
    def method(self) -> str: ...
    @property
    def source(self) -> str: ...


def _split(total: Bounded, usage: NodeUsage, model: _Splitting) -> CpuEnergy:
    """Split a known total into idle and dynamic. Package counters and stated watts hold no RAM."""
    fraction = model.split.idle_fraction(cpu_utilization(usage) or 0.0)
    idle = total.scaled(fraction)
    dynamic = total.scaled(1.0 - fraction)
    return CpuEnergy(total, idle, dynamic, model.method, model.source, NOTHING)


def cpu_utilization(usage: NodeUsage) -> float | None:
    """Mean utilisation (0..1) of the node's CPUs: busy time over total time of `/proc/stat`."""
    if usage.cpu_busy_s is None or not usage.cpu_total_s:
        return None
    return min(1.0, usage.cpu_busy_s / usage.cpu_total_s)


class RamPowerModel(Protocol):
    """Estimates the RAM energy of a window; `included_gib` is billed with the CPU already."""

    @property
    def source(self) -> str:
        """Where the power comes from, with its year."""
        ...

    def energy_kwh(self, usage: NodeUsage, included_gib: Bounded) -> Bounded | None:
        """Return the node's RAM energy over the window, None where MemTotal is unknown."""
        ...


@dataclass(frozen=True, slots=True)
class RamPerGib:
    """RAM power by installed size: W/GiB · max(0, MemTotal − what the CPU figure holds) · Δt."""

    figure: Figure = RAM_POWER

    @property
    def source(self) -> str:
        """Where the W/GiB come from."""
        return self.figure.cited

    def energy_kwh(self, usage: NodeUsage, included_gib: Bounded) -> Bounded | None:
        """Return the RAM energy that is not inside the CPU's figure."""
        if usage.memory_total_gib is None:
            return None
        total_gib = usage.memory_total_gib
        billed = Bounded(
            max(0.0, total_gib - included_gib.value),
            max(0.0, total_gib - included_gib.high),
            max(0.0, total_gib - included_gib.low),
        )
        return (Bounded.of(self.figure) * billed).scaled(kwh_from_power(1.0, usage.duration_s))


@dataclass(frozen=True, slots=True)
class ConstantRam:
    """A RAM power the user states."""

    power_w: float
    source: str = "setting ram_power"

    def energy_kwh(self, usage: NodeUsage, included_gib: Bounded) -> Bounded | None:  # noqa: ARG002
        """Return P · Δt."""
        return Bounded.exact(kwh_from_power(self.power_w, usage.duration_s))


@dataclass(frozen=True, slots=True)
class GpuPower:
    """Idle and maximum power of one GPU device (or of `fraction` of a card)."""

    model: str
    idle: Figure
    limit: Figure
    fraction: float = 1.0

    @property
    def source(self) -> str:
        """Both figures with their sources."""
        return (
            f"{self.model}: limit {self.limit.value:g} W, {self.limit.cited}; "
            f"idle {self.idle.value:g} W, {self.idle.cited}"
        )

    def energy_kwh(self, utilization: Bounded, duration_s: float) -> Bounded:
        """Return fraction · (idle + (limit − idle) · u) · Δt."""
        pairs = (
            (self.idle.value, self.limit.value, utilization.value),
            (self.idle.low, self.limit.low, utilization.low * GPU_LOAD_LEAST),
            (self.idle.high, self.limit.high, utilization.high),
        )
        value, low, high = (idle + max(0.0, top - idle) * u for idle, top, u in pairs)
        return Bounded(value, low, high).scaled(self.fraction * kwh_from_power(1.0, duration_s))

    def idle_energy_kwh(self, idle_share: float, duration_s: float) -> float:
        """Return fraction · idle · Δt over the share of the window in which nothing ran."""
        return self.fraction * idle_share * kwh_from_power(self.idle.value, duration_s)


@dataclass(frozen=True, slots=True)
class GpuEnergy:
    """Energy of one device over a window. `energy` None: nothing is known of this device's power.

    `source` names the figures of the model where one was used. `idle_energy_kwh` is what the device
    draws at least for being there, over the part of the window in which nothing ran on it; None where
    its utilisation or its idle power is not known.
    """

    uuid: str | None
    model: str
    energy: Bounded | None
    method: str | None
    mig: bool
    utilization: float | None
    source: str | None = None
    idle_energy_kwh: float | None = None


def gpu_energy(usage: GpuUsage, power: GpuPower | None, duration_s: float) -> GpuEnergy:
    """Return the device's energy: its counter, else its power samples, else its power model.

    The model needs `power` (limit and idle of the device). A utilisation that was not observed is
    taken as the middle between idle and full load, with both as bounds. A counter or samples that
    cover only a part of the window are completed by the model for the rest. A counter that covers more,
    as the device was silent before, gives what those windows were not given by the model.
    """
    modelled = _modelled(usage, power, duration_s)
    if usage.energy_mj is None or usage.energy_source == "none":
        return modelled
    counted = kwh_from_millijoules(usage.energy_mj)
    left = max(0.0, counted - _modelled_before_kwh(usage, power, duration_s))
    spread = GPU_COUNTER_SPREAD * counted
    measured = Bounded(left, max(0.0, left - spread), left + spread)
    missing = _missing_share(usage, duration_s)
    if missing == 0 or modelled.energy is None:
        return replace(modelled, energy=measured, method=usage.energy_source, source=None)
    rest = modelled.energy.scaled(missing)
    method = f"{usage.energy_source} + {modelled.method}"
    return replace(modelled, energy=measured + rest, method=method)


def _modelled(usage: GpuUsage, power: GpuPower | None, duration_s: float) -> GpuEnergy:
    device = GpuEnergy(usage.uuid, usage.model, None, None, usage.mig, usage.utilization)
    if power is None:
        return device
    seen = usage.utilization
    observed = UNOBSERVED_GPU_UTILIZATION if seen is None else Bounded.exact(seen)
    return replace(
        device,
        energy=power.energy_kwh(observed, duration_s),
        method="table" if seen is None else "utilization",
        source=power.source,
        idle_energy_kwh=None if seen is None else power.idle_energy_kwh(1.0 - seen, duration_s),
    )


def _modelled_before_kwh(usage: GpuUsage, power: GpuPower | None, duration_s: float) -> float:
    """Return what the model gave the windows before this one that the counter covers, too."""
    silent_s = (usage.metered_s or 0.0) - duration_s
    if power is None or silent_s <= CLOCK_SLACK_S:
        return 0.0
    return power.energy_kwh(UNOBSERVED_GPU_UTILIZATION, silent_s).value


def _missing_share(usage: GpuUsage, duration_s: float) -> float:
    """Share of the window that the counter or the samples do not cover; 0 for the usual jitter."""
    if usage.metered_s is None or duration_s <= 0:
        return 0.0
    missing_s = duration_s - usage.metered_s
    return missing_s / duration_s if missing_s > max(0.5, 0.02 * duration_s) else 0.0


def table_gpu_energy(power: GpuPower, utilization: Bounded, duration_s: float) -> GpuEnergy:
    """Return the energy of a GPU that only the VM size's table knows of: nothing was measured."""
    energy = power.energy_kwh(utilization, duration_s)
    return GpuEnergy(
        None, power.model, energy, "table", mig=False, utilization=None, source=power.source
    )
