"""Segments: names that lead nowhere else, and bytes from anybody."""

import gzip
import json
import random
import tracemalloc
import zlib
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.segment import (
    SEGMENT_BYTES_MAX,
    NotASegment,
    SegmentName,
    blob_name,
    compressed,
    decompressed,
    first_record,
    parcel_of,
    path_part,
)

MIB = 1024**2

any_text = st.text(st.characters(exclude_categories=()), min_size=1)
long_text = st.builds(lambda text, times: text * times, any_text, st.integers(1, 400))
names = st.builds(
    SegmentName,
    st.from_regex(r"[A-Za-z0-9-]{1,64}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9-]{1,64}", fullmatch=True),
    st.integers(0, 10**12 - 1),
)


def row(**changes):
    record = {"record_id": "uid.boot.7", "window_start": "2026-11-22T23:59:59.000Z"}
    return {**record, "project": "bert", "cluster": "aks-1", **changes}


def line(**changes):
    return json.dumps(row(**changes)).encode() + b"\n"


# -- parts of a path -------------------------------------------------------------------------------


@given(any_text | long_text)
def test_any_name_becomes_one_harmless_part_of_a_path(text):
    part = path_part(text)
    assert 1 <= len(part) <= 200
    assert part.isascii()
    assert part.isprintable()
    assert not set(part) & set('/\\?#&=:*"<>| ')
    assert not part.startswith(".")
    assert not part.endswith(".")


@given(any_text)
def test_a_short_name_can_be_read_back(text):
    part = path_part(text)
    if "~" not in part:
        assert unquote(part, errors="surrogatepass") == text


@given(any_text | long_text, any_text | long_text)
def test_different_names_stay_different(one, other):
    assert (path_part(one) == path_part(other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("%2E%2E", ".."),
        ("a~b", "a%7Eb"),
        ("x" * 500, "x" * 501),
        ("é" * 100, "é" * 99 + "e"),
        ("e\u0301", "\u00e9"),
        ("\U0001f600", "\ud83d\ude00"),
    ],
)
def test_names_that_look_alike_stay_different(one, other):
    assert path_part(one) != path_part(other)


def test_the_short_form_of_a_long_name_is_nobody_elses_name():
    short = path_part("x" * 500)
    assert "~" in short
    assert path_part(short) != short


@pytest.mark.parametrize("length", [179, 180, 181])
def test_a_name_is_cut_only_where_it_is_too_long(length):
    part = path_part("x" * length)
    assert ("~" in part) == (length > 180)
    assert len(part) <= 200


@pytest.mark.parametrize("start", range(4))
def test_a_cut_tears_no_escaped_byte(start):
    cut = path_part("x" * start + "日" * 100).partition("~")[0]
    assert len(cut) > 50
    assert all(len(code) >= 2 for code in cut.split("%")[1:])


# -- names -----------------------------------------------------------------------------------------


@given(names)
def test_a_segments_name_is_read_back_from_its_files(name):
    assert SegmentName.of_file(f"{name}.ndjson") == name
    assert SegmentName.of_file(f"{name}.ndjson.gz") == name


@given(names)
def test_a_record_leads_to_the_segment_that_begins_with_it(name):
    assert SegmentName.of_record(f"{name.stem}.{name.sequence}") == name


@pytest.mark.parametrize(
    "file_name",
    [
        "u.b.00000001",
        "u.b.00000001.gz",
        "u.b.0000001.ndjson",
        "u.b.000000001.ndjson",
        "u.b." + "\u0661" * 8 + ".ndjson",
        "u.b.00000001.ndjson\n",
        ".u.b.00000001.ndjson",
        ".u.b.00000001.ndjson.0123.tmp",
        "u.00000001.ndjson",
        "../u.b.00000001.ndjson",
        "ü.b.00000001.ndjson",
        "x" * 65 + ".b.00000001.ndjson",
    ],
)
def test_other_files_are_no_segments(file_name):
    assert SegmentName.of_file(file_name) is None


@given(st.text())
def test_a_file_taken_for_a_segment_is_the_one_its_name_says(text):
    name = SegmentName.of_file(text)
    assert name is None or text in (f"{name}.ndjson", f"{name}.ndjson.gz")


@pytest.mark.parametrize(
    "record_id",
    [
        "",
        "u.b",
        "u.b.",
        "u.b.-1",
        "u.b.01",
        "u.b.1.2",
        "u.b.٣",
        "u/x.b.1",
        "...",
        "u.b.1\n",
        "u..1",
    ],
)
def test_other_record_ids_are_refused(record_id):
    with pytest.raises(NotASegment, match="record_id"):
        SegmentName.of_record(record_id)


def test_a_blobs_name_says_project_date_cluster_and_segment():
    assert blob_name(row()) == (
        "records/v1/project=bert/date=2026-11-22/aks-1/uid.boot.00000007.ndjson.gz"
    )


def test_what_another_pod_hands_over_has_a_name_of_its_own():
    assert blob_name(row(), handed_over=True).endswith("/uid.boot.00000007.handed-over.ndjson.gz")


@pytest.mark.parametrize("missing", [None, ""])
def test_a_record_without_project_and_cluster_has_a_place_too(missing):
    name = blob_name(row(project=missing, cluster=missing))
    assert name.startswith("records/v1/project=default/date=2026-11-22/unknown/")


