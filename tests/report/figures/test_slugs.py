"""File names of projects and runs, whatever they are called."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.report.figures.slugs import project_slug, run_slug

SAFE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,55}[a-z0-9])?")
names = st.text(st.characters(), max_size=300) | st.from_regex(r"[a-z0-9-]{1,60}", fullmatch=True)


@pytest.mark.parametrize("name", ["demo", "a", "llm-training-7"])
def test_a_name_that_is_safe_stays_as_it_is(name):
    assert project_slug(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("<script>alert(1)</script>", "=cmd()", "../", "..", ".", "", "con", "index", "A", "a b"),
        *("a/b", "a\\b", "a\0b", "\u202egpj.exe", "日本", "x" * 300, "-a", "a-", "\ud800"),
    ],
)
def test_any_other_is_made_safe_and_marked(name):
    slug = project_slug(name)
    assert SAFE.fullmatch(slug)
    assert re.search(r"-[0-9a-f]{16}$", slug)


def test_a_name_made_to_look_like_the_slug_of_another_is_not_taken_for_it():
    assert project_slug(project_slug("a b")) != project_slug("a b")


def test_no_name_is_not_the_name_none():
    assert len({project_slug(None), project_slug("none"), project_slug("None")}) == 3


@given(st.lists(names, unique=True, max_size=30))
def test_slugs_are_safe_and_unique_for_any_names(found):
    slugs = [project_slug(name) for name in [*found, None]]
    assert len(set(slugs)) == len(slugs)
    assert all(SAFE.fullmatch(slug) for slug in slugs)


pairs = st.tuples(st.none() | names, st.none() | names)


@given(st.lists(pairs, unique=True, max_size=30))
def test_runs_of_the_same_name_in_two_projects_have_two_slugs(found):
    slugs = [run_slug(project, run) for project, run in found]
    assert len(set(slugs)) == len(slugs)
    assert all(SAFE.fullmatch(slug) for slug in slugs)


def test_a_slug_does_not_change_from_one_version_to_the_next():
    assert project_slug("Demo 1") == "demo-1-68e9f425a19d19bc"
    assert run_slug("demo", "run-1").startswith("run-1-")
