"""`with phase(…)` in this very process: records, sums, and what it never does."""

import contextlib
import math
import threading

import pytest

from sidecar import EmissionsTracker, phase
from sidecar.phases import phase_shares
from sidecar.tracking.process import this_process
from tests.tracking.conftest import used


def energies(windows):
    """Energy of each phase of some windows, kWh."""
    parts: dict[str | None, list[float]] = {}
    for window in windows:
        for name, share in phase_shares(window["phases"], window["duration_s"]).items():
            parts.setdefault(name, []).append(window["energy_kwh"] * share)
    return {name: math.fsum(part) for name, part in parts.items()}


def test_the_phases_of_a_run_are_in_its_records(left):
    with EmissionsTracker():
        with phase("load"):
            used()
        with phase("train"):
            used()
    assert set(energies(left.windows())) - {None} == {"load", "train"}


def test_the_energy_of_all_phases_is_that_of_the_run(left):
    with EmissionsTracker() as tracker:
        for name in ("load", "train", "evaluate") * 20:
            with phase(name):
                used(0.01)
        used()
    whole = sum(window["energy_kwh"] for window in left.windows())
    assert math.fsum(energies(left.windows()).values()) == pytest.approx(whole, rel=1e-9)
    assert whole == pytest.approx(tracker.final_emissions_data.energy_consumed, rel=1e-9)


def test_seconds_of_phases_are_never_more_than_those_of_the_window(left):
    with EmissionsTracker() as tracker:
        for _ in range(5):
            with phase("a"), phase("b"), phase("a"):
                used(0.02)
            tracker.flush()
    for window in left.windows():
        assert math.fsum((window["phases"] or {}).values()) <= window["duration_s"] + 1e-5


def test_a_phase_that_is_open_when_a_tracker_starts_counts_from_there(left):
    with phase("before"):
        used(0.05)
        with EmissionsTracker() as tracker:
            used(0.02)
    seconds = sum((w["phases"] or {}).get("before", 0.0) for w in left.windows())
    assert 0 < seconds <= tracker.final_emissions_data.duration + 1e-5


def test_what_is_raised_in_a_phase_passes(left):
    with pytest.raises(KeyError, match="mine"), phase("a"):
        raise KeyError("mine")
    assert this_process().clock.phase is None


def test_one_object_may_be_entered_again_and_within_itself(left):
    train = phase("train")
    with train, train:
        assert this_process().clock.phase == "train"
    assert this_process().clock.phase is None
    with train:
        assert this_process().clock.phase == "train"


class Unspeakable:
    def __str__(self):
        raise RuntimeError("no name")


@pytest.mark.parametrize(
    "name", ["", "\n", "x" * 10_000, None, 3, 3.5, b"bytes", [], Unspeakable()]
)
def test_any_name_is_taken_or_left_and_nothing_is_raised(left, name):
    with phase(name):
        pass


def test_a_phase_without_a_name_marks_nothing(left):
    with phase("outer"), phase(""):
        assert this_process().clock.phase == "outer"


def test_phases_of_many_threads_are_left_as_they_were_entered(left):
    barrier = threading.Barrier(8)

    def work(number):
        barrier.wait()
        for _ in range(200):
            with phase(f"thread {number}"):
                pass

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    with EmissionsTracker():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert this_process().clock.phase is None


def test_phases_survive_generators_that_end_in_another_order(left):
    def marked(name):
        with phase(name):
            yield

    first, second = marked("first"), marked("second")
    next(first)
    next(second)
    assert this_process().clock.phase == "second"
    first.close()
    assert this_process().clock.phase == "second"
    second.close()
    assert this_process().clock.phase is None


def test_without_a_tracker_and_a_sidecar_nothing_is_written(left):
    with phase("train"):
        used(0.01)
    assert left.files() == set()


def test_a_sidecar_is_looked_for_once(left, monkeypatch):
    process = this_process()
    looks = []
    monkeypatch.setattr(process, "_has_looked", False)
    monkeypatch.setattr(process, "_look", lambda: looks.append(None))
    for _ in range(3):
        with phase("a"):
            pass
    for thread in threading.enumerate():
        if thread.name == "phases-look":
            thread.join()
    assert len(looks) == 1


def test_where_no_thread_can_be_had_phases_mark_nothing(left, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    process = this_process()
    monkeypatch.setattr(process, "_has_looked", False)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with contextlib.ExitStack() as stack:
        stack.enter_context(phase("a"))
