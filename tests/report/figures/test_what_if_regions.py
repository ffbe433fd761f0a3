"""What another region would have come to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.report.figures.geographies import GEOGRAPHY_OF_COUNTRY, geography_of
from sidecar.report.figures.what_if_regions import Candidates, best_regions, what_if_regions
from tests.report.figures.rows import CATALOGUE, row

REGIONS = tuple(CATALOGUE.regions())
CANDIDATES = Candidates.of(REGIONS)
KNOWN = [region for region in REGIONS if region.carbon_intensity and region.pue]


def factor(name):
    region = CATALOGUE.region(name)
    return region.pue.value * region.carbon_intensity.value


def ran_in(name, energy_kwh=1.0, **changes):
    """Energy in a region as a sidecar records it there."""
    region = CATALOGUE.region(name)
    facility = energy_kwh * region.pue.value
    known = {
        "energy_kwh": energy_kwh,
        "facility_energy_kwh": facility,
        "emissions_g": facility * region.carbon_intensity.value,
    }
    return row({"region": name}, **(known | changes))


def of(result, name):
    return next(item for item in result["regions"] if item["region"] == name)


def test_the_same_energy_in_sweden_by_hand():
    result = of(what_if_regions([ran_in("westeurope", 100.0)], CANDIDATES), "swedencentral")
    # 100 kWh · 1.16 · 20 g/kWh, against 100 kWh · 1.14 · 253 g/kWh
    assert result["emissions_g"] == pytest.approx(2320.0)
    assert result["difference_g"] == pytest.approx(2320.0 - 28842.0)
    assert result["change"] == pytest.approx(2320.0 / 28842.0 - 1)
    # 100 kWh · 1.14 · 20 g/kWh
    assert result["emissions_same_pue_g"] == pytest.approx(2280.0)


def test_the_bounds_of_the_difference_take_both_sides_at_opposite_ends():
    result = of(what_if_regions([ran_in("westeurope", 100.0)], CANDIDATES), "swedencentral")
    here, there = CATALOGUE.region("westeurope"), CATALOGUE.region("swedencentral")
    high = 100 * here.pue.high * here.carbon_intensity.high
    low = 100 * here.pue.low * here.carbon_intensity.low
    assert result["difference_low_g"] == pytest.approx(
        100 * there.pue.low * there.carbon_intensity.low - high
    )
    assert result["difference_high_g"] == pytest.approx(
        100 * there.pue.high * there.carbon_intensity.high - low
    )


def test_an_intensity_that_was_set_has_no_spread_of_the_catalogue():
    rows = [ran_in("westeurope", 100.0, energy_set_kwh=100.0)]
    result = of(what_if_regions(rows, CANDIDATES), "swedencentral")
    assert result["difference_high_g"] == pytest.approx(result["emissions_high_g"] - 28842.0)


def test_regions_of_the_own_geography_come_first_and_by_emissions():
    regions = what_if_regions([ran_in("westeurope")], CANDIDATES)["regions"]
    near = [item["is_same_geography"] for item in regions]
    assert near == sorted(near, reverse=True)
    amounts = [item["emissions_g"] for item in regions if item["is_same_geography"]]
    assert amounts == sorted(amounts)
    assert regions[0]["region"] == "swedencentral"


def test_a_restricted_region_is_marked_and_has_no_rank():
    result = what_if_regions([ran_in("westeurope")], CANDIDATES)
    restricted = of(result, "norwaywest")
    assert (restricted["status"], restricted["is_open"], restricted["rank"]) == (
        "restricted",
        False,
        None,
    )
    ranks = [item["rank"] for item in result["regions"] if item["rank"]]
    assert sorted(ranks) == list(range(1, len(ranks) + 1))


def test_a_region_without_pue_has_the_second_figure_only():
    result = of(what_if_regions([ran_in("westeurope")], CANDIDATES), "chinaeast")
    assert result["emissions_g"] is None
    assert result["emissions_same_pue_g"] == pytest.approx(1.14 * 485)


def test_what_ran_there_already_stays_as_recorded():
    rows = [ran_in("westeurope", 1.0), ran_in("swedencentral", 1.0, emissions_g=5.0)]
    result = of(what_if_regions(rows, CANDIDATES), "swedencentral")
    assert result["emissions_g"] == pytest.approx(factor("swedencentral") + 5.0)
    assert result["difference_g"] == pytest.approx(factor("swedencentral") - factor("westeurope"))


def test_energy_without_emissions_is_left_out_of_the_comparison():
    rows = [ran_in("westeurope"), row({"region": None}, energy_kwh=7.0, emissions_g=None)]
    result = what_if_regions(rows, CANDIDATES)
    assert (result["energy_kwh"], result["energy_left_out_kwh"]) == (1.0, 7.0)


def test_energy_without_emissions_is_not_moved_either():
    rows = [ran_in("westeurope", energy_kwh=2.0, energy_with_emissions_kwh=1.0,
                   facility_energy_with_emissions_kwh=1.14, emissions_g=1.14 * 253)]  # fmt: skip
    result = what_if_regions(rows, CANDIDATES)
    assert of(result, "swedencentral")["emissions_g"] == pytest.approx(factor("swedencentral"))
    assert of(result, "westeurope")["difference_g"] == 0
    assert (result["energy_kwh"], result["energy_left_out_kwh"]) == (1.0, 1.0)


def test_each_geography_moves_within_itself():
    rows = [ran_in("eastus", 99.0), ran_in("westeurope", 1.0)]
    best = best_regions(rows, CANDIDATES)
    within = best["within_geographies"]
    moves = {move["geography"]: move for move in within["moves"]}
    assert moves["Europe"]["region"] == "swedencentral"
    assert moves["Europe"]["emissions_g"] == pytest.approx(factor("swedencentral"))
    american = CATALOGUE.region(moves["US"]["region"])
    assert geography_of(american) == "US"
    assert within["emissions_g"] == pytest.approx(
        99 * factor(american.name) + factor("swedencentral")
    )
    assert within["emissions_low_g"] <= within["emissions_g"] <= within["emissions_high_g"]
    assert best["same_geography"] is None
    assert not any(
        item["is_same_geography"] for item in what_if_regions(rows, CANDIDATES)["regions"]
    )


def test_no_advice_is_given_for_a_region_that_is_not_known():
    rows = [row({"region": None}, energy_kwh=1.0, emissions_g=100.0)]
    assert best_regions(rows, CANDIDATES) is None
    assert what_if_regions(rows, CANDIDATES)["within_geographies"] is None


def test_what_ran_in_an_unknown_region_stays_where_it_is():
    rows = [ran_in("westeurope"), row({"region": "quebec"}, energy_kwh=1.0, emissions_g=100.0)]
    best = best_regions(rows, CANDIDATES)
    assert best["same_geography"] is None
    assert best["anywhere"]["emissions_g"] == pytest.approx(
        best_regions([ran_in("westeurope")], CANDIDATES)["anywhere"]["emissions_g"]
    )
    assert best["within_geographies"]["energy_of_unknown_region_kwh"] == 1.0


def test_a_region_that_no_table_knows_is_compared_by_its_record():
    rows = [row({"region": "<script>"}, energy_kwh=1.0, emissions_g=100.0)]
    result = of(what_if_regions(rows, CANDIDATES), "swedencentral")
    assert result["difference_g"] == pytest.approx(23.2 - 100.0)
    assert not result["is_same_geography"]


def test_without_energy_nothing_is_known():
    result = what_if_regions([], CANDIDATES)
    assert (result["known"], result["regions"]) == (False, [])
    assert best_regions([], CANDIDATES) is None


def test_every_country_with_a_region_has_a_geography():
    assert {region.country_iso3 for region in REGIONS} <= set(GEOGRAPHY_OF_COUNTRY)
    assert geography_of(CATALOGUE.region("westeurope")) == "Europe"


names = st.sampled_from([region.name for region in KNOWN])
energies = st.floats(1e-6, 1e9)


@given(names, energies)
def test_the_own_region_changes_nothing(name, energy_kwh):
    result = of(what_if_regions([ran_in(name, energy_kwh)], CANDIDATES), name)
    assert result["difference_g"] == 0
    assert result["difference_same_pue_g"] == pytest.approx(0, abs=1e-9 * energy_kwh)
    assert result["is_used"]


@given(st.dictionaries(names, energies, min_size=1, max_size=6))
def test_the_best_region_of_a_project_is_the_first_of_the_ranking(used):
    rows = [ran_in(name, energy_kwh) for name, energy_kwh in used.items()]
    whole, best = what_if_regions(rows, CANDIDATES), best_regions(rows, CANDIDATES)
    ranked = [item for item in whole["regions"] if item["rank"]]
    least = min(item["emissions_g"] for item in ranked)
    assert best["anywhere"]["emissions_g"] == pytest.approx(least)
    near = [item["emissions_g"] for item in ranked if item["is_same_geography"]]
    assert bool(near) is (len({geography_of(CATALOGUE.region(name)) for name in used}) == 1)
    if near:
        assert best["same_geography"]["emissions_g"] == pytest.approx(min(near))


@given(st.dictionaries(names, energies, min_size=1, max_size=6))
def test_bounds_hold_what_they_bound(used):
    rows = [ran_in(name, energy_kwh) for name, energy_kwh in used.items()]
    for item in what_if_regions(rows, CANDIDATES)["regions"]:
        for stem in ("emissions", "difference"):
            value = item[f"{stem}_g"]
            if value is not None:
                assert item[f"{stem}_low_g"] <= value <= item[f"{stem}_high_g"]
