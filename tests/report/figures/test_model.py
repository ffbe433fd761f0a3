"""The whole document: its parts, its bounds, and what a reader may rely on."""

import json
import math
from datetime import datetime
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.estimate import embodied
from sidecar.report.balance import Balance
from sidecar.report.figures import model as module
from sidecar.report.figures.budget import Budget
from sidecar.report.figures.descriptions import DOCUMENT_KEYS
from sidecar.report.figures.inputs import FactorUse, ReadFacts, RunFacts
from sidecar.report.figures.model import report_model
from sidecar.report.measures import Measures, Row
from sidecar.report.selection import Selection
from tests.report.figures.rows import CATALOGUE, day, inputs, report_of, row

HOSTILE = [
    "<script>alert(1)</script>",
    "=cmd()",
    "../../etc/passwd",
    "a\u202eb",
    "\ud800",
    "",
    "\0",
]


def numbers(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item)
    else:
        assert value is None or isinstance(value, str | int | float | bool), value
        yield value


def test_an_empty_report_has_all_its_parts():
    model = report_model(inputs())
    assert list(model) == list(DOCUMENT_KEYS)
    assert (model["projects"], model["total"]["emissions_g"]) == ([], None)
    assert len(model["map"]) == len(tuple(CATALOGUE.regions()))


def test_a_report_of_one_run_has_its_figures():
    model = report_model(inputs(report_of()))
    (project,), (run,) = model["projects"], model["runs"]
    assert (project["slug"], project["emissions_share"]) == ("demo", 1.0)
    assert (run["run"], run["project_slug"]) == ("run of demo", "demo")
    assert run["sci"]["per_run_g"] == pytest.approx((288.42 + 20) / 2)
    assert [item["region"] for item in project["regions"]] == ["westeurope"]
    assert project["best_region"]["same_geography"]["region"] == "swedencentral"
    assert model["hours"][0] | {"weekday": 1, "hour": 8} == model["hours"][0]


def test_what_readers_of_schema_1_read_is_where_it_was():
    model = report_model(
        inputs(report_of(), read=ReadFacts(files=3, records=4, duplicates=1, left_out={"torn": 2}))
    )
    (project,) = model["projects"]
    assert {"project", "window_start", "records", "energy_kwh", "emissions_g", "factors"} <= set(
        project
    )
    assert project["energy_kwh_by_quality"] == {"estimated": 1.0}
    assert project["energy_kwh_by_carbon_intensity_level"] == {"zone": 1.0}
    assert (model["files"], model["records"], model["duplicates"], model["left_out"]) == (
        3,
        4,
        1,
        {"torn": 2},
    )


def test_the_factors_of_a_project_name_their_sources_once():
    factors = [
        FactorUse("demo", "westeurope", carbon_intensity_source="a map", energy_kwh=0.25),
        FactorUse("demo", "westeurope", carbon_intensity_source="a map", energy_kwh=0.5),
        FactorUse("other", None, carbon_intensity_source="another", pue_source="setting pue"),
    ]
    model = report_model(inputs(report_of(), factors=factors))
    texts = {item["number"]: item["source"] for item in model["factors"]}
    assert len(set(texts.values())) <= len(texts)
    used = [
        (item["factor"], texts[item["source"]], item["energy_kwh"])
        for item in model["factors_used"]
    ]
    assert used == [
        ("carbon_intensity", "a map", 0.75),
        ("carbon_intensity", "another", 0.0),
        ("embodied", embodied.SOURCE, 1.0),
        ("pue", "setting pue", 0.0),
    ]
    assert [item["energy_kwh"] for item in model["projects"][0]["factors"]] == [0.25, 0.5]


def test_a_run_names_the_sources_that_all_its_records_agree_on():
    known = RunFacts(
        region="westeurope",
        carbon_intensity_source="a map",
        carbon_intensity_year=2025,
        pue_source="a table",
    )
    model = report_model(inputs(report_of(), runs={("demo", "run of demo"): known}))
    (run,) = model["runs"]
    texts = {item["number"]: (item["source"], item["year"]) for item in model["factors"]}
    assert {name: texts.get(n) for name, n in run["sources"].items()} == {
        "carbon_intensity": ("a map", 2025),
        "pue": ("a table", None),
        "cpu_power": None,
    }
    assert "pue_source" not in run


