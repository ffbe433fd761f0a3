"""Totals per project: sums, missing amounts, selection."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.report.selection import Selection
from tests.report.records import record
from tests.report.reported import reported


def test_energies_and_emissions_add_up_per_project():
    totals = reported([record("1"), record("2"), record("3", project="other")]).projects
    assert [(item.project, item.energy_kwh, item.emissions_g) for item in totals] == [
        ("demo", 2.0, 600.0),
        ("other", 1.0, 300.0),
    ]


def test_the_project_with_most_emissions_comes_first():
    totals = reported([record("1"), record("2", project="big", emissions_g=9e9)]).projects
    assert totals[0].project == "big"


def test_what_no_record_knows_stays_unknown():
    (totals,) = reported([record("1", gpu_energy_kwh=None)]).projects
    assert totals.gpu_energy_kwh is None


def test_records_without_emissions_are_counted():
    (totals,) = reported([record("1"), record("2", emissions_g=None)]).projects
    assert (totals.records, totals.records_without_emissions) == (2, 1)


def test_a_start_record_counts_its_run_but_no_window():
    (totals,) = reported([record("0", event="start", energy_kwh=None)]).projects
    assert (totals.runs, totals.pods, totals.records, totals.energy_kwh) == (1, 1, 0, None)


def test_the_mean_intensity_is_weighted_by_energy():
    records = [
        record("1", facility_energy_kwh=1.0, emissions_g=100.0),
        record("2", facility_energy_kwh=3.0, emissions_g=900.0),
    ]
    (totals,) = reported(records).projects
    assert totals.carbon_intensity_g_per_kwh == 250.0


def test_energy_is_split_by_quality_and_level():
    records = [record("1"), record("2", quality="measured", carbon_intensity_level=None)]
    (totals,) = reported(records).projects
    assert (totals.energy_measured_kwh, totals.energy_estimated_kwh) == (1.0, 1.0)
    assert (totals.energy_zone_kwh, totals.energy_set_kwh) == (1.0, 1.0)


def test_only_the_projects_asked_for_are_added_up():
    totals = reported(
        [record("1"), record("2", project="other")], Selection(frozenset({"other"}))
    ).projects
    assert [item.project for item in totals] == ["other"]


def test_since_is_included_and_until_is_not():
    selection = Selection(since="2026-11-22T08:00:00.000Z", until="2026-11-22T08:00:15.000Z")
    later = record("2", window_start="2026-11-22T08:00:15.000Z")
    (totals,) = reported([record("1"), later], selection).projects
    assert totals.records == 1


amount = st.none() | st.floats(0, 1e6)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.sampled_from("abc"), amount), max_size=20))
def test_nothing_is_lost_between_records_and_totals(rows):
    records = [record(str(n), project=p, energy_kwh=e) for n, (p, e) in enumerate(rows)]
    totals = reported(records).projects
    assert sum(item.records for item in totals) == len(rows)
    known = sum(e for _, e in rows if e is not None)
    assert sum(item.energy_kwh or 0 for item in totals) == pytest.approx(known)
