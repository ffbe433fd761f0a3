"""`Catalogue`: look regions, VM sizes, CPUs, GPUs and countries up in the shipped tables.

Nothing is held in memory: each lookup reads the one table it needs. Unknown names give None.
"""

import csv
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from sidecar.amounts import counted
from sidecar.catalogue.decode import (
    VM_SIZE_COLUMNS,
    Row,
    Sources,
    country_from,
    cpu_from,
    energy_mix_from,
    energy_source_from,
    equivalent_from,
    fleet_efficiency_from,
    gpu_from,
    region_from,
    vm_size_from,
)
from sidecar.catalogue.names import (
    ConstrainedName,
    VgpuProfile,
    cpu_key,
    gpu_key,
    region_key,
    vm_family_key,
    vm_size_key,
)
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
from sidecar.catalogue.shipped import TABLES
from sidecar.near_names import near_names
from sidecar.units import Figure

Kind = Literal["region", "country", "vm-size", "cpu", "gpu"]
_T = TypeVar("_T")

WORLD = "WLD"


class CatalogueError(ValueError):
    """A file of VM sizes that cannot be used; the text says which line is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The shipped tables, and before them the VM sizes of a refreshed file where one is given.

    Raises `CatalogueError` on a file that is missing or malformed.
    """

    extra_vm_sizes: Path | None = None

    def __post_init__(self) -> None:
        if self.extra_vm_sizes is not None:
            _check_vm_size_file(self.extra_vm_sizes)

    def region(self, name: str) -> Region | None:
        """Region by programmatic or display name, in any case."""
        key = region_key(name)
        return _first(_shipped("regions.csv", region_from, lambda cell: region_key(cell) == key))

    def regions(self) -> Iterator[Region]:
        """All regions."""
        return _shipped("regions.csv", region_from)

    def country(self, iso: str) -> Country | None:
        """Country by ISO 3166 alpha-3 or alpha-2 code, in any case."""
        code = iso.strip().upper()
        if len(code) not in {2, 3}:
            return None
        return _first(item for item in self.countries() if code in {item.iso3, item.iso2})

    def countries(self) -> Iterator[Country]:
        """All countries, the European Union and the world."""
        return _shipped("countries.csv", country_from)

    def world(self) -> Country:
        """World average."""
        return next(item for item in self.countries() if item.iso3 == WORLD)

    def fleet_efficiency(self) -> FleetEfficiency:
        """Microsoft's global PUE and WUE, for a region without figures of its own."""
        return next(_shipped("efficiency.csv", fleet_efficiency_from))

    def vm_size(self, name: str) -> VmSize | None:
        """VM size by name, with or without `Standard_` and `_Promo`, in any case.

        A constrained-core name that no table lists is derived from its parent and marked so.
        """
        key = vm_size_key(name)
        listed = tuple(self._vm_sizes_where(lambda cell: vm_size_key(cell) == key))
        spelled = _plain_key(name)
        exact = (size for size in listed if _plain_key(size.name) == spelled)
        return next(exact, None) or _first(iter(listed)) or self._constrained(name)

    def vm_family(self, name: str) -> tuple[VmSize, ...]:
        """All sizes of the series of `name`, which need not be listed itself."""
        family = vm_family_key(name)
        if family is None:
            return ()
        return tuple(self._vm_sizes_where(lambda cell: vm_family_key(cell) == family))

    def vm_sizes(self) -> Iterator[VmSize]:
        """All VM sizes, each name once."""
        return self._vm_sizes_where(lambda _: True)

    def cpu(self, model: str) -> Cpu | None:
        """CPU by model name, in any case."""
        key = " ".join(model.split()).casefold()
        return _first(_shipped("cpus.csv", cpu_from, lambda cell: cell.casefold() == key))

    def cpu_named(self, cpuinfo_model_name: str) -> Cpu | None:
        """CPU by the `model name` of `/proc/cpuinfo`; None where the model is not the very same."""
        key = cpu_key(cpuinfo_model_name)
        return _first(
            cpu
            for cpu in self.cpus()
            if key in {cpu_key(cpu.model), cpu_key(cpu.cpuinfo_model_name or cpu.model)}
        )

    def cpu_of_generation(self, vendor_id: str, cpu_family: int, model_number: int) -> Cpu | None:
        """Median of the generation that `vendor_id`, `cpu family` and `model` of cpuinfo name.

        For Arm: CPU implementer, architecture and part, such as "0x41", 8, 0xd0c. The bounds are
        the widest of the generation; where one number means two generations, of both.
        """
        wanted = (vendor_id.strip().casefold(), str(cpu_family), str(model_number))
        names = _first(
            row["microarchitectures"].split("|")
            for row in _rows("cpu_generations.csv")
            if (row["vendor_id"].casefold(), row["cpu_family"], row["model_number"]) == wanted
        )
        if names is None:
            return None
        return _median_cpu([cpu for cpu in self.cpus() if cpu.microarchitecture in names], names)

    def cpus(self) -> Iterator[Cpu]:
        """All CPUs."""
        return _shipped("cpus.csv", cpu_from)

    def gpu(self, nvml_name: str) -> Gpu | None:
        """GPU by its NVML name, in any case; a vGPU profile that is not listed by its share."""
        key = gpu_key(nvml_name)
        listed = _first(_shipped("gpus.csv", gpu_from, lambda cell: gpu_key(cell) == key))
        return listed or self._vgpu(nvml_name)

    def gpus(self) -> Iterator[Gpu]:
        """All GPUs."""
        return _shipped("gpus.csv", gpu_from)

    def equivalents(self) -> Iterator[Equivalent]:
        """All everyday comparisons."""
        return _shipped("equivalents.csv", equivalent_from)

    def energy_sources(self) -> Iterator[EnergySource]:
        """All ways to generate electricity."""
        return _shipped("energy_sources.csv", energy_source_from)

    def energy_mix(self, iso3: str) -> EnergyMix | None:
        """Electricity generation of a country by ISO 3166 alpha-3 code, in any case."""
        code = iso3.strip().upper()
        return _first(_shipped("energy_mixes.csv", energy_mix_from, lambda cell: cell == code))

    def suggest(self, kind: Kind, name: str) -> tuple[str, ...]:
        """Up to three known names close to an unknown one, for the text of an error."""
        known = dict(self._known_names(kind))
        keys = near_names(_KEYS[kind](name), known, most=3)
        return tuple(dict.fromkeys(known[key] for key in keys))

    def _known_names(self, kind: Kind) -> Iterator[tuple[str, str]]:
        if kind == "country":
            for country in self.countries():
                yield country.iso3.casefold(), country.iso3
                yield country.name.casefold(), country.iso3
            return
        tables = {"region": "regions.csv", "vm-size": "vm_sizes.csv", "cpu": "cpus.csv"}
        column = "model" if kind == "cpu" else "nvml_name" if kind == "gpu" else "name"
        for row in _rows(tables.get(kind, "gpus.csv")):
            yield _KEYS[kind](row[column]), row[column]
        if kind == "vm-size" and self.extra_vm_sizes is not None:
            for row in _file_rows(self.extra_vm_sizes):
                yield vm_size_key(row["name"]), row["name"]

    def _vm_sizes_where(self, wanted: Callable[[str], bool]) -> Iterator[VmSize]:
        refreshed: set[str] = set()
        if self.extra_vm_sizes is not None:
            for row in _file_rows(self.extra_vm_sizes, wanted):
                refreshed.add(vm_size_key(row["name"]))
                yield vm_size_from(row, None)
        for size in _shipped("vm_sizes.csv", vm_size_from, wanted):
            if vm_size_key(size.name) not in refreshed:
                yield size

    def _constrained(self, name: str) -> VmSize | None:
        constrained = ConstrainedName.parse(name)
        if constrained is None:
            return None
        key = constrained.parent_key
        parent = _first(self._vm_sizes_where(lambda cell: vm_size_key(cell) == key))
        if parent is None or not 0 < constrained.active_vcpus <= parent.vcpus_full:
            return None
        return replace(
            parent,
            name=constrained.applied_to(parent.name),
            vcpus=constrained.active_vcpus,
            cpu_evidence="parent",
            source=f"constrained cores of {parent.name}, by the name; {parent.source}",
        )

    def _vgpu(self, nvml_name: str) -> Gpu | None:
        profile = VgpuProfile.parse(nvml_name)
        if profile is None:
            return None
        key = profile.card_key
        card = _first(_shipped("gpus.csv", gpu_from, lambda cell: gpu_key(cell) == key))
        if card is None or not 0 < profile.memory_gib <= card.memory_gib:
            return None
        share = profile.memory_gib / card.memory_gib
        return replace(
            card,
            nvml_name=" ".join(nvml_name.split()),
            pretty_name=f"{card.pretty_name} vGPU profile, {profile.memory_gib} GiB",
            memory_gib=float(profile.memory_gib),
            tdp=_share_of(card.tdp, share, card.nvml_name),
            idle=_share_of(card.idle, share, card.nvml_name),
            note="share of the card by framebuffer",
        )


