"""Compaction: the same totals before and after, whatever is killed in between, and nothing lost."""

import datetime
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sidecar.record import to_ndjson
from sidecar.report import compact as module
from sidecar.report.commits import FOREIGN
from sidecar.report.compact import compact
from sidecar.report.dataset import UNCOMMITTED, Dataset
from sidecar.report.duckdb_engine import DuckDBEngine
from sidecar.report.engine import totals
from sidecar.report.places import DirectoryPlace
from sidecar.report.selection import Selection
from sidecar.report.source import SourceUnreadable
from sidecar.report.stores import BlobStore, CompactionStopped, DirectoryStore
from sidecar.segment import compressed, parcel_of
from sidecar.windows import rfc3339
from tests.report.histories import Clock, Process, history, window
from tests.report.records import write
from tests.report.test_engine import ALL, MIDNIGHT_S, assert_same_rows, computed

DAY = 86_400.0
TODAY = datetime.datetime.fromtimestamp(MIDNIGHT_S + 5 * DAY, datetime.UTC).date()
DAYS = [rfc3339(MIDNIGHT_S + n * DAY)[:10] for n in range(6)]


def put(root, *records):
    """A segment, where a transport would have put it."""
    parcel = parcel_of(compressed("".join(map(to_ndjson, records)).encode()))
    path = root / parcel.blob_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(parcel.content)
    return path


def fleet(root, *, days=5):
    """Pods of two projects on one node, by mixed methods: some claim too much. Over midnights."""
    for day in range(days):
        for pod, (project, method, share) in enumerate(
            [("demo", "cgroup", 0.7), ("../x", "requests", 0.8), ("demo", "requests", 0.1)]
        ):
            start_s = MIDNIGHT_S + day * DAY - 30 * (day > 0)
            process = Process(f"pod-{pod}.day{day}", Clock(start_s), share=share).begin()
            for _ in range(6):
                process.meter(project=project, pod_method=method, cluster="c")
            records = process.end().records
            put(root, *(replace(item, project=project) for item in records[:4]))
            put(root, *(replace(item, project=project) for item in records[4:]))


def compacted(root, **options):
    return compact(DirectoryStore(DirectoryPlace(root)), TODAY, **options)


def raw_files(root):
    return sorted(path.name for path in root.rglob("*.ndjson*"))


@pytest.fixture
def root(tmp_path):
    fleet(tmp_path / "data")
    return tmp_path / "data"


def test_the_totals_are_the_same_before_and_after(root):
    before, nodes, seen = computed(root)
    done = compacted(root)
    after, nodes_after, seen_after = computed(root)
    assert_same_rows(before, after, nodes, nodes_after)
    assert seen.records == seen_after.records
    assert done.days == DAYS[:3]
    assert done.removed > 0


def test_only_days_that_ended_long_enough_ago_are_compacted(root):
    compacted(root)
    with Dataset.open([DirectoryPlace(root)]) as dataset:
        assert {item.day for item in dataset.days} == set(DAYS[:3])
        assert all(days is None or days[1] >= DAYS[3] for days in dataset.file_days)


def test_a_file_that_reaches_into_an_open_day_stays_and_is_not_counted_twice(root):
    put(root, *history(8, stem="late.boot", clock=Clock(MIDNIGHT_S + 3 * DAY - 60), share=0.0))
    before, nodes, _ = computed(root)
    compacted(root)
    after, nodes_after, seen = computed(root)
    assert_same_rows(before, after, nodes, nodes_after)
    assert seen.duplicates > 0


def test_compacting_again_does_nothing(root):
    compacted(root)
    before = sorted(root.rglob("*"))
    done = compacted(root)
    assert (done.days, done.parts, done.removed) == ([], 0, 0)
    assert sorted(root.rglob("*")) == before


