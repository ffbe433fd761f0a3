"""Choose the factors for an identity: power models, PUE, WUE, embodied rate, carbon intensity.

Each choice is a ladder from the most to the least specific source, and says on which rung it stands.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, cast

from sidecar.carbon.intensity import (
    CarbonIntensity,
    Table,
    average_intensity,
    country_mix_intensity,
    forced_intensity,
    mix_intensity,
)
from sidecar.catalogue.codecarbon_tables import codecarbon_tdp
from sidecar.catalogue.lookup import Catalogue
from sidecar.catalogue.rows import Cpu, FleetEfficiency, Region, VmSize
from sidecar.estimate.codecarbon import CodeCarbonModel, node_tdp
from sidecar.estimate.codecarbon_power import CodeCarbonCpu, CodeCarbonRam
from sidecar.estimate.embodied import EmbodiedRate, Server, embodied_rate
from sidecar.estimate.emissions import Factors
from sidecar.estimate.power import (
    RAM_POWER,
    ConstantModel,
    ConstantRam,
    CpuPowerModel,
    GpuPower,
    MeasuredOr,
    RamPerGib,
    RamPowerModel,
    VmShareModel,
)
from sidecar.identity.fields import Hardware, Identity
from sidecar.settings import Settings, SettingsError, origin_of
from sidecar.units import Figure

AVERAGE_IDLE: Final = Figure(
    0.78, "W/thread", 0.33, 1.65,
    "average of Azure hosts, Cloud Carbon Footprint coefficients; spread of the CPU table", 2023,
)  # fmt: skip
AVERAGE_MAX: Final = Figure(
    3.76, "W/thread", 1.56, 6.12,
    "average of Azure hosts, Cloud Carbon Footprint coefficients; spread of the CPU table", 2023,
)  # fmt: skip
"""Watts per hardware thread where nothing is known of the CPU."""

OF_THE_COUNTRY: Final = "country"
"""Value of the setting energy_mix that asks for the mix the catalogue knows of the country."""

NO_PUE: Final = Figure(
    1.0, "ratio", 1.0, 1.56, "none applied: no data centre known; set pue to change it", None
)
"""Outside a known data centre nothing is added. The upper bound is the average that Uptime
Institute's Global Data Center Survey 2024 reports."""

UNLISTED_GPU_IDLE: Final = Figure(
    0.143, "idle W/limit W", 0.048, 0.253,
    "median, least and greatest ratio of idle draw to limit in the GPU table", 2026,
)  # fmt: skip
"""Idle power over power limit, for a GPU the catalogue does not know."""


@dataclass(frozen=True, slots=True)
class SeenGpu:
    """Model name and enforced power limit of a GPU that NVML shows."""

    model: str
    power_limit_w: float | None


@dataclass(frozen=True, slots=True)
class Place:
    """What the factors depend on."""

    identity: Identity
    hardware: Hardware
    seen_gpus: tuple[SeenGpu, ...] = ()


def choose_factors(place: Place, settings: Settings, catalogue: Catalogue) -> Factors:
    """Choose all factors. Raises ValueError for a setting that contradicts the catalogue's formats."""
    identity = place.identity
    region = catalogue.region(identity.region) if identity.region else None
    vm_size = catalogue.vm_size(identity.vm_size) if identity.vm_size else None
    on_azure = region is not None or vm_size is not None or identity.provider == "azure"
    fleet = catalogue.fleet_efficiency() if on_azure else None
    split = vm_share_model(place.hardware, vm_size, identity.vm_size, catalogue)
    return Factors(
        carbon=choose_carbon_intensity(identity, settings, catalogue),
        pue=_pue(settings, region, fleet),
        wue=_wue(settings, region, fleet),
        embodied=embodied_of(vm_size, catalogue) if vm_size else None,
        cpu=_cpu_model(place.hardware, settings, split),
        ram=_ram_model(place.hardware, settings),
        uncounted=_uncounted(vm_size, place.seen_gpus, settings, catalogue),
        gpu_powers=dict(_seen_gpu_powers(place.seen_gpus, catalogue)),
        table_gpus=_table_gpus(vm_size, settings, catalogue),
    )


