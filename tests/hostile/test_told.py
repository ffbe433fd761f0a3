"""What is told of bytes from outside: short, on one line, and without what a terminal would obey."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.validation import InvalidRecord, RecordValidator

TOLD_MAX = 400

VALIDATOR = RecordValidator()
ROW = {
    "record_id": "u.b.1",
    "window_start": "2026-11-22T08:00:00Z",
    "window_end": "2026-11-22T08:00:15Z",
}
KEYS = st.text(max_size=2000) | st.sampled_from(
    ["\x1b]0;x\x07", "\u202eabc", "\x9b31m", "a\nb", "x" * 9999]
)


def told_of(line: bytes) -> str:
    with pytest.raises(InvalidRecord) as refused:
        VALIDATOR.record_of(line)
    return str(refused.value)


@pytest.mark.parametrize("column", ["labels", "annotations", "identity_source", "phases"])
@given(key=KEYS)
def test_a_key_of_a_record_that_is_refused_is_told_short_and_harmless(column, key):
    told = told_of(json.dumps({**ROW, column: {key: []}}).encode())
    assert len(told) <= TOLD_MAX
    assert told.isprintable()
    assert told.isascii()
