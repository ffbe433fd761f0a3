"""Reports of minutes and hours are told by moments, which come to the same total."""

from dataclasses import replace

import pytest

from sidecar.report.dataset import Dataset
from sidecar.report.duckdb_engine import DuckDBEngine
from sidecar.report.engine import totals
from sidecar.report.moments import step_for
from sidecar.report.places import DirectoryPlace
from sidecar.report.selection import Selection
from sidecar.windows import rfc3339
from tests.report.records import record, write

START_S = 1_795_334_400.0  # 2026-11-22T08:00:00Z


def windows(count, seconds, **changes):
    """Yield records one after another, so many seconds each."""
    for number in range(count):
        begin = START_S + number * seconds
        yield replace(
            record(f"u.b.{number}", duration_s=float(seconds), **changes),
            window_start=rfc3339(begin),
            window_end=rfc3339(begin + seconds),
        )


@pytest.fixture
def found(tmp_path):
    def found(*records, selection=None):
        write(tmp_path / "a.ndjson", *records)
        with Dataset.open([DirectoryPlace(tmp_path)]) as dataset:
            engine = DuckDBEngine(dataset.connection)
            made = totals(dataset, selection or Selection(), engine)
            made.tables.close()
            return made.moments

    return found


def test_half_a_minute_goes_by_its_windows(found):
    moments = found(*windows(6, 5))
    assert moments.step_s == 5
    assert [row["start"] for row in moments.rows] == [
        f"2026-11-22T08:00:{second:02}Z" for second in range(0, 30, 5)
    ]
    assert sum(row["energy_kwh"] for row in moments.rows) == pytest.approx(6.0)


def test_an_hour_of_short_windows_goes_by_the_minute(found):
    moments = found(*windows(240, 15))
    assert moments.step_s == 60
    assert len(moments.rows) == 60
    assert moments.rows[0]["emissions_high_g"] == pytest.approx(1600.0)


def test_projects_are_told_apart(found):
    moments = found(
        *windows(2, 5), replace(next(windows(1, 5)), record_id="x.b.1", project="other")
    )
    assert {row["project"] for row in moments.rows} == {"demo", "other"}


def test_many_projects_are_one(found):
    rows = [
        replace(next(windows(1, 5)), record_id=f"x.b.{number}", project=f"p{number}")
        for number in range(60)
    ]
    moments = found(*rows)
    assert [row["project"] for row in moments.rows] == [None]
    assert moments.rows[0]["energy_kwh"] == pytest.approx(60.0)


def test_days_need_no_moments(found):
    later = replace(next(windows(1, 5)), record_id="x.b.1", window_start="2026-11-25T08:00:00Z",
                    window_end="2026-11-25T08:00:05Z")  # fmt: skip
    assert found(*windows(2, 5), later) is None


def test_a_selection_has_its_own(found):
    moments = found(*windows(6, 5), selection=Selection(until="2026-11-22T08:00:10.000Z"))
    assert len(moments.rows) == 2


def test_nothing_has_none(found):
    assert found() is None


@pytest.mark.parametrize(
    ("span_s", "window_s", "step_s"),
    [(0.5, 0.5, 1), (30, 5.0001, 5), (30, 30, 30), (3600, 15, 60), (172_800, 15, 3600), (9, 4e3, 3600)],
)  # fmt: skip
def test_a_step_holds_a_window_and_is_no_shorter_than_can_be_seen(span_s, window_s, step_s):
    assert step_for(span_s, window_s) == step_s
