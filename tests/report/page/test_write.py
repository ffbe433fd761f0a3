import json
import re
from copy import deepcopy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.report.page import write_pages
from sidecar.report.page.render import embedded_json
from sidecar.report.page.write import PROJECT_PAGES_MAX, RUN_PAGES_MAX
from tests.report.page.conftest import many_projects_model, write
from tests.report.page.realistic import Scale, realistic_model

LARGEST_PAGE = 1_500_000
SMALL = Scale(projects=3, days=5, runs=6, regions=2)


def embedded(path):
    html = path.read_text()
    match = re.search(
        r'<script type="application/json" id="report">(.*?)</script>', html, re.DOTALL
    )
    return json.loads(match[1])


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


def test_the_projects_that_are_not_told_apart_are_summed_up(many_projects):
    found = embedded(many_projects.directory / "index.html")
    others = found["projects"][-1]
    named = len(found["projects"]) - 1
    assert others["name"] == f"{10_000 - named:,} other projects"
    assert others["totals"]["emissions_g"] == pytest.approx(
        (10_000 - named) * 90 * 123.456, rel=1e-4
    )


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
    page = (tmp_path / "index.html").read_text()
    assert "javascript:" not in page
    assert "Evil" in page


def test_a_source_is_named_with_its_year_and_a_link(report):
    page = (report.directory / "index.html").read_text()
    assert 'href="https://github.com/thegreenwebfoundation/co2.js"' in page
    assert "zone AU-NSW (2025)" in page


def test_every_reference_leads_to_a_source(report):
    page = (report.directory / "index.html").read_text()
    references = set(re.findall(r'href="#(source-[0-9]+)"', page))
    assert references
    assert references <= set(re.findall(r'id="(source-[0-9]+)"', page))


def test_every_section_that_is_linked_is_there(report):
    page = (report.directory / "index.html").read_text()
    linked = set(re.findall(r'<li><a href="#([a-z]+)"', page))
    assert len(linked) == 11
    assert linked <= set(re.findall(r'id="([a-z]+)"', page))


def test_what_was_not_looked_up_is_said(tmp_path):
    write_pages({}, tmp_path)
    assert "was not looked up" in (tmp_path / "index.html").read_text()


def test_a_budget_that_was_not_understood_is_said_with_its_reason(tmp_path):
    budget = {"source": "annotation", "status": "unknown", "reason": "'lots' is no budget"}
    write_pages({"projects": [{"project": "p", "budget": budget}]}, tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "The budget of p is not known: &#39;lots&#39; is no budget." in page


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
