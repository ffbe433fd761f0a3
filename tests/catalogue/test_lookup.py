"""Lookups find the row that is meant, however it is written, and never another."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sidecar.catalogue
from sidecar.catalogue.lookup import Catalogue

TABLES = Path(sidecar.catalogue.__file__).parent / "tables"
CATALOGUE = Catalogue()


def names(table: str, column: str) -> list[str]:
    with (TABLES / table).open(encoding="utf-8", newline="") as stream:
        return [row[column] for row in csv.DictReader(stream)]


def disguised(known: list[str]) -> st.SearchStrategy[tuple[str, str]]:
    """A known name, and the same name in random case between blanks."""

    def vary(name: str) -> st.SearchStrategy[tuple[str, str]]:
        blanks = st.text(" \t\n", max_size=3)
        case = st.lists(st.booleans(), min_size=len(name), max_size=len(name))
        return st.builds(
            lambda upper, before, after: (
                name,
                before
                + "".join(c.upper() if up else c.lower() for c, up in zip(name, upper, strict=True))
                + after,
            ),
            case,
            blanks,
            blanks,
        )

    return st.sampled_from(known).flatmap(vary)


@given(disguised(names("regions.csv", "name")))
def test_a_region_is_found_in_any_case_and_between_blanks(pair):
    name, written = pair
    assert CATALOGUE.region(written).name == name


@given(disguised(names("vm_sizes.csv", "name")))
def test_a_vm_size_is_found_in_any_case_and_between_blanks(pair):
    name, written = pair
    assert CATALOGUE.vm_size(written).name == name


@given(disguised(names("gpus.csv", "nvml_name")))
def test_a_gpu_is_found_in_any_case_and_between_blanks(pair):
    name, written = pair
    assert CATALOGUE.gpu(written).nvml_name == name


@given(disguised(names("cpus.csv", "model")))
def test_a_cpu_is_found_in_any_case_and_between_blanks(pair):
    name, written = pair
    assert CATALOGUE.cpu(written).model == name


def test_every_display_name_finds_its_region():
    assert all(CATALOGUE.region(r.display_name).name == r.name for r in CATALOGUE.regions())


@pytest.mark.parametrize("name", ["", "   ", "atlantis", "westeurope2", "Standard_D2s_v5"])
def test_an_unknown_region_is_none(name):
    assert CATALOGUE.region(name) is None


def test_west_us_2_is_on_the_bonneville_grid():
    region = CATALOGUE.region("westus2")
    assert region.grid_zone == "US-NW-BPAT"
    assert region.carbon_intensity.value == 129
    assert region.carbon_intensity.low == 51


def test_north_europe_is_ireland():
    region = CATALOGUE.region("northeurope")
    assert (region.country_iso3, region.grid_zone) == ("IRL", "IE")
    assert (region.carbon_intensity.value, region.carbon_intensity.high) == (301, 403.4)


def test_west_us_does_not_take_the_misfiled_washington_row():
    region = CATALOGUE.region("westus")
    assert region.grid_zone == "US-CAL-CISO"
    assert region.carbon_intensity.low == 208


def test_a_zone_that_is_the_country_is_bounded_by_the_country_value():
    qatar = CATALOGUE.region("qatarcentral").carbon_intensity
    assert (qatar.low, qatar.value, qatar.high) == (490, 490, 602.83)


def test_spain_central_lies_west_of_greenwich():
    assert CATALOGUE.region("spaincentral").longitude < 0


def test_region_figures_name_source_and_year():
    figure = CATALOGUE.region("westeurope").carbon_intensity
    assert (figure.value, figure.unit, figure.year) == (253, "gCO2e/kWh", 2025)
    assert "Electricity Maps" in figure.source
    assert "ODbL" in figure.source
    assert figure.source.endswith("zone NL")


@pytest.mark.parametrize("code", ["NLD", "nld", " NL ", "nl"])
def test_a_country_is_found_by_alpha_3_and_alpha_2(code):
    country = CATALOGUE.country(code)
    assert (country.iso3, country.carbon_intensity.value) == ("NLD", 252.7)


@pytest.mark.parametrize("code", ["", "N", "XX", "Netherlands"])
def test_an_unknown_country_is_none(code):
    assert CATALOGUE.country(code) is None


def test_the_world_average_is_embers():
    world = CATALOGUE.world().carbon_intensity
    assert (world.value, world.high, world.year) == (472.94, 475, 2024)


@pytest.mark.parametrize(
    "name", ["Standard_D8s_v5", "D8s_v5", "d8s v5", "Standard_D8s_v5_Promo", "standard d8S V5"]
)
def test_a_vm_size_is_found_without_prefix_and_with_promo(name):
    size = CATALOGUE.vm_size(name)
    assert (size.name, size.vcpus, size.memory_gib, size.threads_per_core) == (
        "Standard_D8s_v5",
        8,
        32,
        2,
    )


@pytest.mark.parametrize("name", ["", "Standard_", "Standard_Z9_v9", "westeurope", "D8s_v5x"])
def test_an_unknown_vm_size_is_none(name):
    assert CATALOGUE.vm_size(name) is None


def test_a_listed_constrained_size_keeps_its_own_row():
    size = CATALOGUE.vm_size("Standard_E64-16s_v5")
    assert (size.vcpus, size.vcpus_full, size.memory_gib) == (16, 64, 512)
    assert size.cpu_evidence == "measured"


def test_an_unlisted_constrained_size_is_derived_from_its_parent_and_says_so():
    size = CATALOGUE.vm_size("d64-8s_v5")
    parent = CATALOGUE.vm_size("Standard_D64s_v5")
    assert (size.name, size.vcpus, size.vcpus_full) == ("Standard_D64-8s_v5", 8, 64)
    assert (size.memory_gib, size.cpu_models) == (parent.memory_gib, parent.cpu_models)
    assert size.cpu_evidence == "parent"
    assert size.source.startswith("constrained cores of Standard_D64s_v5")


@pytest.mark.parametrize("name", ["D64-0s_v5", "D64-65s_v5", "Z64-8s_v5"])
def test_a_constrained_size_that_cannot_be_is_none(name):
    assert CATALOGUE.vm_size(name) is None


def test_a_family_holds_all_sizes_of_the_series_and_no_other():
    family = {size.name for size in CATALOGUE.vm_family("Standard_D8s_v5")}
    assert {"Standard_D2s_v5", "Standard_D8s_v5", "Standard_D96s_v5"} <= family
    assert not family & {"Standard_D2s_v4", "Standard_D2ds_v5", "Standard_DC2s_v2"}


def test_a_size_that_is_not_listed_still_has_a_family():
    assert CATALOGUE.vm_size("Standard_D1024s_v5") is None
    assert CATALOGUE.vm_family("D1024s_v5") == CATALOGUE.vm_family("Standard_D8s_v5")


@pytest.mark.parametrize("name", ["", "nonsense", "Standard_", "Standard_Q7q_v9"])
def test_what_is_no_known_series_has_no_family(name):
    assert CATALOGUE.vm_family(name) == ()


def test_a100_sizes_have_their_gpu_and_one_thread_per_core():
    size = CATALOGUE.vm_size("Standard_NC24ads_A100_v4")
    assert (size.gpu_model, size.gpu_count) == ("NVIDIA A100 80GB PCIe", 1)
    assert size.threads_per_core == 1


def test_vgpu_sizes_have_fractions_of_a_gpu():
    assert CATALOGUE.vm_size("Standard_NV6ads_A10_v5").gpu_count == pytest.approx(1 / 6, abs=1e-4)


def test_v100_sxm2_has_300_w_and_pcie_250_w():
    assert CATALOGUE.gpu("Tesla V100-SXM2-32GB").tdp.value == 300
    assert CATALOGUE.gpu("Tesla V100-PCIE-16GB").tdp.value == 250


@pytest.mark.parametrize(
    ("reported", "nvml_name"),
    [
        ("A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB"),
        ("NVIDIA Tesla T4", "Tesla T4"),
        ("GRID A10-8Q", "NVIDIA A10-8Q"),
        ("AMD Radeon Pro V710 MxGPU", "AMD Radeon PRO V710"),
    ],
)
def test_a_gpu_is_found_under_the_names_of_other_drivers(reported, nvml_name):
    assert CATALOGUE.gpu(reported).nvml_name == nvml_name


def test_an_unlisted_vgpu_profile_is_the_share_of_its_card_by_framebuffer():
    card, profile = CATALOGUE.gpu("NVIDIA A10"), CATALOGUE.gpu("GRID A10-6Q")
    assert (profile.nvml_name, profile.memory_gib) == ("GRID A10-6Q", 6)
    assert profile.tdp.value == card.tdp.value / 4
    assert profile.idle.high == card.idle.high / 4
    assert "share 0.25 of NVIDIA A10" in profile.tdp.source


@pytest.mark.parametrize(
    "name",
    ["", "NVIDIA A10-48Q", "NVIDIA A10-0Q", "GRID Z9-8Q", "GeForce GT 1030", "A100", "A10-8"],
)
def test_an_unknown_gpu_is_none(name):
    assert CATALOGUE.gpu(name) is None


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        ("Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz", "Intel Xeon Platinum 8370C"),
        ("Intel(R) Xeon(R) CPU E5-2673 v4 @ 2.30GHz", "Intel Xeon E5-2673 v4"),
        ("INTEL(R) XEON(R) PLATINUM 8573C", "Intel Xeon Platinum 8573C"),
        ("Intel(R) Xeon(R) Platinum 8473C", "Intel Xeon Platinum 8473C"),
        ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763"),
        ("AMD EPYC 7763 64-Core Processor                ", "AMD EPYC 7763"),
        ("AMD EPYC 9V74 80-Core", "AMD EPYC 9V74"),
        ("AMD EPYC 74F3V 24-Core Processor", "AMD EPYC 74F3V"),
        ("Neoverse-N2", "Microsoft Cobalt 100"),
    ],
)
def test_a_model_name_of_cpuinfo_finds_its_cpu(cpuinfo, model):
    assert CATALOGUE.cpu_named(cpuinfo).model == model


def test_every_cpuinfo_name_of_the_table_finds_a_cpu_of_that_name():
    for cpu in CATALOGUE.cpus():
        if cpu.cpuinfo_model_name:
            found = CATALOGUE.cpu_named(cpu.cpuinfo_model_name)
            assert found.cpuinfo_model_name == cpu.cpuinfo_model_name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "AMD EPYC",
        "AMD EPYC 776",
        "AMD EPYC 77631 64-Core Processor",
        "AMD EPYC Processor",
        "Intel(R) Xeon(R) CPU @ 2.80GHz",
        "Intel(R) Xeon(R) Platinum 8370 CPU @ 2.80GHz",
        "Intel(R) Xeon(R) Platinum 8370CL CPU @ 2.80GHz",
        "Intel(R) Xeon(R) Processor",
    ],
)
def test_a_name_that_is_not_the_very_model_finds_none(name):
    assert CATALOGUE.cpu_named(name) is None


@given(st.from_regex(r"AMD EPYC [0-9]{3,5}[A-Z]? 64-Core Processor", fullmatch=True))
def test_cpu_names_match_only_their_own_model(name):
    found = CATALOGUE.cpu_named(name)
    assert found is None or found.model.split()[-1] == name.split()[2]


@pytest.mark.parametrize(
    ("vendor", "family", "model", "microarchitecture"),
    [
        ("AuthenticAMD", 23, 1, "Zen (Naples)"),
        ("AuthenticAMD", 23, 49, "Zen 2 (Rome)"),
        ("AuthenticAMD", 25, 1, "Zen 3 (Milan) or Zen 3 V-Cache (Milan-X)"),
        ("AuthenticAMD", 25, 17, "Zen 4 (Genoa) or Zen 4 V-Cache (Genoa-X)"),
        ("AuthenticAMD", 26, 2, "Zen 5 (Turin)"),
        ("GenuineIntel", 6, 63, "Haswell-EP or Haswell-EX"),
        ("GenuineIntel", 6, 79, "Broadwell-EP"),
        ("GenuineIntel", 6, 106, "Ice Lake-SP"),
        ("GenuineIntel", 6, 143, "Sapphire Rapids"),
        ("GenuineIntel", 6, 207, "Emerald Rapids"),
        ("0x6d", 8, 0xD49, "Neoverse N2"),
    ],
)
def test_vendor_family_and_model_name_a_generation(vendor, family, model, microarchitecture):
    cpu = CATALOGUE.cpu_of_generation(vendor, family, model)
    assert (cpu.microarchitecture, cpu.power_basis) == (microarchitecture, "generation")


def test_skylake_and_cascade_lake_share_a_number_and_so_the_widest_bounds():
    cpu = CATALOGUE.cpu_of_generation("GenuineIntel", 6, 85)
    members = [
        CATALOGUE.cpu("Intel Xeon Platinum 8171M"),
        CATALOGUE.cpu("Intel Xeon Platinum 8272CL"),
        CATALOGUE.cpu("Intel Xeon Gold 6246R"),
    ]
    assert cpu.smt is True
    assert cpu.max_per_thread.low == min(member.max_per_thread.low for member in members)
    assert cpu.max_per_thread.high == max(member.max_per_thread.high for member in members)


@pytest.mark.parametrize("wanted", [("GenuineIntel", 6, 1), ("", 0, 0), ("AuthenticAMD", 6, 106)])
def test_an_unknown_generation_is_none(wanted):
    assert CATALOGUE.cpu_of_generation(*wanted) is None


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("region", "west europ", "westeurope"),
        ("vm-size", "Standard_D8s_v55", "Standard_D8s_v5"),
        ("cpu", "AMD EPYC 7764", "AMD EPYC 7763"),
        ("gpu", "NVIDIA A100 80GB PCI", "NVIDIA A100 80GB PCIe"),
        ("country", "netherland", "NLD"),
        ("country", "NLX", "NLD"),
    ],
)
def test_a_near_miss_suggests_the_name_meant(kind, name, expected):
    assert expected in CATALOGUE.suggest(kind, name)


def test_what_resembles_nothing_suggests_nothing():
    assert CATALOGUE.suggest("region", "????") == ()


def test_the_median_of_an_even_number_of_models_lies_between_the_middle_two():
    cascade = CATALOGUE.cpu_of_generation("GenuineIntel", 6, 85)
    assert cascade.max_per_thread.value == pytest.approx((4.048 + 4.214) / 2)


def test_the_median_of_an_odd_number_of_models_is_one_of_them():
    haswell = CATALOGUE.cpu_of_generation("GenuineIntel", 6, 63)
    assert haswell.max_per_thread.value == 3.792


def test_looking_up_imports_neither_azure_nor_other_heavy_modules():
    code = (
        "import sys; from sidecar.catalogue.lookup import Catalogue; Catalogue().vm_size('D2s_v5');"
        "from sidecar.carbon import intensity;"
        "print([m for m in ('azure', 'statistics', 'requests', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
