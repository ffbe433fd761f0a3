"""What another hour would have come to: only where an intensity varies with time."""

from dataclasses import replace

import pytest

from sidecar.report.figures.hours import NOT_ASKED, ONE_HOUR, YEARLY, best_hours, what_if_hours
from sidecar.report.figures.inputs import FactorUse, HourOfRegion


def hour(number, intensity, energy_kwh, **changes):
    known = HourOfRegion(
        region="westeurope",
        hour=number,
        carbon_intensity_source="a grid's own figures",
        carbon_intensity_level="zone",
        carbon_intensity_g_per_kwh=intensity,
        carbon_intensity_least_g_per_kwh=intensity,
        carbon_intensity_greatest_g_per_kwh=intensity,
        duration_s=3600.0,
        facility_energy_kwh=energy_kwh,
        emissions_g=intensity * energy_kwh,
    )
    return replace(known, **changes)


HOURS = [hour(3, 100.0, 2.0), hour(18, 375.0, 3.0, emissions_g=1000.0)]


def test_all_energy_at_another_hour_by_hand():
    (region,) = what_if_hours(HOURS)["regions"]
    # 5 kWh caused 200 + 1000 g; at 03 h they would have caused 500 g
    assert region["emissions_g"] == 1200.0
    assert (region["best_hour"], region["difference_at_best_g"]) == (3, -700.0)
    assert region["hours"][18]["difference_g"] == pytest.approx(5 * 375.0 - 1200.0)


def of_project(region="westeurope", **changes):
    known = FactorUse(
        project="demo",
        region=region,
        carbon_intensity_source="a grid's own figures",
        carbon_intensity_level="zone",
        carbon_intensity_g_per_kwh=250.0,
        pue=1.25,
        energy_kwh=1.6,
    )
    return replace(known, **changes)


def test_the_best_hour_of_a_project_by_hand():
    (best,) = best_hours(what_if_hours(HOURS), [of_project(), of_project("eastus")])
    # its 2 kWh with PUE caused 500 g; at 03 h, with 100 g/kWh, they would have caused 200 g
    assert (best["region"], best["best_hour"], best["carbon_intensity_g_per_kwh"]) == (
        "westeurope",
        3,
        100.0,
    )
    assert (best["emissions_g"], best["emissions_at_best_g"]) == (500.0, 200.0)
    assert best["difference_at_best_g"] == -300.0


def test_all_machines_of_a_project_are_in_its_best_hour():
    factors = [of_project(cpu_power_source=f"CPU {number}") for number in (1, 2)]
    (best,) = best_hours(what_if_hours(HOURS), factors)
    assert (best["facility_energy_kwh"], best["emissions_g"]) == (4.0, 1000.0)


def test_what_a_project_ran_by_a_fallback_is_not_in_its_best_hour():
    fallback = of_project(carbon_intensity_source="an average")
    assert best_hours(what_if_hours(HOURS), [fallback]) == []
    assert len(best_hours(what_if_hours(HOURS), [of_project(), fallback])) == 1


@pytest.mark.parametrize("hours", [None, [], [hour(3, 253.0, 1.0)]])
def test_without_hours_no_project_has_a_best_one(hours):
    assert best_hours(what_if_hours(hours), [of_project()]) == []


@pytest.mark.parametrize("name", ["pue", "energy_kwh", "carbon_intensity_g_per_kwh"])
def test_a_project_whose_emissions_are_not_known_has_no_best_hour(name):
    assert best_hours(what_if_hours(HOURS), [of_project(**{name: None})]) == []


def test_an_hour_without_records_is_not_known():
    (region,) = what_if_hours(HOURS)["regions"]
    assert region["hours"][4]["emissions_g"] is None
    assert region["hours_known"] == 2


def test_a_yearly_average_has_no_hours():
    result = what_if_hours([hour(3, 253.0, 1.0), hour(4, 253.0, 1.0)])
    assert (result["known"], result["reason"], result["regions"]) == (False, YEARLY, [])


def test_a_region_and_another_source_of_it_are_told_apart():
    fallback = [hour(n, 250.0, 1.0, carbon_intensity_source="an average") for n in (3, 5)]
    (region,) = what_if_hours([*HOURS, *fallback])["regions"]
    assert region["carbon_intensity_source"] == "a grid's own figures"
    assert (region["hours_known"], region["facility_energy_kwh"]) == (2, 5.0)


def test_regions_are_told_apart():
    elsewhere = [replace(item, region="swedencentral") for item in HOURS]
    regions = what_if_hours([*HOURS, *elsewhere])["regions"]
    assert [region["region"] for region in regions] == ["swedencentral", "westeurope"]


def test_one_hour_alone_has_no_other():
    varying = hour(3, 200.0, 1.0, carbon_intensity_least_g_per_kwh=100.0)
    assert what_if_hours([varying])["reason"] == ONE_HOUR


def test_intensities_that_were_not_looked_at_say_nothing():
    assert what_if_hours(None)["reason"] == NOT_ASKED


def test_hours_that_are_none_are_left_out():
    odd = [hour(number, 1.0, 1.0) for number in (24, -1)]
    assert what_if_hours([*HOURS, *odd]) == what_if_hours(HOURS)
