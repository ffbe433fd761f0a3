"""Month on month: which days are compared with which."""

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from sidecar.report.figures.daily import AsOf, Daily
from sidecar.report.figures.months import month_on_month, monthly
from tests.report.figures.rows import day


def days(month, numbers, grams):
    return [day(f"{month}-{number:02}", grams) for number in numbers]


NOON = AsOf(datetime(2026, 11, 12, 12, tzinfo=UTC))
TWO_MONTHS = Daily.of(
    days("2026-09", range(1, 31), 1.0)
    + days("2026-10", range(1, 32), 2.0)
    + days("2026-11", range(1, 13), 3.0)
)


def test_full_days_so_far_are_compared_with_the_same_days_before():
    row = month_on_month(TWO_MONTHS, NOON)["to_date"]
    assert (row["days"], row["emissions_g"], row["previous_emissions_g"]) == (11, 33.0, 22.0)
    assert (row["difference_g"], row["change"]) == (11.0, 0.5)
    assert row["previous_is_whole"]


def test_full_months_are_compared_with_full_months():
    row = month_on_month(TWO_MONTHS, NOON)["full"]
    assert (row["month"], row["previous_month"]) == ("2026-10", "2026-09")
    assert (row["emissions_g"], row["previous_emissions_g"]) == (62.0, 30.0)
    assert row["change"] == pytest.approx(32 / 30)


def test_a_shorter_month_before_limits_the_days_of_both():
    as_of = AsOf(datetime(2026, 3, 31, 12, tzinfo=UTC))
    march = days("2026-02", range(1, 29), 1.0) + days("2026-03", range(1, 32), 1.0)
    row = month_on_month(Daily.of(march), as_of)["to_date"]
    assert (row["days"], row["previous_days"], row["emissions_g"]) == (28, 28, 28.0)


def test_on_the_first_day_there_is_nothing_to_compare_yet():
    as_of = AsOf(datetime(2026, 11, 1, 12, tzinfo=UTC))
    row = month_on_month(TWO_MONTHS, as_of)["to_date"]
    assert (row["days"], row["emissions_g"], row["change"]) == (0, None, None)


def test_before_the_first_record_nothing_is_known_and_afterwards_none_is_zero():
    daily = Daily.of(days("2026-10", range(20, 22), 5.0))
    result = month_on_month(daily, NOON)
    assert result["full"]["previous_emissions_g"] is None
    assert result["to_date"]["emissions_g"] == 0.0
    assert result["to_date"]["previous_emissions_g"] is None


def test_a_month_before_that_began_late_is_not_whole():
    daily = Daily.of(days("2026-10", range(5, 32), 1.0) + days("2026-11", range(1, 12), 1.0))
    assert month_on_month(daily, NOON)["to_date"]["previous_is_whole"] is False


def test_a_selection_that_begins_late_is_not_whole():
    as_of = AsOf(NOON.moment, date(2026, 10, 2))
    assert month_on_month(TWO_MONTHS, as_of)["to_date"]["previous_is_whole"] is False


def test_no_change_is_told_against_nothing():
    daily = Daily.of(days("2026-10", [1], 0.0) + days("2026-11", [1], 5.0))
    assert month_on_month(daily, NOON)["to_date"]["change"] is None


def test_silence_at_the_end_is_not_taken_for_a_saving():
    daily = Daily.of(days("2026-10", range(1, 32), 2.0) + days("2026-11", range(1, 4), 2.0),
                     date(2026, 11, 3))  # fmt: skip
    row = month_on_month(daily, NOON)["to_date"]
    assert (row["days"], row["emissions_g"], row["change"]) == (3, 6.0, 0.0)


def test_a_month_without_any_record_of_anything_is_not_known():
    daily = Daily.of(days("2026-09", range(1, 31), 1.0), date(2026, 9, 30))
    result = month_on_month(daily, NOON)
    assert (result["to_date"]["days"], result["to_date"]["change"]) == (0, None)
    assert (result["full"]["emissions_g"], result["full"]["change"]) == (None, None)


def test_a_project_that_ended_while_others_go_on_did_save():
    daily = Daily.of(days("2026-10", range(1, 32), 1.0), date(2026, 11, 11))
    assert month_on_month(daily, NOON)["to_date"]["change"] == -1.0


def test_bounds_of_days_that_have_none_are_their_values():
    bounded, bare = day("2026-10-01", 10.0), day("2026-10-02", 10.0)
    bare = replace(bare, measures=replace(bare.measures, emissions_low_g=None))
    assert Daily.of([bounded, bare]).sums(date(2026, 10, 1), 2)["emissions_low_g"] == 15.0
    assert Daily.of([bare]).sums(date(2026, 10, 1), 2)["emissions_low_g"] is None


def test_months_add_up_to_the_days():
    months = monthly(TWO_MONTHS)
    assert [(row["month"], row["emissions_g"]) for row in months] == [
        ("2026-09", 30.0),
        ("2026-10", 62.0),
        ("2026-11", 36.0),
    ]


def test_a_day_that_is_none_is_left_out():
    odd = [day(text, 1.0) for text in ("", "<script>", "2026-13-01", "2026-02-30")]
    assert Daily.of(odd).days == {}
