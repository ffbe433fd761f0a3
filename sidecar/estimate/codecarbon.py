"""The model of CodeCarbon 3.3.2, so that its figures can be reproduced beside ours.

Written from the documented behaviour of CodeCarbon 3.3.2 (https://github.com/mlco2/codecarbon, MIT)
and held to it by tests against the installed release. Where that model is known to be crude (the
whole chip for any slice of it, the steps of the RAM model, 475 g/kWh for what it does not know)
it is reproduced all the same: this is for comparison, not the default estimate.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from sidecar.units import SECONDS_PER_HOUR, Figure

TrackingMode = Literal["machine", "process"]

JOULES_TO_KWH = 2.77778e-7
"""CodeCarbon's own rounding of 1/3.6e6; 8e-7 above the true value."""
KG_PER_KWH_OF_LBS_PER_MWH = 0.00045359237
"""One avoirdupois pound is 0.45359237 kg, exactly (1959 agreement)."""

DEFAULT_WATTS_PER_LOGICAL_CPU = 4.0
"""What CodeCarbon books per logical CPU for a CPU name its registry does not hold."""
DEFAULT_TDP_W = 85.0
"""What CodeCarbon books where the machine tells no CPU name at all (as on most arm64)."""

WORLD_AVERAGE = Figure(
    475.0, "g/kWh", 475.0, 475.0, "CodeCarbon 3.3.2 world average (IEA 2019)", 2019
)
"""Carbon intensity CodeCarbon falls back to where it knows neither region nor country."""

SOURCE_INTENSITIES_G_PER_KWH: Mapping[str, float] = MappingProxyType(
    {
        "coal": 995.0,
        "petroleum": 816.0,
        "natural_gas": 743.0,
        "fossil": 635.0,
        "geothermal": 38.0,
        "hydroelectricity": 26.0,
        "nuclear": 29.0,
        "solar": 48.0,
        "wind": 26.0,
        "biomass": 230.0,
        "biofuel": 230.0,
        "waste": 230.0,
    }
)
"""Carbon intensity per source of electricity, CodeCarbon 3.3.2 carbon_intensity_per_source.json."""

FOSSIL_WEIGHTS_KG_PER_KWH: Mapping[str, float] = MappingProxyType(
    {"coal": 0.995725971, "petroleum": 0.8166885263, "naturalGas": 0.7438415916}
)
"""Weights of the Canadian mixes (energy-usage project, "conversion to CO2"); all else counts 0."""

_DIMM_SIZES_GIB = (128, 64, 32, 16, 8, 4)
_MAX_DIMMS = 32
_CLOCK = re.compile(r" @\s*\d+\.\d+ghz")
_CORES = re.compile(r"\s+\d+-core processor$")


# --- energy and power ---------------------------------------------------------------------------


def kwh_from_microjoules(energy_uj: float) -> float:
    """Convert µJ (RAPL) to kWh with CodeCarbon's constant."""
    return energy_uj * 1e-6 * JOULES_TO_KWH


def kwh_from_millijoules(energy_mj: float) -> float:
    """Convert mJ (NVML) to kWh with CodeCarbon's constant."""
    return energy_mj * 1e-3 * JOULES_TO_KWH


def mean_power_w(energy_kwh: float, duration_s: float) -> float:
    """Mean power in W of an energy in kWh over a time in s; 0 over no time, as in CodeCarbon."""
    return energy_kwh * 1000 * SECONDS_PER_HOUR / duration_s if duration_s else 0.0


def rapl_energy_kwh(before_uj: float, after_uj: float, max_range_uj: float) -> float | None:
    """Energy in kWh between two readings of a RAPL domain, one wrap-around undone.

    None where the counter went further back than a wrap explains: CodeCarbon skips that sample.
    """
    if after_uj < before_uj:
        after_uj += max_range_uj
    if after_uj < before_uj:
        return None
    return kwh_from_microjoules(after_uj - before_uj)


def sampled_gpu_power_w(samples_w: Sequence[float]) -> float:
    """Power in W of a GPU without energy counter: the mean of its samples, 0 without any."""
    return math.fsum(samples_w) / len(samples_w) if samples_w else 0.0


# --- CPU ----------------------------------------------------------------------------------------


def cpu_power_w(tdp_w: float, utilization: float) -> float:
    """CPU power in W in machine mode: TDP · (0.1 + 0.9 · load³), load of the whole node in 0..1."""
    return tdp_w * (0.1 + 0.9 * utilization**3)


