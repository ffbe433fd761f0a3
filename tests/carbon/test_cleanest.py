"""The cleanest start: the least sliding mean, whatever the spans are."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.carbon.cleanest import cleanest_start
from sidecar.carbon.series import Series, Span, in_order, matched

H = 3600.0
T0 = 500_000 * H


def forecast(*values, start_s=T0, length_s=H):
    spans = tuple(
        Span(start_s + i * length_s, start_s + (i + 1) * length_s, value, "forecast")
        for i, value in enumerate(values)
        if value is not None
    )
    return Series("uk", "GB", "s", "zone", foreseen=spans)


def test_the_cleanest_hours_are_found():
    choice = cleanest_start(forecast(300, 200, 100, 100, 400), T0, 2 * H)
    assert choice.cleanest.start_s == T0 + 2 * H
    assert choice.cleanest.matched.g_per_kwh == 100
    assert choice.earliest.matched.g_per_kwh == 250
    assert choice.foreseen_until_s == T0 + 5 * H


def test_a_start_within_an_hour_is_found_where_the_run_ends_at_a_boundary():
    choice = cleanest_start(forecast(300, 100, 100, 300), T0, 2.5 * H)
    assert choice.cleanest.start_s in (T0 + 0.5 * H, T0 + H)
    assert choice.cleanest.matched.g_per_kwh == pytest.approx((2 * 100 + 0.5 * 300) / 2.5)


def test_of_equal_starts_the_earliest_is_taken():
    assert cleanest_start(forecast(*[100] * 9), T0 + 60, H).cleanest.start_s == T0 + 60


def test_nothing_starts_before_now():
    choice = cleanest_start(forecast(1, 200, 100), T0 + 1.5 * H, 0.5 * H)
    assert choice.earliest.start_s == T0 + 1.5 * H
    assert choice.cleanest.start_s == T0 + 2 * H


def test_a_run_has_to_end_in_time():
    choice = cleanest_start(forecast(300, 200, 100, 1), T0, H, T0 + 3 * H)
    assert choice.cleanest.start_s == T0 + 2 * H


def test_a_gap_is_never_run_over():
    timeline = forecast(300, 300, *[None] * 6, 100, 100)
    assert cleanest_start(timeline, T0, 2 * H).cleanest.start_s == T0 + 8 * H


def test_a_forecast_that_is_too_short_has_no_start():
    assert cleanest_start(forecast(1, 1), T0, 3 * H) is None
    assert cleanest_start(forecast(), T0, H) is None
    assert cleanest_start(forecast(1), T0 + 2 * H, H) is None


def test_what_stands_in_after_the_end_of_a_forecast_foresees_nothing():
    assert cleanest_start(forecast(1), T0, 2 * H) is None


def test_a_run_without_a_length_is_refused():
    with pytest.raises(ValueError, match="longer than 0 s"):
        cleanest_start(forecast(1), T0, 0)


minutes = st.builds(
    lambda start, length, value: Span(T0 + 60.0 * start, T0 + 60.0 * (start + length), value, "forecast"),  # noqa: E501
    st.integers(0, 300), st.integers(1, 90), st.floats(0, 1000),
)  # fmt: skip


@given(
    st.lists(minutes, max_size=12), st.integers(1, 120), st.integers(0, 60), st.integers(60, 400)
)
def test_no_start_is_cleaner_than_the_one_found(spans, length_min, now_min, until_min):
    timeline = Series("uk", "GB", "s", "zone", foreseen=in_order(spans))
    now_s, until_s, length_s = T0 + 60.0 * now_min, T0 + 60.0 * until_min, 60.0 * length_min
    published = {
        minute
        for span in timeline.foreseen
        for minute in range(round((span.start_s - T0) / 60), round((span.end_s - T0) / 60))
    }
    last = max(published, default=-1)
    means = {}
    # Everything is at whole minutes here, so that one of them is a cleanest start.
    for start in range(now_min, until_min - length_min + 1):
        found = matched(timeline, T0 + 60.0 * start, T0 + 60.0 * start + length_s)
        if found is not None and start + length_min - 1 <= last:
            means[start] = found.g_per_kwh
    choice = cleanest_start(timeline, now_s, length_s, until_s)
    if choice is None:
        assert not means
        return
    assert choice.cleanest.matched.g_per_kwh == pytest.approx(min(means.values()), abs=1e-6)
    assert choice.earliest.start_s == T0 + 60.0 * min(means)
    assert now_s <= choice.cleanest.start_s
    assert choice.cleanest.end_s <= until_s + 1e-6
    assert choice.cleanest.matched.g_per_kwh <= choice.earliest.matched.g_per_kwh + 1e-6


@given(st.lists(st.floats(0, 1000), min_size=3, max_size=30), st.floats(0.1, 3), st.floats(0, 30))
def test_no_instant_is_a_cleaner_start_either(values, hours, offset_h):
    timeline, length_s = forecast(*values), hours * H
    choice = cleanest_start(timeline, T0, length_s)
    if choice is None:
        assert hours > len(values)
        return
    start_s = T0 + offset_h * H
    if start_s + length_s <= T0 + len(values) * H:
        other = matched(timeline, start_s, start_s + length_s)
        assert choice.cleanest.matched.g_per_kwh <= other.g_per_kwh + 1e-6
    assert not math.isnan(choice.cleanest.start_s)