def test_records_that_come_late_are_settled_with_those_compacted(root):
    late = [
        replace(window(n, MIDNIGHT_S + 15 * (n - 1), share=0.9), cluster="c", pod_method="requests")
        for n in range(1, 4)
    ]
    whole = root.parent / "whole"
    fleet(whole)
    put(whole, *late)
    wanted, wanted_nodes, _ = computed(whole)
    compacted(root)
    put(root, *late)
    found, nodes, _ = computed(root)
    assert_same_rows(wanted, found, wanted_nodes, nodes)
    compacted(root)
    found, nodes, _ = computed(root)
    assert_same_rows(wanted, found, wanted_nodes, nodes)
    compacted(root)
    assert computed(root)[2].left_out[UNCOMMITTED] == 0


def test_a_large_project_has_parts_of_its_own_and_small_ones_share(root, monkeypatch):
    monkeypatch.setattr(module, "OWN_PART_RECORDS", 10)
    before, nodes, _ = computed(root)
    done = compacted(root)
    after, nodes_after, _ = computed(root)
    assert_same_rows(before, after, nodes, nodes_after)
    folders = {path.name for path in (root / "records/v1/compacted").iterdir()}
    assert {"project=demo", "project=_several", "sums", "balances", "commits"} <= folders
    assert done.parts == 6


def test_however_many_projects_there_are_a_day_has_few_files(tmp_path):
    for number in range(40):
        put(tmp_path, window(1, MIDNIGHT_S, stem=f"p{number}.b", project=f"project-{number}"))
    compacted(tmp_path)
    files = list((tmp_path / "records/v1/compacted").rglob("*.parquet"))
    assert len(files) == 3  # records, sums, balances


def test_a_day_that_is_compacted_again_counts_what_did_not_change(root, monkeypatch):
    monkeypatch.setattr(module, "OWN_PART_RECORDS", 10)
    compacted(root)
    late = replace(window(1, MIDNIGHT_S, share=0.0, stem="late.b"), node="elsewhere")
    put(root, late)
    wanted, nodes, _ = computed(root)
    names = {path.name for path in root.rglob("part-*")}
    compacted(root)
    assert names & {path.name for path in root.rglob("part-*")}  # the other project's part
    found, found_nodes, _ = computed(root)
    assert_same_rows(wanted, found, nodes, found_nodes)
    compacted(root)
    found, found_nodes, seen = computed(root)
    assert_same_rows(wanted, found, nodes, found_nodes)
    assert seen.left_out[UNCOMMITTED] == 0


def test_what_is_reported_of_closed_days_is_read_from_their_sums(root):
    compacted(root)
    with Dataset.open([DirectoryPlace(root)]) as dataset:
        days = [item for item in dataset.days if item.day == DAYS[1]]
        totals(dataset, ALL, DuckDBEngine(dataset.connection))
        fetched = set(dataset._fetched)
        assert {id(item.sums) for item in days} <= fetched
        assert not {id(file) for item in days for _, file in item.parts} & fetched


