"""Our copy of the model against the installed CodeCarbon itself, over whole ranges of input."""

import csv
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.catalogue.codecarbon_tables import codecarbon_intensity, codecarbon_tdp
from sidecar.estimate import codecarbon as ours
from sidecar.units import kwh_from_power

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from codecarbon import __version__ as peer_version
    from codecarbon.core.cpu import TDP
    from codecarbon.core.emissions import Emissions
    from codecarbon.core.rapl import RAPLFile
    from codecarbon.core.units import Energy, Power, Time
    from codecarbon.external import hardware
    from codecarbon.external.geography import CloudMetadata, GeoMetadata
    from codecarbon.external.ram import RAM
    from codecarbon.input import DataSource
    from codecarbon.viz.data import Data

pytestmark = pytest.mark.filterwarnings("ignore")

INTENSITIES = codecarbon_intensity()
REGISTRY = codecarbon_tdp()

tdps = st.floats(min_value=1, max_value=2000)
loads = st.floats(min_value=0, max_value=1)
kwhs = st.floats(min_value=0, max_value=1e6)


class FixedLoad:
    def __init__(self, percent: float) -> None:
        self._percent = percent

    def percent(self) -> float:
        return self._percent


def peer_cpu(tdp_w: float, percent: float) -> Any:
    cpu = hardware.CPU(output_dir=".", mode="cpu_load", model="any", tdp=tdp_w)
    cpu._cpu_load_meter = FixedLoad(percent)
    return cpu


def peer_ram(*, arm: bool) -> Any:
    ram = RAM(tracking_mode="machine")
    ram.is_arm_cpu = arm
    return ram


def close(expected: float) -> Any:
    return pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_the_peer_is_the_release_the_model_describes() -> None:
    assert peer_version == "3.3.2"


@given(tdps, loads)
def test_cpu_power_follows_the_peers_load_curve(tdp_w: float, load: float) -> None:
    expected = peer_cpu(tdp_w, load * 100)._get_power_from_cpu_load().W

    assert ours.cpu_power_w(tdp_w, load) == close(expected)


@given(tdps)
def test_constant_power_is_the_peers_share_of_tdp(tdp_w: float) -> None:
    cpu = hardware.CPU(output_dir=".", mode="constant", model="any", tdp=tdp_w)

    assert ours.constant_cpu_power_w(tdp_w) == close(cpu._get_power_from_cpus().W)


@given(tdps, loads, st.integers(min_value=1, max_value=600))
def test_process_mode_is_linear_in_the_process_trees_share(
    tdp_w: float, load: float, cpus: int
) -> None:
    cpu = hardware.CPU(
        output_dir=".", mode="cpu_load", model="any", tdp=tdp_w, tracking_mode="process"
    )
    elapsed_s = 1000.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware.time, "time", lambda: elapsed_s)
        patch.setattr(cpu, "_get_process_cpu_times", lambda: {1: load * cpus * elapsed_s})
        cpu._cpu_count = cpus
        cpu._last_measurement_time = 0.0
        cpu._last_cpu_times = {1: 0.0}
        expected = cpu._get_power_from_cpu_load().W

    assert ours.process_cpu_power_w(tdp_w, load) == close(expected)


@given(st.floats(min_value=0.5, max_value=4096), st.booleans())
@example(220.0, False)
@example(251.6, False)
@example(256.0, False)
@example(900.0, False)
@example(1024.0, False)
@example(2048.0, True)
def test_ram_power_steps_as_the_peers(memory_gib: float, arm: bool) -> None:
    peer = peer_ram(arm=arm)

    assert ours.dimm_count(memory_gib) == peer._estimate_dimm_count(memory_gib)
    assert ours.ram_power_w(memory_gib, arm=arm) == close(peer._calculate_ram_power(memory_gib))


@pytest.mark.parametrize("arm", [False, True])
def test_ram_power_agrees_at_every_whole_gib(arm: bool) -> None:
    peer = peer_ram(arm=arm)

    differing = [
        gib
        for gib in range(1, 4097)
        if ours.ram_power_w(gib, arm=arm) != close(peer._calculate_ram_power(gib))
    ]

    assert differing == []


