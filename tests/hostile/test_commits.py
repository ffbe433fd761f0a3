"""A commit of compacted records that somebody else wrote: what is not as ours is not believed.

What stands in it becomes names of files, and stood in SQL.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.report.commits import Commit, Part
from sidecar.report.source import SourceUnreadable

NAME = "records/v1/compacted/commits/commit-00000007.json"
PART = Part("project=a/month=2026-11/part-1.parquet", "a", "2026-11-01", 3, 0, 1.5, "0f", "0f" * 32)
COMMIT = Commit(
    7, "2026-11-01", (PART,), "balances/balances-1.parquet", replaces=("balances/old.parquet",)
)

INJECTED = "2026-11-01') OR 1 IN (SELECT 1 FROM read_text('/etc/passwd')) --"
COLUMNS = ("name", "project", "day", "records", "cut", "energy_kwh", "ids", "sha256")
PLACES = [
    *(
        ("generation",),
        ("day",),
        ("balances",),
        ("replaces",),
        ("replaces", 0),
        ("parts",),
        ("parts", 0),
    ),
    *(("parts", 0, name) for name in COLUMNS),
]
NEVER = [True, -1, 1e999, INJECTED + "\0", {"a": 1}, [[1]], "../../x", "x" * 5000]


def changed(place, value) -> bytes:
    row = json.loads(COMMIT.to_json())
    inner = row
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return json.dumps(row).encode()


def test_a_commit_of_ours_is_read_as_it_was_written():
    assert Commit.of_json(COMMIT.to_json(), NAME) == COMMIT


CHANGES = [
    (place, value)
    for place in PLACES
    for value in NEVER
    if place[-1] != "project" or not isinstance(value, str)  # which may be any
]


@pytest.mark.parametrize(("place", "value"), CHANGES, ids=lambda value: repr(value)[:30])
def test_what_no_compaction_writes_is_no_commit(place, value):
    with pytest.raises(SourceUnreadable) as refused:
        Commit.of_json(changed(place, value), NAME)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("place", [("day",), ("parts", 0, "day")], ids=str)
@pytest.mark.parametrize("day", [INJECTED, "2026-11-1", "2026-11-01\n", "٢٠٢٦-11-01", ""])
def test_a_day_is_a_day(place, day):
    with pytest.raises(SourceUnreadable):
        Commit.of_json(changed(place, day), NAME)


@pytest.mark.parametrize(
    "name", ["/etc/x.parquet", "../x", "a/../b", "a//b", "a/", ".", "a\nb", "a\\b", ""]
)
@pytest.mark.parametrize("place", [("balances",), ("replaces", 0), ("parts", 0, "name")], ids=str)
def test_a_name_leads_nowhere_else(place, name):
    with pytest.raises(SourceUnreadable):
        Commit.of_json(changed(place, name), NAME)


def test_a_generation_is_that_of_its_file():
    with pytest.raises(SourceUnreadable):
        Commit.of_json(changed(("generation",), 8), NAME)


@given(st.binary(max_size=300) | st.just(b'{"layout": 1, "parts": ' + b"[" * 100_000))
def test_no_bytes_are_more_than_refused(content):
    with pytest.raises(SourceUnreadable):
        Commit.of_json(content, NAME)