def test_a_pue_without_a_source_is_known():
    factors = [FactorUse("demo", pue=1.0, energy_kwh=3.0), FactorUse("demo", energy_kwh=1.0)]
    model = report_model(inputs(report_of(), factors=factors))
    assert model["coverage"]["energy_with_pue_share"] == 0.75


def test_every_number_of_a_source_is_told():
    model = report_model(inputs(report_of()))
    told = {item["number"] for item in model["factors"]}
    assert told == set(range(1, len(told) + 1))
    cited = {item["carbon_intensity_source"] for item in model["map"]} - {None}
    assert cited <= told
    assert {item["emissions_source"] for item in model["equivalents"]} <= told


def test_the_map_shows_what_was_used_where():
    model = report_model(inputs(report_of()))
    used = {item["region"]: item["energy_kwh"] for item in model["map"] if item["energy_kwh"]}
    assert used == {"westeurope": 1.0}
    places = {item["region"]: item for item in model["map"]}
    assert places["westeurope"]["carbon_intensity_g_per_kwh"] == 253
    assert places["westeurope"]["carbon_intensity_year"] == 2025
    assert places["southwestus"]["carbon_intensity_g_per_kwh"] is None


def test_a_budget_of_the_settings_wins_over_that_of_an_annotation():
    given_inputs = inputs(
        report_of(), budgets={"demo": Budget(5.0)}, annotated_budgets={"demo": "7 kg"}
    )
    budget = report_model(given_inputs)["projects"][0]["budget"]
    assert (budget["budget_g"], budget["source"]) == (5.0, "setting")


def test_a_budget_of_an_annotation_is_used_without_one():
    budget = report_model(inputs(report_of(), annotated_budgets={"demo": "7 kg"}))
    row = budget["projects"][0]["budget"]
    assert (row["budget_g"], row["source"], row["used_g"]) == (7000.0, "annotation", 288.42)


@pytest.mark.parametrize(
    ("projects", "named"), [((), ["dmeo"]), (("demo",), []), (("demo", "dmeo"), ["dmeo"])]
)
def test_a_budget_of_a_project_without_records_is_told(projects, named):
    given_inputs = inputs(
        report_of(),
        budgets={"demo": Budget(5.0), "dmeo": Budget(5.0)},
        selection=Selection(frozenset(projects)),
    )
    assert report_model(given_inputs)["coverage"]["budgets_without_records"] == named


def test_an_annotation_that_is_no_budget_is_told():
    model = report_model(inputs(report_of(), annotated_budgets={"demo": "<script>"}))
    budget = model["projects"][0]["budget"]
    assert (budget["status"], "is no budget" in budget["reason"]) == ("unknown", True)


def test_a_project_without_a_budget_has_none():
    assert report_model(inputs(report_of()))["projects"][0]["budget"] is None


def test_a_selection_that_ends_before_now_is_reported_as_of_its_end():
    selection = Selection(until="2026-10-16T00:00:00.000Z", since="2026-10-05T12:00:00.000Z")
    tables = report_of() | {"project_days": (day("2026-10-08", 100.0, project="demo"),)}
    model = report_model(inputs(tables, selection=selection, budgets={"demo": Budget(1e6)}))
    budget = model["projects"][0]["budget"]
    assert (budget["month"], budget["used_g"], budget["is_whole"]) == ("2026-10", 100.0, False)
    assert model["selection"]["until"] == "2026-10-16T00:00:00.000Z"


def test_nodes_that_were_not_looked_at_have_no_balance():
    assert report_model(inputs())["balance"] is None


def test_the_balance_tells_the_share_that_nobody_used():
    node = Balance("n", 0.0, 60.0, node_energy_kwh=4.0, pods_energy_kwh=3.0)
    node.unallocated_energy_kwh["gpu"] = 1.0
    balance = report_model(inputs(nodes=[node]))["balance"]
    assert (balance["unallocated_energy_kwh"], balance["unallocated_share"]) == (1.0, 0.25)


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="no time zone"):
        report_model(inputs(now=datetime(2026, 11, 12)))  # noqa: DTZ001


def test_a_moment_elsewhere_is_told_in_utc():
    moment = datetime.fromisoformat("2026-11-01T01:30:00+02:00")
    assert report_model(inputs(now=moment))["generated_at"] == "2026-10-31T23:30:00Z"


