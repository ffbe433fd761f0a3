"""What the loop is told: from memory, at once, and never without its origin."""

import threading
from dataclasses import replace

import pytest

from sidecar.carbon.feed import FixedFeed, LiveFeed, fallen_back
from sidecar.carbon.intensity import CarbonIntensity
from sidecar.carbon.keeper import IntensityKeeper
from sidecar.carbon.series import Series, Span
from sidecar.carbon.uk import Uk
from sidecar.units import Figure
from tests.carbon.conftest import NOW_S
from tests.fakes.collector import hang, respond

AVERAGE = CarbonIntensity(Figure(120, "gCO2e/kWh", 100, 140, "the catalogue", 2025), "zone", None)
PATIENCE_S = 60
HOUR_S = NOW_S // 3600 * 3600


def zone_of(region):
    return {"uksouth": "GB", "london": "GB-13"}.get(region)


@pytest.fixture
def feed(fake, clock):
    made = LiveFeed(IntensityKeeper(Uk(fake.url), clock=clock), zone_of, clock, lambda: 0.0)
    yield made
    made.close()


def begun(feed, region="uksouth"):
    feed.start()
    feed.aim(region)
    feed.wait(PATIENCE_S)
    assert feed.is_settled
    return feed


def test_a_window_takes_the_value_of_its_time_with_its_origin(feed):
    found = begun(feed).during(NOW_S, NOW_S + 15, AVERAGE)
    assert found.figure.value == 280
    assert (found.kind, found.at_s, found.level) == ("forecast", HOUR_S, "zone")
    assert found.figure.source.startswith("Carbon Intensity API (NESO), Great Britain")
    assert (found.figure.year, found.figure.unit, found.note) == (2027, "gCO2e/kWh", None)


def test_until_an_answer_comes_the_fallback_is_told_marked(feed, fake):
    fake.always = hang
    feed.start()
    feed.aim("uksouth")
    found = feed.during(NOW_S, NOW_S + 15, AVERAGE)
    assert not feed.is_settled
    assert found == fallen_back(AVERAGE, "uk")
    assert (found.figure, found.kind) == (AVERAGE.figure, "fallback")
    assert found.note == "uk gave no value for this time; average used"
    fake.release()


def test_a_fallback_of_a_fallback_says_both():
    world = replace(AVERAGE, note="no region is known; world average used")
    found = fallen_back(world, "uk")
    assert found.note == f"{world.note}; uk gave no value for this time; average used"


def test_a_service_that_fails_settles_and_the_fallback_holds(feed, fake):
    fake.always = respond(500)
    assert begun(feed).during(NOW_S, NOW_S + 15, AVERAGE).kind == "fallback"


def test_a_time_without_a_value_takes_the_fallback(feed):
    assert begun(feed).during(NOW_S - 90_000, NOW_S - 89_985, AVERAGE).kind == "fallback"


@pytest.mark.parametrize("region", [None, "atlantis"])
def test_without_a_zone_nobody_is_asked(feed, fake, region):
    assert begun(feed, region).during(NOW_S, NOW_S + 15, AVERAGE).kind == "fallback"
    assert fake.requests == []


def test_a_region_that_becomes_known_is_asked_about(feed, fake):
    begun(feed, None)
    begun(feed, "uksouth")
    assert feed.during(NOW_S, NOW_S + 15, AVERAGE).figure.value == 280
    begun(feed, "london")
    assert feed.during(NOW_S, NOW_S + 15, AVERAGE).figure.source.startswith(
        "Carbon Intensity API (NESO), region 13"
    )
    assert len(fake.requests) == 2


def test_a_region_said_again_asks_nobody_again(feed, fake):
    for _ in range(3):
        begun(feed)
    assert len(fake.requests) == 1


def test_the_next_hour_is_asked_for_by_itself(fake, clock, monkeypatch):
    monkeypatch.setattr("sidecar.carbon.feed.LOOK_PERIOD_S", 0.01)
    feed = LiveFeed(IntensityKeeper(Uk(fake.url), clock=clock), zone_of, clock, lambda: 0.0)
    begun(feed)
    fake.value = lambda _: 77
    answered = threading.Event()
    plain = fake.behave
    fake.behave = lambda handler: (plain(handler), answered.set())
    clock.now_s += 3600
    assert answered.wait(PATIENCE_S)
    feed.close()
    assert len(fake.requests) == 2


def test_those_who_ask_at_the_turn_of_the_hour_are_spread(fake, clock, monkeypatch):
    monkeypatch.setattr("sidecar.carbon.feed.LOOK_PERIOD_S", 0.01)
    looked = threading.Semaphore(0)

    def ticking():
        looked.release()
        return clock.now_s

    feed = LiveFeed(IntensityKeeper(Uk(fake.url), clock=clock), zone_of, ticking, lambda: 0.5)
    begun(feed)
    clock.now_s = HOUR_S + 3600 + 59  # half of two minutes is 60 s
    for _ in range(20):
        assert looked.acquire(timeout=PATIENCE_S)
    assert len(fake.requests) == 1
    feed.close()


def test_whatever_goes_wrong_the_fallback_holds_and_it_is_logged(clock, caplog):
    class Broken:
        provider = "uk"

        def observed(self, zone, now_s):
            raise RuntimeError("a bug")

    feed = LiveFeed(IntensityKeeper(Broken(), clock=clock), zone_of, clock)
    assert begun(feed).during(NOW_S, NOW_S + 15, AVERAGE).kind == "fallback"
    feed.close()
    assert "a bug" in caplog.text


def test_where_no_thread_can_be_started_it_is_settled(feed, monkeypatch, caplog):
    def refused(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    feed.start()
    assert feed.is_settled
    assert "can't start new thread; averages are used" in caplog.text


def test_closing_does_not_wait_for_a_question_under_way(feed, fake):
    fake.always = hang
    feed.start()
    feed.aim("uksouth")
    feed.close()
    assert feed.is_settled
    fake.release()


def test_what_needs_nobody_to_be_asked_is_settled_at_once():
    span = Span(HOUR_S, HOUR_S + 3600, 55, "scheduled")
    feed = FixedFeed(Series("schedule", "schedule", "schedule: mine", None, (span,)))
    feed.start()
    feed.aim(None)
    feed.wait(0)
    assert feed.is_settled
    found = feed.during(NOW_S, NOW_S + 15, AVERAGE)
    assert (found.figure.value, found.level, found.kind) == (55, None, "scheduled")
    assert feed.during(NOW_S - 7200, NOW_S - 7100, AVERAGE).kind == "fallback"
    feed.close()
