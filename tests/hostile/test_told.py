"""What is told of bytes from outside: short, on one line, and without what a terminal would obey."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.carbon.schedule_file import read_schedule
from sidecar.cli.logs import formatter_of
from sidecar.settings import SettingsError, declared_settings, load_settings
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


ADDRESSES = [item.name for item in declared_settings() if item.metadata["metavar"] == "URL"]


@pytest.mark.parametrize("name", ADDRESSES)
@pytest.mark.parametrize(
    "address",
    [
        "https://user:precious@host",
        "http://user:precious@host:99999/",
        "http://user:precious@[::1",
        "ftp://user:precious@host",
        "user:precious@host",
        "http://host/path?sig=precious",
        "http:host?sig=precious",
        "http://host/#precious",
        "http://ho\nst?sig=precious",
    ],
)
def test_an_address_that_is_refused_is_told_without_what_may_be_a_secret_in_it(name, address):
    with pytest.raises(SettingsError) as refused:
        load_settings({name: address}, {})
    assert "precious" not in str(refused.value)
    assert str(refused.value).isprintable()


@given(st.sampled_from([item.name for item in declared_settings()]), st.text(max_size=300))
def test_whatever_a_setting_is_given_it_is_taken_or_refused_in_one_short_line(name, text):
    try:
        load_settings({name: text}, {})
    except SettingsError as error:
        assert len(str(error)) <= TOLD_MAX
        assert str(error).isprintable()


@pytest.mark.parametrize("text", ["0" * 20 + "257", "0" * 19 + "5" + "9" * 5000])
def test_a_number_with_many_digits_is_no_other_number(text):
    with pytest.raises(SettingsError):
        load_settings({"uploads": text}, {})


@pytest.mark.parametrize(
    "text",
    [
        "hour,g\x1b]0;x\x07\n" + "".join(f"{hour},x\n" for hour in range(24)),
        "start,end,g_per_kwh\n2026-01-01\x1b00:00:00Z,2026-01-02T00:00:00Z,x\n",
        json.dumps({"hours": {"\x1b[31m" * 99: [1]}}),
        json.dumps({"\u202e" + "x" * 999: 1, "hours": []}),
        json.dumps({"timezone": "\x1b" * 99, "hours": []}),
    ],
    ids=["column", "time", "day", "key", "zone"],
)
def test_what_a_schedule_has_wrong_is_told_short_and_harmless(tmp_path, text):
    (tmp_path / "s").write_text(text)
    with pytest.raises(ValueError, match="schedule") as refused:
        read_schedule(tmp_path / "s")
    told = str(refused.value).removeprefix(f"schedule {tmp_path}")
    assert len(told) <= TOLD_MAX
    assert told.isprintable()


FOREIGN = st.text(max_size=300) | st.sampled_from(
    ["\x1b[2J", "\x9b31m", "a\nlevel: error", "\u202e", "\u2028", "\ud800"]
)


@given(FOREIGN)
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_text_of_others_leaves_its_line_of_the_log_nor_obeys_a_terminal(log_format, text):
    """Whoever forgot to escape it: the formatter does it for all."""
    lines = logged(log_format, "the project is %s", text).splitlines()
    assert len(lines) == 1
    assert lines[0].isprintable()
    if log_format == "json":
        assert json.loads(lines[0])["message"] == f"the project is {text}"


@given(FOREIGN)
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_text_of_an_error_obeys_a_terminal(log_format, text):
    written = logged(log_format, "failed", error=ValueError(text))
    assert "ValueError" in written
    assert all(line.isprintable() for line in written.split("\n"))


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_line_of_the_log_ends_somewhere(log_format):
    assert len(logged(log_format, "%s", "x" * 10**6)) < 20_000


def logged(log_format: str, message: str, *given: object, error: Exception | None = None) -> str:
    """What is written of one message."""
    about = None if error is None else (type(error), error, None)
    record = logging.LogRecord("sidecar.x", logging.WARNING, "x.py", 1, message, given, about)
    return formatter_of(log_format).format(record)
