"""SCI = (E · I + M) per R, and what was reserved and idle, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.report.figures.idle import reserved_idle
from sidecar.report.figures.sci import sci
from tests.report.figures.rows import measures


def test_the_sci_of_a_run_is_operational_plus_embodied_per_run():
    row = sci(measures(runs=2, emissions_g=300.0, embodied_g=20.0))
    assert (row["total_g"], row["per_run_g"]) == (320.0, 160.0)


def test_the_sci_of_a_gpu_hour_is_per_gpu_hour():
    assert (
        sci(measures(emissions_g=300.0, embodied_g=20.0, gpu_hours=4.0))["per_gpu_hour_g"] == 80.0
    )


def test_the_bounds_take_embodied_at_half_and_double():
    row = sci(measures(runs=1, emissions_low_g=200.0, emissions_high_g=400.0, embodied_g=20.0))
    assert (row["per_run_low_g"], row["per_run_high_g"]) == (210.0, 440.0)


def test_the_terms_multiply_to_the_operational_part():
    row = sci(measures(facility_energy_kwh=1.14, emissions_g=288.42))
    assert row["energy_kwh"] * row["carbon_intensity_g_per_kwh"] == pytest.approx(288.42)


def test_without_embodied_emissions_only_the_operational_part_is_known():
    row = sci(measures(runs=2, emissions_g=300.0, embodied_g=None))
    assert (row["per_run_g"], row["operational_per_run_g"]) == (None, 150.0)
    assert not row["is_complete"]


def test_energy_without_emissions_does_not_thin_the_intensity():
    row = sci(
        measures(facility_energy_kwh=2.0, facility_energy_with_emissions_kwh=1.0, emissions_g=250.0)
    )
    assert (row["energy_kwh"], row["carbon_intensity_g_per_kwh"]) == (1.0, 250.0)


def test_what_names_no_run_is_in_no_rate_per_run():
    row = sci(
        measures(runs=2, emissions_g=300.0, emissions_of_runs_g=200.0, embodied_of_runs_g=10.0)
    )
    assert (row["per_run_g"], row["operational_per_run_g"]) == (105.0, 100.0)


def test_jobs_without_gpus_are_in_no_rate_per_gpu_hour():
    row = sci(measures(gpu_hours=4.0, emissions_of_gpus_g=100.0, embodied_of_gpus_g=20.0))
    assert row["per_gpu_hour_g"] == 30.0


def test_embodied_emissions_known_in_part_make_it_incomplete():
    assert sci(measures())["is_complete"]
    assert not sci(measures(records_without_embodied=1))["is_complete"]


def test_without_bounds_there_are_none():
    row = sci(measures(emissions_low_g=None, emissions_high_g=None))
    assert (row["total_low_g"], row["per_run_high_g"]) == (None, None)


def test_records_without_emissions_make_it_incomplete():
    assert not sci(measures(records_without_emissions=1))["is_complete"]


def test_without_runs_or_gpus_there_is_no_rate():
    row = sci(measures(runs=0, gpu_hours=0.0))
    assert (row["per_run_g"], row["per_gpu_hour_g"]) == (None, None)


def test_idle_energy_and_what_it_comes_to():
    row = reserved_idle(
        measures(
            energy_kwh=2.0,
            cpu_reserved_idle_energy_kwh=0.1,
            gpu_reserved_idle_energy_kwh=0.4,
            gpu_energy_kwh=1.6,
            gpu_hours=8.0,
            emissions_g=400.0,
            facility_energy_kwh=2.4,
        )
    )
    assert row["energy_kwh"] == 0.5
    assert row["share"] == 0.25
    assert row["emissions_g"] == 100.0
    assert row["facility_energy_kwh"] == pytest.approx(0.6)
    assert row["gpu_hours_equivalent"] == 2.0


def test_idle_that_nobody_measured_is_not_known():
    row = reserved_idle(
        measures(cpu_reserved_idle_energy_kwh=None, gpu_reserved_idle_energy_kwh=None)
    )
    assert (row["energy_kwh"], row["share"], row["emissions_g"]) == (None, None, None)


amount = st.none() | st.floats(0, 1e12)


@given(amount, amount, st.integers(0, 10**6), amount)
def test_the_sci_is_never_less_than_its_operational_part(emissions_g, embodied_g, runs, gpu_hours):
    row = sci(
        measures(emissions_g=emissions_g, embodied_g=embodied_g, runs=runs, gpu_hours=gpu_hours)
    )
    for unit in ("run", "gpu_hour"):
        whole, part = row[f"per_{unit}_g"], row[f"operational_per_{unit}_g"]
        assert whole is None or whole >= part
