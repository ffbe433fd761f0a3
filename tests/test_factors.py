"""The ladders of the factors, rung by rung."""

import pytest

from sidecar.catalogue.lookup import Catalogue
from sidecar.estimate.power import ConstantModel, ConstantRam, MeasuredOr, RamPerGib
from sidecar.factors import (
    NO_PUE,
    Place,
    SeenGpu,
    choose_factors,
    doubts,
    embodied_of,
    vm_share_model,
)
from sidecar.identity.fields import Hardware, Identity
from sidecar.settings import load_settings
from tests.estimate.usages import node_usage

CATALOGUE = Catalogue()
MILAN = Hardware(cpu_model="AMD EPYC 7763 64-Core Processor", logical_cpus=8, threads_per_core=2)


def factors(hardware=MILAN, seen=(), identity=None, **flags):
    place = Place(identity or Identity(), hardware, seen)
    return choose_factors(place, load_settings(flags, {}), CATALOGUE)


def share(hardware, size=None):
    row = CATALOGUE.vm_size(size) if size else None
    return vm_share_model(hardware, row, size, CATALOGUE)


def test_the_cpu_that_cpuinfo_names_comes_first():
    model = share(MILAN, "Standard_D8s_v5")
    assert model.source.startswith("AMD EPYC 7763 named by /proc/cpuinfo")


def test_without_a_name_the_cpus_of_the_size_count():
    assert share(Hardware(logical_cpus=8), "Standard_D8s_v5").source.startswith(
        "CPUs of Standard_D8s"
    )


def test_an_unlisted_size_takes_the_cpus_of_its_family():
    model = share(Hardware(logical_cpus=6), "Standard_D6s_v5")
    assert model.source.startswith("CPUs of the family of Standard_D6s_v5")


def test_a_cpu_without_name_is_known_by_its_generation():
    hardware = Hardware(
        cpu_model="AMD EPYC",
        cpu_vendor="AuthenticAMD",
        cpu_family=25,
        cpu_model_number=17,
        logical_cpus=2,
    )
    assert "Zen 4" in share(hardware).source


def test_a_cpu_nobody_knows_is_an_average_and_says_so():
    model = share(Hardware(cpu_model="Enigma 1", logical_cpus=2))
    assert model.source.startswith("CPU unknown")
    assert model.idle_per_thread.value == 0.78


def test_several_candidates_give_their_mean_and_span_their_bounds():
    size = next(row for row in CATALOGUE.vm_sizes() if len(set(row.cpu_models)) >= 3)
    model = share(Hardware(logical_cpus=size.vcpus), size.name)
    rows = [CATALOGUE.cpu(name) for name in size.cpu_models]
    tops = [row.max_per_thread for row in rows if row and row.max_per_thread]
    assert model.max_per_thread.value == pytest.approx(sum(t.value for t in tops) / len(tops))
    assert model.max_per_thread.low == min(top.low for top in tops)
    assert model.max_per_thread.high == max(top.high for top in tops)


@pytest.mark.parametrize(
    ("size", "hardware", "threads"),
    [
        ("Standard_NC24ads_A100_v4", Hardware(logical_cpus=24), (48, 48)),
        ("Standard_D8s_v5", Hardware(logical_cpus=8), (8, 8)),
        ("Standard_D8ps_v5", Hardware(logical_cpus=8), (8, 8)),
        (None, MILAN, (8, 8)),
        (None, Hardware(cpu_model=MILAN.cpu_model, logical_cpus=8, threads_per_core=1), (8, 16)),
    ],
    ids=["whole SMT cores", "hyperthreads", "Arm", "no size, SMT shown", "no size, SMT not shown"],
)
def test_a_vcpu_that_is_a_whole_smt_core_counts_as_two_threads(size, hardware, threads):
    model = share(hardware, size)
    assert (model.threads, model.threads_high) == threads


def test_a_stated_cpu_power_replaces_model_and_counter():
    assert isinstance(factors(cpu_power="100").cpu, ConstantModel)


def test_a_stated_ram_power_replaces_the_ram_model():
    assert isinstance(factors(ram_power="30").ram, ConstantRam)