def with_country(identity: Identity, catalogue: Catalogue) -> Identity:
    """Add the country a known region lies in, where nothing else names one."""
    if identity.country_iso3 is not None or identity.region is None:
        return identity
    region = catalogue.region(identity.region)
    if region is None:
        return identity
    sources = {**identity.sources, "country_iso3": f"catalogue:region {region.name}"}
    return replace(identity, country_iso3=region.country_iso3, sources=sources)


def refuse_unknown_country(settings: Settings, catalogue: Catalogue) -> None:
    """Refuse a country nobody knows: it decides the intensity, while a region has a fallback."""
    if settings.country is None or catalogue.country(settings.country) is not None:
        return
    near = catalogue.suggest("country", settings.country)
    hint = f"did you mean {', '.join(near)}?" if near else "'catalogue countries' lists all"
    raise SettingsError(
        f"{origin_of('country', settings.origins)}: {settings.country!r} is no country of the "
        f"catalogue; {hint}"
    )


def doubts(place: Place, catalogue: Catalogue) -> tuple[str, ...]:
    """Say which region or VM size is unknown, what is taken instead, and whether the size fits."""
    identity = place.identity
    told = []
    if identity.region and catalogue.region(identity.region) is None:
        near = ", ".join(catalogue.suggest("region", identity.region))
        told.append(
            f"region {identity.region!r} is not in the catalogue: the average of the country, or of "
            f"the world, is taken{f'; did you mean {near}?' if near else ''}"
        )
    vm_size = catalogue.vm_size(identity.vm_size) if identity.vm_size else None
    seen = place.hardware.logical_cpus
    if identity.vm_size and vm_size is None:
        near = ", ".join(catalogue.suggest("vm-size", identity.vm_size))
        told.append(
            f"VM size {identity.vm_size!r} is not in the catalogue: its GPUs and embodied emissions "
            f"are not known{f'; did you mean {near}?' if near else ''}"
        )
    elif vm_size is not None and seen is not None and vm_size.vcpus != seen:
        told.append(
            f"VM size {vm_size.name} has {vm_size.vcpus} vCPUs, this machine shows {seen}: the size is "
            f"from {identity.sources.get('vm_size', 'an unknown source')}; check it, power and "
            "embodied emissions depend on it"
        )
    return tuple(told)


def choose_carbon_intensity(
    identity: Identity, settings: Settings, catalogue: Catalogue
) -> CarbonIntensity:
    """Return the intensity: a forced value, else a mix, else the catalogue's for region or country."""
    if settings.carbon_intensity is not None:
        return forced_intensity(settings.carbon_intensity)
    if settings.energy_mix == OF_THE_COUNTRY:
        return _of_the_countrys_mix(identity, settings, catalogue)
    if settings.energy_mix is not None:
        return mix_intensity(catalogue, settings.energy_mix)
    table = cast("Table", settings.intensity_table)
    return average_intensity(catalogue, identity.region, identity.country_iso3, table)


def _of_the_countrys_mix(
    identity: Identity, settings: Settings, catalogue: Catalogue
) -> CarbonIntensity:
    """Compute from the country's mix; while no country is known yet, the usual ladder holds."""
    country = with_country(identity, catalogue).country_iso3
    if country is None:
        return choose_carbon_intensity(identity, replace(settings, energy_mix=None), catalogue)
    return country_mix_intensity(catalogue, country)


def vm_share_model(
    hardware: Hardware, vm_size: VmSize | None, size_name: str | None, catalogue: Catalogue
) -> VmShareModel:
    """Return the watts per thread of the CPU, by the first rung that knows it, and the threads.

    Rungs: the name in `/proc/cpuinfo`; the CPUs the VM size was seen on; those of its family; the
    CPU generation that cpuinfo's family and model numbers tell; the average of Azure hosts.
    """
    cpus, named = _candidates(hardware, vm_size, size_name, catalogue)
    idle = _mean_figure([cpu.idle_per_thread for cpu in cpus if cpu.idle_per_thread])
    top = _mean_figure([cpu.max_per_thread for cpu in cpus if cpu.max_per_thread])
    vcpus = hardware.logical_cpus or (vm_size.vcpus if vm_size else None) or 1
    per_vcpu, per_vcpu_high = _threads_per_vcpu(hardware, vm_size, cpus)
    idle, top = idle or AVERAGE_IDLE, top or AVERAGE_MAX
    watts = f"{vcpus * per_vcpu} threads × {idle.value:.4g} to {top.value:.4g} W"
    return VmShareModel(
        idle_per_thread=idle,
        max_per_thread=top,
        threads=vcpus * per_vcpu,
        threads_high=vcpus * per_vcpu_high,
        source=f"{named}: {watts}; {top.cited}",
        reserved=vm_size.vcpus_full / vm_size.vcpus if vm_size else 1.0,
    )


