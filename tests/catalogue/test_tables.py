"""Every row of every table is sane and says where it comes from."""

import csv
import statistics
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

import sidecar.catalogue
from sidecar.catalogue.lookup import Catalogue
from sidecar.catalogue.rows import Cpu, Region
from sidecar.units import Figure

TABLES = Path(sidecar.catalogue.__file__).parent / "tables"
CATALOGUE = Catalogue()
REGIONS = {region.name: region for region in CATALOGUE.regions()}
CPUS = {cpu.model: cpu for cpu in CATALOGUE.cpus()}
VM_SIZES = {size.name: size for size in CATALOGUE.vm_sizes()}
OWN_TABLES = sorted(path for path in TABLES.glob("*.csv") if not path.name.startswith("codecarbon"))

# These sources state no year for the vCPUs and memory of their (retired) sizes.
UNDATED_SIZE_SOURCES = ("Green Software Foundation if-data", "vantage.sh export")
# Published as 0: its grid is hydropower alone.
ZERO_INTENSITY_COUNTRIES = {"CAF"}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def figures_of(item: object) -> Iterator[Figure]:
    for name in item.__slots__:
        value = getattr(item, name)
        if isinstance(value, Figure):
            yield value


def all_figures() -> Iterator[tuple[object, Figure]]:
    items = chain(
        CATALOGUE.regions(),
        CATALOGUE.countries(),
        CATALOGUE.cpus(),
        CATALOGUE.gpus(),
        CATALOGUE.equivalents(),
        CATALOGUE.energy_sources(),
        [CATALOGUE.fleet_efficiency()],
    )
    for item in items:
        for figure in figures_of(item):
            yield item, figure


def test_every_figure_has_bounds_around_it_a_unit_a_source_and_a_year():
    faulty = [
        item
        for item, figure in all_figures()
        if not (
            0 <= figure.low <= figure.value <= figure.high
            and figure.unit
            and len(figure.source) > 8
            and figure.year is not None
            and 2000 <= figure.year <= 2026
        )
    ]
    assert faulty == []


def test_the_tables_have_all_their_rows():
    counts = {
        "regions": len(REGIONS),
        "vm_sizes": len(VM_SIZES),
        "cpus": len(CPUS),
        "gpus": len(list(CATALOGUE.gpus())),
        "countries": len(list(CATALOGUE.countries())),
        "equivalents": len(list(CATALOGUE.equivalents())),
    }
    assert counts == {
        "regions": 84,
        "vm_sizes": 1748,
        "cpus": 41,
        "gpus": 30,
        "countries": 216,
        "equivalents": 25,
    }


