"""A commit of compacted records that somebody else wrote: what is not as ours is not believed.

What stands in it becomes names of files, and stood in SQL.
"""

import gzip
import io
import json
import zlib
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.report.commits import Commit, Part
from sidecar.report.listing import RAW_BYTES_MAX, Listing
from sidecar.report.source import SourceUnreadable
from tests.hostile.budget import memory_budget

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


# -- the list of raw files beside a commit -----------------------------------------------------------

RAW = NAME.replace("commit-", "raw-") + ".gz"


@dataclass
class Stored:
    content: bytes
    name: str = RAW

    @property
    def size(self) -> int:
        return len(self.content)

    def open(self) -> io.BytesIO:
        return io.BytesIO(self.content)


def consumed(content: bytes) -> set[tuple[str, str]]:
    return Listing(commit_names=[NAME]).consumed_by(Stored(content))


def test_a_list_of_raw_files_is_read():
    content = gzip.compress(b'[["project=a/x.ndjson.gz", "5"]]')
    assert consumed(content) == {("records/v1/project=a/x.ndjson.gz", "5")}


def test_a_list_of_raw_files_that_is_a_bomb_is_passed_over_in_bounded_memory():
    packer = zlib.compressobj(level=9, wbits=31)
    piece = b" " * 1024**2
    bomb = b"".join(packer.compress(piece) for _ in range(1024)) + packer.flush()
    with memory_budget(2 * RAW_BYTES_MAX):
        assert consumed(bomb) == set()


@given(st.binary(max_size=200))
def test_no_list_of_raw_files_is_more_than_passed_over(content):
    assert consumed(content) == set()
    assert consumed(gzip.compress(content)) == set()


@pytest.mark.parametrize("text", [b"[" * 100_000, b"[[1]]", b"{}", b"[[[1], 2, 3]]", b"7", b"null"])
def test_a_list_of_something_else_is_passed_over(text):
    assert consumed(gzip.compress(text)) == set()
