"""Who is asked how often, and what is kept of the answers."""

import logging
import threading

import pytest

from sidecar.carbon.api import NoIntensityError
from sidecar.carbon.electricity_maps import ElectricityMaps
from sidecar.carbon.keeper import FIRST_PAUSE_S, ZONES_MAX, IntensityKeeper
from sidecar.carbon.series import Series, Span, matched
from sidecar.carbon.uk import Uk
from tests.carbon.conftest import NOW_S
from tests.fakes.collector import respond

HOUR_S = NOW_S // 3600 * 3600


@pytest.fixture
def keeper(fake, clock):
    return IntensityKeeper(Uk(fake.url), clock=clock)


class Told:
    """A service that answers what the test says: a series, or an error."""

    provider = "uk"

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0

    def observed(self, zone, now_s):
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    forecast = observed


def answer(asked_at_s=NOW_S, value=200.0):
    span = Span(HOUR_S, HOUR_S + 3600, value, "observed")
    return Series("uk", "GB", "s", "zone", (span,), asked_at_s=asked_at_s)


def test_a_zone_is_asked_about_once_an_hour(keeper, fake, clock):
    for minutes in range(0, 180, 5):
        clock.now_s = HOUR_S + 60 * minutes
        keeper.renew("GB")
    assert len(fake.requests) == 3


def test_the_hour_is_that_of_the_wall_clock(keeper, fake, clock):
    clock.now_s = HOUR_S + 3599
    keeper.renew("GB")
    assert not keeper.is_due("GB")
    clock.now_s = HOUR_S + 3600
    assert keeper.is_due("GB")


def test_zones_are_asked_about_each(keeper, fake):
    keeper.renew("GB")
    keeper.renew("GB-13")
    keeper.renew("GB")
    assert len(fake.requests) == 2


def test_threads_that_want_the_same_wait_for_one_answer(keeper, fake):
    threads = [threading.Thread(target=keeper.renew, args=("GB",)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(fake.requests) == 1


def test_a_process_that_starts_again_does_not_ask_again(fake, clock, tmp_path):
    for _ in range(3):
        keeper = IntensityKeeper(Uk(fake.url), tmp_path, clock=clock)
        assert matched(keeper.renew("GB"), NOW_S, NOW_S + 15) is not None
    assert len(fake.requests) == 1


def test_processes_that_share_a_directory_ask_once(fake, clock, tmp_path):
    keepers = [IntensityKeeper(Uk(fake.url), tmp_path, clock=clock) for _ in range(8)]
    threads = [threading.Thread(target=keeper.renew, args=("GB",)) for keeper in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(fake.requests) == 1
    assert all(keeper.kept("GB") is not None for keeper in keepers)


def test_processes_that_share_nothing_ask_each(fake, clock, tmp_path):
    for name in ("one", "two"):
        IntensityKeeper(Uk(fake.url), tmp_path / name, clock=clock).renew("GB")
    assert len(fake.requests) == 2


def test_a_service_that_fails_is_asked_again_after_5_10_and_20_minutes(keeper, fake, clock):
    fake.always = respond(503)
    clock.now_s = HOUR_S
    asked = []
    for minute in range(60):
        clock.now_s = HOUR_S + 60 * minute
        before = len(fake.requests)
        keeper.renew("GB")
        if len(fake.requests) > before:
            asked.append(minute)
    assert asked == [0, 5, 15, 35]


def test_retry_after_is_kept(keeper, fake, clock):
    fake.faults.append(respond(429, Retry_After="1200"))
    keeper.renew("GB")
    assert keeper.due_s("GB") == clock.now_s + 1200
    assert "429" in keeper.why_not("GB")


def test_one_that_refuses_is_asked_in_the_next_hour(keeper, fake, clock):
    fake.faults.append(respond(403))
    keeper.renew("GB")
    assert keeper.due_s("GB") == HOUR_S + 3600
    clock.now_s = HOUR_S + 3600
    assert keeper.renew("GB") is not None
    assert keeper.why_not("GB") == ""


def test_what_is_known_stays_while_a_service_fails(keeper, fake, clock):
    keeper.renew("GB")
    fake.always = respond(500)
    clock.now_s += 3600
    kept = keeper.renew("GB")
    assert matched(kept, clock.now_s, clock.now_s + 15).kind == "forecast"


def test_a_failure_is_logged_once_for_the_same_reason(fake, clock, caplog):
    keeper = IntensityKeeper(Told(NoIntensityError("nobody is there")), clock=clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            clock.now_s += 3600
            keeper.renew("GB")
    assert caplog.text.count("nobody is there; asked again later") == 1


def test_a_forecast_is_asked_for_once_an_hour_of_its_own(fake, clock, token_file):
    keeper = IntensityKeeper(ElectricityMaps(token_file, fake.url), clock=clock)
    for _ in range(4):
        keeper.renew("NL")
        keeper.renew("NL", "forecast")
    assert len(fake.asked("history")) == len(fake.asked("forecast")) == 1
    series = keeper.kept("NL")
    assert matched(series, NOW_S, NOW_S + 1).kind == "observed"
    assert matched(series, NOW_S + 7200, NOW_S + 7201).kind == "forecast"


def test_forecasts_are_kept_on_disk_and_serve_where_nothing_was_observed(
    fake, clock, token_file, tmp_path
):
    IntensityKeeper(ElectricityMaps(token_file, fake.url), tmp_path, clock=clock).renew(
        "NL", "forecast"
    )
    fake.always = respond(503)
    clock.now_s += 5 * 3600
    kept = IntensityKeeper(ElectricityMaps(token_file, fake.url), tmp_path, clock=clock).renew("NL")
    assert matched(kept, clock.now_s, clock.now_s + 15).kind == "forecast"


def test_an_answer_of_an_earlier_hour_is_kept_and_asked_for_again_soon(clock):
    service = Told(answer(asked_at_s=HOUR_S - 60), answer(value=210.0))
    keeper = IntensityKeeper(service, clock=clock)
    assert keeper.renew("GB").known[0].g_per_kwh == 200
    assert keeper.due_s("GB") == NOW_S + FIRST_PAUSE_S
    clock.now_s += FIRST_PAUSE_S
    assert keeper.renew("GB").known[0].g_per_kwh == 210


def test_a_clock_that_was_set_back_does_not_end_asking_for_ever(clock):
    service = Told(answer())
    keeper = IntensityKeeper(service, clock=clock)
    keeper.renew("GB")
    clock.now_s -= 30 * 86400
    assert keeper.is_due("GB")


def test_a_longer_period_is_kept(fake, clock):
    keeper = IntensityKeeper(Uk(fake.url), period_s=4 * 3600, clock=clock)
    for hour in range(8):
        clock.now_s = HOUR_S - 8 * 3600 + hour * 3600
        keeper.renew("GB")
    assert len(fake.requests) == 2


def test_zones_are_forgotten_before_they_fill_the_memory(clock):
    keeper = IntensityKeeper(Told(answer()), clock=clock)
    for number in range(2 * ZONES_MAX):
        keeper.renew(f"Z{number}")
    assert keeper.kept("Z0") is None
    assert keeper.kept(f"Z{2 * ZONES_MAX - 1}") is not None