def test_parts_of_an_earlier_version_lack_columns_that_came_later(root):
    before, nodes, _ = computed(root, PART_OF_A_DAY)
    compacted(root)
    for path in root.rglob("project=*/month=*/*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.drop_columns(["provider", "phases", "embodied_g"]), path)
    after, nodes_after, _ = computed(root, PART_OF_A_DAY)
    assert_same_rows(before, after, nodes, nodes_after)
    put(root, replace(window(1, MIDNIGHT_S, stem="late.b"), node="elsewhere"))
    wanted, _, _ = computed(root)
    compacted(root)
    found, _, _ = computed(root)
    assert_same_rows(wanted, found, None, None)


def test_sums_of_another_version_are_made_anew(root, monkeypatch):
    before, nodes, _ = computed(root)
    compacted(root)
    for path in root.rglob("sums/**/*.parquet"):
        path.write_bytes(b"of another version")
    monkeypatch.setattr("sidecar.report.commits.SUMS_VERSION", 0)
    after, nodes_after, _ = computed(root)
    assert_same_rows(before, after, nodes, nodes_after)


def test_records_that_come_after_their_day_was_compacted_are_told(root):
    late = replace(window(1, MIDNIGHT_S, share=0.9), cluster="c")
    put(root, late)
    assert computed(root)[2].late is None  # no day is closed yet
    compacted(root)
    assert computed(root)[2].late == 0
    put(root, replace(late, record_id="late.boot.7"))
    assert computed(root)[2].late == 1


def test_a_segment_that_is_sent_again_is_not_counted_and_goes(root):
    path = next(path for path in sorted(root.rglob("*.gz")) if DAYS[0] in str(path))
    content = path.read_bytes()
    compacted(root)
    before, nodes, _ = computed(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    after, nodes_after, _ = computed(root)
    assert_same_rows(before, after, nodes, nodes_after)
    assert compacted(root).removed == 1
    assert not path.exists()


PART_OF_A_DAY = Selection(since=rfc3339(MIDNIGHT_S + 30), until=rfc3339(MIDNIGHT_S + DAY - 15))


@pytest.mark.parametrize(
    "selection",
    [
        PART_OF_A_DAY,
        Selection(since=rfc3339(MIDNIGHT_S + DAY), until=rfc3339(MIDNIGHT_S + 2 * DAY)),
        Selection(frozenset({"../x"}), until=rfc3339(MIDNIGHT_S + 30)),
    ],
)
def test_a_selection_that_cuts_through_a_compacted_day_is_settled_as_before(root, selection):
    before, nodes, _ = computed(root, selection)
    compacted(root)
    after, nodes_after, _ = computed(root, selection)
    assert_same_rows(before, after, nodes, nodes_after)


def test_a_file_with_a_torn_line_is_kept(root):
    path = write(
        root / "records" / "x.ndjson",
        *history(2, stem="torn.boot", clock=Clock(MIDNIGHT_S)),
        tail='{"sch',
    )
    done = compacted(root)
    assert path.exists()
    assert done.left == 1
    assert computed(root)[2].left_out["torn line"] == 1


def test_a_file_that_grew_meanwhile_is_kept(root):
    path = write(root / "open.ndjson", *history(2, stem="open.boot", clock=Clock(MIDNIGHT_S)))

    class Growing(DirectoryStore):
        def remove(self, file):
            if file.name == "open.ndjson" and path.exists():
                with path.open("a") as stream:
                    stream.write(to_ndjson(window(9, MIDNIGHT_S, stem="open.boot")))
            return super().remove(file)

    compact(Growing(DirectoryPlace(root)), TODAY)
    assert path.exists()
    assert computed(root)[2].left_out == {}


def test_a_parquet_file_of_somebody_else_is_told_and_stays(root):
    compacted(root)
    part = next(root.rglob("part-*.parquet"))
    mine = root / "records" / "mine.parquet"
    mine.write_bytes(part.read_bytes())
    seen = computed(root)[2]
    assert (seen.left_out[FOREIGN], seen.left_out[UNCOMMITTED]) == (1, 0)
    compacted(root)
    assert mine.exists()


def test_a_part_without_its_commit_is_told_and_not_counted(root):
    compacted(root)
    part = next(root.rglob("part-*.parquet"))
    stray = part.with_name("part-2026-01-01-0000.parquet")
    stray.write_bytes(part.read_bytes())
    before = computed(root)[2].records
    assert computed(root)[2].left_out[UNCOMMITTED] == 1
    compacted(root)
    assert not stray.exists()
    assert computed(root)[2].records == before


def test_a_part_that_is_missing_ends_the_report(root):
    compacted(root)
    next((root / "records/v1/compacted/project=_several").rglob("*.parquet")).unlink()
    with pytest.raises(SourceUnreadable, match="named by a commit, and not there"):
        computed(root)


def test_a_commit_that_is_damaged_ends_the_report(root):
    compacted(root)
    next(root.rglob("commit-*.json")).write_text("{")
    with pytest.raises(SourceUnreadable, match="is no commit"):
        computed(root)


def test_two_compactions_at_a_time_are_one(root):
    store = DirectoryStore(DirectoryPlace(root))
    with store.exclusive("records/v1/compacted/"), pytest.raises(CompactionStopped, match="locked"):
        compacted(root)


def test_what_is_stored_wrong_is_found_and_nothing_goes(root):
    files = raw_files(root)

    class Lying(DirectoryStore):
        def fetch(self, name, path):
            super().fetch(name, path)
            path.write_bytes((root / name).read_bytes()[:-1] + b"\0")

    with pytest.raises(CompactionStopped, match="what was stored is not"):
        compact(Lying(DirectoryPlace(root)), TODAY)
    assert raw_files(root) == files


KILLED = """
    import datetime, os, signal, sys
    from pathlib import Path
    from sidecar.report.compact import compact
    from sidecar.report.places import DirectoryPlace
    from sidecar.report.stores import DirectoryStore

    steps = int(sys.argv[2])

    def step():
        global steps
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    class Killed(DirectoryStore):
        def put(self, name, path):
            step()
            super().put(name, path)
            step()

        def remove(self, file):
            step()
            done = super().remove(file)
            step()
            return done

    compact(Killed(DirectoryPlace(Path(sys.argv[1]))), datetime.date.fromisoformat(sys.argv[3]))
"""


@pytest.mark.parametrize("steps", [1, 5, 7, 9, 11, 15, 20])
def test_whoever_is_killed_between_two_steps_leaves_the_totals_as_they_are(root, steps):
    before, nodes, _ = computed(root)
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(root), str(steps), str(TODAY)],
        cwd=Path(__file__).parents[2],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TMPDIR": str(root.parent),  # what a killed process leaves goes with the test
        },
    )
    assert run.returncode == -signal.SIGKILL
    between, nodes_between, _ = computed(root)
    assert_same_rows(before, between, nodes, nodes_between)
    compacted(root)
    after, nodes_after, seen = computed(root)
    assert_same_rows(before, after, nodes, nodes_after)
    assert seen.left_out[UNCOMMITTED] == 0
    assert not list(root.rglob("raw-*"))


