import json
import re
from copy import deepcopy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.report.figures.details import ProjectDetails
from sidecar.report.page import write_pages
from sidecar.report.page.render import embedded_json
from sidecar.report.page.site import PROJECT_PAGES_MAX, RUN_PAGES_MAX
from tests.report.page.conftest import many_projects_model, write
from tests.report.page.realistic import Scale, realistic_model

LARGEST_PAGE = 1_500_000
SMALL = Scale(projects=3, days=5, runs=6, regions=2)


def html_of(path):
    """Return a page with ordinary spaces."""
    return path.read_text().replace("\u00a0", " ")


def embedded(path):
    html = path.read_text()
    match = re.search(
        r'<script type="application/json" id="report">(.*?)</script>', html, re.DOTALL
    )
    return json.loads(match[1])


def rows_of(table):
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def summed(rows, name="emissions_g"):
    return sum(row[name] or 0.0 for row in rows)


def test_there_is_a_page_for_all_one_per_project_and_one_per_run(report):
    assert (report.directory / "index.html").is_file()
    assert len(list((report.directory / "projects").iterdir())) == 12
    assert len(list((report.directory / "runs").iterdir())) == 300


def test_no_page_is_too_large(report):
    sizes = [path.stat().st_size for path in report.directory.rglob("*.html")]
    assert max(sizes) < LARGEST_PAGE


def test_with_ten_thousand_projects_no_page_is_too_large(many_projects):
    sizes = [path.stat().st_size for path in many_projects.directory.rglob("*.html")]
    assert len(sizes) == 1 + PROJECT_PAGES_MAX + RUN_PAGES_MAX
    assert max(sizes) < LARGEST_PAGE


def test_the_projects_that_are_not_listed_are_summed_up(many_projects):
    found = embedded(many_projects.directory / "index.html")
    listed = len(found["projects"]["rows"])
    assert listed > 500
    assert found["others"]["name"] == f"{10_000 - listed:,} other projects"
    expected = (10_000 - listed) * 90 * 123.456
    assert found["others"]["emissions_g"] == pytest.approx(expected, rel=1e-4)
    page = html_of(many_projects.directory / "index.html")
    assert f"The {listed:,} largest of 10,000 projects are listed" in page


def test_pages_that_only_the_largest_have_are_told(many_projects):
    page = html_of(many_projects.directory / "index.html")
    assert f"The {PROJECT_PAGES_MAX:,} largest have a page of their own." in page
    assert f"The {RUN_PAGES_MAX:,} largest have a page of their own." in page


@pytest.mark.parametrize("many", [False, True], ids=["lab", "ten thousand projects"])
@pytest.mark.parametrize("name", ["emissions_g", "energy_kwh", "emissions_high_g"])
def test_whatever_the_page_adds_up_comes_to_the_total(report, many_projects, many, name):
    made = many_projects if many else report
    found, whole = embedded(made.directory / "index.html"), made.model["total"][name]
    others = [found["others"]] if found["others"] else []
    for sums in (
        summed(rows_of(found["days"]), name),
        summed(rows_of(found["regions_used"]), name),
        summed(rows_of(found["projects"]), name) + summed(others, name),
        sum(amount or 0.0 for amount in found["cube"][name]),
        found["total"][name],
    ):
        assert sums == pytest.approx(whole, rel=2e-4)


def test_the_regions_of_the_page_are_those_of_the_report(report):
    found = rows_of(embedded(report.directory / "index.html")["regions_used"])
    expected = {row["display_name"]: row["emissions_g"] for row in report.model["regions"]}
    assert {row["name"]: row["emissions_g"] for row in found} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("table", ["days", "regions_used", "runs", "experiments"])
def test_every_table_of_a_project_comes_to_its_total(report, table):
    for row in report.model["projects"]:
        found = embedded(report.directory / "projects" / f"{row['slug']}.html")
        sums = summed(rows_of(found[table]))
        assert sums == pytest.approx(row["emissions_g"], rel=2e-4), row["project"]


def test_the_heat_map_of_a_project_comes_to_its_total(report):
    row = report.model["projects"][0]
    found = embedded(report.directory / "projects" / f"{row['slug']}.html")
    assert summed(found["hours"]) == pytest.approx(row["emissions_g"], rel=2e-4)