def _candidates(
    hardware: Hardware, vm_size: VmSize | None, size_name: str | None, catalogue: Catalogue
) -> tuple[tuple[Cpu, ...], str]:
    named = catalogue.cpu_named(hardware.cpu_model) if hardware.cpu_model else None
    if named and named.idle_per_thread:
        return (named,), f"{named.model} named by /proc/cpuinfo"
    if vm_size and (cpus := _known_cpus(vm_size.cpu_models, catalogue)):
        return cpus, f"CPUs of {vm_size.name} ({_models(cpus)})"
    if size_name:
        family = (model for size in catalogue.vm_family(size_name) for model in size.cpu_models)
        if cpus := _known_cpus(dict.fromkeys(family), catalogue):
            return cpus, f"CPUs of the family of {size_name} ({_models(cpus)})"
    generation = _generation(hardware, catalogue)
    if generation and generation.idle_per_thread:
        return (generation,), f"CPU generation {generation.microarchitecture} by /proc/cpuinfo"
    return (), "CPU unknown"


def _generation(hardware: Hardware, catalogue: Catalogue) -> Cpu | None:
    vendor, family, number = (
        hardware.cpu_vendor,
        hardware.cpu_family,
        hardware.cpu_model_number,
    )
    if vendor is None or family is None or number is None:
        return None
    return catalogue.cpu_of_generation(vendor, family, number)


def _known_cpus(models: Iterable[str], catalogue: Catalogue) -> tuple[Cpu, ...]:
    rows = (catalogue.cpu(model) for model in models)
    return tuple(row for row in rows if row and row.idle_per_thread and row.max_per_thread)


def _models(cpus: tuple[Cpu, ...]) -> str:
    return ", ".join(cpu.model for cpu in cpus[:4]) + (", …" if len(cpus) > 4 else "")


def _mean_figure(figures: list[Figure]) -> Figure | None:
    """Mean of several candidates; the bounds span them all, the source names each once."""
    if not figures:
        return None
    value = math.fsum(figure.value for figure in figures) / len(figures)
    low = min(figure.low for figure in figures)
    high = max(figure.high for figure in figures)
    sources = dict.fromkeys(figure.cited for figure in figures)
    source = "; ".join(sources)
    if len(figures) > 1:
        source = f"mean of {len(figures)} CPUs: {source}"
    return Figure(min(max(value, low), high), figures[0].unit, low, high, source, None)


def _threads_per_vcpu(
    hardware: Hardware, vm_size: VmSize | None, cpus: tuple[Cpu, ...]
) -> tuple[int, int]:
    """Hardware threads behind one vCPU: value and upper bound.

    The size table says it for Azure (measured with lscpu), else the guest, which Azure tells the
    truth. Elsewhere a guest that shows one thread per core of an SMT CPU may own the core or may
    only not be told: value 1, upper bound 2.
    """
    if not any(cpu.smt for cpu in cpus):
        return 1, 1
    shown = hardware.threads_per_core
    if vm_size is not None:
        per_core = vm_size.threads_per_core or shown
        if per_core is not None:
            return (2, 2) if per_core == 1 else (1, 1)
    return (1, 1) if shown == 2 else (1, 2)


def _cpu_model(hardware: Hardware, settings: Settings, split: VmShareModel) -> CpuPowerModel:
    if settings.power_model == "codecarbon":
        return MeasuredOr(CodeCarbonCpu(_codecarbon_model(hardware, settings)), split)
    if settings.cpu_power is not None:
        return ConstantModel(settings.cpu_power, split)
    return MeasuredOr(split, split)


def _codecarbon_model(hardware: Hardware, settings: Settings) -> CodeCarbonModel:
    """CodeCarbon's view of this machine: a forced CPU power counts as TDP, else the brand decides."""
    if settings.cpu_power is not None:
        tdp = _stated(settings.cpu_power, "setting cpu_power")
    else:
        cpus, sockets = hardware.logical_cpus or 1, hardware.sockets or 1
        tdp = node_tdp(hardware.cpu_model, codecarbon_tdp(), cpus, sockets)
    arm = (hardware.architecture or "").startswith(("arm", "aarch"))
    return CodeCarbonModel(tdp, arm=arm)


