"""Windows on the wall clock: aligned, continuous, and gaps told apart from late ticks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.windows import (
    GAP_TOLERANCE_S,
    SNAP_S,
    next_boundary_s,
    rfc3339,
    snapped_s,
    window_between,
)


def test_windows_end_at_multiples_of_the_interval():
    assert next_boundary_s(100.0, 15) == 105.0
    assert next_boundary_s(105.0, 15) == 120.0


def test_a_boundary_that_is_too_near_is_skipped():
    assert next_boundary_s(104.7, 15) == 120.0


def test_a_tick_is_named_by_the_boundary_it_stands_for():
    assert snapped_s(105.02, 15) == 105.0
    assert snapped_s(104.98, 15) == 105.0


def test_a_tick_far_from_any_boundary_keeps_its_own_time():
    assert snapped_s(109.0, 15) == 109.0


def test_a_late_tick_is_a_longer_window_without_gap():
    window = window_between(100.0, 160.0, duration_s=60.0)
    assert (window.start_s, window.end_s, window.duration_s, window.gap_s) == (100, 160, 60, 0)


def test_a_suspended_machine_leaves_a_gap():
    window = window_between(100.0, 700.0, duration_s=15.0)
    assert window.gap_s == 585.0


def test_a_wall_clock_set_back_neither_shortens_nor_lengthens_the_window():
    window = window_between(100.0, 50.0, duration_s=15.0)
    assert (window.start_s, window.end_s, window.gap_s) == (100.0, 115.0, 0.0)


def test_clock_slew_is_no_gap():
    assert window_between(100.0, 115.4, duration_s=15.0).gap_s == 0.0


def test_times_are_rfc_3339_in_utc_with_milliseconds():
    assert rfc3339(1_700_000_000.0006) == "2023-11-14T22:13:20.001Z"


seconds = st.floats(0, 1e6, allow_nan=False)


@given(start=st.floats(1e9, 2e9), elapsed=st.floats(-1e6, 1e6), duration=seconds)
def test_a_windows_length_is_its_duration_and_its_gap(start, elapsed, duration):
    window = window_between(start, start + elapsed, duration)
    assert window.gap_s >= 0
    assert window.end_s >= window.start_s
    assert window.end_s - window.start_s == pytest.approx(
        window.duration_s + window.gap_s, abs=GAP_TOLERANCE_S + 1e-3
    )


@given(wall=st.floats(1e9, 2e9), interval=st.sampled_from([1, 5, 15, 60, 3600]))
def test_the_next_boundary_is_ahead_and_aligned(wall, interval):
    boundary = next_boundary_s(wall, interval)
    assert boundary % interval == 0
    assert SNAP_S < boundary - wall <= interval + SNAP_S + 1e-3


def test_a_slewed_clock_over_an_hour_is_no_gap():
    assert window_between(0.0, 3601.5, duration_s=3600.0).gap_s == 0.0