@pytest.mark.parametrize("group", ["namespaces", "workloads", "pools", "experiments"])
def test_each_group_comes_to_the_total(report, group):
    found = embedded(report.directory / "index.html")["groups"][group]
    assert summed(rows_of(found)) == pytest.approx(report.model["total"]["emissions_g"], rel=2e-4)


def test_files_that_are_there_are_offered_and_no_others(report):
    page = html_of(report.directory / "index.html")
    found = re.findall(r'<a href="([^"]+)" download>', page)
    assert found == ["runs.csv", "runs.parquet", "summary.json", "boamps.ndjson"]
    run = report.model["runs"][0]["slug"]
    assert f'href="../boamps/{run}.json"' in (report.directory / f"runs/{run}.html").read_text()
    other = report.model["runs"][1]["slug"]
    assert "../boamps/" not in (report.directory / f"runs/{other}.html").read_text()


def test_without_files_there_is_no_section_of_them(tmp_path):
    page = html_of(write(tmp_path, realistic_model(SMALL)).directory / "index.html")
    assert 'id="data"' not in page
    assert 'href="#data"' not in page


def test_the_longest_names_of_the_costliest_characters_fit_too(tmp_path):
    model = many_projects_model(600)
    for place, row in enumerate(model["projects"]):
        row["project"] = f"{place}" + "<" * 300
    for place, row in enumerate(model["runs"]):
        row["run"], row["project"] = f"{place}" + "<" * 300, "\u2028" * 300
    path = write(tmp_path, model).directory / "index.html"
    assert path.stat().st_size < LARGEST_PAGE


def test_the_same_model_gives_the_same_pages(tmp_path):
    model = realistic_model(SMALL)
    first, second = (write(tmp_path / name, model).directory for name in "ab")
    pages = sorted(path.relative_to(first) for path in first.rglob("*.html"))
    assert len(pages) == 10
    for page in pages:
        assert (first / page).read_bytes() == (second / page).read_bytes()


def test_the_model_is_left_as_it_was(tmp_path):
    model = realistic_model(SMALL)
    before = deepcopy(model)
    write_pages(model, tmp_path)
    assert model == before


def test_pages_of_an_earlier_report_go_and_files_of_others_stay(tmp_path):
    write(tmp_path, realistic_model(SMALL))
    gone = next((tmp_path / "projects").iterdir())
    alien = tmp_path / "projects" / "notes.html"
    alien.write_text("<title>mine</title>")
    model = realistic_model(SMALL)
    model["projects"] = [row for row in model["projects"] if f"{row['slug']}.html" != gone.name]
    write(tmp_path, model)
    assert not gone.exists()
    assert alien.exists()


@pytest.mark.parametrize(
    "slug", ["../../evil", "/etc/x", "", "a/b", "..", "con\0", "A b", None, 7, "x" * 400]
)
def test_a_slug_that_is_no_safe_name_is_replaced(tmp_path, slug):
    out = tmp_path / "out"
    written = write_pages({"projects": [{"project": "p", "slug": slug}]}, out)
    assert {path.parent for path in written} == {out, out / "projects"}
    assert all(re.fullmatch(r"[a-z0-9-]+\.html", path.name) for path in written)
    assert list(tmp_path.iterdir()) == [out]


def test_two_projects_of_one_slug_have_a_page_each(tmp_path):
    rows = [{"project": name, "slug": "same"} for name in ("a", "b", "b")]
    assert len(set(write_pages({"projects": rows}, tmp_path))) == 4


def test_only_https_addresses_become_links(tmp_path):
    works = [{"source": "Evil", "url": "javascript:alert(1)", "licence": "none"}]
    factors = [{"number": 1, "source": "Evil: x", "year": 2025, "works": works}]
    write_pages({"factors": factors}, tmp_path)
    page = html_of(tmp_path / "index.html")
    assert "javascript:" not in page
    assert "Evil" in page