@pytest.mark.parametrize("path", OWN_TABLES, ids=lambda path: path.stem)
def test_no_row_stands_twice_in(path):
    columns = 3 if path.stem == "cpu_generations" else 1
    names = [tuple(row.values())[:columns] for row in rows(path)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", OWN_TABLES, ids=lambda path: path.stem)
def test_every_source_cell_names_keys_of_the_sources_table_in(path):
    known = {row["key"] for row in rows(TABLES / "sources.csv")}
    if path.stem == "sources":
        assert all(row["source"] and row["licence"] for row in rows(path))
        return
    used = {
        part.partition(":")[0]
        for row in rows(path)
        for column, cell in row.items()
        if column.endswith("source") and cell
        for part in cell.split("|")
    }
    assert used and used <= known


def test_every_source_key_is_used():
    cells = "|".join(
        cell
        for path in OWN_TABLES
        if path.stem != "sources"
        for row in rows(path)
        for column, cell in row.items()
        if column.endswith("source")
    )
    used = {part.partition(":")[0] for part in cells.split("|")}
    assert {row["key"] for row in rows(TABLES / "sources.csv")} == used - {""}


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
def test_region_is_sane(region: Region):
    intensities = [region.carbon_intensity, region.carbon_intensity_ember]
    assert region.carbon_intensity_ember is not None
    assert all(0 < figure.low <= figure.high < 1500 for figure in intensities if figure)
    assert region.pue is None or 1 <= region.pue.low <= region.pue.high <= 2
    assert region.wue is None or 0 <= region.wue.low <= region.wue.high <= 5
    assert CATALOGUE.country(region.country_iso3) is not None
    assert (region.carbon_intensity is None) == (region.grid_zone is None)
    assert region.latitude is None or -90 <= region.latitude <= 90
    assert region.longitude is None or -180 <= region.longitude <= 180


def test_only_unlocated_announced_regions_lack_a_zone_value():
    assert {name for name, region in REGIONS.items() if region.carbon_intensity is None} == {
        "southcentralus2",
        "northeastus5",
        "southeastus",
        "southeastus3",
        "southeastus5",
        "southwestus",
    }


def test_only_the_china_regions_lack_pue_and_wue():
    lacking = {name for name, region in REGIONS.items() if region.pue is None}
    assert lacking == {name for name in REGIONS if name.startswith("china")}
    assert lacking == {name for name, region in REGIONS.items() if region.wue is None}


def test_countries_are_between_nothing_and_1500_grams_and_only_known_ones_are_zero():
    countries = list(CATALOGUE.countries())
    assert all(country.carbon_intensity.high < 1500 for country in countries)
    zero = {country.iso3 for country in countries if country.carbon_intensity.value == 0}
    assert zero == ZERO_INTENSITY_COUNTRIES


def test_every_vm_size_counts_its_vcpus_memory_and_threads_soundly():
    faulty = [
        size.name
        for size in VM_SIZES.values()
        if not (
            0 < size.vcpus <= size.vcpus_full <= 2000
            and (size.memory_gib is None or 0 < size.memory_gib <= 35_000)
            and size.threads_per_core in {None, 1, 2}
            and size.source
        )
    ]
    assert faulty == []


def test_every_cpu_of_a_vm_size_is_in_the_cpu_table_and_sizes_without_one_say_unknown():
    named = {model for size in VM_SIZES.values() for model in size.cpu_models}
    assert named <= set(CPUS)
    without = {name for name, size in VM_SIZES.items() if not size.cpu_models}
    assert without == {n for n, size in VM_SIZES.items() if size.cpu_evidence == "unknown"}
    assert len(without) == 41


def test_every_gpu_of_a_vm_size_is_in_the_gpu_table():
    known = {gpu.nvml_name for gpu in CATALOGUE.gpus()}
    assert {size.gpu_model for size in VM_SIZES.values()} - {None} <= known


def test_gpu_counts_go_with_gpu_models_and_only_unpublished_shares_are_unknown():
    assert all((size.gpu_model is None) == (size.gpu_count == 0.0) for size in VM_SIZES.values())
    unknown = [name for name, size in VM_SIZES.items() if size.gpu_count is None]
    assert len(unknown) == 8
    assert all("RTXPRO6000BSE" in name for name in unknown)


def test_the_memory_that_the_sku_table_truncates_to_nothing_is_set_right():
    assert VM_SIZES["Standard_B1ls"].memory_gib == 0.5


def test_only_sizes_of_undated_sources_lack_a_year():
    undated = [size for size in VM_SIZES.values() if size.year is None]
    assert all(any(name in size.source for name in UNDATED_SIZE_SOURCES) for size in undated)
    assert len(undated) == 29


@pytest.mark.parametrize("cpu", CPUS.values(), ids=CPUS)
def test_cpu_is_sane(cpu: Cpu):
    assert cpu.tdp is None or 50 <= cpu.tdp.low <= cpu.tdp.high <= 700
    if cpu.power_basis == "none":
        assert cpu.idle_per_thread is None
        assert cpu.max_per_thread is None
        return
    assert 0 < cpu.idle_per_thread.high < cpu.max_per_thread.high < 20
    assert cpu.idle_per_thread.value < cpu.max_per_thread.value
    if cpu.physical_cores:
        assert cpu.smt is (cpu.threads == 2 * cpu.physical_cores)


@pytest.mark.parametrize(
    ("basis", "idle_factor", "max_factor"),
    [
        ("exact", 1.1, 1.1),
        ("exact-family", 1.15, 1.15),
        ("sibling", 1.25, 1.25),
        ("family", 2.25, 1.75),
        ("proxy", 2.25, 1.75),
    ],
)
def test_watts_per_thread_are_widened_by_the_documented_factor(basis, idle_factor, max_factor):
    members = [cpu for cpu in CPUS.values() if cpu.power_basis == basis]
    assert members
    for cpu in members:
        idle, full = cpu.idle_per_thread, cpu.max_per_thread
        assert idle.high == pytest.approx(idle.value * idle_factor, abs=0.001)
        assert idle.low == pytest.approx(idle.value / idle_factor, abs=0.001)
        assert full.high == pytest.approx(full.value * max_factor, abs=0.001)
        assert full.low == pytest.approx(full.value / max_factor, abs=0.001)


def test_the_step_between_adjacent_generations_is_within_the_widest_factor():
    naples, rome = CPUS["AMD EPYC 7551"], CPUS["AMD EPYC 7V12"]
    assert naples.idle_per_thread.value / rome.idle_per_thread.value < 2.25
    assert naples.max_per_thread.value / rome.max_per_thread.value < 1.75


def test_gpus_idle_below_their_tdp():
    assert all(
        gpu.idle.low > 0 and gpu.idle.high < gpu.tdp.low <= gpu.tdp.high <= 1500
        for gpu in CATALOGUE.gpus()
    )


def test_unmeasured_idle_watts_follow_the_median_ratio_of_the_measured_gpus():
    gpus = list(CATALOGUE.gpus())
    measured = [g.idle.value / g.tdp.value for g in gpus if g.idle.source.startswith("nvidia-smi")
                and "share" not in g.idle.source]  # fmt: skip
    filled = [gpu for gpu in gpus if "median idle/TDP ratio" in gpu.idle.source]
    assert len(filled) == 8
    for gpu in filled:
        expected = gpu.tdp.value * statistics.median(measured)
        assert gpu.idle.value == pytest.approx(expected, abs=0.06)


def test_every_generation_has_cpus():
    named = {
        name
        for row in rows(TABLES / "cpu_generations.csv")
        for name in row["microarchitectures"].split("|")
    }
    assert named == {cpu.microarchitecture for cpu in CPUS.values()}


def test_the_tables_stay_small():
    assert sum(path.stat().st_size for path in OWN_TABLES) < 350_000
