"""The last answer on disk: as it was, or not at all."""

import json
import logging
import multiprocessing
import os
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.carbon.cache import SeriesFiles
from sidecar.carbon.encoding import FORMAT, between, decoded, encoded
from sidecar.carbon.series import Series, Span, in_order
from tests.carbon.conftest import NOW_S

SERIES = Series(
    "uk", "GB", "the API of Great Britain", "zone",
    known=(Span(NOW_S - 1800, NOW_S, 231.5, "observed"),),
    foreseen=(Span(NOW_S, NOW_S + 1800, 240, "forecast"),),
    asked_at_s=NOW_S, forecast_asked_at_s=NOW_S,
)  # fmt: skip


@pytest.fixture
def files(tmp_path):
    return SeriesFiles(tmp_path / "intensity")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "intensity" / "uk.GB.json"


def test_what_is_written_is_read(files):
    assert files.read("uk", "GB") is None
    files.write(SERIES)
    assert files.read("uk", "GB") == SERIES
    assert files.read("uk", "GB-13") is None
    assert files.read("schedule", "GB") is None


def test_without_a_directory_nothing_is_kept():
    files = SeriesFiles(None)
    files.write(SERIES)
    with files.alone("uk", "GB"):
        assert files.read("uk", "GB") is None


def test_a_zone_never_leaves_the_directory(files, tmp_path):
    files.write(replace(SERIES, zone="../../up"))
    assert [file.name for file in tmp_path.rglob("*.json")] == ["uk.______up.json"]
    assert files.read("uk", "______up") is None


@pytest.mark.parametrize("part", [0, 1, 50, -1])
def test_a_torn_file_counts_as_none_and_is_written_anew(files, path, part, caplog):
    files.write(SERIES)
    path.write_bytes(path.read_bytes()[:part])
    with caplog.at_level(logging.WARNING):
        assert files.read("uk", "GB") is None
    assert "is written anew" in caplog.text
    files.write(SERIES)
    assert files.read("uk", "GB") == SERIES


def changed(**changes):
    return json.dumps({**json.loads(encoded(SERIES)), **changes}).encode()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (changed(format=FORMAT + 1), "has format 2, not 1"),
        (changed(unit="lb/MWh"), "unit"),
        (changed(level="galaxy"), "level"),
        (changed(zone=""), "zone"),
        (changed(source="two\nlines"), "not printable"),
        (changed(provider=3), "provider"),
        (changed(asked_at_s="noon"), "asked_at_s"),
        (changed(known={}), "no list"),
        (changed(known=[[1, 2, 3]]), "not [start, end, g/kWh, kind]"),
        (changed(known=[[1, 2, -3, "observed"]]), "outside 0 to 5000"),
        (changed(known=[[2, 2, 3, "observed"]]), "no length"),
        (changed(known=[[1, 2, 3, "forecast"]]), "no kind"),
        (changed(known=[[1, 2, True, "observed"]]), "not [start, end"),
        (changed(known=[[1, 2, 3, "observed"]] * 1001), "at most 1000"),
        (changed().replace(b"231.5", b"NaN"), "not [start, end"),
        (changed().replace(b"231.5", b"1e999"), "not [start, end"),
        (b"[]", "no JSON object"),
        (b"[" * 99_999, "nested too deeply"),
        (b"\xc3\x28", "decode"),
        (b" " * 300_000, "longer than"),
    ],
)  # fmt: skip
def test_a_file_of_another_version_or_that_lies_counts_as_none(files, path, content, told, caplog):
    files.write(SERIES)
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert files.read("uk", "GB") is None
    assert told in caplog.text


def test_a_link_or_a_pipe_in_its_place_is_not_followed(files, path, tmp_path):
    files.write(SERIES)
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    assert files.read("uk", "GB") is None
    path.unlink()
    os.mkfifo(path)
    assert files.read("uk", "GB") is None


def test_a_directory_that_cannot_be_written_is_told_once(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    files = SeriesFiles(tmp_path / "file" / "below")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            files.write(SERIES)
            with files.alone("uk", "GB"):
                pass
    assert (
        caplog.text.count("cannot be written: Not a directory; intensities are kept in memory") == 1
    )
    assert caplog.text.count("cannot be opened") == 1


def _hold(directory, held, end):
    with SeriesFiles(directory).alone("uk", "GB"):
        held.set()
        end.wait(60)


def test_one_process_at_a_time_is_alone(tmp_path):
    context = multiprocessing.get_context("fork")
    held, end = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held, end))
    other.start()
    assert held.wait(60)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        end.set()
        other.join(60)

    with SeriesFiles(tmp_path, wait).alone("uk", "GB-13"):
        assert waits == []  # of another zone
    with SeriesFiles(tmp_path, wait).alone("uk", "GB"):
        assert waits == [0.2]


def test_one_that_never_lets_go_holds_nobody_up_for_ever(tmp_path):
    with SeriesFiles(tmp_path).alone("uk", "GB"):
        waited = []
        with SeriesFiles(tmp_path, waited.append).alone("uk", "GB"):
            assert sum(waited) == pytest.approx(12)


def test_only_values_near_the_times_asked_for_are_told():
    near = between(SERIES, NOW_S - 100, NOW_S - 50)
    assert (near.known, near.foreseen) == (SERIES.known, ())


times = st.integers(0, 2_000_000_000)
kinds = st.sampled_from(["observed", "estimated", "scheduled"])
spans = st.builds(
    lambda start, length, value, kind: Span(start, start + length, value, kind),
    times, st.integers(1, 86_400), st.floats(0, 5000), kinds,
)  # fmt: skip


@given(st.lists(spans, max_size=30), st.none() | times.map(float), st.sampled_from([None, "zone"]))
def test_every_series_is_decoded_as_it_was(known, asked_at_s, level):
    series = Series("uk", "GB", "s", level, in_order(known), asked_at_s=asked_at_s)
    assert decoded(encoded(series)) == series


def test_readers_never_see_half_a_file(files):
    files.write(SERIES)
    stop, seen = threading.Event(), []

    def read():
        while not stop.is_set():
            seen.append(files.read("uk", "GB"))

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(50):
        files.write(replace(SERIES, source=f"s{number}"))
    stop.set()
    thread.join(60)
    assert None not in seen