@pytest.mark.parametrize("folder", ["projects", "runs"])
def test_pages_of_projects_and_runs_name_the_sources_they_rest_on(report, folder):
    page = next((report.directory / folder).iterdir()).read_text()
    references = set(re.findall(r'href="#source-([0-9]+)"', page))
    assert references
    assert references <= set(re.findall(r'id="source-([0-9]+)"', page))
    assert "Microsoft FY25" in page


def sourced(**changes):
    factors = [
        {"number": n, "source": f"source {n}", "year": 2025 if n < 3 else None} for n in range(1, 6)
    ]
    used = [
        {"region": region, "carbon_intensity_source": f"source {n}", "carbon_intensity_year": 2025}
        | {"pue": 1.1, "pue_source": "source 3", "cpu_power_source": f"source {n + 3}"}
        | {"energy_kwh": 1.0}
        for n, region in ((1, "westeurope"), (2, "swedencentral"))
    ]
    run = {"project": "p", "run": "r", "slug": "r", "emissions_g": 1.0, "energy_kwh": 1.0}
    return {
        "projects": [{"project": "p", "slug": "p", "factors": used}],
        "runs": [run | changes],
        "factors": factors,
        "map": [{"region": "swedencentral", "display_name": "Sweden Central"}],
    }


@pytest.mark.parametrize(
    ("known", "numbers"),
    [
        ({"region": "swedencentral"}, {2, 3, 5}),
        ({"sources": {"carbon_intensity": 2, "pue": 3, "cpu_power": 4}}, {2, 3, 4}),
        ({"region": "swedencentral", "sources": {"cpu_power": 4}}, {2, 3, 4}),
        ({"sources": {"carbon_intensity": 99, "pue": None}}, {1, 2, 3, 4, 5}),
        ({}, {1, 2, 3, 4, 5}),
    ],
)
def test_a_run_cites_its_own_sources_and_not_all_of_its_project(tmp_path, known, numbers):
    page = html_of(write(tmp_path, sourced(**known)).directory / "runs/r.html")
    assert set(map(int, re.findall(r'href="#source-([0-9]+)"', page))) == numbers
    assert set(map(int, re.findall(r'id="source-([0-9]+)"', page))) == numbers


def watered(litres):
    """A page of all, one of a project, and one of a run, with this much water for a kWh."""
    amounts = {"energy_kwh": 1.0, "water_l": litres, "embodied_g": 2.0, "emissions_g": 1.0}
    model = sourced(region="swedencentral", **amounts)
    model["projects"][0] |= amounts | {"regions": [{"region": "swedencentral"} | amounts]}
    model["map"][0] |= {"wue_l_per_kwh": 0.16, "wue_source": 6}
    model["factors"] += [{"number": n, "source": f"source {n}", "year": 2022} for n in (6, 7)]
    return model | {
        "total": amounts,
        "regions": [{"region": "swedencentral"} | amounts],
        "factors_used": [{"factor": "embodied", "source": 7, "energy_kwh": 1.0}],
    }


@pytest.mark.parametrize("name", ["index", "projects/p", "runs/r"])
def test_water_and_embodied_emissions_name_their_sources(tmp_path, name):
    page = html_of(write(tmp_path, watered(0.16)).directory / f"{name}.html")
    assert re.search(r'<dt>Water</dt><dd>0.16 L[^<]*<a class="ref" href="#source-6"', page)
    assert re.search(r'<dt>Embodied[^<]*</dt><dd>[^<]*<a class="ref" href="#source-7"', page)
    assert {"source-6", "source-7"} <= set(re.findall(r'id="(source-[0-9]+)"', page))


@pytest.mark.parametrize("name", ["index", "projects/p", "runs/r"])
def test_water_that_is_not_the_catalogues_names_no_source_of_it(tmp_path, name):
    page = html_of(write(tmp_path, watered(0.3)).directory / f"{name}.html")
    assert 'href="#source-6"' not in page


def test_the_region_of_a_run_is_called_as_everywhere(tmp_path):
    page = html_of(write(tmp_path, sourced(region="swedencentral")).directory / "runs/r.html")
    assert "Sweden Central" in page