def _plain_key(name: str) -> str:
    return " ".join(name.split()).casefold()


_KEYS: dict[Kind, Callable[[str], str]] = {
    "region": region_key,
    "country": _plain_key,
    "vm-size": vm_size_key,
    "cpu": cpu_key,
    "gpu": gpu_key,
}


def _share_of(figure: Figure, share: float, card: str) -> Figure:
    return replace(
        figure,
        value=figure.value * share,
        low=figure.low * share,
        high=figure.high * share,
        source=f"share {share:.3g} of {card} by framebuffer; {figure.source}",
    )


def _median_cpu(members: list[Cpu], names: list[str]) -> Cpu:
    smt = {cpu.smt for cpu in members}
    name = " or ".join(names)
    return Cpu(
        model=f"{name} (generation)",
        microarchitecture=name,
        physical_cores=None,
        threads=None,
        smt=smt.pop() if len(smt) == 1 else None,
        tdp=_median_figure([cpu.tdp for cpu in members], name),
        idle_per_thread=_median_figure([cpu.idle_per_thread for cpu in members], name),
        max_per_thread=_median_figure([cpu.max_per_thread for cpu in members], name),
        cpuinfo_model_name=None,
        power_basis="generation",
        note=f"median of {counted(len(members), 'model')} of {name}",
    )


