import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.pod.sampled_counter import SAMPLES_MAX, Lag, Sample, SampledCounter

looks = st.lists(
    st.builds(
        Sample,
        st.floats(0, 1e9, allow_nan=False).map(float),
        st.floats(0, 1e12, allow_nan=False),
    ),
    max_size=40,
)


def counter_of(*looks: tuple[float, float]) -> SampledCounter:
    counter = SampledCounter()
    for moment_s, value in looks:
        counter.add(Sample(moment_s, value))
    return counter


def test_a_value_between_two_looks_is_linear_and_level_outside() -> None:
    counter = counter_of((10, 100), (20, 200), (40, 300))
    told = [counter.at(moment_s) for moment_s in (0, 10, 15, 20, 30, 40, 99)]
    assert told == [100, 100, 150, 200, 250, 300, 300]


def test_before_the_first_look_there_is_nothing() -> None:
    assert (SampledCounter().at(5), SampledCounter().value) == (0, 0)


def test_a_counter_that_begins_at_zero_rises_from_its_beginning() -> None:
    counter = SampledCounter(Sample(0, 0))
    counter.add(Sample(10, 40))
    assert (counter.at(-5), counter.at(5)) == (0, 20)


def test_a_stale_look_changes_nothing() -> None:
    counter = counter_of((10, 100), (20, 200), (10, 100), (15, 150), (20, 200))
    assert (counter.at(15), counter.value) == (150, 200)


def test_a_counter_that_stands_still_is_level_between_its_looks() -> None:
    assert counter_of((10, 100), (30, 100), (40, 200)).at(20) == 100


def test_a_higher_value_of_an_earlier_moment_starts_anew() -> None:
    """The clock was set back an hour: waiting for it to come up again would lose that hour."""
    counter = counter_of((3600, 100), (10, 200), (20, 300))
    assert (counter.at(10), counter.at(15), counter.value) == (200, 250, 300)


def test_only_the_last_looks_are_kept() -> None:
    counter = counter_of(*((n, n) for n in range(1000)))
    assert counter.at(0) == 1000 - SAMPLES_MAX


@given(looks, st.floats(-1e9, 1e10))
def test_no_more_than_was_seen_is_told(seen: list[Sample], moment_s: float) -> None:
    counter = SampledCounter()
    for look in seen:
        counter.add(look)
    assert counter.value == max((look.value for look in seen), default=0)
    assert 0 <= counter.at(moment_s) <= counter.value


@given(looks.filter(len), st.lists(st.floats(-1e9, 1e10), min_size=2))
def test_a_later_moment_has_no_lower_value(seen: list[Sample], moments_s: list[float]) -> None:
    counter = SampledCounter()
    for look in seen:
        counter.add(look)
    told = [counter.at(moment_s) for moment_s in sorted(moments_s)]
    assert told == sorted(told)


def test_the_lag_is_the_step_that_the_oldest_look_was_within() -> None:
    lag = Lag((30, 60))
    told = []
    for age_s in (5, 29, 31, 12, 400):
        lag.see(age_s)
        told.append(lag.seconds)
    assert told == [30, 30, 60, 60, 60]


def test_a_time_that_is_ahead_does_not_shorten_the_lag() -> None:
    lag = Lag((30, 60))
    lag.see(-1e9)
    assert lag.seconds == pytest.approx(30)
