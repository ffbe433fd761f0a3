"""Checking of segments alone: what is arbitrary never gets through, a bomb costs no memory."""

import gzip
import hashlib
import json
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.collector.limits import Limits
from sidecar.collector.record_lines import RecordLines
from sidecar.collector.refusal import Refusal
from sidecar.collector.segment_check import check_segment
from sidecar.segment import blob_name, compressed
from tests.collector.running import ndjson, record

LINES = RecordLines()
PLAIN = ndjson(record(1), record(2), record(9, event="end", end_reason="SIGTERM"))
CONTENT = compressed(PLAIN)


def check(content, limits=None):
    return check_segment(content, LINES, limits or Limits())


def test_a_segment_is_described_by_its_plain_text() -> None:
    checked = check(CONTENT)
    assert checked.sha256 == hashlib.sha256(PLAIN).hexdigest()
    assert checked.records == 3
    assert checked.name == blob_name(json.loads(PLAIN.splitlines()[0]))
    assert len(checked.origins) == 1


def test_how_it_was_compressed_makes_no_difference() -> None:
    for level in (0, 1, 9):
        assert check(gzip.compress(PLAIN, level)) == check(CONTENT)


@given(st.binary(max_size=2000))
def test_arbitrary_bytes_are_refused_never_an_error(content) -> None:
    with pytest.raises(Refusal) as refusal:
        check(content)
    assert refusal.value.status == 400


@given(st.binary(max_size=2000))
def test_arbitrary_lines_are_refused_never_an_error(lines) -> None:
    with pytest.raises(Refusal) as refusal:
        check(compressed(lines))
    assert refusal.value.status in (400, 422)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted(json.loads(PLAIN.splitlines()[0]))), _JSON)
def test_any_value_in_any_field_is_taken_as_it_is_or_refused(name, value) -> None:
    row = json.loads(PLAIN.splitlines()[0])
    row[name] = value
    try:
        checked = check(compressed(json.dumps(row).encode() + b"\n"))
    except Refusal as refusal:
        assert refusal.status == 422
    else:
        assert checked.name.startswith("records/v1/project=")
        assert len(checked.name.split("/")) == 6
        assert not {"", ".", ".."} & set(checked.name.split("/"))


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_a_changed_byte_never_changes_what_is_taken(place, change) -> None:
    changed = bytearray(CONTENT)
    changed[place] ^= change
    try:
        checked = check(bytes(changed))
    except Refusal as refusal:
        assert refusal.status in (400, 413, 422)
    else:  # the header's time, file system and the like
        assert checked.sha256 == hashlib.sha256(PLAIN).hexdigest()


@given(st.integers(0, len(PLAIN) - 1), st.binary(min_size=1, max_size=1))
def test_plain_text_with_a_byte_changed_is_taken_only_if_it_is_valid(place, change) -> None:
    plain = PLAIN[:place] + change + PLAIN[place + 1 :]
    try:
        checked = check(compressed(plain))
    except Refusal as refusal:
        assert refusal.status in (400, 422)
        return
    lines = plain.splitlines()
    assert checked.records == len(lines)
    for line in lines:
        row = json.loads(line)
        assert LINES.row_of(line)["record_id"].startswith(f"{row['pod_uid']}.")


@pytest.mark.parametrize("deep", [b"[" * 60_000, b'{"a":' * 10_000])
def test_a_line_nested_beyond_all_depth_is_refused_never_an_error(deep) -> None:
    with pytest.raises(Refusal) as refused:
        check(compressed(PLAIN + deep + b"\n"))
    assert (refused.value.status, refused.value.code) == (422, "invalid_record")


def test_a_bomb_is_refused_in_bounded_memory() -> None:
    deflated = zlib.compressobj(9, wbits=31)
    bomb = b"".join(deflated.compress(b"\0" * 1024**2) for _ in range(256)) + deflated.flush()
    assert len(bomb) < 300_000  # and 256 MiB inside
    _refused_in_bounded_memory(bomb)


def test_a_bomb_of_short_lines_is_refused_in_bounded_memory() -> None:
    deflated = zlib.compressobj(9, wbits=31)
    lines = PLAIN.splitlines()[0] + b"\n"
    bomb = b"".join(deflated.compress(lines * 1000) for _ in range(100)) + deflated.flush()
    _refused_in_bounded_memory(bomb)


def _refused_in_bounded_memory(bomb) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Refusal) as refusal:
            check(bomb)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refusal.value.status in (413, 422)
    assert peak_bytes < 2 * 1024**2


def test_a_full_segment_is_checked_in_bounded_memory() -> None:
    plain = ndjson(*(record(number) for number in range(1, 10_001)))
    assert len(plain) < Limits().ndjson_bytes
    content = compressed(plain)
    assert len(content) < Limits().content_bytes
    del plain
    tracemalloc.start()
    try:
        assert check(content).records == 10_000
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * 1024**2


@pytest.mark.parametrize("size", [1, 100, 32 * 1024 - 1, 32 * 1024, 32 * 1024 + 1, 60_000])
def test_lines_are_whole_wherever_the_pieces_end(size) -> None:
    plain = ndjson(record(1, annotations={"a": "x" * size}), record(2))
    for level in (0, 6):
        checked = check(gzip.compress(plain, level))
        assert (checked.records, checked.sha256) == (2, hashlib.sha256(plain).hexdigest())