def test_the_default_is_a_counter_with_the_vm_share_behind_it():
    chosen = factors()
    assert isinstance(chosen.cpu, MeasuredOr)
    assert isinstance(chosen.ram, RamPerGib)
    assert chosen.cpu.energy_kwh(node_usage()).method == "vm-share"


def test_the_codecarbon_model_books_the_whole_chip():
    energy = factors(power_model="codecarbon").cpu.energy_kwh(node_usage())
    # EPYC 7763: 280 W in CodeCarbon 3.3.2, at half load 280 · (0.1 + 0.9 · 0.125)
    assert energy.total.value == pytest.approx(280 * (0.1 + 0.9 * 0.125) / 1000)
    assert energy.method == "codecarbon"


def test_the_codecarbon_model_has_its_ram_by_modules():
    chosen = factors(power_model="codecarbon")
    included = chosen.cpu.energy_kwh(node_usage()).includes_ram_gib
    assert chosen.ram.energy_kwh(node_usage(), included).value == pytest.approx(0.020)


def test_a_stated_cpu_power_is_the_tdp_of_the_codecarbon_model():
    energy = factors(power_model="codecarbon", cpu_power="100").cpu.energy_kwh(node_usage())
    assert energy.total.value == pytest.approx(100 * 0.2125 / 1000)


def test_outside_a_data_centre_no_pue_is_invented():
    assert factors().pue is NO_PUE
    assert factors().wue is None


def test_azure_without_a_region_takes_the_fleets_average():
    chosen = factors(identity=Identity(provider="azure"))
    assert chosen.pue.value == pytest.approx(1.17)
    assert chosen.wue.value == pytest.approx(0.27)


def test_a_regions_own_pue_comes_before_the_average():
    assert factors(identity=Identity(region="westeurope")).pue.value == pytest.approx(1.14)


def test_settings_come_before_everything():
    chosen = factors(
        identity=Identity(region="westeurope"), pue="1.3", wue="0.7", carbon_intensity="42"
    )
    assert (chosen.pue.value, chosen.wue.value, chosen.carbon.figure.value) == (1.3, 0.7, 42.0)
    assert chosen.carbon.level is None


def test_an_energy_mix_is_marked_as_computed():
    carbon = factors(energy_mix="coal=50,wind=50").carbon
    assert carbon.figure.value == pytest.approx((820 + 11) / 2)
    assert "computed from energy mix" in carbon.figure.source


def test_the_ember_table_gives_the_countrys_value():
    identity = Identity(region="westeurope")
    carbon = factors(identity=identity, intensity_table="ember").carbon
    assert carbon.level == "country"
    assert carbon.figure.value == pytest.approx(252.7)


def test_a_gpu_is_modelled_up_to_the_limit_nvml_enforces():
    seen = (SeenGpu("NVIDIA H100 NVL", 310.0),)
    power = factors(seen=seen).gpu_powers["NVIDIA H100 NVL"]
    assert (power.limit.value, power.idle.value) == (310.0, 62.0)


def test_a_gpu_the_catalogue_lacks_is_modelled_by_its_limit():
    power = factors(seen=(SeenGpu("NVIDIA X1", 100.0),)).gpu_powers["NVIDIA X1"]
    assert power.limit.value == 100.0
    assert power.idle.low < power.idle.value < power.idle.high


def test_a_gpu_of_which_nothing_is_known_has_no_model():
    assert factors(seen=(SeenGpu("NVIDIA X1", None),)).gpu_powers == {}


@pytest.mark.parametrize(
    ("size", "fractions"),
    [
        ("Standard_NC24ads_A100_v4", [1.0]),
        ("Standard_ND96isr_H100_v5", [1.0] * 8),
        ("Standard_NV12ads_A10_v5", [pytest.approx(1 / 3, abs=0.01)]),
        ("Standard_D8s_v5", []),
    ],
)
def test_the_gpus_of_a_size_are_listed_one_by_one(size, fractions):
    table = factors(identity=Identity(vm_size=size)).table_gpus
    assert [gpu.fraction for gpu in table] == fractions


