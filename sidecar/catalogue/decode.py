"""From a line of a table to a row: the one place that knows the columns of the CSV files.

A figure stands in five columns, `<stem>_<unit>`, `<stem>_low_<unit>`, `<stem>_high_<unit>`,
`<stem>_year` and `<stem>_source`. A source cell holds keys of `sources.csv` joined by `|`, each
with an optional detail after a colon: `em:zone NL`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sidecar.catalogue.rows import (
    Country,
    Cpu,
    EnergyMix,
    EnergySource,
    Equivalent,
    FleetEfficiency,
    Gpu,
    Region,
    VmSize,
)
from sidecar.units import Figure

Row = Mapping[str, str]

VM_SIZE_COLUMNS: Final = (
    "name",
    "vcpus",
    "vcpus_full",
    "memory_gib",
    "cpu_models",
    "cpu_evidence",
    "threads_per_core",
    "gpu_model",
    "gpu_count",
    "source",
    "year",
)


@dataclass(frozen=True, slots=True)
class Sources:
    """Full texts of source keys."""

    texts: Mapping[str, str]

    def resolve(self, cell: str) -> str:
        """Spell a source cell out. Raises KeyError on a key that `sources.csv` lacks."""
        return "; ".join(self._resolve_one(part) for part in cell.split("|"))

    def _resolve_one(self, part: str) -> str:
        key, colon, detail = part.partition(":")
        text = self.texts[key]
        return f"{text}: {detail}" if colon else text


@dataclass(frozen=True, slots=True)
class _Columns:
    stem: str
    suffix: str
    unit: str

    def optional(self, row: Row, sources: Sources) -> Figure | None:
        return self.required(row, sources) if row[f"{self.stem}_{self.suffix}"] else None

    def required(self, row: Row, sources: Sources) -> Figure:
        return Figure(
            value=float(row[f"{self.stem}_{self.suffix}"]),
            unit=self.unit,
            low=float(row[f"{self.stem}_low_{self.suffix}"]),
            high=float(row[f"{self.stem}_high_{self.suffix}"]),
            source=sources.resolve(row[f"{self.stem}_source"]),
            year=_integer(row[f"{self.stem}_year"]),
        )


_CARBON_INTENSITY: Final = _Columns("carbon_intensity", "g_per_kwh", "gCO2e/kWh")
_EMBER: Final = _Columns("ember", "g_per_kwh", "gCO2e/kWh")
_SOURCE_INTENSITY: Final = _Columns("intensity", "g_per_kwh", "gCO2e/kWh")
_PUE: Final = _Columns("pue", "ratio", "ratio")
_WUE: Final = _Columns("wue", "l_per_kwh", "L/kWh")
_TDP: Final = _Columns("tdp", "w", "W")
_IDLE: Final = _Columns("idle", "w", "W")
_IDLE_PER_THREAD: Final = _Columns("idle_per_thread", "w", "W/thread")
_MAX_PER_THREAD: Final = _Columns("max_per_thread", "w", "W/thread")
_EMISSIONS: Final = _Columns("emissions", "kg_co2e", "kgCO2e")


def region_from(row: Row, sources: Sources) -> Region:
    """Decode a line of `regions.csv`."""
    return Region(
        name=row["name"],
        display_name=row["display_name"],
        country_iso3=row["country_iso3"],
        grid_zone=row["grid_zone"] or None,
        latitude=_number(row["latitude"]),
        longitude=_number(row["longitude"]),
        status=row["status"],
        physical_location=row["physical_location"] or None,
        carbon_intensity=_CARBON_INTENSITY.optional(row, sources),
        carbon_intensity_ember=_EMBER.optional(row, sources),
        pue=_PUE.optional(row, sources),
        wue=_WUE.optional(row, sources),
    )


def country_from(row: Row, sources: Sources) -> Country:
    """Decode a line of `countries.csv`."""
    return Country(
        iso3=row["iso3"],
        iso2=row["iso2"] or None,
        name=row["name"],
        carbon_intensity=_CARBON_INTENSITY.required(row, sources),
    )


def cpu_from(row: Row, sources: Sources) -> Cpu:
    """Decode a line of `cpus.csv`."""
    return Cpu(
        model=row["model"],
        microarchitecture=row["microarchitecture"],
        physical_cores=_integer(row["physical_cores"]),
        threads=_integer(row["threads"]),
        smt={"yes": True, "no": False, "": None}[row["smt"]],
        tdp=_TDP.optional(row, sources),
        idle_per_thread=_IDLE_PER_THREAD.optional(row, sources),
        max_per_thread=_MAX_PER_THREAD.optional(row, sources),
        cpuinfo_model_name=row["cpuinfo_model_name"] or None,
        power_basis=row["power_basis"],
        note=row["note"] or None,
    )


def gpu_from(row: Row, sources: Sources) -> Gpu:
    """Decode a line of `gpus.csv`."""
    return Gpu(
        nvml_name=row["nvml_name"],
        pretty_name=row["pretty_name"],
        memory_gib=float(row["memory_gib"]),
        tdp=_TDP.required(row, sources),
        idle=_IDLE.required(row, sources),
        gpus_per_board=int(row["gpus_per_board"]),
        azure_series=row["azure_series"] or None,
        note=row["note"] or None,
    )


def vm_size_from(row: Row, sources: Sources | None) -> VmSize:
    """Decode a line of `vm_sizes.csv`, or, without sources, of a refreshed file: plain text."""
    vcpus = int(row["vcpus"])
    gpu_model = row["gpu_model"] or None
    return VmSize(
        name=row["name"],
        vcpus=vcpus,
        vcpus_full=_integer(row["vcpus_full"]) or vcpus,
        memory_gib=_number(row["memory_gib"]),
        cpu_models=tuple(row["cpu_models"].split("|")) if row["cpu_models"] else (),
        cpu_evidence=row["cpu_evidence"],
        threads_per_core=_integer(row["threads_per_core"]),
        gpu_model=gpu_model,
        gpu_count=_number(row["gpu_count"]) if gpu_model or row["gpu_count"] else 0.0,
        source=row["source"] if sources is None else sources.resolve(row["source"]),
        year=_integer(row["year"]),
    )


def vm_size_row(size: VmSize) -> dict[str, str]:
    """Encode a VM size as a line of `vm_sizes.csv` with its source as plain text."""
    return {
        "name": size.name,
        "vcpus": str(size.vcpus),
        "vcpus_full": "" if size.vcpus_full == size.vcpus else str(size.vcpus_full),
        "memory_gib": _text(size.memory_gib),
        "cpu_models": "|".join(size.cpu_models),
        "cpu_evidence": size.cpu_evidence,
        "threads_per_core": _text(size.threads_per_core),
        "gpu_model": size.gpu_model or "",
        "gpu_count": "" if size.gpu_model is None and not size.gpu_count else _text(size.gpu_count),
        "source": size.source,
        "year": _text(size.year),
    }


def equivalent_from(row: Row, sources: Sources) -> Equivalent:
    """Decode a line of `equivalents.csv`."""
    return Equivalent(
        item=row["item"],
        description=row["description"],
        emissions=_EMISSIONS.required(row, sources),
        geography=row["geography"],
        note=row["note"] or None,
    )


def energy_source_from(row: Row, sources: Sources) -> EnergySource:
    """Decode a line of `energy_sources.csv`."""
    return EnergySource(
        name=row["name"],
        aliases=tuple(row["aliases"].split("|")) if row["aliases"] else (),
        intensity=_SOURCE_INTENSITY.required(row, sources),
    )


def energy_mix_from(row: Row, sources: Sources) -> EnergyMix:
    """Decode a line of `energy_mixes.csv`."""
    suffix = "_twh"
    return EnergyMix(
        iso3=row["iso3"],
        generation_twh={
            column.removesuffix(suffix): float(cell)
            for column, cell in row.items()
            if column.endswith(suffix)
        },
        source=sources.resolve(row["source"]),
        year=int(row["year"]),
    )


def fleet_efficiency_from(row: Row, sources: Sources) -> FleetEfficiency:
    """Decode a line of `efficiency.csv`."""
    return FleetEfficiency(_PUE.required(row, sources), _WUE.required(row, sources))


def _integer(text: str) -> int | None:
    return int(text) if text else None


def _number(text: str) -> float | None:
    return float(text) if text else None


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"