@pytest.mark.parametrize("folder", ["projects", "runs"])
def test_every_page_can_be_jumped_through(report, folder):
    page = next((report.directory / folder).iterdir()).read_text()
    linked = re.findall(r'<li><a href="#([a-z]+)"', page)
    assert len(linked) >= 5
    assert set(linked) <= set(re.findall(r'id="([a-z]+)"', page))


def test_no_pue_is_said_where_none_was_applied(tmp_path):
    factors = [{"region": None, "pue": None, "energy_kwh": 2.0}]
    project = {"project": "p", "slug": "p", "facility_energy_kwh": 2.0, "factors": factors}
    page = html_of(write(tmp_path, {"projects": [project]}).directory / "projects/p.html")
    assert "2 kWh: no PUE was applied, the region is not known" in page
    assert "with cooling" not in page


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (1.0, "2.28 kWh with cooling and losses (PUE)"),
        (0.5, "2.28 kWh with cooling and losses (PUE), known for 50 % of the energy"),
        (0.0, "2.28 kWh: no PUE was applied"),
    ],
)
def test_for_how_much_energy_the_pue_is_known_does_not_follow_from_its_sources(
    tmp_path, share, said
):
    model = {
        "total": {"energy_kwh": 2.0, "facility_energy_kwh": 2.28},
        "coverage": {"energy_with_pue_share": share},
        "factors_used": [{"factor": "pue", "source": 1, "energy_kwh": 1.0}],
        "factors": [{"number": 1, "source": "a table", "year": 2025}],
    }
    page = html_of(write(tmp_path, model).directory / "index.html")
    assert said in page
    assert ("known for" in page) == (share == 0.5)


def test_a_region_that_is_not_known_is_told_with_what_to_do(tmp_path):
    total = {"energy_kwh": 2.0, "energy_world_kwh": 1.0}
    page = html_of(write(tmp_path, {"total": total}).directory / "index.html")
    assert "Of 50 % of the energy the region is not known" in page
    assert "EMISSIONS_REGION" in page


def test_a_report_may_have_a_name_and_a_note(tmp_path):
    made = write(tmp_path, realistic_model(SMALL) | {"title": "Lab X", "note": "Made up."})
    for path in made.directory.rglob("*.html"):
        assert '<p class="banner">Made up.</p>' in path.read_text()
    assert "<h1>Lab X</h1>" in html_of(made.directory / "index.html")


def test_a_source_is_named_with_its_year_and_a_link(report):
    page = html_of(report.directory / "index.html")
    assert 'href="https://github.com/thegreenwebfoundation/co2.js"' in page
    assert "zone AU-NSW (2025)" in page


def test_every_reference_leads_to_a_source(report):
    page = html_of(report.directory / "index.html")
    references = set(re.findall(r'href="#(source-[0-9]+)"', page))
    assert references
    assert references <= set(re.findall(r'id="(source-[0-9]+)"', page))


def test_every_section_that_is_linked_is_there(report):
    page = html_of(report.directory / "index.html")
    linked = set(re.findall(r'<li><a href="#([a-z]+)"', page))
    assert len(linked) == 13
    assert linked <= set(re.findall(r'id="([a-z]+)"', page))


def test_what_was_not_looked_up_is_said(tmp_path):
    write_pages({}, tmp_path)
    assert "was not looked up" in html_of(tmp_path / "index.html")


def test_why_pods_were_not_looked_up_is_said(tmp_path):
    write_pages({"coverage": {"pods_failure": "403: <no> rights"}}, tmp_path)
    assert "is not known: 403: &lt;no&gt; rights" in html_of(tmp_path / "index.html")


def test_pods_without_records_are_named_and_what_they_told_is_in_no_sum(report):
    page = html_of(report.directory / "index.html")
    assert "64 pods that asked to be tracked: 61 with all their records, 2 with none" in page
    assert "skipped: Windows pods are not metered" in page
    assert "800 Wh and 155 g CO₂e, between 130 g and 190 g" in page
    assert "It is in none of the sums" in page


def test_silence_is_told(report):
    assert "The last record is 2.5 days old." in html_of(report.directory / "index.html")