@pytest.mark.parametrize("source", ["nvml", "none"])
def test_the_table_stands_aside_when_a_gpu_source_is_chosen(source):
    identity = Identity(vm_size="Standard_NC24ads_A100_v4")
    assert factors(identity=identity, gpu_source=source).table_gpus == ()


def test_embodied_emissions_take_the_vms_share_of_its_familys_largest():
    small = embodied_of(CATALOGUE.vm_size("Standard_D2s_v5"), CATALOGUE)
    large = embodied_of(CATALOGUE.vm_size("Standard_D96s_v5"), CATALOGUE)
    assert large.base_g_per_h.value == pytest.approx(48 * small.base_g_per_h.value)


def test_a_constrained_size_embodies_what_it_reserves():
    full = embodied_of(CATALOGUE.vm_size("Standard_E64s_v5"), CATALOGUE)
    constrained = embodied_of(CATALOGUE.vm_size("Standard_E64-16s_v5"), CATALOGUE)
    assert constrained.base_g_per_h.value == pytest.approx(full.base_g_per_h.value)


def test_gpus_embody_one_by_one():
    eight = embodied_of(CATALOGUE.vm_size("Standard_ND96isr_H100_v5"), CATALOGUE)
    assert eight.gpu_g_per_h.value == pytest.approx(8 * 150_000 / 35_040)


def test_the_countrys_own_mix_is_taken_when_asked_for():
    carbon = factors(identity=Identity(region="swedencentral"), energy_mix="country").carbon
    assert carbon.level == "country"
    assert "nuclear" in carbon.figure.source


def test_while_no_country_is_known_the_countrys_mix_waits():
    assert factors(energy_mix="country").carbon.level == "world"


def test_a_constrained_size_reserves_what_its_parent_has():
    constrained = share(Hardware(logical_cpus=16), "Standard_E64-16s_v5")
    full = share(Hardware(logical_cpus=64), "Standard_E64s_v5")
    at_rest = node_usage(cpu_busy_s=0.0)
    assert constrained.energy_kwh(at_rest).total.value == pytest.approx(
        full.energy_kwh(at_rest).total.value
    )


def test_a_guest_on_azure_is_believed_about_its_threads():
    size = next(
        row
        for row in CATALOGUE.vm_sizes()
        if row.threads_per_core is None and any(m.startswith("Intel") for m in row.cpu_models)
    )
    whole = share(Hardware(logical_cpus=4, threads_per_core=1), size.name)
    half = share(Hardware(logical_cpus=4, threads_per_core=2), size.name)
    assert (whole.threads, half.threads) == (8, 4)


@pytest.mark.parametrize("size", ["Standard_ND96isr_H100_v5", "Standard_HB120rs_v3"])
def test_hpc_sizes_have_whole_cores(size):
    assert CATALOGUE.vm_size(size).threads_per_core == 1


def test_several_cpus_cite_each_source_once():
    model = share(Hardware(logical_cpus=4), "Standard_D4s_v5")
    assert "mean of" in model.source
    assert "8380" in model.source


def test_the_ram_figure_is_cited_as_what_was_used():
    assert "Green Algorithms" in factors().ram.source
    assert factors(ram_power="30").ram.source == "setting ram_power"
    assert "CodeCarbon" in factors(power_model="codecarbon").ram.source


def test_unknown_names_are_told_with_what_is_near():
    identity = Identity(region="westeurop", vm_size="Standard_NC24ads_A100_v5")
    told = doubts(Place(identity, Hardware()), CATALOGUE)
    assert len(told) == 2
    assert "did you mean westeurope" in told[0]
    assert "Standard_NC24ads_A100_v4" in told[1]


def test_known_names_are_not_told():
    assert doubts(Place(Identity(region="westeurope"), MILAN), CATALOGUE) == ()


def test_a_size_that_does_not_fit_the_machine_is_told():
    identity = Identity(vm_size="Standard_D64s_v5", sources={"vm_size": "setting"})
    (told,) = doubts(Place(identity, Hardware(logical_cpus=2)), CATALOGUE)
    assert "has 64 vCPUs, this machine shows 2" in told
    assert "from setting" in told


def test_the_cpu_source_names_threads_and_watts():
    assert "8 threads × 0.422 to 1.838 W" in share(MILAN).source