# -- Azure Blob ----------------------------------------------------------------------------------------


@pytest.fixture
def blobs(azurite, container_name, root):
    from sidecar.report.blob_place import BlobPlace
    from sidecar.settings import Settings
    from sidecar.transport.blob_container import open_container

    for path in root.rglob("*.gz"):
        azurite.put(container_name, path.relative_to(root).as_posix(), path.read_bytes())
    settings = Settings(
        blob_connection_string=azurite.connection_string, blob_container=container_name
    )
    place = BlobPlace(open_container(settings, {}))
    yield place
    place.close()


def of_place(place, selection=ALL):
    with Dataset.open([place]) as dataset:
        found = totals(dataset, selection, DuckDBEngine(dataset.connection))
        return found.tables, found.nodes


@pytest.mark.needs("node", "azurite")
def test_a_container_is_compacted_as_a_directory_is(blobs, root, azurite, container_name):
    wanted, nodes, _ = computed(root)
    assert_same_rows(wanted, of_place(blobs)[0], nodes, of_place(blobs)[1])
    done = compact(BlobStore(blobs), TODAY)
    assert done.days == DAYS[:3]
    found, found_nodes = of_place(blobs)
    assert_same_rows(wanted, found, nodes, found_nodes)
    names = azurite.blobs(container_name)
    assert not [name for name in names if f"date={DAYS[0]}" in name]
    commits = [json.loads(text) for name, text in names.items() if "/commit-" in name]
    assert [part["project"] for commit in commits for part in commit["parts"]] == [None] * 3


@pytest.mark.needs("node", "azurite")
def test_a_container_that_is_leased_is_left_alone(blobs):
    store = BlobStore(blobs)
    with store.exclusive("records/v1/compacted/"), pytest.raises(CompactionStopped, match="leased"):
        compact(BlobStore(blobs), TODAY)


@pytest.mark.needs("node", "azurite")
def test_a_blob_that_changed_since_it_was_listed_is_not_deleted(blobs, azurite, container_name):
    file = next(iter(blobs.files()))
    azurite.put(container_name, file.name, b"other")
    assert not BlobStore(blobs).remove(file)
    assert azurite.blobs(container_name)[file.name] == b"other"