def process_cpu_power_w(tdp_w: float, utilization: float) -> float:
    """CPU power in W in process mode: TDP · load, the process tree's share of all CPUs in 0..1."""
    return tdp_w * utilization


def constant_cpu_power_w(tdp_w: float) -> float:
    """CPU power in W where no load can be read: half the TDP."""
    return tdp_w * 0.5


def normalized_cpu_name(brand: str) -> str:
    """Turn a CPU's brand string (`model name` of /proc/cpuinfo) into the registry's name for it.

    Without "(R)", " CPU", the clock and "NN-Core Processor", in lower case.
    """
    name = _CLOCK.sub("", brand.replace("(R)", "").lower().replace(" cpu", ""))
    return " ".join(_CORES.sub("", name.strip()).split())


def registered_tdp(brand: str, registry: Mapping[str, Figure]) -> Figure | None:
    """TDP of one chip in W from a registry keyed by `normalized_cpu_name`; None if not in it."""
    return registry.get(normalized_cpu_name(brand))


def node_tdp(
    brand: str | None, registry: Mapping[str, Figure], logical_cpus: int, sockets: int = 1
) -> Figure:
    """Full power in W that CodeCarbon books for a node's CPUs.

    TDP times sockets for a CPU it knows. For one it does not know 4 W per logical CPU, times
    sockets once more (so the 96 logical CPUs of two sockets make 768 W: reproduced, not endorsed).
    Without a brand string 85 W, however many sockets.
    """
    if not brand:
        return _exact(DEFAULT_TDP_W, "W", "CodeCarbon 3.3.2 default for a CPU without name")
    tdp = registered_tdp(brand, registry)
    if tdp is None:
        return _exact(
            DEFAULT_WATTS_PER_LOGICAL_CPU * logical_cpus * sockets,
            "W",
            f"CodeCarbon 3.3.2 default, 4 W x {logical_cpus} logical CPUs x {sockets} sockets",
        )
    if sockets == 1:
        return tdp
    return Figure(
        tdp.value * sockets,
        tdp.unit,
        tdp.low * sockets,
        tdp.high * sockets,
        f"{tdp.source} x {sockets} sockets",
        tdp.year,
    )


def _exact(value: float, unit: str, source: str) -> Figure:
    return Figure(value, unit, value, value, source, None)


# --- RAM ----------------------------------------------------------------------------------------


def dimm_count(memory_gib: float) -> int:
    """How many memory modules CodeCarbon supposes behind so many GiB."""
    for limit_gib, dimms in ((2, 1), (16, 2), (64, 4), (128, 8)):
        if memory_gib <= limit_gib:
            return dimms
    size_gib = next(size for size in _DIMM_SIZES_GIB if size <= memory_gib / 8)
    return min(math.ceil(memory_gib / size_gib), _MAX_DIMMS)


def ram_power_w(memory_gib: float, *, arm: bool = False) -> float:
    """RAM power in W: 5 W a module (1.5 W on ARM), less for each further one, at least 10 W (3 W).

    The 5th to 8th module count 0.9, the 9th to 16th 0.8, further ones 0.7 of that. Not monotonic:
    251.6 GiB make 70 W, 256 GiB make 38 W.
    """
    dimms = dimm_count(memory_gib)
    dimm_power_w, floor_w = (1.5, 3.0) if arm else (5.0, 10.0)
    weight = (
        min(dimms, 4)
        + 0.9 * min(max(dimms - 4, 0), 4)
        + 0.8 * min(max(dimms - 8, 0), 8)
        + 0.7 * max(dimms - 16, 0)
    )
    return max(floor_w, dimm_power_w * weight)


# --- carbon -------------------------------------------------------------------------------------


def kg_per_kwh_from_lbs_per_mwh(intensity_lbs_per_mwh: float) -> float:
    """Convert a carbon intensity from lbs/MWh (EPA eGRID) to kg/kWh."""
    return intensity_lbs_per_mwh * KG_PER_KWH_OF_LBS_PER_MWH


def mix_intensity_g_per_kwh(generation_twh: Mapping[str, float], total_twh: float) -> float:
    """Carbon intensity in g/kWh of a mix given in TWh per source (`SOURCE_INTENSITIES_G_PER_KWH`).

    Sources without a weight are left out; if what is left does not sum to `total_twh` exactly,
    CodeCarbon takes the world average, and so does this.
    """
    known = {k: v for k, v in generation_twh.items() if k in SOURCE_INTENSITIES_G_PER_KWH}
    if sum(known.values()) != total_twh:
        return WORLD_AVERAGE.value
    return sum(SOURCE_INTENSITIES_G_PER_KWH[k] * v / total_twh for k, v in known.items())


