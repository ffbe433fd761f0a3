"""What passed in which phase, under a clock that the test turns by hand."""

import logging
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.phases import (
    CLIENTS_MAX,
    LATE_S,
    NAME_BYTES_MAX,
    NAME_CHARACTERS_MAX,
    NAMES_MAX,
    OTHER,
    SILENT_S,
    SLIVER_S,
    TELL_PERIOD_S,
    PhaseBook,
    PhaseClock,
    PhasePace,
    Told,
    phase_named,
    phase_shares,
    valid_phase,
)


class Time:
    """A clock that goes when told."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def clock(time):
    return PhaseClock(time)


@pytest.fixture
def book(time):
    return PhaseBook(time)


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["train", "Phase 1/3 (lr=0.1)", "évaluation", "評価", "🚂", "x" * 64]
)
def test_a_name_of_any_script_is_valid(name):
    assert valid_phase(name) == name == phase_named(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        " a",
        "a ",
        "a\nb",
        "a\tb",
        "\x1b[31m",
        "a\u202eb",
        "a\u200bb",
        "\ud800",
        "x" * 65,
        "漢" * 43,
    ],
)
def test_an_empty_hidden_or_long_name_is_refused(name):
    with pytest.raises(ValueError, match="name of a phase"):
        valid_phase(name)


@given(st.one_of(st.text(), st.integers(), st.none(), st.floats()))
def test_whatever_a_program_calls_its_phase_becomes_a_valid_name_or_none(name):
    named = phase_named(name)
    assert named is None or valid_phase(named) == named


def test_a_name_that_is_too_long_is_cut():
    assert len(phase_named("x" * 5000)) == NAME_CHARACTERS_MAX
    assert len(phase_named("漢" * 100).encode()) <= NAME_BYTES_MAX


def test_line_breaks_of_a_name_become_blanks():
    assert phase_named(" first\r\nsecond ") == "first second"


# -- the clock of a program ------------------------------------------------------------------------


def test_time_is_counted_for_the_phase_entered_last(clock, time):
    outer = clock.enter("train")
    time.now_s += 3
    inner = clock.enter("evaluate")
    time.now_s += 2
    clock.leave(inner)
    time.now_s += 1
    clock.leave(outer)
    time.now_s += 7
    assert clock.take(time.now_s) == {"train": 4.0, "evaluate": 2.0}


def test_phases_may_be_left_in_any_order(clock, time):
    first, second = clock.enter("a"), clock.enter("b")
    clock.leave(first)
    time.now_s += 1
    assert clock.phase == "b"
    clock.leave(second)
    assert clock.phase is None
    assert clock.take(time.now_s) == {"b": 1.0}


def test_leaving_twice_is_leaving_once(clock):
    token = clock.enter("a")
    clock.leave(token)
    clock.leave(token)
    assert clock.phase is None


def test_what_was_taken_is_not_told_again(clock, time):
    clock.enter("a")
    time.now_s += 1
    assert clock.take(time.now_s) == {"a": 1.0}
    time.now_s += 2
    assert clock.take(time.now_s) == {"a": 2.0}


def test_whoever_looks_some_milliseconds_late_sees_a_window_of_one_phase(clock, time):
    token = clock.enter("load")
    time.now_s += 5
    clock.leave(token)
    clock.enter("train")
    time.now_s += SLIVER_S / 2
    assert clock.has_turned
    assert clock.take(time.now_s) == pytest.approx({"load": 5.0 + SLIVER_S / 2})
    assert not clock.has_turned


def test_a_change_is_told_at_once_but_not_more_often_than_once_a_second(clock, time):
    told = []
    clock.changed = lambda: told.append(time.now_s)
    for _ in range(300):
        token = clock.enter("batch")
        time.now_s += 0.01
        clock.leave(token)
    assert told[0] == 100.0
    assert len(told) <= math.ceil(3 / TELL_PERIOD_S) + 1


def test_a_mark_that_a_handler_of_signals_interrupts_holds_up_nobody_who_looks():
    """The handler may stop a tracker, which waits for the thread that looks."""
    looked = []

    class Interrupted(Time):
        handler = None

        def __call__(self):
            handler, self.handler = self.handler, None
            if handler is not None:
                handler()
            return self.now_s

    def handler():
        def look():
            looked.append((clock.is_used, clock.has_turned, clock.take(time.now_s)))

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(10)

    time = Interrupted()
    clock = PhaseClock(time)
    token = clock.enter("train")
    time.now_s += 3
    time.handler = handler
    clock.leave(token)
    assert looked == [(False, False, {})]
    assert clock.take(time.now_s) == {"train": 3.0}


def test_names_beyond_the_bound_count_as_other(clock, time, caplog):
    with caplog.at_level(logging.WARNING):
        for number in range(NAMES_MAX + 10):
            token = clock.enter(f"step {number}")
            time.now_s += 1
            clock.leave(token)
    taken = clock.take(time.now_s)
    assert len(taken) == NAMES_MAX + 1
    assert taken[OTHER] == 10.0
    assert len(caplog.records) == 1


steps = st.lists(
    st.tuples(st.sampled_from(["enter", "leave", "take"]), st.integers(0, 3), st.floats(0, 50)),
    max_size=40,
)


@given(steps)
def test_the_phases_of_a_clock_never_amount_to_more_than_the_time(steps):
    time = Time()
    clock, begun_s, tokens, total = PhaseClock(time), time.now_s, [], 0.0
    in_phase_s = 0.0
    for what, number, pause_s in steps:
        if what == "enter":
            tokens.append(clock.enter(f"phase {number}"))
        elif what == "leave" and tokens:
            clock.leave(tokens.pop(number % len(tokens)))
        elif what == "take":
            total += math.fsum(clock.take(time.now_s).values())
        in_phase_s += pause_s if tokens else 0.0
        time.now_s += pause_s
    total += math.fsum(clock.take(time.now_s).values())
    assert total <= time.now_s - begun_s + 1e-6
    assert total == pytest.approx(in_phase_s, abs=SLIVER_S * len(steps) + 1e-6)


# -- the book of a sidecar -------------------------------------------------------------------------


def told(phase=None, elapsed_s=0.0, **seconds):
    return Told(phase, seconds, elapsed_s)


def test_a_phase_goes_on_until_another_is_told(book, time):
    assert book.tell("a", told("train"))
    time.now_s += 10
    assert book.take(time.now_s) == {"train": 10.0}
    time.now_s += 5
    assert not book.tell("a", told("train"))
    assert book.tell("a", told(None))
    time.now_s += 5
    assert book.take(time.now_s) == {"train": 5.0}


def test_time_without_a_phase_is_told_of_nobody(book, time):
    time.now_s += 10
    assert not book.is_used
    assert book.take(time.now_s) == {}


def test_what_a_program_says_of_its_time_decides_proportions_alone(book, time):
    book.tell("a", told("train"))
    time.now_s += 1
    book.tell("a", told("train", elapsed_s=4.0, load=1.0, train=3.0))
    assert book.take(time.now_s) == pytest.approx({"load": 0.25, "train": 0.75})


def test_a_program_cannot_claim_more_time_than_has_passed(book, time):
    book.tell("a", told("train"))
    time.now_s += 1
    book.tell("a", told("train", elapsed_s=1.0, load=1e9, train=1e9))
    assert math.fsum(book.take(time.now_s).values()) == pytest.approx(1.0)


def test_ranks_in_one_phase_count_once(book, time):
    for rank in range(8):
        book.tell(f"rank {rank}", told("train"))
    time.now_s += 16
    assert book.take(time.now_s) == pytest.approx({"train": 16.0})


def test_a_rank_in_another_phase_has_its_part_of_the_time(book, time):
    for rank in range(8):
        book.tell(f"rank {rank}", told("train"))
    book.tell("rank 0", told("checkpoint"))
    time.now_s += 16
    assert book.take(time.now_s) == pytest.approx({"train": 14.0, "checkpoint": 2.0})


def test_a_rank_that_leaves_its_phase_does_not_end_that_of_the_others(book, time):
    book.tell("a", told("train"))
    book.tell("b", told("train"))
    book.tell("a", told(None))
    time.now_s += 4
    assert book.take(time.now_s) == {"train": 4.0}


def test_a_process_that_tells_nothing_for_long_has_ended(book, time):
    book.tell("a", told("train"))
    time.now_s += SILENT_S + 1
    book.take(time.now_s)
    time.now_s += 100
    assert book.take(time.now_s) == {}
    assert not book.is_used


def test_phases_of_many_a_second_are_counted_as_they_were_mixed_even_across_windows(book, time):
    book.tell("a", told("train"))
    for _ in range(10):
        time.now_s += 1
        book.tell("a", told("train", elapsed_s=1.0, load=0.25, train=0.75))
    time.now_s += 0.4  # the window ends before it tells again
    taken = book.take(time.now_s)
    assert taken == pytest.approx({"load": 2.6, "train": 7.8})


def test_a_phase_that_is_left_in_each_batch_keeps_its_part(book, time):
    book.tell("a", told(None, elapsed_s=1.0, train=0.5))
    for _ in range(10):
        time.now_s += 1
        book.tell("a", told(None, elapsed_s=1.0, train=0.5))
    assert book.take(time.now_s) == pytest.approx({"train": 5.0})
    time.now_s += 1
    book.tell("a", told(None, elapsed_s=1.0))
    assert book.take(time.now_s) == {}
    assert not book.is_used


def test_a_phase_that_is_told_late_counts_from_when_it_began(book, time):
    time.now_s += 10
    book.tell("a", told("train", elapsed_s=0.5, load=0.1, train=0.4))
    time.now_s += 1
    assert book.take(time.now_s) == pytest.approx({"load": 0.1, "train": 1.4})


def test_nobody_claims_time_long_after(book, time):
    time.now_s += 100
    book.tell("a", told("train", elapsed_s=100.0, train=100.0))
    assert book.take(time.now_s) == {"train": LATE_S}


def test_the_number_of_processes_is_bounded(book, time):
    for number in range(CLIENTS_MAX + 100):
        book.tell(f"process {number}", told("train"))
    time.now_s += 3
    assert book.take(time.now_s) == pytest.approx({"train": 3.0})
    assert len(book._clients) == CLIENTS_MAX


events = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.one_of(st.none(), st.sampled_from(["load", "train", "test"])),
        st.dictionaries(
            st.sampled_from(["load", "train", "test"]), st.floats(-1, 1e12), max_size=3
        ),
        st.floats(0, 100),
        st.floats(0, 90),
    ),
    max_size=40,
)


@given(events)
def test_whatever_processes_tell_the_phases_never_amount_to_more_than_the_time(events):
    time = Time()
    book, begun_s, total = PhaseBook(time), time.now_s, 0.0
    for process, phase, seconds, elapsed_s, pause_s in events:
        book.tell(str(process), Told(phase, seconds, elapsed_s))
        time.now_s += pause_s
        if process == 0:
            total += math.fsum(book.take(time.now_s).values())
    total += math.fsum(book.take(time.now_s).values())
    assert 0 <= total <= (time.now_s - begun_s) * (1 + 1e-9) + 1e-6


# -- shares ----------------------------------------------------------------------------------------


def test_what_is_in_no_phase_is_a_share_too():
    assert phase_shares({"train": 6.0}, 8.0) == {"train": 0.75, None: 0.25}
    assert phase_shares(None, 8.0) == {None: 1.0}


@given(
    st.none() | st.dictionaries(st.text(max_size=3), st.floats(allow_nan=True), max_size=70),
    st.floats(-1, 1e9),
)
def test_shares_are_not_negative_and_sum_to_one(phases, duration_s):
    shares = phase_shares(phases, duration_s)
    assert math.fsum(shares.values()) == pytest.approx(1.0, abs=1e-8)
    assert all(0 <= share <= 1 for share in shares.values())


# -- the pace of windows ---------------------------------------------------------------------------


def test_without_phases_there_is_nothing_to_wait_for(clock):
    assert PhasePace(None, 15).due_in_s(3) == math.inf
    assert PhasePace(clock, 15).due_in_s(3) == math.inf
    assert PhasePace(None, 15).of_window(1.0, 1.0, is_turn=False) is None


def test_a_phase_that_turned_ends_the_window_once_it_is_a_second_old(clock, time):
    pace = PhasePace(clock, 15)
    clock.leave(clock.enter("a"))
    time.now_s += 0.3
    clock.enter("b")
    assert pace.due_in_s(0.3) == pytest.approx(0.7)
    assert pace.due_in_s(5) == 0


def test_phases_that_change_all_the_time_do_not_shorten_windows_for_ever(clock, time):
    pace, pauses = PhasePace(clock, 15), []
    for _ in range(7):
        for name in ("load", "train") * 3:
            token = clock.enter(name)
            time.now_s += 0.5
            clock.leave(token)
        pauses.append(pace.due_in_s(0))
        pace.of_window(time.now_s, 3.0, is_turn=True)
    assert pauses == [1, 2, 4, 8, 15, 15, 15]
    clock.enter("train")
    time.now_s += 15
    pace.of_window(time.now_s, 15.0, is_turn=False)
    clock.enter("evaluate")
    time.now_s += 1
    assert pace.due_in_s(0) == TELL_PERIOD_S


def test_the_phases_of_a_window_fit_into_it(clock, time):
    clock.enter("a")
    time.now_s += 10
    assert PhasePace(clock, 15).of_window(time.now_s, 8.0, is_turn=False) == {"a": 8.0}
