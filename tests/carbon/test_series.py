"""What a window takes of values over time."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.carbon.series import (
    CARRIED_MAX_S,
    KEPT_S,
    Matched,
    Series,
    Span,
    believable,
    in_order,
    matched,
)

H = 3600.0
T0 = 500_000 * H  # the start of an hour
NAN = math.nan


def hours(*values, start_s=T0, kind="observed"):
    return tuple(
        Span(start_s + index * H, start_s + (index + 1) * H, value, kind)
        for index, value in enumerate(values)
        if value is not None
    )


def series(*values, foreseen=(), **fields):
    return Series("uk", "GB", "a source", "zone", hours(*values), foreseen, **fields)


def test_a_window_within_an_hour_takes_the_hours_value():
    found = matched(series(100, 200), T0 + H + 15, T0 + H + 30)
    assert found == Matched(200, 200, 200, "observed", T0 + H)


def test_a_window_over_a_boundary_takes_the_mean_by_time_and_its_bounds():
    found = matched(series(100, 200), T0 + 3 * H / 4, T0 + 3 * H / 2)
    assert found.g_per_kwh == pytest.approx(100 / 3 + 200 * 2 / 3)
    assert (found.low, found.high) == (100, 200)
    assert found.at_s == T0


def test_an_instant_takes_the_value_that_begins_there():
    assert matched(series(100, 200), T0 + H, T0 + H).g_per_kwh == 200


def test_the_kind_of_a_window_is_that_of_its_weakest_value():
    timeline = series(100, foreseen=hours(200, start_s=T0 + H, kind="forecast"))
    assert matched(timeline, T0 + 10, T0 + 20).kind == "observed"
    assert matched(timeline, T0 + H - 10, T0 + H + 10).kind == "forecast"


def test_what_was_observed_goes_before_what_was_foreseen():
    timeline = series(100, None, 300, foreseen=hours(1, 2, 3, kind="forecast"))
    assert [matched(timeline, T0 + h * H, T0 + h * H + 9).g_per_kwh for h in range(3)] == [
        100,
        2,
        300,
    ]


def test_a_half_hour_that_is_known_cuts_an_hour_that_was_foreseen():
    known = (Span(T0 + H / 2, T0 + H, 50, "observed"),)
    timeline = Series("uk", "GB", "s", "zone", known, hours(100, kind="forecast"))
    assert matched(timeline, T0, T0 + H).g_per_kwh == 75


def test_a_value_is_carried_for_three_hours_and_says_of_when_it_is():
    timeline = series(100)
    found = matched(timeline, T0 + 2 * H, T0 + 2 * H + 15)
    assert (found.g_per_kwh, found.kind, found.at_s) == (100, "carried", T0)
    assert matched(timeline, T0 + H + CARRIED_MAX_S, T0 + H + CARRIED_MAX_S + 15) is None


def test_a_window_of_which_a_part_is_unknown_is_unknown():
    assert matched(series(100), T0 - 10, T0 + 10) is None
    assert matched(series(100), T0 + H + CARRIED_MAX_S - 10, T0 + H + CARRIED_MAX_S + 10) is None


def test_nothing_is_known_of_an_empty_series():
    assert matched(series(), T0, T0 + 15) is None


@pytest.mark.parametrize(
    ("start_s", "end_s", "value"),
    [
        (T0, T0 + H, -1), (T0, T0 + H, NAN), (T0, T0 + H, math.inf), (T0, T0 + H, 5001),
        (T0, T0, 1), (T0 + H, T0, 1), (T0, T0 + 25 * H, 1), (NAN, T0, 1),
        (T0 - KEPT_S - H, T0 - KEPT_S - 1, 1), (T0 + 9 * 86400, T0 + 9 * 86400 + H, 1),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_not_believed(start_s, end_s, value):
    assert not believable(Span(start_s, end_s, value, "observed"), T0)


def test_a_later_answer_replaces_values_of_the_same_start_and_keeps_the_others():
    older, newer = series(100, 200, asked_at_s=T0), series(None, 250, 300, asked_at_s=T0 + H)
    both = older.plus(newer, T0 + 2 * H)
    assert [span.g_per_kwh for span in both.known] == [100, 250, 300]
    assert newer.plus(older, T0 + 2 * H).known == both.known
    assert both.asked_at_s == T0 + H


def test_a_forecast_is_kept_where_an_answer_has_none():
    with_forecast = series(foreseen=hours(7, kind="forecast"), forecast_asked_at_s=T0)
    both = with_forecast.plus(series(100, asked_at_s=T0 + H), T0 + H)
    assert both.foreseen == hours(7, kind="forecast")
    assert both.forecast_asked_at_s == T0


def test_old_values_are_dropped():
    assert series(100).plus(series(), T0 + H + KEPT_S + 1).known == ()


spans = st.lists(
    st.builds(
        lambda start, length, value: Span(
            T0 + 60.0 * start, T0 + 60.0 * (start + length), value, "observed"
        ),
        st.integers(0, 600),
        st.integers(1, 120),
        st.floats(0, 5000),
    ),
    min_size=1,
    max_size=20,
)


@given(spans)
def test_spans_in_order_never_overlap(given_spans):
    ordered = in_order(given_spans)
    assert all(a.start_s < a.end_s <= b.start_s for a, b in pairwise(ordered))


@given(spans, spans, st.integers(0, 700), st.integers(1, 60))
def test_the_mean_is_that_of_all_its_seconds(known, foreseen, start_min, length_min):
    timeline = Series("uk", "GB", "s", "zone", in_order(known), in_order(foreseen))
    start_s, end_s = T0 + 60.0 * start_min, T0 + 60.0 * (start_min + length_min)
    found = matched(timeline, start_s, end_s)
    each = [matched(timeline, start_s + 60 * m, start_s + 60 * m) for m in range(length_min)]
    if found is None:
        assert None in each
        return
    values = [minute.g_per_kwh for minute in each]
    assert found.g_per_kwh == pytest.approx(math.fsum(values) / len(values))
    assert (found.low, found.high) == (min(values), max(values))
    assert found.low <= found.g_per_kwh <= found.high


@given(st.lists(st.floats(0, 5000), min_size=3, max_size=3), st.floats(0, 2 * H), st.floats(1, H))
def test_a_window_takes_what_its_parts_would_if_it_were_split_at_the_hours(
    values, offset_s, length_s
):
    timeline, start_s = series(*values), T0 + offset_s
    end_s = start_s + length_s
    whole = matched(timeline, start_s, end_s)
    cuts = sorted({start_s, end_s, *(T0 + h * H for h in range(4) if start_s < T0 + h * H < end_s)})
    energy_kwh = 0.3
    parts_g = math.fsum(
        energy_kwh * (b - a) / (end_s - start_s) * matched(timeline, a, b).g_per_kwh
        for a, b in pairwise(cuts)
    )
    assert energy_kwh * whole.g_per_kwh == pytest.approx(parts_g, rel=1e-6, abs=1e-9)
