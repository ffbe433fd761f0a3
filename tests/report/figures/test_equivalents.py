"""Emissions as everyday things, and the sources they are told with."""

import pytest

from sidecar.report.figures.citations import Citations
from sidecar.report.figures.equivalents import PHRASES, equivalent_amounts, equivalents
from tests.report.figures.rows import CATALOGUE, measures

TABLE = tuple(CATALOGUE.equivalents())


def of(item, **changes):
    rows = equivalents(measures(**changes), TABLE, Citations())
    return next(row for row in rows if row["item"] == item)


def test_an_amount_is_our_emissions_by_those_of_one():
    row = of("car_km_eu_fleet", emissions_g=350_000.0)  # 350 kg by 0.175 kg/km
    assert row["amount"] == pytest.approx(2000.0)
    assert row["words"] == "2,000 km by an average car in use in Europe"


def test_the_bounds_are_ours_by_the_others():
    row = of("smartphone_charge_us", emissions_low_g=1240.0, emissions_high_g=8220.0)
    assert row["amount_low"] == pytest.approx(100.0)  # by 0.0124 kg
    assert row["amount_high"] == pytest.approx(1000.0)  # by 0.00822 kg


def test_every_item_has_a_source_and_a_year():
    citations = Citations()
    rows = equivalents(measures(), TABLE, citations)
    assert [row["item"] for row in rows] == list(PHRASES)
    cited = {row["number"]: row for row in citations.rows()}
    assert all(cited[row["emissions_source"]]["year"] for row in rows)


def test_hardly_anything_of_a_thing_is_not_told_in_words():
    assert of("flight_paris_newyork_oneway", emissions_g=1000.0)["words"] is None


def test_unknown_emissions_have_no_equivalent():
    row = of("tree_year", emissions_g=None, emissions_low_g=None)
    assert (row["amount"], row["amount_low"], row["words"]) == (None, None, None)


def test_a_projects_amounts_are_those_of_the_whole():
    table = {item.item: item for item in TABLE}
    short = equivalent_amounts(measures(), table)
    whole = equivalents(measures(), TABLE, Citations())
    assert [(row["item"], row["amount"]) for row in short] == [
        (row["item"], row["amount"]) for row in whole
    ]


def test_a_source_is_told_once():
    citations = Citations()
    assert [citations.number("a", 2025), citations.number("b", 2025)] == [1, 2]
    assert citations.number("a", 2025) == 1
    assert [row["source"] for row in citations.rows()] == ["a", "b"]


def test_no_source_has_no_number():
    assert Citations().number(None, 2025) is None


def test_a_source_leads_to_the_works_it_cites():
    citations = Citations()
    citations.figure(CATALOGUE.region("westcentralus").carbon_intensity_ember, "ember_intensity/g")
    (row,) = citations.rows()
    works = {work["source"].partition(" ")[0]: work["licence"] for work in row["works"]}
    assert works == {
        "Ember": "CC BY 4.0 at Ember, CC BY-SA 4.0 at CO2.js",
        "Our": "CC BY 4.0 / MIT",
    }


def test_every_source_of_a_region_leads_to_a_work():
    citations = Citations()
    for region in CATALOGUE.regions():
        citations.figure(region.carbon_intensity, "carbon_intensity/g")
        citations.figure(region.pue, "pue")
    assert citations.rows()
    assert all(row["works"] for row in citations.rows())
