import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.gpu_tally import HOLD_S, LARGEST_BOARD_POWER_W, CounterTally, SampleTally


def test_the_samples_of_codecarbon_case_give_their_mean_power():
    tally = SampleTally()
    tally.add(100, 0.0)
    for second in range(1, 16):
        tally.add((100, 200, 60)[second % 3], float(second))
    assert tally.integral / tally.observed_s == pytest.approx(120.0)
    assert tally.observed_s == 15


def test_a_late_sample_is_a_gap_and_no_spike():
    tally = SampleTally()
    tally.add(400, 0.0)
    tally.add(400, 3600.0)
    assert tally.observed_s == HOLD_S
    assert tally.integral == 400 * HOLD_S
    assert tally.gaps == 1


def test_after_an_interruption_samples_start_anew():
    tally = SampleTally()
    tally.add(1, 0.0)
    tally.interrupt()
    tally.add(1, 2.0)
    assert tally.observed_s == 0


def test_a_counter_that_restarted_counts_from_zero():
    tally = CounterTally()
    tally.add(5_000_000, 0.0, 400)
    tally.add(5_100_000, 1.0, 400)
    tally.add(250_000, 2.0, 400)
    assert (tally.energy_mj, tally.resets, tally.dropped) == (350_000, 1, 0)


def test_a_restarted_counter_that_claims_the_impossible_counts_nothing():
    tally = CounterTally()
    tally.add(5_000_000, 0.0, 400)
    tally.add(4_999_999, 1.0, 400)
    assert (tally.energy_mj, tally.resets, tally.dropped, tally.metered_s) == (0, 1, 1, 0.0)
    tally.add(5_000_099, 2.0, 400)
    assert tally.energy_mj == 100


def test_a_counter_of_all_ones_and_back_counts_nothing_of_it():
    tally = CounterTally()
    for second, value in enumerate((1000, 2**64 - 1, 1_000_000_000, 1_000_000_500)):
        tally.add(value, float(second), None)
    assert tally.energy_mj == 500
    assert tally.dropped == 2


STEPS = st.lists(st.tuples(st.integers(0, 700_000), st.floats(1, 1e5), st.booleans()), min_size=1)


@given(STEPS)
def test_the_sum_is_that_of_the_true_forward_steps(steps: list[tuple[int, float, bool]]):
    """Each step is energy of up to 700 W and 1 s; a driver reload restarts the counter first."""
    tally, counter_mj, true_mj, now_s = CounterTally(), 0, 0, 0.0
    tally.add(counter_mj, now_s, None)
    for step_mj, wait_s, reloaded in steps:
        unseen_mj = 0 if not reloaded else min(counter_mj, step_mj)
        counter_mj = step_mj if reloaded else counter_mj + step_mj
        now_s += wait_s
        before_mj = tally.energy_mj
        tally.add(counter_mj, now_s, None)
        true_mj += step_mj
        assert before_mj <= tally.energy_mj <= true_mj
        assert tally.energy_mj - before_mj >= step_mj - unseen_mj
    if not any(reloaded for *_, reloaded in steps):
        assert tally.energy_mj == true_mj
        assert tally.metered_s == pytest.approx(now_s)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.floats(0, 1e6))), st.floats(10, 3000))
def test_whatever_the_counter_says_energy_is_never_negative_nor_impossible(
    values: list[tuple[int, float]], limit_w: float
):
    tally, now_s = CounterTally(), 0.0
    for counter_mj, wait_s in values:
        now_s += wait_s
        before_mj = tally.energy_mj
        tally.add(counter_mj, now_s, limit_w)
        step_mj = tally.energy_mj - before_mj
        assert 0 <= step_mj <= LARGEST_BOARD_POWER_W * 1000 * max(wait_s, 1.0) * (1 + 1e-9) + 1


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(-5, 100)), min_size=1))
def test_samples_cover_each_second_once_at_most(samples: list[tuple[float, float]]):
    tally, now_s, latest_s = SampleTally(), 0.0, 0.0
    tally.add(0, 0.0)
    for value, wait_s in samples:
        now_s += wait_s
        latest_s = max(latest_s, now_s)
        tally.add(value, now_s)
        assert 0 <= tally.observed_s <= latest_s + 1e-6
        assert 0 <= tally.integral <= 1000 * tally.observed_s + 1e-6
