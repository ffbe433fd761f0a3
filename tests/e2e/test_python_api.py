"""Programs that meter themselves, as processes: ends of every kind, children of every kind."""

import csv
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.e2e.commands import PATIENCE_S, SIDECAR, environment, until

QUIET = {"EMISSIONS_SIDECAR_URL": "none", "EMISSIONS_CONFIG": "none"}

USED = """
import time
def used(seconds=0.05):
    until = time.process_time() + seconds
    while time.process_time() < until:
        sum(range(1000))
"""


class Program:
    """A Python program in a directory of its own, and what it leaves there."""

    def __init__(self, directory: Path, source: str) -> None:
        self.directory = directory
        (directory / "program.py").write_text(USED + textwrap.dedent(source))

    def started(self, *before: str, **changes: str) -> "subprocess.Popen[str]":
        command = [*before, sys.executable, "program.py"]
        return subprocess.Popen(
            command, cwd=self.directory, env=environment(**QUIET | changes), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, *before: str, code: int = 0, **changes: str) -> str:
        """Run it to its end; returns what it printed."""
        with self.started(*before, **changes) as process:
            stdout, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == code, stderr
        self.stderr = stderr
        return stdout

    def records(self) -> list[dict]:
        records = []
        for file in sorted((self.directory / "emissions" / "records").glob("*.ndjson")):
            lines = file.read_text().splitlines(keepends=True)
            records += [json.loads(line) for line in lines if line.endswith("\n")]
        return records

    def windows(self) -> list[dict]:
        return [record for record in self.records() if record["event"] != "start"]

    def runs(self) -> set[str]:
        return {record["run_id"] for record in self.records()}

    def rows(self) -> list[dict]:
        with (self.directory / "emissions.csv").open(newline="") as stream:
            return list(csv.DictReader(stream))

    def cpu_s(self) -> float:
        return sum(window["pod_cpu_seconds"] for window in self.windows())


@pytest.fixture
def program(tmp_path):
    return lambda source: Program(tmp_path, source)


