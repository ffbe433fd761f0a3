"""What a killed process left is found, repaired and queued; what a living one owns is left alone."""

import fcntl
import json
import os

import pytest

from sidecar.journal.append import Journal
from sidecar.journal.recover import Recovery, owner_path, recover
from sidecar.journal.spool import Spool, close_segment
from sidecar.record import EmissionRecord, to_ndjson
from sidecar.segment import SegmentName, decompressed

MINE = Recovery("pod-a.new", ships=True)


def record(stem, number):
    return EmissionRecord(record_id=f"{stem}.{number}", window_start="2026-11-22T08:00:00.000Z")


def left(volume, stem, count=3):
    """Write a segment as a process that was then killed."""
    journal = Journal(volume, stem)
    for number in range(count):
        journal.append(record(stem, number))
    return journal


def killed(journal):
    """Let go of the lock as a kill does: the claim's file stays."""
    journal.close(is_clean=False)
    return journal.path


def found(volume, recovery=MINE):
    spool = Spool(volume / "records")
    recover(volume / "records", recovery, spool)
    segments = []
    while (segment := spool.head()) is not None:
        lines = decompressed(segment.content()).splitlines()
        segments.append([json.loads(line)["record_id"] for line in lines])
        spool.delivered(segment)
    return segments


def test_the_segment_of_a_killed_container_of_this_pod_is_shipped(tmp_path):
    killed(left(tmp_path, "pod-a.old"))
    assert found(tmp_path) == [["pod-a.old.0", "pod-a.old.1", "pod-a.old.2"]]
    assert not list((tmp_path / "records").iterdir()), "shipped, so nothing is left"


def test_a_torn_last_line_is_cut_and_told(tmp_path, caplog):
    path = killed(left(tmp_path, "pod-a.old"))
    with path.open("ab") as stream:
        stream.write(b'{"schema":1,"record_id":"pod-a.old.3","ev')
    assert found(tmp_path) == [["pod-a.old.0", "pod-a.old.1", "pod-a.old.2"]]
    assert "41 bytes that were torn" in caplog.text


def test_a_hole_of_zeros_as_a_power_cut_leaves_it_is_cut_out(tmp_path):
    path = killed(left(tmp_path, "pod-a.old"))
    with path.open("ab") as stream:
        stream.write(b"\0" * 4096)
    assert found(tmp_path) == [["pod-a.old.0", "pod-a.old.1", "pod-a.old.2"]]


