"""Figures noted from CodeCarbon 3.3.2, each of which our functions must give."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sidecar.catalogue.codecarbon_tables import codecarbon_intensity, codecarbon_tdp
from sidecar.estimate import codecarbon as cc
from sidecar.units import kwh_from_power

CASES = json.loads(Path(__file__).with_name("codecarbon_cases.json").read_text())["cases"]
INTENSITIES = codecarbon_intensity()
REGISTRY = codecarbon_tdp()


def private_emissions(i: Any) -> float:
    grid = cc.grid_intensity(INTENSITIES, i["iso3"], i["region"])
    return cc.emissions_kg(i["kwh"], grid.value)


def forced_emissions(i: Any) -> float:
    grid = cc.grid_intensity(INTENSITIES, "NLD", forced_g_per_kwh=i["force"])
    return cc.emissions_kg(i["kwh"], grid.value)


def mix_rate(i: Any) -> float:
    mix = {k.removesuffix("_TWh"): v for k, v in i.items() if k != "total_TWh"}
    return cc.mix_intensity_g_per_kwh(mix, i["total_TWh"]) / 1000


def sampled_gpu(i: Any) -> dict[str, float]:
    watts = cc.sampled_gpu_power_w(i["samples_w"])
    return {"kwh": kwh_from_power(watts, i["s"]), "watts": watts}


def ram(i: Any) -> dict[str, float]:
    return {
        "dimms": cc.dimm_count(i["gb"]),
        "watts": cc.ram_power_w(i["gb"], arm=i["arm"]),
    }


def rapl(i: Any) -> dict[str, float]:
    kwh = cc.rapl_energy_kwh(i["before_uj"], i["after_uj"], i["max_uj"])
    assert kwh is not None
    return {"kwh": kwh, "watts": cc.mean_power_w(kwh, i["s"])}


def tdp(i: str) -> float | None:
    figure = cc.registered_tdp(i, REGISTRY)
    return figure.value if figure else None


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "C": lambda i: cc.constant_cpu_power_w(i["tdp"]),
    "E1": private_emissions,
    "E2": private_emissions,
    "E3": private_emissions,
    "E4": forced_emissions,
    "E5": mix_rate,
    "GPU": sampled_gpu,
    "L": lambda i: cc.cpu_power_w(i["tdp"], i["load_percent"] / 100),
    "Q": lambda i: asdict(cc.carbonboard_equivalents(i["kg"])),
    "R": ram,
    "RA": ram,
    "RAPL": rapl,
    "T": tdp,
    "U1": cc.kwh_from_millijoules,
    "U2": cc.kwh_from_microjoules,
    "U3": lambda i: kwh_from_power(i["W"], i["s"]),
    "U4": cc.kg_per_kwh_from_lbs_per_mwh,
    "W": lambda i: asdict(cc.web_app_equivalents(i["kg"], i["kwh"])),
}


def family(case_id: str) -> str:
    return case_id.split("-", 1)[0]


def test_every_case_has_a_function_and_every_function_a_case() -> None:
    assert {family(case["id"]) for case in CASES} == set(FUNCTIONS)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_our_figure_equals_codecarbons(case: dict[str, Any]) -> None:
    computed = FUNCTIONS[family(case["id"])](case["input"])

    if isinstance(case["output"], dict):
        assert computed.keys() == case["output"].keys()
        for key, expected in case["output"].items():
            assert computed[key] == _close(expected), key
    else:
        assert computed == _close(case["output"])


def _close(expected: Any) -> Any:
    return pytest.approx(expected, rel=1e-6) if isinstance(expected, int | float) else expected
