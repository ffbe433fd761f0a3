"""Whatever a tracker does, who meters never waits for it nor hears of it; what waits is bounded."""

import logging
import threading

import pytest

from sidecar.exporters.tracker_feed import LOCAL_DEADLINE_S, WAITING_MAX, Opener, TrackerFeed, told
from tests.e2e.commands import PATIENCE_S, until
from tests.exporters.tracked_windows import record, run


class StubTracker:
    """Remembers what it was handed; `fails` says which calls raise, `hangs` holds them up."""

    def __init__(self, fails=lambda call: None):
        self.fails = fails
        self.calls = []
        self.free = threading.Event()
        self.free.set()
        self.closed = False

    def log(self, windows):
        self.free.wait(PATIENCE_S)
        self.calls.append([window.number for window in windows])
        error = self.fails(len(self.calls))
        if error is not None:
            raise error

    def close(self):
        self.closed = True

    @property
    def seen(self):
        return [number for call in self.calls for number in call]


@pytest.fixture
def begun():
    """Starts feeds; at the end what hangs is let go, and no thread is left."""
    feeds = []

    def make(tracker, opened=None, **options):
        opener = Opener(opened or (lambda: tracker), **options)
        feed = TrackerFeed("stub", opener, deadline_s=PATIENCE_S)
        feed.begin()
        feeds.append((feed, tracker))
        return feed

    yield make
    for feed, tracker in feeds:
        tracker.free.set()
        feed.finish()
        assert until(lambda feed=feed: feed.wait(0.1))


def ended(feed):
    feed.finish()
    return until(lambda: feed.wait(0.1))


def test_every_window_is_handed_on_once_and_in_order_and_the_start_is_none(begun):
    tracker = StubTracker()
    feed = begun(tracker)
    for item in run(5):
        feed.take(item)
    assert ended(feed)
    assert tracker.seen == [1, 2, 3, 4, 5]
    assert tracker.closed


def test_a_run_without_a_window_opens_and_closes_and_logs_nothing(begun):
    tracker = StubTracker()
    feed = begun(tracker)
    feed.take(record(0))
    assert ended(feed)
    assert tracker.calls == []
    assert tracker.closed


def test_who_meters_does_not_wait_for_a_tracker_that_hangs_and_what_waits_is_bounded(begun):
    tracker = StubTracker()
    tracker.free.clear()
    feed = begun(tracker)
    for item in run(3 * WAITING_MAX):  # comes back, or the test would hang
        feed.take(item)
    assert len(feed._waiting) == WAITING_MAX
    tracker.free.set()
    assert ended(feed)
    assert tracker.seen[-WAITING_MAX:] == list(range(2 * WAITING_MAX + 1, 3 * WAITING_MAX + 1))


def test_windows_that_were_left_out_are_told_and_the_totals_have_them(begun, caplog):
    tracker = StubTracker()
    tracker.free.clear()
    totals = []
    tracker.log = lambda windows: (tracker.free.wait(PATIENCE_S), totals.append(windows[-1].totals))
    feed = begun(tracker)
    for item in run(WAITING_MAX + 10):
        feed.take(item)
    tracker.free.set()
    assert ended(feed)
    expected = sum(record(number).energy_kwh for number in range(1, WAITING_MAX + 11))
    assert totals[-1].energy_kwh == pytest.approx(expected, rel=1e-9)
    assert any("windows are not shown; totals are" in text for text in caplog.messages)


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("no"), KeyError(1), SystemExit(3)])
def test_windows_that_fail_are_handed_on_with_the_next_one(begun, error):
    tracker = StubTracker(lambda call: error if call == 1 else None)
    feed = begun(tracker)
    feed.take(record(0))
    feed.take(record(1))
    until(lambda: tracker.calls)
    feed.take(record(2))
    until(lambda: len(tracker.calls) == 2)
    assert ended(feed)
    assert tracker.calls == [[1], [1, 2]]


def test_a_failure_is_told_once_until_it_is_of_another_kind(begun, caplog):
    errors = {1: "refused (0x7f3a11)", 2: "refused (0x7f3b42)", 3: "403"}
    tracker = StubTracker(lambda call: ConnectionError(errors[call]) if call in errors else None)
    caplog.set_level(logging.INFO)
    feed = begun(tracker)
    for number in range(5):
        feed.take(record(number))
        until(lambda number=number: len(tracker.calls) >= number)
    assert ended(feed)
    warned = [item.getMessage() for item in caplog.records if item.levelname == "WARNING"]
    assert [text.split(": ")[1].split(";")[0] for text in warned] == ["refused (0x7f3a11)", "403"]
    assert "stub takes the figures again" in caplog.messages


def test_a_tracker_that_cannot_be_opened_is_tried_again_with_the_next_window(begun, caplog):
    tracker = StubTracker()
    tries = []

    def opened():
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("not yet")
        return tracker

    feed = begun(tracker, opened)
    until(lambda: len(tries) == 1)
    feed.take(record(1))
    until(lambda: len(tries) == 2)
    feed.take(record(2))
    assert ended(feed)
    assert tracker.seen == [1, 2]
    assert sum("not yet" in text for text in caplog.messages) == 1


def test_one_that_never_opens_ends_all_the_same(begun):
    def opened():
        raise ImportError("no such module")

    feed = begun(StubTracker(), opened)
    feed.take(record(1))
    assert ended(feed)


def test_a_close_that_fails_is_told_and_no_more(begun, caplog):
    tracker = StubTracker()
    tracker.close = lambda: (_ for _ in ()).throw(RuntimeError("cannot close"))
    assert ended(begun(tracker))
    assert any("cannot close" in text for text in caplog.messages)


def test_after_the_deadline_a_tracker_is_not_waited_for(caplog):
    tracker = StubTracker()
    tracker.free.clear()
    feed = TrackerFeed("stub", Opener(lambda: tracker), deadline_s=0.0)
    feed.begin()
    feed.take(record(1))
    feed.finish()
    assert feed.wait(0.01)
    assert any("has not taken the last figures after 0 s" in text for text in caplog.messages)
    tracker.free.set()
    assert feed._over.wait(PATIENCE_S)


def test_files_on_this_machine_have_more_time():
    """MLflow makes the tables of a new SQLite file: cut off in the middle, the file is spoilt."""
    local = TrackerFeed("stub", Opener(StubTracker, is_local=True), deadline_s=1.0)
    assert local._deadline_s == LOCAL_DEADLINE_S


def test_where_no_thread_can_be_had_the_run_goes_on(caplog, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    feed = TrackerFeed("stub", Opener(StubTracker), deadline_s=1.0)
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        feed.begin()
    feed.take(record(1))
    feed.finish()
    assert feed.wait(0)
    assert any("can't start new thread" in text for text in caplog.messages)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:secret@host/x failed", "http://host/x failed"),
        ("two\nlines\x1b[31m", "two lines [31m"),
        ("", "OSError"),
        ("x" * 1_000, "x" * 300 + "…"),
    ],
)
def test_an_error_is_told_on_one_line_without_credentials(text, shown):
    assert told(OSError(text)) == shown
