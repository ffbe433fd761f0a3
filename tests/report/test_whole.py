"""`verify` over compacted datasets: what was in order stays so, and what is wrong is found."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from sidecar.report.commits import FOREIGN
from sidecar.report.places import DirectoryPlace
from sidecar.report.read import ReadReport
from sidecar.report.source import SourceUnreadable
from sidecar.report.verify import verify
from sidecar.report.whole import DAMAGED, UNCOMMITTED, all_entries
from tests.report.histories import Clock, history, with_gpus
from tests.report.test_compact import DAY, DAYS, MIDNIGHT_S, compacted, put


@pytest.fixture
def root(tmp_path):
    """Two pods of a node for some days, and one with GPUs on another."""
    for day in range(5):
        for pod, share in enumerate((0.5, 0.25)):
            clock = Clock(MIDNIGHT_S + day * DAY)
            records = history(6, stem=f"pod-{pod}.day{day}", clock=clock, share=share)
            put(tmp_path / "data", *records[:4])
            put(tmp_path / "data", *records[4:])
    put(tmp_path / "data", *rich_records())
    return tmp_path / "data"


def rich_records():
    records = history(6, stem="rich.b", clock=Clock(MIDNIGHT_S + 2 * DAY), share=0.0)
    rich = {"node": "gpu-node", "phases": {"train": 3.25}, "labels": {"a": "ü"}}
    return [records[0], *(replace(with_gpus(item, 1e-4, 2e-4), **rich) for item in records[1:])]


def verdict(root):
    seen = ReadReport()
    return verify(all_entries([DirectoryPlace(root)], seen)), seen


def kinds(found):
    return {item.kind.name for item in found}


def test_a_compacted_dataset_is_as_clean_as_it_was(root):
    before, _ = verdict(root)
    assert before.is_clean
    compacted(root, older_than_days=-100)
    after, seen = verdict(root)
    assert after.is_clean
    assert (after.records, after.duplicates) == (before.records, 0)
    assert after.totals == pytest.approx(before.totals)
    assert kinds(after.notices) == kinds(before.notices)
    assert seen.files == 5  # a part for each day


def test_days_that_are_compacted_are_followed_by_those_that_are_not(root):
    before, _ = verdict(root)
    compacted(root)
    after, _ = verdict(root)
    assert after.is_clean
    assert after.records == before.records


def test_raw_files_that_a_commit_holds_are_not_read_again(root):
    records = history(8, stem="late.boot", clock=Clock(MIDNIGHT_S + 3 * DAY - 60), share=0.0)
    put(root, *records)  # reaches into a day that stays open
    compacted(root)
    after, _ = verdict(root)
    assert after.is_clean
    assert after.duplicates > 0
    assert "two forms" in kinds(after.notices)


def test_a_segment_that_is_sent_again_is_a_notice_and_a_changed_one_a_violation(root):
    path = next(path for path in sorted(root.rglob("*.gz")) if DAYS[0] in str(path))
    content = path.read_bytes()
    compacted(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert verdict(root)[0].is_clean
    part = next((root / "records/v1/compacted/project=_several").rglob(f"part-{DAYS[0]}*.parquet"))
    first = pq.read_table(part).to_pylist()[1]
    write_changed(root, first["record_id"])
    assert "conflict" in kinds(verdict(root)[0].violations)


def write_changed(root, record_id):
    stem, _, sequence = record_id.rpartition(".")
    changed = replace(
        history(1, stem=stem, clock=Clock(MIDNIGHT_S))[1],
        record_id=f"{stem}.{sequence}",
        run_id="other",
    )
    put(root, changed)


def test_a_damaged_part_is_a_violation(root):
    compacted(root)
    part = next((root / "records/v1/compacted/project=_several").rglob("*.parquet"))
    pq.write_table(pq.read_table(part).slice(1), part)
    assert DAMAGED in kinds(verdict(root)[0].violations)
    part.write_bytes(b"no Parquet")
    assert {DAMAGED, "unreadable file"} <= kinds(verdict(root)[0].violations)


def test_a_part_that_is_missing_ends_it(root):
    compacted(root)
    next((root / "records/v1/compacted/project=_several").rglob("*.parquet")).unlink()
    with pytest.raises(SourceUnreadable, match="named by a commit, and not there"):
        verdict(root)


def test_a_parquet_file_of_somebody_else_is_a_notice_of_its_own(root):
    compacted(root)
    part = next((root / "records/v1/compacted/project=_several").rglob("*.parquet"))
    (root / "mine.parquet").write_bytes(part.read_bytes())
    found, _ = verdict(root)
    assert found.is_clean
    assert FOREIGN in kinds(found.notices)


def test_a_part_without_a_commit_is_a_notice(root):
    compacted(root)
    part = next((root / "records/v1/compacted/project=_several").rglob("*.parquet"))
    part.with_name("part-stray.parquet").write_bytes(part.read_bytes())
    found, _ = verdict(root)
    assert found.is_clean
    assert UNCOMMITTED in kinds(found.notices)
