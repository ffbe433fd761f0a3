"""Cells of projects, days and regions: bounded, and still the whole."""

import math

from hypothesis import given
from hypothesis import strategies as st

from sidecar.report.figures.cells import cells
from sidecar.report.figures.model import report_model
from sidecar.report.measures import CELL_COLUMNS, Measures, Row
from sidecar.report.tables import Tables
from tests.report.figures.rows import inputs, report_of

KEYS = ("day", "region")


def cell(project, day, region="westeurope", **amounts):
    return Row({"project": project, "day": day, "region": region}, Measures(**amounts))


def told(rows, projects, most=40_000):
    return cells(Tables({"project_day_regions": rows}), "project_day_regions", KEYS, projects, most)


def of(table):
    """{(project, day, region): {measure: amount}}"""
    names = table["columns"][3:]
    return {tuple(row[:3]): dict(zip(names, row[3:], strict=True)) for row in table["rows"]}


def test_emissions_of_a_region_are_its_own_and_not_shared_out_by_energy():
    rows = [
        cell("a", "2026-11-01", "francecentral", energy_kwh=1.0, emissions_g=20.0),
        cell("a", "2026-11-01", "polandcentral", energy_kwh=1.0, emissions_g=700.0),
    ]
    found = of(told(rows, ["a"]))
    assert found[0, "2026-11-01", "francecentral"]["emissions_g"] == 20.0
    assert found[0, "2026-11-01", "polandcentral"]["emissions_g"] == 700.0


def test_projects_without_room_are_one_row_for_each_day_and_region():
    rows = [
        cell(name, day, emissions_g=1.0) for name in "abc" for day in ("2026-11-02", "2026-11-01")
    ]
    table = told(rows, ["a", "b", "c"], most=3)
    found = of(table)
    assert table["told_apart"] == 1
    assert [key[:2] for key in found] == [
        (0, "2026-11-01"),
        (0, "2026-11-02"),
        (None, "2026-11-01"),
        (None, "2026-11-02"),
    ]
    assert found[None, "2026-11-01", "westeurope"]["emissions_g"] == 2.0


def test_a_project_that_is_not_listed_is_among_the_others():
    found = of(told([cell("z", "2026-11-01", emissions_g=1.0)], ["a"]))
    assert list(found) == [(None, "2026-11-01", "westeurope")]


def test_records_without_a_time_or_a_region_have_their_cell():
    assert list(of(told([cell("a", None, None, energy_kwh=1.0)], ["a"]))) == [(0, None, None)]


def test_what_no_record_knows_stays_unknown():
    found = of(told([cell(name, "2026-11-01") for name in "ab"], []))
    assert found[None, "2026-11-01", "westeurope"]["emissions_g"] is None


amounts = st.none() | st.floats(0, 1e6)
measured = st.fixed_dictionaries(dict.fromkeys(CELL_COLUMNS[:-3], amounts))
days = st.sampled_from([None, "2026-11-01", "2026-11-02"])
fleets = st.dictionaries(
    st.tuples(st.sampled_from("abcdef"), days, st.sampled_from([None, "x", "y"])), measured
)


@given(fleets, st.integers(0, 12), st.integers(0, 6))
def test_the_cells_sum_to_the_whole_whatever_room_there_is(fleet, most, listed):
    rows = [cell(*keys, **known) for keys, known in fleet.items()]
    table = told(rows, list("abcdef")[:listed], most)
    for name in set(CELL_COLUMNS[:-3]) - {"emissions_low_g", "emissions_high_g"}:
        known = [item[name] for item in fleet.values() if item[name] is not None]
        found = [item[name] for item in of(table).values() if item[name] is not None]
        assert math.isclose(sum(found), sum(known), rel_tol=1e-9)
    assert sum(row[0] is not None for row in table["rows"]) <= most


def test_the_document_has_cells_of_days_and_of_hours():
    model = report_model(inputs(report_of()))
    for name in ("project_day_regions", "project_hours"):
        table = model[name]
        place = table["columns"].index("emissions_g")
        assert sum(row[place] for row in table["rows"]) == model["total"]["emissions_g"]
        assert table["told_apart"] == 1
