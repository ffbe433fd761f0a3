"""The rows of the catalogue: frozen values, every figure with its spread, source and year.

How the bounds (`low`, `high`) of the shipped figures were set:

- Carbon intensity of a region (Electricity Maps, zone, newest year): the values of 2023, 2024 and
  2025 of the same zone, the Azure row of the Green Software Foundation for the same place (its
  `westus` row describes Washington and counts for westus2; its misplaced northcentralus row is left
  out), and Ember's country value where the zone is the country. Where two maps disagree on the
  zone (westus2, westcentralus) the neighbouring zone too.
- Carbon intensity of a country (Ember): Ember and Our World in Data. These bounds say nothing of
  the spread of zones within the country.
- PUE and WUE: a location figure and the average of its geography bound each other; an average is
  bounded by the location figures of its geography, PUE also by 1.12, Microsoft's design value.
- TDP: disputed values bound each other; a value taken from a sibling gets a factor of 1.2, the
  largest ratio between published values of the table (240/280 W) but for the 8370C (205/270 W).
- Idle and maximum watts per hardware thread, by `power_basis` (divide and multiply by):
  `exact` 1.1 (mean and median of Cascade Lake results differ by 10 %), `exact-family` 1.15,
  `sibling` 1.25 (Gold to Platinum within Cascade Lake: 1.22 at full load), `family` and `proxy`
  2.25 idle and 1.75 at full load (largest step between adjacent generations: Naples to Rome, 2.21
  and 1.70).
- Idle watts of GPUs: measured medians 1.25 (the A100 boards measured range over 1.23); where none
  is measured, the median, least and greatest ratio of idle draw to TDP of the measured ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.units import Figure


@dataclass(frozen=True, slots=True)
class Region:
    """One Azure region. Intensities in gCO2e/kWh, PUE a ratio, WUE in litres per kWh of IT energy.

    `carbon_intensity` is the yearly average of the grid zone, `carbon_intensity_ember` that of the
    country. None = no source gives it.
    """

    name: str
    display_name: str
    country_iso3: str
    grid_zone: str | None
    latitude: float | None
    longitude: float | None
    status: str
    physical_location: str | None
    carbon_intensity: Figure | None
    carbon_intensity_ember: Figure | None
    pue: Figure | None
    wue: Figure | None


@dataclass(frozen=True, slots=True)
class Country:
    """One country, the European Union (EUU) or the world (WLD); intensity in gCO2e/kWh."""

    iso3: str
    iso2: str | None
    name: str
    carbon_intensity: Figure


@dataclass(frozen=True, slots=True)
class Cpu:
    """One CPU model, or the median of a generation (`power_basis` "generation").

    `tdp` is W per chip. `idle_per_thread` and `max_per_thread` are W per hardware thread of a whole
    server at the wall (SPECpower_ssj2008). Where an SMT CPU gives a VM one thread per core, one
    vCPU is a whole core, that is two hardware threads.
    """

    model: str
    microarchitecture: str
    physical_cores: int | None
    threads: int | None
    smt: bool | None
    tdp: Figure | None
    idle_per_thread: Figure | None
    max_per_thread: Figure | None
    cpuinfo_model_name: str | None
    power_basis: str
    note: str | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVML lists it (half a board for K80, M60); `tdp` and `idle` are W per device."""

    nvml_name: str
    pretty_name: str
    memory_gib: float
    tdp: Figure
    idle: Figure
    gpus_per_board: int
    azure_series: str | None
    note: str | None


@dataclass(frozen=True, slots=True)
class VmSize:
    """One Azure VM size.

    `vcpus` are the active ones, `vcpus_full` those of the unconstrained size. `gpu_count` counts
    NVML devices, fractions of one for vGPU shares; None = the size has GPUs, how many is not
    published. `cpu_models` are candidates, the likeliest first: a size may land on another CPU.
    `cpu_evidence`: measured, measured-sibling, secondary, docs, docs-family, unverified, unknown,
    family (from its series), parent (from the unconstrained size). `year` dates vCPUs and memory.
    """

    name: str
    vcpus: int
    vcpus_full: int
    memory_gib: float | None
    cpu_models: tuple[str, ...]
    cpu_evidence: str
    threads_per_core: int | None
    gpu_model: str | None
    gpu_count: float | None
    source: str
    year: int | None


@dataclass(frozen=True, slots=True)
class Equivalent:
    """An everyday thing to compare emissions with, in kgCO2e per unit (km, hour, charge, …)."""

    item: str
    description: str
    emissions: Figure
    geography: str
    note: str | None


@dataclass(frozen=True, slots=True)
class EnergySource:
    """One way to generate electricity; life-cycle intensity in gCO2e/kWh."""

    name: str
    aliases: tuple[str, ...]
    intensity: Figure


@dataclass(frozen=True, slots=True)
class EnergyMix:
    """A country's electricity generation of one year in TWh, by names of `EnergySource`.

    Renewables that are none of the named ones (mostly geothermal, some tidal) stand as geothermal.
    """

    iso3: str
    generation_twh: Mapping[str, float]
    source: str
    year: int


@dataclass(frozen=True, slots=True)
class FleetEfficiency:
    """Average efficiency of all Azure data centres: PUE as a ratio, WUE in L/kWh."""

    pue: Figure
    wue: Figure
