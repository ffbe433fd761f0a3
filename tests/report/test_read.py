"""Reading records: each once, and what is not a record is counted, never fatal."""

import os

from hypothesis import given
from hypothesis import strategies as st

from sidecar.report.listing import Listing
from sidecar.report.places import DirectoryPlace
from sidecar.report.read import LeftOut, ReadReport, entries
from tests.report.reading import read_records
from tests.report.records import record, write


def read(source):
    seen = ReadReport()
    return list(read_records(DirectoryPlace(source), seen)), seen


def test_records_are_found_at_any_depth_plain_and_compressed(tmp_path):
    write(tmp_path / "records" / "a.ndjson", record("a.1"), record("a.2"))
    write(tmp_path / "other" / "deep" / "b.ndjson.gz", record("b.1"))
    records, seen = read(tmp_path)
    assert {item.record_id for item in records} == {"a.1", "a.2", "b.1"}
    assert (seen.files, seen.records, seen.duplicates) == (2, 3, 0)


def test_a_record_that_stands_twice_counts_once(tmp_path):
    write(tmp_path / "a.ndjson", record("a.1"))
    write(tmp_path / "copy" / "a.ndjson.gz", record("a.1"))
    records, seen = read(tmp_path)
    assert len(records) == 1
    assert seen.duplicates == 1


def test_a_torn_last_line_is_left_out_and_told(tmp_path):
    write(tmp_path / "a.ndjson", record("a.1"), tail='{"schema":1,"record_id":"a.2","ener')
    records, seen = read(tmp_path)
    assert [item.record_id for item in records] == ["a.1"]
    assert dict(seen.left_out) == {"torn line": 1}


def test_alien_lines_are_left_out_by_kind(tmp_path):
    alien = '[1,2]\n{"schema":2,"record_id":"x"}\n{"energy_kwh":"much"}\n\n'
    write(tmp_path / "a.ndjson", record("a.1"), tail=alien)
    records, seen = read(tmp_path)
    assert len(records) == 1
    assert dict(seen.left_out) == {"not a record": 2, "schema 2, this version reads 1": 1}


def test_absurd_amounts_are_left_out(tmp_path):
    lines = (
        '{"schema":1,"record_id":"negative","energy_kwh":-1}',
        '{"schema":1,"record_id":"infinite","emissions_g":1e999}',
        '{"schema":1,"energy_kwh":1}',
    )
    write(tmp_path / "a.ndjson", tail="\n".join(lines) + "\n")
    records, seen = read(tmp_path)
    assert records == []
    assert sum(seen.left_out.values()) == 3


def test_a_broken_archive_is_read_as_far_as_it_goes(tmp_path):
    path = write(tmp_path / "a.ndjson.gz", *[record(f"a.{n}") for n in range(2000)])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    write(tmp_path / "b.ndjson", record("b.1"))
    records, seen = read(tmp_path)
    assert 0 < len(records) - 1 < 2000
    assert records[-1].record_id == "b.1"
    assert seen.left_out["unreadable file"] == 1


def test_an_archive_that_is_none_is_told(tmp_path):
    (tmp_path / "a.ndjson.gz").write_bytes(b"\x1f\x8b\x08\x00garbage")
    (tmp_path / "b.ndjson.gz").write_bytes(b"no gzip at all")
    _, seen = read(tmp_path)
    assert seen.left_out["unreadable file"] == 2


def test_a_field_of_a_later_version_is_no_harm(tmp_path):
    write(tmp_path / "a.ndjson", tail='{"schema":1,"record_id":"a","colour":"green"}\n')
    records, _ = read(tmp_path)
    assert [item.record_id for item in records] == ["a"]


@given(content=st.binary(max_size=400))
def test_no_bytes_stop_a_report(content, tmp_path_factory):
    source = tmp_path_factory.mktemp("any")
    (source / "a.ndjson").write_bytes(content)
    (source / "b.ndjson.gz").write_bytes(content)
    write(source / "c.ndjson", record("good"))
    records, _ = read(source)
    assert "good" in {item.record_id for item in records}


def test_a_pipe_among_the_record_files_does_not_hold_the_report(tmp_path):
    os.mkfifo(tmp_path / "a.ndjson")
    write(tmp_path / "b.ndjson", record("b.1"))
    records, _ = read(tmp_path)
    assert [item.record_id for item in records] == ["b.1"]


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    for name in ("b.ndjson", "a-b/x.ndjson.gz", "a/x.ndjson", "b.ndjson.gz", "B.ndjson"):
        write(tmp_path / name, record(name))
    records, _ = read(tmp_path)
    assert [item.record_id for item in records] == sorted(item.record_id for item in records)


def test_hidden_files_and_what_a_report_wrote_are_no_records(tmp_path):
    write(tmp_path / ".a.ndjson", record("hidden"))
    write(tmp_path / "reports" / "v1" / "a.ndjson", record("report"))
    write(tmp_path / "volume" / "reports" / "v1" / "a.ndjson", record("report of a volume"))
    write(tmp_path / "volume" / "reports" / "a.ndjson", record("a folder of that name"))
    records, _ = read(tmp_path)
    assert [item.record_id for item in records] == ["a folder of that name"]


def test_a_directory_that_cannot_be_listed_is_told_not_passed_over(tmp_path):
    place = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):  # until the path is longer than the kernel takes
        os.mkdir("d" * 250, dir_fd=place)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    _, seen = read(tmp_path)
    assert seen.left_out["unreadable file"] == 1


def test_a_file_that_vanishes_while_others_are_read_is_told(tmp_path, caplog):
    write(tmp_path / "a.ndjson", record("a.1"))
    gone = write(tmp_path / "b.ndjson", record("b.1"))
    seen = ReadReport()
    records = read_records(DirectoryPlace(tmp_path), seen)
    assert next(records).record_id == "a.1"
    gone.unlink()
    assert list(records) == []
    assert dict(seen.left_out) == {"file that vanished while it was read": 1}
    assert "b.ndjson" in caplog.text


def test_each_line_that_is_left_out_is_named_with_its_file_and_reason(tmp_path):
    write(tmp_path / "a.ndjson", record("a.1"), tail='{"energy_kwh":"much"}\n')
    (_, first), (file, second) = entries(Listing.of(DirectoryPlace(tmp_path)).records, ReadReport())
    assert first.record_id == "a.1"
    assert file == "a.ndjson"
    assert second == LeftOut("not a record", second.text)
    assert second.text.startswith("energy_kwh: ")


def test_a_link_to_nothing_is_no_file_and_one_in_a_circle_is_told(tmp_path):
    (tmp_path / "a.ndjson").symlink_to("nothing")
    (tmp_path / "b.ndjson").symlink_to("b.ndjson")
    _, seen = read(tmp_path)
    assert (seen.files, dict(seen.left_out)) == (1, {"unreadable file": 1})