@given(any_text | long_text, any_text | long_text)
def test_no_project_or_cluster_leads_out_of_its_directory(project, cluster):
    name = blob_name(row(project=project, cluster=cluster))
    parts = name.split("/")
    assert len(parts) == 6
    assert ".." not in parts
    assert len(name) <= 1024  # the longest name that Azure Blob takes


@pytest.mark.parametrize(
    "changes",
    [
        {"record_id": None},
        {"record_id": 7},
        {"record_id": ["u.b.1"]},
        {"window_start": "yesterday"},
        {"window_start": "2026-11-22"},
        {"window_start": "٢٠٢٦-11-22T00:00:00Z"},
        {"window_start": 5},
        {"project": ["a"]},
        {"cluster": {"a": 1}},
    ],
)
def test_a_record_that_has_no_place_is_refused(changes):
    with pytest.raises(NotASegment, match=next(iter(changes))):
        blob_name(row(**changes))


# -- bytes -----------------------------------------------------------------------------------------


@given(st.binary())
def test_a_segment_is_decompressed_to_what_it_was(content):
    assert decompressed(compressed(content)) == content


def test_the_same_text_is_compressed_to_the_same_bytes():
    """No time and no name in the header (RFC 1952: MTIME at 4, FLG at 3)."""
    content = compressed(line())
    assert content[3:8] == b"\0" * 5
    assert content == compressed(line())


def bomb():
    """A gzip stream of one MiB that unpacks to one GiB."""
    packer = zlib.compressobj(9, wbits=31)
    zeros = b"\0" * MIB
    return b"".join([*(packer.compress(zeros) for _ in range(1024)), packer.flush()])


def test_a_bomb_is_refused_and_takes_little_memory():
    content = bomb()
    assert len(content) < 2 * MIB
    tracemalloc.start()
    try:
        with pytest.raises(NotASegment, match="more than"):
            decompressed(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * SEGMENT_BYTES_MAX


def test_the_limit_itself_is_allowed_and_one_more_byte_is_not():
    assert len(decompressed(compressed(b"x" * 1000), limit=1000)) == 1000
    with pytest.raises(NotASegment, match="more than 1000 bytes"):
        decompressed(compressed(b"x" * 1001), limit=1000)


@pytest.mark.parametrize("kept", [0, 1, 9, 10, 20, -8, -1])
def test_a_torn_segment_is_refused(kept):
    with pytest.raises(NotASegment, match="cut short"):
        decompressed(compressed(line())[:kept])


@pytest.mark.parametrize("after", [b"x", b"\0", compressed(b"more")])
def test_what_follows_a_segment_is_refused(after):
    with pytest.raises(NotASegment, match="follows"):
        decompressed(compressed(line()) + after)


@pytest.mark.parametrize("content", [line(), b"PK\3\4", zlib.compress(line())])
def test_what_is_no_gzip_is_refused(content):
    with pytest.raises(NotASegment, match="not gzip"):
        decompressed(content)


def test_a_flipped_bit_is_noticed():
    content = bytearray(compressed(line()))
    content[-6] ^= 1
    with pytest.raises(NotASegment, match="not gzip"):
        decompressed(bytes(content))


@given(
    st.binary()
    | st.binary().map(compressed)
    | st.binary().map(lambda b: line() + b).map(gzip.compress)
)
def test_any_bytes_are_a_segment_or_none(content):
    try:
        parcel = parcel_of(content)
    except NotASegment:
        return
    assert parcel.blob_name.startswith("records/v1/")


mangled = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["record_id", "window_start", "project", "cluster"]), mangled)
)
def test_any_values_have_a_place_or_none(changes):
    content = json.dumps(row(**changes)).encode() + b"\n"
    try:
        name = parcel_of(compressed(content)).blob_name
    except NotASegment:
        return
    assert len(name.split("/")) == 6


@pytest.mark.parametrize(
    "ndjson",
    [
        b"",
        b"\n",
        line().rstrip(),
        b"[]\n",
        b"7\n",
        b"{\n",
        b"\xff{}\n",
        line().decode().encode("utf-16"),
        b"[" * MIB + b"\n",
        b'{"a":' * MIB + b"\n",
        b'{"record_id": ' + b"9" * 5000 + b"}\n",
    ],
)
def test_a_first_line_that_is_no_record_is_refused(ndjson):
    with pytest.raises(NotASegment, match="its first line"):
        first_record(ndjson)


def test_a_parcel_is_addressed_by_its_first_record_and_counts_them_all():
    ndjson = line() + line(record_id="uid.boot.8", project="other")
    parcel = parcel_of(compressed(ndjson))
    assert parcel.blob_name == blob_name(row())
    assert parcel.records == 2
    assert parcel.content == compressed(ndjson)


def test_the_digest_is_that_of_the_text_however_it_is_compressed():
    ndjson = b"".join(line(record_id=f"uid.boot.{number}") for number in range(100))
    fast, small = gzip.compress(ndjson, 1, mtime=0), compressed(ndjson)
    assert fast != small
    assert parcel_of(fast).sha256 == parcel_of(small).sha256


def test_segments_sort_by_process_and_sequence():
    ordered = [SegmentName("a", "b", n) for n in (0, 9, 10, 10**9)] + [SegmentName("b", "a", 0)]
    shuffled = random.Random(1).sample(ordered, len(ordered))
    assert sorted(shuffled) == ordered