def test_a_budget_that_was_not_understood_is_said_with_its_reason(tmp_path):
    budget = {"source": "annotation", "status": "unknown", "reason": "'lots' is no budget"}
    write_pages({"projects": [{"project": "p", "budget": budget}]}, tmp_path)
    page = html_of(tmp_path / "index.html")
    assert "The budget of p is not known: &#39;lots&#39; is no budget." in page


HOUR = {"hour": 3, "carbon_intensity_g_per_kwh": 100.0}
HOUR |= {
    "carbon_intensity_least_g_per_kwh": 90.0,
    "carbon_intensity_greatest_g_per_kwh": 120.0,
}
BEST = {
    "region": "westeurope",
    "best_hour": 3,
    "emissions_g": 500.0,
    "difference_at_best_g": -300.0,
}
SAID = (
    "westeurope: all of it at 03:00 UTC, at a mean of 100 g CO₂e/kWh (90 to 120), would have come to "
    "200 g CO₂e, 300 g less than 500 g."
)


def test_what_another_hour_would_have_come_to_is_said_with_its_intensity(tmp_path):
    what_if = {"known": True, "regions": [BEST | {"hours": [HOUR]}]}
    write_pages({"what_if_hours": what_if}, tmp_path)
    assert SAID in html_of(tmp_path / "index.html")


def test_the_page_of_a_project_says_what_another_hour_would_have_come_to(tmp_path):
    model = {"projects": [{"project": "p", "slug": "p", "best_hours": [BEST | HOUR]}]}
    cells = {"weekday": 0, "hour": 3, "energy_kwh": 1.0}
    details = [ProjectDetails("p", [], [cells], [])]
    write_pages(model, tmp_path, details)
    assert SAID in html_of(tmp_path / "projects" / "p.html")


def test_azures_figures_beside_ours_of_a_part_of_a_month_are_said_to_be(tmp_path):
    row = {"month": "2026-10", "scopes": [2], "azure_kg": 4.0, "ours_kg": 2.0, "factor": 2.0}
    found = {"known": True, "rows": [row | {"is_whole": False}], "left_out": {"no month": 3}}
    write_pages({"reconciliation": found}, tmp_path)
    page = html_of(tmp_path / "index.html")
    assert "factor 2 (shown, not applied); ours are of a part of that month" in page
    assert "3 rows of the export left out: no month." in page


def test_a_budget_of_a_project_without_records_is_said(tmp_path):
    write_pages({"coverage": {"budgets_without_records": ["<dmeo>", 7]}}, tmp_path)
    page = html_of(tmp_path / "index.html")
    assert "A budget was given to &lt;dmeo&gt;, of which there are no records" in page


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_embedded_json_says_the_same_and_cannot_end_its_element(value):
    text = str(embedded_json(value))
    assert json.loads(text) == value or "\ud800" <= max(repr(value)) <= "\udfff"
    assert not set("<>&\u2028\u2029") & set(text)


@pytest.mark.parametrize("text", ["</script>", "<!--", "\ud800", "]]>", "\u2028"])
def test_embedded_json_of_a_hostile_text_is_plain(text):
    made = str(embedded_json([text]))
    assert "<" not in made
    assert json.loads(made) == [text.encode("utf-8", "replace").decode()]


BASE = realistic_model(SMALL)
ODD = st.sampled_from(
    [None, True, -1, 0, 1e308, -1e308, float("nan"), float("inf"), "", "x" * 9999, "<b>", [], {},
     [None], [[]], [{}], {"rows": 3}, {"columns": [1], "rows": [[{}], 7]}, 10**400]
)  # fmt: skip


def places(value, path=()):
    """Return the path of every value within a model."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


PLACES = [path for path in places(BASE) if path]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(PLACES), ODD), min_size=1, max_size=6))
def test_a_model_that_lies_still_gives_pages(tmp_path_factory, lies):
    model = deepcopy(BASE)
    for path, lie in lies:
        target = model
        try:
            for key in path[:-1]:
                target = target[key]
            target[path[-1]] = lie
        except (TypeError, KeyError, IndexError):
            continue  # an earlier lie took the place away
    directory = tmp_path_factory.mktemp("lies")
    for path in write_pages(model, directory):
        assert "<b>" not in path.read_text()