def test_a_segment_whose_first_line_is_lost_is_named_by_the_first_that_is_left(tmp_path):
    path = killed(left(tmp_path, "pod-a.old"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"\0" * len(lines[0]) + b"\n" + b"".join(lines[1:]))
    spool = Spool(tmp_path / "records")
    recover(tmp_path / "records", MINE, spool)
    assert str(spool.head().name) == "pod-a.old.00000001"
    assert [path.name for path in (tmp_path / "records").glob("pod*")] == [
        "pod-a.old.00000001.ndjson.gz"
    ]


def test_nothing_but_a_torn_line_is_no_segment(tmp_path):
    path = killed(left(tmp_path, "pod-a.old", count=1))
    path.write_bytes(b'{"schema":1')
    assert found(tmp_path) == []
    assert not list((tmp_path / "records").iterdir())


def test_killed_between_renaming_and_deleting_it_is_one_segment(tmp_path):
    journal = left(tmp_path, "pod-a.old")
    content = journal.path.read_bytes()
    path = killed(journal)
    close_segment(tmp_path / "records", SegmentName("pod-a", "old", 0), content)
    path.write_bytes(content)
    assert len(found(tmp_path)) == 1


def test_a_torn_compressed_file_beside_the_open_one_is_made_anew(tmp_path):
    path = killed(left(tmp_path, "pod-a.old"))
    path.with_name(path.name + ".gz").write_bytes(b"\x1f\x8b torn")
    assert found(tmp_path) == [["pod-a.old.0", "pod-a.old.1", "pod-a.old.2"]]


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    killed(left(tmp_path, "pod-a.old"))
    (tmp_path / "records" / ".pod-a.old.00000000.ndjson.gz.0123.tmp").write_bytes(b"half")
    found(tmp_path)
    assert not list((tmp_path / "records").iterdir())


def test_segments_of_one_boot_come_in_their_order(tmp_path):
    journal = Journal(tmp_path, "pod-a.old")
    for number in range(12):
        journal.append(record("pod-a.old", number))
        journal.seal()
    journal.close(is_clean=False)
    assert found(tmp_path) == [[f"pod-a.old.{number}"] for number in range(12)]


def test_what_a_living_process_owns_is_left_alone(tmp_path):
    living = left(tmp_path, "pod-b.b")
    assert found(tmp_path) == []
    living.append(record("pod-b.b", 3))
    assert len(living.path.read_text().splitlines()) == 4


def test_a_pod_that_is_gone_is_taken_on_by_another(tmp_path):
    killed(left(tmp_path, "pod-b.b"))
    assert found(tmp_path) == [["pod-b.b.0", "pod-b.b.1", "pod-b.b.2"]]


def test_with_the_receipt_it_left(tmp_path):
    journal = left(tmp_path, "pod-b.b")
    journal.keep_receipt("v1.proof")
    killed(journal)
    spool = Spool(tmp_path / "records")
    recover(tmp_path / "records", Recovery("pod-a.new", ships=True, needs_receipt=True), spool)
    assert spool.head().receipt == "v1.proof"


def test_without_the_receipt_that_is_needed_it_stays(tmp_path):
    path = killed(left(tmp_path, "pod-b.b"))
    assert found(tmp_path, Recovery("pod-a.new", ships=True, needs_receipt=True)) == []
    assert path.exists()
    assert owner_path(tmp_path / "records", "pod-b.b").exists()


def test_our_own_earlier_boot_needs_no_receipt(tmp_path):
    killed(left(tmp_path, "pod-a.old"))
    assert len(found(tmp_path, Recovery("pod-a.new", ships=True, needs_receipt=True))) == 1


def test_records_that_were_to_stay_stay(tmp_path):
    """A run at a shell that ended well without a transport leaves no claim."""
    journal = left(tmp_path, "run.b")
    journal.close(is_clean=True)
    assert found(tmp_path, Recovery("run.new", ships=True)) == []
    assert journal.path.exists()


def test_a_killed_run_at_a_shell_is_taken_on(tmp_path):
    killed(left(tmp_path, "run.b"))
    assert len(found(tmp_path, Recovery("run.new", ships=True))) == 1


def test_where_nothing_is_shipped_a_torn_line_is_still_cut(tmp_path):
    path = killed(left(tmp_path, "run.b"))
    with path.open("ab") as stream:
        stream.write(b'{"torn')
    assert found(tmp_path, Recovery("run.new", ships=False)) == []
    (packed,) = (tmp_path / "records").glob("run*")
    assert len(decompressed(packed.read_bytes()).splitlines()) == 3


def test_who_ships_nothing_leaves_it_for_one_who_does(tmp_path):
    journal = left(tmp_path, "pod-b.b")
    journal.keep_receipt("v1.proof")
    killed(journal)
    assert found(tmp_path, Recovery("run.new", ships=False)) == []
    spool = Spool(tmp_path / "records")
    recover(tmp_path / "records", Recovery("pod-a.new", ships=True, needs_receipt=True), spool)
    assert spool.head().receipt == "v1.proof"


def test_brackets_without_end_are_no_record_and_stop_nothing(tmp_path):
    killed(left(tmp_path, "pod-b.b"))
    (tmp_path / "records" / "pod-a.odd.00000000.ndjson").write_bytes(b"[" * 200_000 + b"\n")
    assert len(found(tmp_path)) == 1


def test_a_segment_that_cannot_be_read_now_is_looked_for_again(tmp_path):
    journal = Journal(tmp_path, "pod-b.b")
    for number in range(2):
        journal.append(record("pod-b.b", number))
        journal.seal()
    directory = tmp_path / "records"
    journal.close(is_clean=False)
    first = directory / "pod-b.b.00000000.ndjson.gz"
    content = first.read_bytes()
    first.write_bytes(b"\0" * (17 * 1024**2))  # as a failing disk: it cannot be read now
    assert found(tmp_path) == [["pod-b.b.1"]]
    first.write_bytes(content)
    assert found(tmp_path) == [["pod-b.b.0"]]


def test_a_file_under_anothers_name_is_not_taken_for_its_segment(tmp_path):
    """Or a pod could bring a segment of its own making under the next name of a living one."""
    killed(left(tmp_path, "pod-b.b"))
    directory = tmp_path / "records"
    close_segment(directory, SegmentName("pod-b", "b", 7), to_ndjson(record("pod-c.c", 0)).encode())
    assert found(tmp_path) == [["pod-b.b.0", "pod-b.b.1", "pod-b.b.2"]]
    assert (directory / "pod-b.b.00000007.ndjson.gz").exists()


def test_what_is_queued_is_not_found_again(tmp_path):
    killed(left(tmp_path, "pod-a.old"))
    spool = Spool(tmp_path / "records")
    for _ in range(2):
        recover(tmp_path / "records", MINE, spool)
    assert spool.state().segments == 1


def test_a_fresh_claim_of_another_machine_holds(tmp_path):
    killed(left(tmp_path, "pod-b.b"))
    claim = owner_path(tmp_path / "records", "pod-b.b")
    claim.write_text(json.dumps({"kernel": "another", "receipt": None}))
    assert found(tmp_path) == []
    three_hours_ago = claim.stat().st_mtime - 3 * 3600
    os.utime(claim, (three_hours_ago, three_hours_ago))
    assert len(found(tmp_path)) == 1


def test_after_a_reboot_this_pod_takes_its_own_at_once(tmp_path):
    killed(left(tmp_path, "pod-a.old"))
    claim = owner_path(tmp_path / "records", "pod-a.old")
    claim.write_text(json.dumps({"kernel": "before the reboot", "receipt": None}))
    assert len(found(tmp_path)) == 1


@pytest.mark.parametrize("make", ["pipe", "link", "directory"])
def test_what_only_looks_like_a_segment_is_not_followed(tmp_path, make):
    killed(left(tmp_path, "pod-a.old"))
    odd = tmp_path / "records" / "pod-a.odd.00000000.ndjson"
    secret = tmp_path / "secret"
    secret.write_text(to_ndjson(record("pod-a.odd", 0)))
    if make == "pipe":
        os.mkfifo(odd)
    elif make == "link":
        odd.symlink_to(secret)
    else:
        odd.mkdir()
    assert found(tmp_path) == [["pod-a.old.0", "pod-a.old.1", "pod-a.old.2"]]
    assert secret.exists()


def test_a_file_longer_than_a_segment_is_left_alone(tmp_path, caplog):
    killed(left(tmp_path, "pod-a.old"))
    huge = tmp_path / "records" / "pod-a.huge.00000000.ndjson"
    with huge.open("wb") as stream:
        stream.truncate(64 * 1024**2)
    assert len(found(tmp_path)) == 1
    assert "longer than a segment can be" in caplog.text
    assert huge.exists()


def test_two_that_start_together_do_not_both_take_it(tmp_path):
    killed(left(tmp_path, "pod-b.b"))
    first, second = Spool(tmp_path / "records"), Spool(tmp_path / "records")
    recover(tmp_path / "records", MINE, first)
    recover(tmp_path / "records", Recovery("pod-c.new", ships=True), second)
    assert first.state().segments == 1
    assert second.state().segments == 0


def test_what_could_not_be_shipped_is_there_for_the_next(tmp_path):
    killed(left(tmp_path, "pod-b.b"))
    spool = Spool(tmp_path / "records")
    recover(tmp_path / "records", MINE, spool)
    spool.close()
    assert len(found(tmp_path, Recovery("pod-c.new", ships=True))) == 1


def test_the_claim_is_held_with_a_lock(tmp_path):
    journal = left(tmp_path, "pod-b.b")
    with (
        owner_path(tmp_path / "records", "pod-b.b").open() as stream,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    journal.close(is_clean=True)
    assert not owner_path(tmp_path / "records", "pod-b.b").exists()
