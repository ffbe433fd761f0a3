"""The CodeCarbon model as a whole: which power a node gets, and where the figure came from."""

import pytest

from sidecar.catalogue.codecarbon_tables import codecarbon_intensity, codecarbon_tdp
from sidecar.estimate.codecarbon import CodeCarbonModel, grid_intensity, node_tdp
from sidecar.units import Figure

REGISTRY = codecarbon_tdp()
ICE_LAKE = "Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz"


def test_a_known_cpu_gets_its_tdp_times_sockets() -> None:
    tdp = node_tdp(ICE_LAKE, REGISTRY, logical_cpus=128, sockets=2)

    assert (tdp.value, tdp.unit) == (410.0, "W")
    assert tdp.source == "CodeCarbon 3.3.2 cpu_power.csv (MIT) x 2 sockets"


def test_one_socket_keeps_the_registrys_own_figure() -> None:
    tdp = node_tdp(ICE_LAKE, REGISTRY, logical_cpus=64)

    assert tdp == REGISTRY["intel xeon platinum 8370c"]


def test_an_unknown_cpu_gets_four_watts_a_thread_and_sockets_twice() -> None:
    tdp = node_tdp("AMD EPYC 9V74 80-Core Processor", REGISTRY, logical_cpus=96, sockets=2)

    assert tdp.value == 768.0
    assert "default" in tdp.source


@pytest.mark.parametrize("brand", [None, ""])
def test_a_cpu_without_name_gets_85_watts_whatever_the_sockets(brand: str | None) -> None:
    assert node_tdp(brand, REGISTRY, logical_cpus=96, sockets=2).value == 85.0


def model(**changes: object) -> CodeCarbonModel:
    tdp = Figure(200.0, "W", 200.0, 200.0, "test", None)
    return CodeCarbonModel(**({"tdp": tdp} | changes))  # type: ignore[arg-type]


def test_machine_mode_books_a_tenth_of_the_tdp_when_idle() -> None:
    assert model().cpu_power_w(0.0) == 20.0


def test_process_mode_books_nothing_when_idle() -> None:
    assert model(tracking="process").cpu_power_w(0.0) == 0.0


def test_process_mode_is_linear() -> None:
    assert model(tracking="process").cpu_power_w(0.5) == 100.0


@pytest.mark.parametrize(("arm", "floor_w"), [(False, 10.0), (True, 3.0)])
def test_ram_power_has_a_floor_even_for_a_small_process(arm: bool, floor_w: float) -> None:
    assert model(arm=arm, tracking="process").ram_power_w(0.1) == floor_w


def test_a_state_wins_over_its_country_in_any_case() -> None:
    assert grid_intensity(codecarbon_intensity(), "usa", "Texas").value < 350


def test_a_forced_intensity_wins_and_is_named_a_setting() -> None:
    grid = grid_intensity(codecarbon_intensity(), "NLD", forced_g_per_kwh=0.0)

    assert (grid.value, grid.source) == (0.0, "setting")


def test_a_country_outside_the_table_gets_the_world_average_and_says_so() -> None:
    grid = grid_intensity(codecarbon_intensity(), "TUV")

    assert grid.value == 475.0
    assert "world average" in grid.source


def test_every_figure_of_the_tables_names_its_source_and_year() -> None:
    for figure in (*codecarbon_intensity().values(), *REGISTRY.values()):
        assert figure.source.startswith("CodeCarbon 3.3.2 ")
        assert figure.year is not None
