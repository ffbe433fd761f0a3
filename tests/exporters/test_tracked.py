"""What a tracker shows: sums of the records, and no figure for what is unknown."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.exporters.tracked import (
    TEXT_CHARACTERS_MAX,
    TOTALS,
    WINDOW,
    WORDS,
    figures,
    mean_power_w,
    value_text,
    words,
)
from sidecar.record import SUMMED, EmissionRecord
from tests.exporters.tracked_windows import record, tracked


def test_the_totals_are_the_sums_of_the_windows():
    windows = tracked(5)
    shown = figures(windows[-1])
    for name in ("energy_kwh", "facility_energy_kwh", "emissions_g", "duration_s"):
        expected = math.fsum(getattr(window.record, name) for window in windows)
        assert shown[f"emissions/{name}"] == pytest.approx(expected, rel=1e-12)
    assert [window.number for window in windows] == [1, 2, 3, 4, 5]


def test_a_total_is_a_field_that_is_summed_and_every_name_is_a_field():
    fields = set(EmissionRecord.__slots__)
    assert set(TOTALS) <= set(SUMMED)
    assert {*WINDOW, *WORDS} <= fields


def test_power_is_the_energy_of_the_window_over_its_time():
    window = tracked(2)[-1]
    expected_w = window.record.energy_kwh * 3.6e6 / 15
    assert figures(window)["emissions/window/power_w"] == pytest.approx(expected_w)
    assert mean_power_w(record(1, duration_s=0.0)) is None


def test_what_is_unknown_has_no_figure_and_no_word():
    (window,) = tracked(1, emissions_g=None, gpu_utilization=None, region=None)
    assert "emissions/emissions_g" not in figures(window)
    assert "emissions/window/gpu_utilization" not in figures(window)
    assert "emissions.region" not in words(window.totals)
    assert None not in figures(window).values()


def test_a_total_as_a_word_reads_back_as_the_same_number():
    totals = tracked(3)[-1].totals
    assert float(words(totals)["emissions.energy_kwh"]) == totals.energy_kwh


@given(text=st.text(max_size=2_000))
def test_a_name_of_any_kind_is_one_short_line(text):
    shown = value_text(text)
    assert len(shown) <= TEXT_CHARACTERS_MAX
    assert not set(shown) & set("\r\n\x00\x1b\x85\u2028\u2029")
    shown.encode()


def test_the_end_of_a_window_is_its_time():
    assert tracked(2)[-1].end_s == 1795334430.0