def _ram_model(hardware: Hardware, settings: Settings) -> RamPowerModel:
    if settings.ram_power is not None:
        return ConstantRam(settings.ram_power)
    if settings.power_model == "codecarbon":
        return CodeCarbonRam(_codecarbon_model(hardware, settings))
    return RamPerGib(RAM_POWER)


def _pue(settings: Settings, region: Region | None, fleet: FleetEfficiency | None) -> Figure:
    if settings.pue is not None:
        return Figure(settings.pue, "ratio", settings.pue, settings.pue, "setting pue", None)
    if region and region.pue:
        return region.pue
    return fleet.pue if fleet else NO_PUE


def _wue(settings: Settings, region: Region | None, fleet: FleetEfficiency | None) -> Figure | None:
    if settings.wue is not None:
        return Figure(settings.wue, "L/kWh", settings.wue, settings.wue, "setting wue", None)
    if region and region.wue:
        return region.wue
    return fleet.wue if fleet else None


def _seen_gpu_powers(
    seen: tuple[SeenGpu, ...], catalogue: Catalogue
) -> Iterable[tuple[str, GpuPower]]:
    for gpu in seen:
        row = catalogue.gpu(gpu.model)
        limit_w = gpu.power_limit_w
        limit = _stated(limit_w, "enforced power limit, NVML") if limit_w else None
        if row:
            yield gpu.model, GpuPower(gpu.model, row.idle, limit or row.tdp)
        elif limit:
            yield gpu.model, GpuPower(gpu.model, _idle_of_unlisted(limit), limit)


def _idle_of_unlisted(limit: Figure) -> Figure:
    ratio = UNLISTED_GPU_IDLE
    low, value, high = (limit.value * part for part in (ratio.low, ratio.value, ratio.high))
    return Figure(value, "W", low, high, ratio.source, ratio.year)


def _stated(value: float, source: str) -> Figure:
    return Figure(value, "W", value, value, source, None)


def _table_gpus(
    vm_size: VmSize | None, settings: Settings, catalogue: Catalogue
) -> tuple[GpuPower, ...]:
    """Return the GPUs of the VM size, one entry each; the last one may be a fraction of a card."""
    if vm_size is None or not vm_size.gpu_model or settings.gpu_source != "auto":
        return ()
    row = catalogue.gpu(vm_size.gpu_model)
    if row is None:
        return ()
    whole, part = divmod(vm_size.gpu_count or 0.0, 1)
    fractions = [1.0] * int(whole) + ([part] if part > 0 else [])
    return tuple(GpuPower(row.nvml_name, row.idle, row.tdp, fraction) for fraction in fractions)


def _uncounted(
    vm_size: VmSize | None,
    seen: tuple[SeenGpu, ...],
    settings: Settings,
    catalogue: Catalogue,
) -> str | None:
    """Say which GPUs are known to be there and yet have no energy; None when all are counted."""
    if vm_size is None or not vm_size.gpu_model or seen or settings.gpu_source == "none":
        return None
    if _table_gpus(vm_size, settings, catalogue):
        return None
    what = f"unknown: {vm_size.name} has {vm_size.gpu_model}"
    if settings.gpu_source == "nvml":
        return f"{what}, and NVML shows none"
    return f"{what}, how many is not published"


def embodied_of(vm_size: VmSize, catalogue: Catalogue) -> EmbodiedRate | None:
    """Return the embodied rate of a VM size by the largest size of its family."""
    family = [size for size in catalogue.vm_family(vm_size.name) if size.memory_gib] or [vm_size]
    largest = max(family, key=lambda size: size.vcpus_full)
    if not largest.memory_gib:
        return None
    cpus = _known_cpus(largest.cpu_models, catalogue)
    threads = next((cpu.threads for cpu in cpus if cpu.threads), None)
    per_vcpu = _threads_per_vcpu(Hardware(), largest, cpus)[0]
    sockets = math.ceil(largest.vcpus_full * per_vcpu / threads) if threads else 1
    share = min(1.0, vm_size.vcpus_full / largest.vcpus_full)
    server = Server(memory_gib=largest.memory_gib, cpus=max(1, sockets))
    return embodied_rate(server, share, vm_size.gpu_count or 0.0)