def fossil_share_intensity_g_per_kwh(shares: Mapping[str, float], total: float) -> float:
    """Carbon intensity in g/kWh of a Canadian province from its shares of coal, petroleum and gas.

    `shares` are in the unit of `total`; every other source counts nothing.
    """
    weighted = sum(weight * shares.get(k, 0.0) for k, weight in FOSSIL_WEIGHTS_KG_PER_KWH.items())
    return weighted / total * 1000


def grid_intensity(
    table: Mapping[tuple[str, str], Figure],
    iso3: str | None,
    region: str | None = None,
    forced_g_per_kwh: float | None = None,
) -> Figure:
    """Carbon intensity in g/kWh as CodeCarbon chooses it, for any Azure region's country.

    Forced value, else the state or province (`region`, as in `texas`), else the country, else the
    world average. `table` is keyed by (ISO 3166 alpha-3, region), the region empty for a country.
    CodeCarbon holds no row for any Azure region, so the cloud's own region never decides.
    """
    if forced_g_per_kwh is not None:
        return _exact(forced_g_per_kwh, "g/kWh", "setting")
    country = (iso3 or "").upper()
    by_region = table.get((country, region.casefold())) if region else None
    return by_region or table.get((country, "")) or WORLD_AVERAGE


def emissions_kg(energy_kwh: float, intensity_g_per_kwh: float) -> float:
    """Emissions in kg CO2e of an energy in kWh at an intensity in g/kWh."""
    return energy_kwh * intensity_g_per_kwh / 1000


# --- equivalents --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CarbonboardEquivalents:
    """Everyday equivalents as carbonboard prints them; all strings, `tv` with its unit."""

    car_miles: str
    tv: str
    household_week_pct: str


@dataclass(frozen=True, slots=True)
class WebAppEquivalents:
    """Everyday equivalents as CodeCarbon's web application shows them, to two decimals."""

    car_km: float
    us_citizen_week_pct: float
    tv_days: float


def carbonboard_equivalents(emitted_kg: float) -> CarbonboardEquivalents:
    """Equivalents of kg CO2e: 0.409 kg a car mile, 0.097 kg a TV hour, 160.58 kg a household week.

    The factors are carbonboard's, which names the US EPA as their source.
    """
    return CarbonboardEquivalents(
        car_miles=f"{emitted_kg / 0.409:.0f}",
        tv=_tv_time(emitted_kg * (1 / 0.097) * 60),  # their order: it decides "60 minutes"
        household_week_pct=f"{emitted_kg / 160.58 * 100:.2f}",
    )


def _tv_time(minutes: float) -> str:
    if minutes < 60:
        return f"{minutes:.0f} minutes"
    hours = minutes / 60
    return f"{hours:.0f} hours" if hours < 24 else f"{hours / 24:.0f} days"


def web_app_equivalents(emitted_kg: float, energy_kwh: float) -> WebAppEquivalents:
    """Equivalents of kg CO2e and kWh: 0.133 kg a car km, 13 300 kg a US citizen's year, a TV.

    The factors are those of CodeCarbon's web application. Its 0.138 kWh looks like a TV's day, not
    its hour, which would make `tv_days` 24 times too small; reproduced as it is.
    """
    return WebAppEquivalents(
        car_km=round(emitted_kg / 0.133, 2),
        us_citizen_week_pct=round(100 * emitted_kg / (13_300 / 52), 2),
        tv_days=round(energy_kwh / (0.138 * 24), 2),
    )


# --- the power model ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CodeCarbonModel:
    """CodeCarbon's power model of one node: what its CPUs and its RAM draw.

    `tdp` in W (see `node_tdp`). In `process` mode the load is that of the process tree and the
    memory its resident set; the floor of the RAM model holds in both modes.
    """

    tdp: Figure
    arm: bool = False
    tracking: TrackingMode = "machine"

    def cpu_power_w(self, utilization: float) -> float:
        """CPU power in W at a utilisation of all logical CPUs in 0..1."""
        formula = cpu_power_w if self.tracking == "machine" else process_cpu_power_w
        return formula(self.tdp.value, utilization)

    def ram_power_w(self, memory_gib: float) -> float:
        """RAM power in W of so many GiB."""
        return ram_power_w(memory_gib, arm=self.arm)