def _median_figure(optional: list[Figure | None], name: str) -> Figure | None:
    figures = [figure for figure in optional if figure is not None]
    if not figures:
        return None
    origins = "; ".join(dict.fromkeys(figure.source.partition(": ")[0] for figure in figures))
    return Figure(
        value=_median([figure.value for figure in figures]),
        unit=figures[0].unit,
        low=min(figure.low for figure in figures),
        high=max(figure.high for figure in figures),
        source=f"median of {counted(len(figures), 'model')} of {name}: {origins}",
        year=max((figure.year for figure in figures if figure.year), default=None),
    )


def _median(values: list[float]) -> float:
    # The module statistics would cost every sidecar the imports of decimal, fractions and random.
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _first(items: Iterator[_T]) -> _T | None:
    return next(items, None)


def _shipped(
    table: str,
    decode: Callable[[Row, Sources], _T],
    wanted: Callable[[str], bool] | None = None,
) -> Iterator[_T]:
    """Decode the lines of a shipped table whose first cell is wanted."""
    sources: Sources | None = None
    for row in _rows(table, wanted):
        sources = sources or _sources()
        yield decode(row, sources)


def _sources() -> Sources:
    return Sources({row["key"]: row["source"] for row in _rows("sources.csv")})


def _rows(table: str, wanted: Callable[[str], bool] | None = None) -> Iterator[Row]:
    yield from _file_rows(TABLES / table, wanted)


def _file_rows(path: Path, wanted: Callable[[str], bool] | None = None) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as stream:
        yield from _read(stream, wanted)


def _read(stream: Iterable[str], wanted: Callable[[str], bool] | None) -> Iterator[Row]:
    reader = csv.reader(stream)
    header = next(reader, [])
    for cells in reader:
        if cells and (wanted is None or wanted(cells[0])):
            yield dict(zip(header, cells, strict=True))


def _check_vm_size_file(path: Path) -> None:
    """Read a file of VM sizes through once, keeping nothing."""
    advice = "write it anew with 'emissions-sidecar catalogue refresh'"
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            header = next(csv.reader(stream), [])
            if tuple(header) != VM_SIZE_COLUMNS:
                raise CatalogueError(
                    f"{path} is no table of VM sizes: its first line must be "
                    f"{','.join(VM_SIZE_COLUMNS)}; {advice}"
                )
        for number, row in enumerate(_file_rows(path), start=2):
            _check_vm_size_row(path, number, row)
    except OSError as error:
        raise CatalogueError(f"cannot read VM sizes from {path}: {error.strerror}") from error
    except CatalogueError:
        raise
    except (ValueError, csv.Error) as error:
        raise CatalogueError(f"{path} is no table of VM sizes: {error}; {advice}") from error


def _check_vm_size_row(path: Path, number: int, row: Row) -> None:
    try:
        size = vm_size_from(row, None)
    except ValueError as error:
        raise CatalogueError(f"{path} row {number} ({row['name']!r}): {error}") from error
    amounts = (float(size.vcpus), size.memory_gib or 0.0, size.gpu_count or 0.0)
    sound = all(math.isfinite(amount) and amount >= 0 for amount in amounts)
    if not (sound and 0 < size.vcpus <= size.vcpus_full and size.name and size.source):
        raise CatalogueError(
            f"{path} row {number} ({size.name!r}): name, source and vCPUs (1 or more, at most the "
            "full count) are needed, amounts must be finite and not negative"
        )
