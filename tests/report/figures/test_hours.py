"""What another hour would have come to: only where an intensity varies with time."""

import pytest

from sidecar.report.figures.hours import MIXED, NOT_ASKED, YEARLY, what_if_hours
from sidecar.report.figures.inputs import FactorUse
from tests.report.figures.rows import row

VARYING = FactorUse(
    project="demo",
    region="westeurope",
    carbon_intensity_least_g_per_kwh=100.0,
    carbon_intensity_greatest_g_per_kwh=400.0,
    carbon_intensity_source="a grid's own figures",
    carbon_intensity_level="zone",
)
YEARLY_AVERAGE = FactorUse(
    project="demo",
    region="westeurope",
    carbon_intensity_least_g_per_kwh=253.0,
    carbon_intensity_greatest_g_per_kwh=253.0,
)


def cell(hour, intensity, duration_s, energy_kwh, weekday=0):
    return row(
        {"project": "demo", "weekday": weekday, "hour": hour},
        carbon_intensity_time_weighted_g_per_kwh=intensity,
        duration_s=duration_s,
        facility_energy_kwh=energy_kwh,
        emissions_g=intensity * energy_kwh,
    )


CELLS = [
    cell(3, 100.0, 3600.0, 2.0),
    cell(18, 300.0, 3600.0, 2.0),
    cell(18, 400.0, 10800.0, 1.0, weekday=1),
]


def test_an_hours_intensity_is_the_mean_weighted_by_time():
    (region,) = what_if_hours(CELLS, [VARYING])["regions"]
    # (300 · 1 h + 400 · 3 h) / 4 h
    assert region["hours"][18]["carbon_intensity_g_per_kwh"] == pytest.approx(375.0)


def test_all_energy_at_another_hour_by_hand():
    (region,) = what_if_hours(CELLS, [VARYING])["regions"]
    # 5 kWh caused 200 + 600 + 400 g; at 03 h they would have caused 500 g
    assert region["emissions_g"] == 1200.0
    assert (region["best_hour"], region["difference_at_best_g"]) == (3, -700.0)
    assert region["hours"][18]["difference_g"] == pytest.approx(5 * 375.0 - 1200.0)


def test_an_hour_without_records_is_not_known():
    (region,) = what_if_hours(CELLS, [VARYING])["regions"]
    assert region["hours"][4]["emissions_g"] is None
    assert region["hours_known"] == 2


def test_a_yearly_average_has_no_hours():
    result = what_if_hours(CELLS, [YEARLY_AVERAGE])
    assert (result["known"], result["reason"], result["regions"]) == (False, YEARLY, [])


def test_two_regions_are_not_taken_for_two_hours():
    elsewhere = FactorUse(project="demo", region="swedencentral")
    assert what_if_hours(CELLS, [VARYING, elsewhere])["reason"] == MIXED


def test_a_fallback_is_not_taken_for_another_hour():
    fallback = FactorUse(
        project="demo",
        region="westeurope",
        carbon_intensity_source="a yearly average",
        carbon_intensity_level="country",
    )
    assert what_if_hours(CELLS, [VARYING, fallback])["reason"] == MIXED


def test_factors_that_were_not_looked_at_say_nothing():
    assert what_if_hours(CELLS, None)["reason"] == NOT_ASKED


def test_hours_that_are_none_are_left_out():
    odd = [row({"project": "demo", "weekday": 0, "hour": hour}) for hour in (24, -1, None, "3")]
    assert what_if_hours([*CELLS, *odd], [VARYING]) == what_if_hours(CELLS, [VARYING])