def test_rows_beyond_the_bound_are_left_out_and_counted(monkeypatch):
    monkeypatch.setattr(module, "ROWS_MAX", 2)
    names = [f"p{number}" for number in range(5)]
    tables = {"projects": tuple(row({"project": name}) for name in names)}
    model = report_model(inputs(tables))
    assert [project["project"] for project in model["projects"]] == ["p0", "p1"]
    assert model["rows_left_out"]["projects"] == 3
    assert model["total"]["projects"] == 5


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_a_name_and_nothing_else(name):
    model = report_model(inputs(report_of(name), annotated_budgets={name: name}))
    (project,) = model["projects"]
    assert project["project"] == name
    assert project["slug"].strip("abcdefghijklmnopqrstuvwxyz0123456789-") == ""


def test_two_hundred_times_as_many_projects_take_no_square_of_the_time():
    # Counted, not timed: what is looked at grows with the rows.
    looked = 0

    class Counting(dict):
        def get(self, key, default=None):
            nonlocal looked
            looked += 1
            return super().get(key, default)

    def count(projects):
        nonlocal looked
        looked = 0
        names = [f"p{number}" for number in range(projects)]
        tables = {
            "projects": [Row(Counting(project=name), Measures()) for name in names],
            "project_days": [
                Row(Counting(project=name, day="2026-11-02"), Measures()) for name in names
            ],
        }
        report_model(inputs(tables))
        return looked

    assert count(400) <= 11 * count(40)


def test_of_ten_thousand_projects_the_largest_are_told_and_those_with_a_budget():
    names = [f"p{number}" for number in range(10_000)]
    tables = {
        "total": (row(),),
        "projects": tuple(row({"project": name}) for name in names),
        "project_regions": tuple(row({"project": name, "region": "westeurope"}) for name in names),
    }
    budgets = {"p9000": Budget(1e3), "p1": Budget(1e3), "elsewhere": Budget(1e3)}
    model = report_model(inputs(tables, budgets=budgets))
    told = [project["project"] for project in model["projects"]]
    assert told == [*names[:1000], "p9000"]
    assert model["rows_left_out"]["projects"] == 8_999
    assert model["total"]["projects"] == 10_000


amounts = st.none() | st.floats(allow_nan=True, allow_infinity=True)
counts = st.integers(0, 2**63)
FIELDS = get_type_hints(Measures)
any_measures = st.fixed_dictionaries(
    {
        name: counts if kind is int else st.floats() if kind is float else amounts
        for name, kind in FIELDS.items()
        if kind != str | None
    }
).map(lambda known: Measures(**known))
names = st.text(st.characters(), max_size=20)


@given(st.lists(any_measures, min_size=1, max_size=3), names)
def test_whatever_records_say_the_document_is_json_without_nan(found, name):
    keys = {
        "total": {},
        "projects": {"project": name},
        "runs": {"project": name, "run": name},
        "regions": {"region": "westeurope"},
        "project_regions": {"project": name, "region": "swedencentral"},
        "days": {"day": "2026-11-02"},
        "project_days": {"project": name, "day": "2026-11-02"},
        "project_hours": {"project": name, "weekday": 0, "hour": 3},
    }
    tables = {table: tuple(Row(key, item) for item in found) for table, key in keys.items()}
    varying = FactorUse(
        name, "westeurope", carbon_intensity_least_g_per_kwh=1.0,
        carbon_intensity_greatest_g_per_kwh=9.0,
    )  # fmt: skip
    model = report_model(inputs(tables, budgets={name: Budget(1e3)}, factors=[varying]))
    json.dumps(model, allow_nan=False)
    assert all(math.isfinite(item) for item in numbers(model) if isinstance(item, float))


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=20))
def test_the_shares_of_all_projects_sum_to_one(grams):
    tables = {
        "total": (row(emissions_g=sum(grams)),),
        "projects": tuple(
            row({"project": str(number)}, emissions_g=amount) for number, amount in enumerate(grams)
        ),
    }
    shares = [project["emissions_share"] for project in report_model(inputs(tables))["projects"]]
    assert sum(grams) == 0 or sum(shares) == pytest.approx(1)


def test_the_same_inputs_give_the_same_bytes():
    def text():
        return json.dumps(report_model(inputs(report_of())))

    assert text() == text()
