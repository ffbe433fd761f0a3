"""The cube that the page filters sums to what the report says, however coarse it had to be."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.report.page.cube import CUBE_BYTES_MAX, compact_cube, short
from tests.report.page.conftest import many_projects_model
from tests.report.page.realistic import Scale, realistic_model

AMOUNTS = st.none() | st.floats(min_value=0, max_value=1e9)
DAYS = st.sampled_from([None, "2026-01-30", "2026-01-31", "2026-02-01"])


def cube_of(model, most=400):
    return compact_cube(model, model["projects"], most)


def column(cube, name, **where):
    mapping = cube.mapping
    chosen = [
        place
        for place in range(len(mapping["project"]))
        if all(mapping[key][place] == value for key, value in where.items())
    ]
    known = [mapping[name][place] for place in chosen if mapping[name][place] is not None]
    return sum(known) if known else None


def test_the_cube_of_a_lab_has_every_day_of_every_project():
    model = realistic_model()
    cube = cube_of(model)
    assert (cube.period, cube.named) == ("day", None)
    for place, row in enumerate(model["projects"]):
        sums = column(cube, "emissions_g", project=place)
        assert sums == pytest.approx(row["emissions_g"], rel=1e-4)


@pytest.mark.parametrize("name", ["emissions_g", "energy_kwh"])
def test_the_cube_of_a_region_is_what_the_report_says_of_it(name):
    model = realistic_model(Scale(projects=2, days=10, runs=24, regions=2))
    cube = cube_of(model)
    assert any(len(row["regions"]) == 2 for row in model["projects"])
    for row in model["regions"]:
        place = cube.regions.index(row["region"])
        assert column(cube, name, region=place) == pytest.approx(row[name], rel=1e-4)


def test_ten_thousand_projects_become_the_largest_and_the_rest_and_sum_to_the_total():
    model = many_projects_model(10_000)
    cube = cube_of(model)
    assert cube.named == 25
    assert len(json.dumps(cube.mapping, separators=(",", ":"))) <= CUBE_BYTES_MAX
    assert column(cube, "emissions_g") == pytest.approx(model["total"]["emissions_g"], rel=1e-3)


def test_projects_that_have_no_cells_of_their_own_are_not_named():
    rows = [[0, "2026-01-01", "a", 1.0], [None, "2026-01-01", "a", 2.0]]
    cells = {"columns": ["project", "day", "region", "energy_kwh"], "told_apart": 1, "rows": rows}
    cube = cube_of({"projects": [{"project": "p"}, {"project": "q"}], "project_day_regions": cells})
    assert cube.named == 1
    assert cube.mapping["project"] == [0, 1]
    assert cube.mapping["energy_kwh"] == [1, 2]


def test_what_no_record_knew_stays_unknown():
    rows = [{"project": "p", "day": "2026-01-01", "energy_kwh": 1.0, "emissions_g": None}] * 2
    cube = cube_of({"projects": [{"project": "p"}], "project_day_regions": rows})
    assert cube.mapping["emissions_g"] == [None]
    assert cube.mapping["energy_kwh"] == [2]


@pytest.mark.parametrize("day", [None, "", "2026-1-1", "yesterday!", 20260101, "2026-01-01T00"])
def test_what_has_no_day_is_kept_without_one(day):
    rows = [{"project": "p", "day": day, "energy_kwh": 1.0}]
    cube = cube_of({"projects": [{"project": "p"}], "project_day_regions": rows})
    assert cube.mapping["periods"] == [""]
    assert cube.mapping["energy_kwh"] == [1]


@given(
    st.lists(st.tuples(st.integers(0, 4) | st.none(), DAYS, AMOUNTS), max_size=30),
    st.integers(min_value=0, max_value=6),
)
def test_nothing_is_lost_however_few_projects_are_named(cells, most):
    projects = [{"project": f"p{number}"} for number in range(5)]
    rows = [{"project": place, "day": day, "energy_kwh": kwh} for place, day, kwh in cells]
    cube = cube_of({"projects": projects, "project_day_regions": rows}, most)
    known = [kwh for _, _, kwh in cells if kwh is not None]
    found = column(cube, "energy_kwh")
    assert found == (pytest.approx(sum(known), rel=1e-4) if known else None)
    others = max(cube.mapping["project"], default=0)
    assert others <= min(most, 5)


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e24, max_value=1e24))
def test_five_figures_are_kept(value):
    assert short(value) == pytest.approx(value, rel=5.1e-5)
