"""The segment on the volume: durable, whole, and patient with a volume that fails."""

import json
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.journal.append import WAITING_MAX, Journal
from sidecar.record import EmissionRecord, to_ndjson


def record(number, energy_kwh=1.0):
    return EmissionRecord(record_id=f"u.b.{number}", energy_kwh=energy_kwh, duration_s=1.0)


def ids(journal):
    return [json.loads(line)["record_id"] for line in journal.path.read_text().splitlines()]


def test_a_record_is_on_the_volume_when_append_returns(tmp_path):
    journal = Journal(tmp_path / "volume", "u.b")
    assert journal.append(record(0))
    assert ids(journal) == ["u.b.0"]


def test_a_record_is_encoded_once(tmp_path, monkeypatch):
    encoded = []

    def counted(record):
        encoded.append(record.record_id)
        return to_ndjson(record)

    monkeypatch.setattr("sidecar.journal.append.to_ndjson", counted)
    journal = Journal(tmp_path, "u.b")
    for number in range(3):
        journal.append(record(number))
    assert encoded == ["u.b.0", "u.b.1", "u.b.2"] == ids(journal)


def test_records_stand_in_their_order(tmp_path):
    journal = Journal(tmp_path, "u.b")
    for number in range(5):
        journal.append(record(number))
    assert ids(journal) == [f"u.b.{number}" for number in range(5)]


def test_a_volume_that_fails_is_told_once_and_keeps_all(tmp_path, caplog):
    volume = tmp_path / "volume"
    volume.write_text("no directory")
    journal = Journal(volume, "u.b")
    assert [journal.append(record(number)) for number in range(3)] == [False] * 3
    assert len(journal.waiting) == 3
    assert len([line for line in caplog.messages if "metering goes on" in line]) == 1


def test_what_waited_is_written_in_order_when_the_volume_is_back(tmp_path, caplog):
    volume = tmp_path / "volume"
    volume.write_text("no directory")
    journal = Journal(volume, "u.b")
    journal.append(record(0))
    volume.unlink()
    assert journal.append(record(1))
    assert ids(journal) == ["u.b.0", "u.b.1"]
    assert journal.failure is None
    assert any("can be written again" in line for line in caplog.messages)


def test_a_torn_line_of_a_failed_write_is_overwritten(tmp_path):
    journal = Journal(tmp_path, "u.b")
    journal.append(record(0))
    with journal.path.open("a") as stream:
        stream.write('{"schema":1,"record_id":"torn')
    journal.append(record(1))
    assert ids(journal) == ["u.b.0", "u.b.1"]


def test_many_waiting_records_are_merged_and_lose_no_energy(tmp_path):
    volume = tmp_path / "volume"
    volume.write_text("no directory")
    journal = Journal(volume, "u.b")
    for number in range(WAITING_MAX + 50):
        journal.append(record(number))
    assert len(journal.waiting) == WAITING_MAX
    assert sum(item.energy_kwh for item in journal.waiting) == WAITING_MAX + 50


def test_a_first_window_that_is_merged_into_the_start_keeps_its_number_and_its_time(tmp_path):
    volume = tmp_path / "volume"
    volume.write_text("no directory")
    journal = Journal(volume, "u.b")
    begun, later = "2026-11-30T09:00:00Z", "2026-11-30T09:00:15Z"
    start = replace(record(0, None), event="start", duration_s=0.0, window_start=begun)
    journal.append(start)
    for number in range(1, WAITING_MAX + 1):
        journal.append(replace(record(number), window_start=later))
    first = journal.waiting[0]
    assert (first.record_id, first.event, first.window_start) == ("u.b.0", "window", begun)
    assert (first.energy_kwh, first.duration_s) == (1.0, 1.0)


def test_rewriting_replaces_the_whole_segment(tmp_path):
    journal = Journal(tmp_path, "u.b")
    for number in range(3):
        journal.append(record(number))
    assert journal.rewrite([record(0, 5.0), record(1, 5.0), record(2, 5.0)])
    journal.append(record(3))
    assert ids(journal) == ["u.b.0", "u.b.1", "u.b.2", "u.b.3"]


@pytest.mark.needs("root")
def test_a_rewrite_that_fails_leaves_the_old_segment_and_is_tried_again(tmp_path, full_disk):
    journal = Journal(full_disk.path, "u.b")
    for number in range(3):
        journal.append(record(number))
    full_disk.fill()
    before = journal.path.read_bytes()
    assert not journal.rewrite([record(number, 5.0) for number in range(3)])
    assert journal.path.read_bytes() == before
    full_disk.free()
    assert journal.append(record(3))
    assert ids(journal) == ["u.b.0", "u.b.1", "u.b.2", "u.b.3"]
    assert json.loads(journal.path.read_text().splitlines()[0])["energy_kwh"] == 5.0


@pytest.mark.needs("root")
def test_a_full_disk_never_leaves_a_torn_line_in_front_of_a_record(full_disk):
    journal = Journal(full_disk.path, "u.b")
    journal.append(record(0))
    full_disk.fill(leave_bytes=4096)
    written = 1
    while journal.append(record(written)) and written < 1000:
        written += 1
    assert journal.waiting
    full_disk.free()
    assert journal.flush()
    assert ids(journal) == [f"u.b.{number}" for number in range(written + 1)]


@settings(max_examples=30)
@given(works=st.lists(st.booleans(), min_size=1, max_size=12))
def test_whatever_fails_when_every_record_lands_once(works, tmp_path_factory):
    volume = tmp_path_factory.mktemp("volume") / "v"
    away = volume.with_name("away")
    journal = Journal(volume, "u.b")
    for number, works_now in enumerate(works):
        if works_now and volume.is_file():
            volume.unlink()
            if away.exists():
                away.rename(volume)
        elif not works_now and not volume.is_file():
            if volume.exists():
                volume.rename(away)
            volume.write_text("in the way")
        journal.append(record(number))
    if volume.is_file():
        volume.unlink()
        if away.exists():
            away.rename(volume)
    assert journal.flush()
    assert ids(journal) == [f"u.b.{number}" for number in range(len(works))]
    assert not list(journal.path.parent.glob("*.tmp"))


def test_a_link_in_the_place_of_the_segment_is_not_followed(tmp_path):
    journal = Journal(tmp_path / "v", "u.b")
    journal.append(record(0))
    precious = tmp_path / "precious"
    precious.write_text("not ours" * 1000)
    journal.path.unlink()
    journal.path.symlink_to(precious)
    assert journal.append(record(1))
    assert precious.read_text() == "not ours" * 1000
    assert ids(journal) == ["u.b.1"]


def test_a_pipe_in_the_place_of_the_segment_is_not_waited_on(tmp_path):
    journal = Journal(tmp_path, "u.b")
    journal.append(record(0))
    journal.path.unlink()
    os.mkfifo(journal.path)
    assert journal.append(record(1))
    assert ids(journal) == ["u.b.1"]


def test_a_segment_somebody_cut_begins_anew_without_holes(tmp_path):
    journal = Journal(tmp_path, "u.b")
    journal.append(record(0))
    journal.path.write_text("")
    journal.append(record(1))
    journal.append(record(2))
    assert ids(journal) == ["u.b.1", "u.b.2"]