# -- ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "code"),
    [("pass", 0), ("sys.exit(3)", 3), ("raise ValueError('mine')", 1)],
    ids=["end of the program", "exit", "exception"],
)
def test_a_program_that_never_stops_its_tracker_is_recorded_at_its_end(program, end, code):
    metered = program(f"""
        import sys
        from sidecar import EmissionsTracker
        EmissionsTracker().start()
        used()
        {end}
    """)
    metered.run(code=code)
    last = metered.records()[-1]
    assert (last["event"], last["end_reason"]) == ("end", "interpreter exited")
    assert last["pod_cpu_seconds"] > 0
    assert len(metered.rows()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_program_that_is_killed_loses_the_open_window_at_most(program, number):
    metered = program("""
        from sidecar import EmissionsTracker
        EmissionsTracker(measure_power_secs=1).start()
        while True:
            used()
    """)
    with metered.started() as process:
        until(lambda: (process.poll() is not None) or len(metered.windows()) >= 3)
        process.send_signal(number)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -number
    windows = metered.windows()
    assert len(windows) >= 3
    assert [w["event"] for w in windows] == ["window"] * len(windows)
    ends, starts = [w["window_end"] for w in windows], [w["window_start"] for w in windows]
    assert ends[:-1] == starts[1:]
    # The records have all; the totals are written with the first window, and then each 5 s.
    seconds = float(metered.rows()[0]["duration"])
    assert 0 < seconds <= sum(w["duration_s"] for w in windows) + 1.5


def test_a_program_that_ends_without_a_word_leaves_what_was_written(program):
    metered = program("""
        import os
        from sidecar import EmissionsTracker
        tracker = EmissionsTracker()
        tracker.start()
        used()
        tracker.flush()
        os._exit(0)
    """)
    metered.run()
    assert [record["event"] for record in metered.records()] == ["start", "window"]


def test_the_programs_own_handlers_of_signals_stay_and_are_called(program):
    metered = program("""
        import signal, sys
        from sidecar import EmissionsTracker
        def handler(number, frame):
            print("mine")
            sys.exit(5)
        signal.signal(signal.SIGTERM, handler)
        before = [signal.getsignal(number) for number in range(1, 32)]
        tracker = EmissionsTracker()
        tracker.start()
        assert [signal.getsignal(number) for number in range(1, 32)] == before
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
        used()
        signal.raise_signal(signal.SIGTERM)
    """)
    assert metered.run(code=5) == "mine\n"
    assert metered.records()[-1]["end_reason"] == "interpreter exited"


def test_a_tracker_may_be_stopped_by_a_handler_of_signals(program):
    metered = program("""
        import os, signal, sys
        from sidecar import EmissionsTracker
        tracker = EmissionsTracker()
        signal.signal(signal.SIGTERM, tracker.service_shutdown)
        tracker.start()
        used()
        os.kill(os.getpid(), signal.SIGTERM)
        used(0.01)
        print(tracker.final_emissions > 0)
    """)
    assert metered.run() == "True\n"
    assert metered.records()[-1]["end_reason"] == "stopped"


def test_a_tracker_works_in_a_thread_that_is_not_the_main_one(program):
    metered = program("""
        import threading
        from sidecar import EmissionsTracker
        def work():
            with EmissionsTracker() as tracker:
                used()
            print(tracker.final_emissions > 0)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    """)
    assert metered.run() == "True\n"
    assert len(metered.rows()) == 1


# -- children --------------------------------------------------------------------------------------


def test_a_fork_neither_meters_nor_writes_what_its_parent_does(program):
    metered = program("""
        import os, sys
        from sidecar import EmissionsTracker, phase
        tracker = EmissionsTracker()
        tracker.start()
        with phase("forking"):
            child = os.fork()
        if child == 0:
            assert tracker.flush() is None
            assert tracker.stop() is None
            assert tracker.stop_task() is None
            tracker.start()
            with phase("in the fork"):
                used(0.3)
            sys.exit(7)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        assert tracker.stop() > 0
    """)
    metered.run()
    assert len(metered.runs()) == len(metered.rows()) == 1
    assert [record["event"] for record in metered.records()].count("end") == 1
    assert metered.cpu_s() >= 0.3  # the fork's time is its parent's
    marked = {name for window in metered.windows() for name in window["phases"] or {}}
    assert marked <= {"forking"}


FORKED_OR_SPAWNED = """
    import multiprocessing, sys
    from sidecar import EmissionsTracker, track_emissions

    @track_emissions
    def decorated():
        used(0.05)

    def work(number):
        with EmissionsTracker(project_name="worker") as tracker:
            used(0.1)
        decorated()
        return tracker.final_emissions

    if __name__ == "__main__":
        with EmissionsTracker(project_name="main") as tracker:
            with multiprocessing.get_context("{method}").Pool(3) as pool:
                kgs = pool.map(work, range(6))
                pool.close()
                pool.join()
        assert all(kg > 0 for kg in kgs), kgs
        assert tracker.final_emissions > sum(kgs) / 2, (tracker.final_emissions, kgs)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_a_metered_program_have_figures_and_are_recorded_once(program, method):
    metered = program(FORKED_OR_SPAWNED.format(method=method))
    metered.run()
    assert {record["project"] for record in metered.records()} == {"main"}
    assert len(metered.runs()) == len(metered.rows()) == 1
    assert metered.cpu_s() >= 6 * 0.15
    assert not list(metered.directory.glob("emissions-*"))


def test_a_tracker_made_before_a_fork_and_started_in_it_is_the_forks_own(program):
    metered = program("""
        import os
        from sidecar import EmissionsTracker
        tracker = EmissionsTracker()
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                tracker.start()
                used(0.1)
                os._exit(0 if tracker.stop() > 0 else 1)
            children.append(child)
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
        assert tracker.stop() is None
    """)
    metered.run()
    assert len(metered.runs()) == len(metered.rows()) == 2


def test_a_tracker_at_the_top_of_a_module_is_recorded_once_where_workers_import_it(program):
    metered = program("""
        import multiprocessing
        from sidecar import EmissionsTracker
        tracker = EmissionsTracker()
        tracker.start()

        def work(number):
            used(0.1)
            return number

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(2) as pool:
                print(pool.map(work, range(4)))
                pool.close()
                pool.join()
            tracker.stop()
    """)
    assert metered.run() == "[0, 1, 2, 3]\n"
    assert len(metered.runs()) == len(metered.rows()) == 1


def test_a_program_that_a_metered_one_starts_has_figures_and_is_recorded_once(program):
    metered = program("""
        import subprocess, sys
        from sidecar import EmissionsTracker
        inner = (
            "from program import used; from sidecar import EmissionsTracker;"
            "t = EmissionsTracker(); t.start(); used(0.1); print(t.stop() > 0)"
        )
        if __name__ == "__main__":
            with EmissionsTracker():
                shell = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, inner]
                print(subprocess.run(shell, capture_output=True, text=True).stdout, end="")
    """)
    assert metered.run() == "True\n"
    assert len(metered.runs()) == len(metered.rows()) == 1
    assert metered.cpu_s() >= 0.1


def test_a_program_started_after_a_tracker_stopped_is_a_run_of_its_own(program):
    metered = program("""
        import subprocess, sys
        from sidecar import EmissionsTracker
        if __name__ == "__main__":
            with EmissionsTracker():
                used()
            inner = (
                "from program import used; from sidecar import EmissionsTracker;"
                "t = EmissionsTracker(); t.start(); used(); t.stop()"
            )
            subprocess.run([sys.executable, "-c", inner], check=True)
    """)
    metered.run()
    assert len(metered.runs()) == len(metered.rows()) == 2


# -- beside a command of ours ----------------------------------------------------------------------

WITHIN = """
    from sidecar import EmissionsTracker, phase
    with EmissionsTracker(project_name="inner") as tracker:
        with phase("load"):
            used(0.3)
        with phase("train"):
            used(0.3)
    assert tracker.final_emissions > 0
    print(tracker.run_id)
"""


def test_a_program_under_exec_is_recorded_by_exec_alone_and_marks_its_phases(program):
    metered = program(WITHIN)
    run_id = metered.run(*SIDECAR, "exec", "--project", "outer", "--interval", "1s", "--").strip()
    assert {record["project"] for record in metered.records()} == {"outer"}
    assert metered.runs() == {run_id}
    assert not (metered.directory / "emissions.csv").exists()
    marked = {name for window in metered.windows() for name in window["phases"] or {}}
    assert {"load", "train"} <= marked <= {"load", "train", "inner"}
    for window in metered.windows():
        assert sum((window["phases"] or {}).values()) <= window["duration_s"] + 1e-5