@given(
    st.integers(min_value=0, max_value=2**40),
    st.integers(min_value=0, max_value=2**40),
    st.integers(min_value=0, max_value=2**40),
)
def test_rapl_energy_unwraps_and_gives_up_as_the_peer_does(
    tmp_path_factory: pytest.TempPathFactory, before_uj: int, after_uj: int, max_uj: int
) -> None:
    folder = tmp_path_factory.mktemp("rapl")
    (folder / "energy_uj").write_text(str(before_uj))
    (folder / "max_energy_range_uj").write_text(str(max_uj))
    domain = RAPLFile("package", str(folder / "energy_uj"), str(folder / "max_energy_range_uj"))
    (folder / "energy_uj").write_text(str(after_uj))
    domain.delta(Time(15))

    energy_kwh = ours.rapl_energy_kwh(before_uj, after_uj, max_uj)

    if domain.sample_skipped:
        assert energy_kwh is None or energy_kwh == close(0)
    else:
        # The peer subtracts rounded kWh: where the difference is tiny it has lost digits.
        assert energy_kwh == pytest.approx(domain.energy_delta.kWh, rel=1e-6, abs=1e-9)


@given(st.floats(min_value=0, max_value=1e5), st.floats(min_value=1e-3, max_value=1e6))
def test_energy_and_power_convert_as_in_the_peer(power_w: float, duration_s: float) -> None:
    time = Time(duration_s)
    energy = Energy.from_power_and_time(power=Power.from_watts(power_w), time=time)

    assert kwh_from_power(power_w, duration_s) == close(energy.kWh)
    assert ours.mean_power_w(energy.kWh, duration_s) == close(
        Power.from_energy_delta_and_delay(energy, time).W
    )


@given(st.sampled_from(sorted(INTENSITIES)), kwhs)
def test_emissions_of_each_country_and_state_equal_the_peers(
    place: tuple[str, str], energy_kwh: float
) -> None:
    iso3, region = place
    expected = Emissions(DataSource()).get_private_infra_emissions(
        Energy(energy_kwh), GeoMetadata(country_iso_code=iso3, region=region or None)
    )

    grid = ours.grid_intensity(INTENSITIES, iso3, region)

    assert ours.emissions_kg(energy_kwh, grid.value) == close(expected)


@pytest.mark.parametrize("place", sorted(INTENSITIES), ids="-".join)
def test_each_row_of_the_intensity_table_is_the_peers(place: tuple[str, str]) -> None:
    iso3, region = place
    expected_kg = Emissions(DataSource()).get_private_infra_emissions(
        Energy(1), GeoMetadata(country_iso_code=iso3, region=region or None)
    )

    assert INTENSITIES[place].value == close(expected_kg * 1000)


@pytest.mark.parametrize("iso3", sorted(iso3 for iso3, region in INTENSITIES if not region))
def test_the_year_of_a_country_is_the_peers(iso3: str) -> None:
    mix = DataSource().get_global_energy_mix_data()[iso3]

    assert INTENSITIES[iso3, ""].year == mix["year"]


@given(kwhs)
def test_an_azure_region_without_country_gets_the_world_average(energy_kwh: float) -> None:
    cloud = CloudMetadata(provider="azure", region="westeurope")
    expected = Emissions(DataSource()).get_cloud_emissions(Energy(energy_kwh), cloud, None)

    grid = ours.grid_intensity(INTENSITIES, None)

    assert ours.emissions_kg(energy_kwh, grid.value) == close(expected)


def test_an_unknown_state_falls_back_to_its_country() -> None:
    assert ours.grid_intensity(INTENSITIES, "USA", "atlantis").value == 369.473


@given(
    st.dictionaries(
        st.sampled_from(sorted(ours.SOURCE_INTENSITIES_G_PER_KWH)),
        st.integers(min_value=0, max_value=10_000),
        min_size=1,
    ),
    st.integers(min_value=0, max_value=1),
)
def test_a_mix_is_weighted_as_in_the_peer(generation_twh: dict[str, int], missing: int) -> None:
    total_twh = sum(generation_twh.values()) + missing or 1
    mix = {f"{source}_TWh": twh for source, twh in generation_twh.items()}
    expected = Emissions._global_energy_mix_to_emissions_rate(mix | {"total_TWh": total_twh})

    intensity = ours.mix_intensity_g_per_kwh(generation_twh, total_twh)

    assert intensity == close(expected.kgs_per_kWh * 1000)


