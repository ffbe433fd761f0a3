"""Whatever the agent does in its thread: the process learns of it, in time, and goes on."""

import threading
import time

import pytest

from sidecar.exporters.summary import Totals
from sidecar.exporters.tracker_feed import LOCAL_DEADLINE_S
from sidecar.metering import GRACE_S, Metering, patience_s
from sidecar.record import EmissionRecord
from sidecar.settings import load_settings
from tests.e2e.commands import PATIENCE_S, until

TOTALS = Totals(EmissionRecord(record_id="u.b.1"), 1)
LONG_S = PATIENCE_S


class StubAgent:
    """Waits as the agent does; `fails` are the steps that raise, `hangs` is one that does not end."""

    def __init__(self, fails=(), hangs=None, error=OSError):
        self.fails = fails
        self.hangs = hangs
        self.error = error
        self.steps = []
        self.wakes = []
        self.free = threading.Event()
        self.wait = None

    def _step(self, name):
        self.steps.append(name)
        if name == self.hangs:
            self.free.wait()
        if name in self.fails:
            raise self.error(f"{name} failed")

    def open(self):
        self._step("open")

    def run(self, wait):
        self._step("run")
        while True:
            wake = wait(0.01)
            self.wakes.append(wake)
            if wake.stop is not None:
                return wake.stop

    def close(self, reason):
        self._step(f"close: {reason}")
        self._step("close")
        return TOTALS

    def ship_briefly(self):
        self.steps.append("brief")
        self.free.set()


@pytest.fixture
def begun():
    """Starts to meter; at the end of the test whatever hangs is let go."""
    agents = []

    def make(agent, ended=lambda _: None):
        agents.append(agent)
        metering = Metering(agent, ended)
        metering.start()
        return metering

    yield make
    for agent in agents:
        agent.free.set()


def not_interrupted(wait_s):
    time.sleep(wait_s)
    return False


def test_the_end_is_told_with_the_totals_once_all_is_written(begun):
    told = []
    agent = StubAgent()
    metering = begun(agent, told.append)
    assert not metering.is_over
    assert metering.end("SIGTERM", LONG_S, not_interrupted)
    assert told == [TOTALS]
    assert agent.steps == ["open", "run", "close: SIGTERM", "close"]
    assert metering.is_over
    assert not metering.failed


def test_an_announced_end_reaches_the_agent_and_ends_nothing(begun):
    agent = StubAgent()
    metering = begun(agent)
    metering.hurry()
    until(lambda: any(wake.hurry for wake in agent.wakes))
    assert not metering.is_over
    assert metering.end("SIGTERM", LONG_S, not_interrupted)


def test_the_end_comes_after_what_was_announced_before(begun):
    agent = StubAgent(hangs="run")
    metering = begun(agent)
    metering.hurry()
    agent.free.set()
    assert metering.end("SIGTERM", LONG_S, not_interrupted)
    assert [(wake.hurry, wake.stop) for wake in agent.wakes if wake.hurry or wake.stop] == [
        (True, None),
        (False, "SIGTERM"),
    ]


@pytest.mark.parametrize("error", [OSError, KeyError, AssertionError, MemoryError])
def test_an_agent_that_fails_while_it_runs_still_writes_its_last_window(begun, caplog, error):
    told = []
    agent = StubAgent(fails=("run",), error=error)
    metering = begun(agent, told.append)
    until(lambda: metering.is_over)
    assert agent.steps[-2:] == ["close: metering failed", "close"]
    assert told == [TOTALS]
    assert not metering.end("SIGTERM", LONG_S, not_interrupted)
    assert "metering failed; the last window is written" in caplog.messages


@pytest.mark.parametrize("step", ["open", "close"])
def test_an_agent_that_cannot_be_opened_or_closed_ends_the_metering_only(begun, caplog, step):
    told = []
    metering = begun(StubAgent(fails=(step,)), told.append)
    assert not metering.end("SIGTERM", LONG_S, not_interrupted)
    assert metering.is_over
    assert told == []
    assert "metering failed and ended" in caplog.messages


def test_last_words_that_fail_are_a_failure(begun, caplog):
    def unspeakable(_):
        raise OSError("no terminal")

    metering = begun(StubAgent(), unspeakable)
    assert not metering.end("SIGTERM", LONG_S, not_interrupted)
    assert "metering failed and ended" in caplog.messages


def test_an_agent_that_leaves_its_thread_altogether_failed_too(begun):
    """SystemExit ends a thread without a word."""
    metering = begun(StubAgent(fails=("run",), error=SystemExit))
    assert not metering.end("SIGTERM", LONG_S, not_interrupted)


@pytest.mark.parametrize("step", ["open", "run", "close"])
def test_an_agent_that_hangs_is_waited_for_in_vain_but_not_for_ever(begun, caplog, step):
    told = []
    metering = begun(StubAgent(hangs=step), told.append)
    assert not metering.end("SIGTERM", 0.1, not_interrupted)
    assert not metering.is_over
    assert told == []
    assert any("not written after 0.1 s" in text for text in caplog.messages)


def test_who_is_impatient_shortens_the_shipping(begun):
    agent = StubAgent(hangs="close")
    metering = begun(agent)
    until(lambda: "run" in agent.steps)
    assert metering.end("SIGTERM", LONG_S, lambda _: True)
    assert "brief" in agent.steps


def test_where_no_thread_can_be_had_metering_is_over_and_says_so(begun, caplog, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        metering = begun(StubAgent())
    assert metering.is_over
    assert not metering.end("SIGTERM", LONG_S, not_interrupted)
    assert any("metering cannot start" in text for text in caplog.messages)


@pytest.mark.parametrize(
    ("flags", "seconds"),
    [
        ({"transport": "none", "ship_deadline": "7s"}, GRACE_S),
        (
            {"transport": "directory", "transport_directory": "/x", "ship_deadline": "7s"},
            GRACE_S + 7,
        ),
    ],
)
def test_the_end_may_take_the_time_for_shipping_and_some_more(flags, seconds):
    assert patience_s(load_settings(flags, {})) == seconds


@pytest.mark.parametrize(
    ("flags", "seconds"),
    [
        ({}, GRACE_S),
        ({"export": "otlp"}, GRACE_S + LOCAL_DEADLINE_S),
        ({"export": "otlp", "export_deadline": "2m"}, GRACE_S + 120),
    ],
)
def test_the_end_may_take_the_time_of_trackers_too(flags, seconds):
    assert patience_s(load_settings(flags, {})) == seconds
