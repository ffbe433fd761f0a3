"""Every region and every VM size, from a full IMDS document to watts and grams.

No row may fall through silently: what is not known at the finest level is marked as coarser.
"""

import json
from collections import Counter

import pytest

from sidecar.catalogue.lookup import Catalogue
from sidecar.estimate.attribution import WHOLE_NODE
from sidecar.estimate.emissions import estimate_window
from sidecar.factors import Place, choose_factors, with_country
from sidecar.identity.fields import Hardware, Identity
from sidecar.identity.imds import parse_document
from sidecar.identity.resolve import choose, imds_findings
from sidecar.meters.reading import NodeUsage
from sidecar.recording import Metered, Occasion, window_record
from sidecar.settings import load_settings
from sidecar.windows import Window
from tests.fakes.imds import AKS_REGULAR

CATALOGUE = Catalogue()
REGIONS = tuple(region.name for region in CATALOGUE.regions())
VM_SIZES = tuple(CATALOGUE.vm_sizes())
SETTINGS = load_settings({}, {})
HOUR_S = 3600.0


def record_of(location, vm_size, vcpus=4, memory_gib=16.0):
    """Meter one hour at half load on the machine this IMDS document describes."""
    content = json.dumps({**AKS_REGULAR, "location": location, "vmSize": vm_size}).encode()
    identity = identity_of(content)
    hardware = Hardware(logical_cpus=vcpus, memory_total_gib=memory_gib)
    factors = choose_factors(Place(identity, hardware), SETTINGS, CATALOGUE)
    usage = NodeUsage(
        duration_s=HOUR_S,
        cpus=vcpus,
        cpu_busy_s=vcpus * HOUR_S / 2,
        cpu_total_s=vcpus * HOUR_S,
        memory_total_gib=memory_gib,
        memory_used_gib=1.0,
        package_energy_uj=None,
        gpus=(),
        pod_cpu_s=None,
        pod_working_set_gib=None,
    )
    estimate = estimate_window(usage, WHOLE_NODE, factors)
    occasion = Occasion("u.b.1", Window(0.0, HOUR_S, HOUR_S, 0.0), "window")
    metered = Metered(usage, estimate)
    return window_record(with_country(identity, CATALOGUE), factors, occasion, metered)


def identity_of(content):
    chosen = choose({}, imds_findings(parse_document(content)), {}, {}, {})
    values = {name: found.value for name, found in chosen.items()}
    return Identity(**values, sources={name: found.source for name, found in chosen.items()})


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_gives_grams_by_its_zone_or_marked_by_its_country(region):
    record = record_of(region, "Standard_D4s_v5")
    assert record.region == region
    assert record.country_iso3
    assert record.carbon_intensity_level in {"zone", "country"}
    assert record.carbon_intensity_source
    assert record.carbon_intensity_year >= 2020
    assert 1 < record.carbon_intensity_g_per_kwh < 1500
    assert 1 < record.pue < 2
    assert record.emissions_low_g <= record.emissions_g <= record.emissions_high_g
    assert record.emissions_g == pytest.approx(
        record.energy_kwh * record.pue * record.carbon_intensity_g_per_kwh
    )
    assert record.water_l is not None
    assert record.identity_source["pue"]


def test_all_regions_of_the_catalogue_were_tried():
    assert len(REGIONS) == 84


@pytest.mark.parametrize("series", sorted({size.name.split("_")[1][:2] for size in VM_SIZES}))
def test_every_vm_size_of_a_series_gives_watts_and_grams(series):
    tried = 0
    for size in VM_SIZES:
        if size.name.split("_")[1][:2] != series:
            continue
        tried += 1
        record = record_of("westeurope", size.name, size.vcpus, size.memory_gib or 16.0)
        watts = record.cpu_energy_kwh * 1000
        assert record.vm_size == size.name
        assert record.cpu_power_source, size.name
        assert 0.1 * size.vcpus <= watts <= 8 * 2 * size.vcpus, size.name
        assert record.emissions_g > 0, size.name
        if size.gpu_model and size.gpu_count:
            assert record.gpu_energy_kwh > 0, size.name
            assert record.gpu_method == "table", size.name
            assert record.quality == "modelled", size.name
    assert tried


def rung(source):
    """Name the rung of the CPU ladder a source stands on."""
    if source.startswith("CPUs of the family"):
        return "family"
    if source.startswith("CPUs of"):
        return "size"
    return "average" if source.startswith("CPU unknown") else source


def test_only_sizes_whose_cpu_nobody_knows_fall_to_the_average():
    rungs = Counter()
    fallen = []
    for size in VM_SIZES:
        record = record_of("westeurope", size.name, size.vcpus)
        rungs[rung(record.cpu_power_source)] += 1
        if rung(record.cpu_power_source) == "average":
            fallen.append(size)
    assert set(rungs) <= {"size", "family", "average"}
    assert rungs["size"] > 0.9 * len(VM_SIZES)
    # What falls is listed by the catalogue as unknown, or has a CPU without published watts.
    assert all(
        size.cpu_evidence == "unknown" or not size.cpu_models or "Grace" in size.cpu_models[0]
        for size in fallen
    ), [size.name for size in fallen]
    assert rungs["average"] < 60


def test_an_a100_vm_is_doubled_for_its_whole_cores_and_has_its_gpu():
    record = record_of("westeurope", "Standard_NC24ads_A100_v4", 24, 220.0)
    cpu = CATALOGUE.cpu("AMD EPYC 7V13")
    middle_w = (cpu.idle_per_thread.value + cpu.max_per_thread.value) / 2
    assert record.cpu_energy_kwh == pytest.approx(48 * middle_w / 1000)
    assert [gpu.model for gpu in record.gpus] == ["NVIDIA A100 80GB PCIe"]


def test_a_share_of_a_card_is_a_share_of_its_power():
    third = record_of("westeurope", "Standard_NV12ads_A10_v5", 12, 110.0)
    whole = record_of("westeurope", "Standard_NV36ads_A10_v5", 36, 440.0)
    assert third.gpu_energy_kwh == pytest.approx(whole.gpu_energy_kwh / 3, rel=0.01)


def test_an_unknown_size_in_a_known_region_is_marked_by_its_cpu_source():
    record = record_of("westeurope", "Standard_Z99_v9")
    assert rung(record.cpu_power_source) == "average"
    assert record.carbon_intensity_level == "zone"
    assert record.embodied_g is None


def test_an_unknown_region_falls_to_the_world_and_says_so():
    record = record_of("atlantis", "Standard_D4s_v5")
    assert record.carbon_intensity_level == "world"
    assert "atlantis" in record.carbon_intensity_source


def test_an_unknown_region_with_a_country_falls_to_the_country():
    settings = load_settings({"country": "NLD"}, {})
    identity = Identity(region="atlantis", country_iso3="NLD", provider="azure")
    factors = choose_factors(Place(identity, Hardware(logical_cpus=2)), settings, CATALOGUE)
    assert factors.carbon.level == "country"
    assert "atlantis" in factors.carbon.note