@pytest.mark.parametrize("province", ["alberta", "ontario", "quebec", "nova scotia", "yukon"])
def test_a_canadian_mix_is_weighted_as_in_the_peer(province: str) -> None:
    shares = DataSource().get_country_energy_mix_data("can")[province]
    expected = Emissions._region_energy_mix_to_emissions_rate(shares)

    intensity = ours.fossil_share_intensity_g_per_kwh(shares, shares["total"])

    assert intensity == close(expected.kgs_per_kWh * 1000)


def test_the_weights_of_the_sources_are_the_peers() -> None:
    peer = DataSource().get_carbon_intensity_per_source_data()
    weights = {k: v for k, v in peer.items() if isinstance(v, int)}

    assert weights.pop("world_average") == ours.WORLD_AVERAGE.value
    assert dict(ours.SOURCE_INTENSITIES_G_PER_KWH) == weights


def azure_cpu_names() -> list[str]:
    """CPU names as guests on Azure report them: known, unknown and odd ones."""
    return [
        "Intel(R) Xeon(R) CPU E5-2673 v3 @ 2.40GHz",
        "Intel(R) Xeon(R) CPU E5-2673 v4 @ 2.30GHz",
        "Intel(R) Xeon(R) CPU E5-2690 v4 @ 2.60GHz",
        "Intel(R) Xeon(R) CPU E7-8890 v3 @ 2.50GHz",
        "Intel(R) Xeon(R) Platinum 8168 CPU @ 2.70GHz",
        "Intel(R) Xeon(R) Platinum 8171M CPU @ 2.60GHz",
        "Intel(R) Xeon(R) Platinum 8272CL CPU @ 2.60GHz",
        "Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz",
        "Intel(R) Xeon(R) Gold 6246R CPU @ 3.40GHz",
        "Intel(R) Xeon(R) E-2288G CPU @ 3.70GHz",
        "Intel(R) Xeon(R) Platinum 8473C",
        "Intel(R) Xeon(R) Platinum 8480C",
        "INTEL(R) XEON(R) PLATINUM 8573C",
        "Intel(R) Xeon(R) 6973P-C",
        "AMD EPYC 7551 32-Core Processor",
        "AMD EPYC 7452 32-Core Processor",
        "AMD EPYC 7763 64-Core Processor",
        "AMD EPYC 7V12 64-Core Processor",
        "AMD EPYC 7V73X 64-Core Processor",
        "AMD EPYC 9V74 80-Core Processor",
        "AMD EPYC 9V84 96-Core Processor",
        "Neoverse-N1",
        "Neoverse-N2",
    ]


@pytest.mark.parametrize("brand", azure_cpu_names())
def test_a_cpu_of_azure_has_the_tdp_the_peer_finds_for_its_name(brand: str) -> None:
    expected = TDP.__new__(TDP)._get_cpu_power_from_registry(brand)

    tdp = ours.registered_tdp(brand, REGISTRY)

    assert (tdp.value if tdp else None) == expected


def test_each_row_of_the_tdp_table_is_in_the_peers_registry() -> None:
    table = files("codecarbon").joinpath("data", "hardware", "cpu_power.csv")
    with Path(str(table)).open(encoding="utf-8", newline="") as stream:
        peer = {row["Name"].lower(): row["TDP"] for row in csv.DictReader(stream)}

    differing = {name for name, tdp in REGISTRY.items() if tdp.value != float(peer[name])}

    assert differing == set()


def test_the_keys_of_the_tdp_table_are_normalized() -> None:
    assert [ours.normalized_cpu_name(name) for name in REGISTRY] == list(REGISTRY)


@given(st.floats(min_value=0, max_value=1e6))
def test_equivalents_read_as_on_the_peers_board(emitted_kg: float) -> None:
    board = Data()

    assert ours.carbonboard_equivalents(emitted_kg) == ours.CarbonboardEquivalents(
        car_miles=board.get_car_miles(emitted_kg),
        tv=board.get_tv_time(emitted_kg),
        household_week_pct=board.get_household_fraction(emitted_kg),
    )
