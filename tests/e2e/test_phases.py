"""A program beside a real sidecar: its phases are in the records, and nothing is metered twice."""

import json
import math
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sidecar.phases import phase_shares
from tests.e2e.commands import PATIENCE_S, SIDECAR, Running, environment

LISTENING = re.compile(r"listening on (http://127\.0\.0\.1:\d+)")
UID = "0d5b7e5c-93f0-4c9b-8b35-0f6a6d3b1c55"

USED = """
import time
def used(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        sum(range(1000))
"""


class Pod:
    """A sidecar with an address, and programs beside it in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.volume = directory / "volume"
        self.work = directory / "work"
        self.work.mkdir()
        self.log = directory / "log"

    def sidecar(self, *flags: str) -> Running:
        return Running(
            "run", "--interval", "1h", "--volume", self.volume, "--project", "of the pod",
            "--attribution", "whole-node", "--termination-log", self.volume / "none", *flags,
            log=self.log,
            env=environment(POD_UID=UID, POD_NAME="pod", EMISSIONS_LISTEN="127.0.0.1:0"),
        )  # fmt: skip

    def url(self, running: Running) -> str:
        return running.until(lambda: LISTENING.search(running.log))[1]

    def program(self, source: str, url: str) -> "subprocess.CompletedProcess[str]":
        run = subprocess.run(
            [sys.executable, "-c", USED + textwrap.dedent(source)], cwd=self.work,
            env=environment(EMISSIONS_SIDECAR_URL=url, EMISSIONS_CONFIG="none"),
            capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        return run

    def windows(self) -> list[dict]:
        (file,) = (self.volume / "records").glob("*.ndjson")
        records = [json.loads(line) for line in file.read_text().splitlines()]
        return [record for record in records if record["event"] != "start"]

    def parts(self, column: str) -> dict[str | None, float]:
        """A column of all windows by phase, by time."""
        parts: dict[str | None, list[float]] = {}
        for window in self.windows():
            for name, share in phase_shares(window["phases"], window["duration_s"]).items():
                parts.setdefault(name, []).append(window[column] * share)
        return {name: math.fsum(part) for name, part in parts.items()}


@pytest.fixture
def pod(tmp_path):
    return Pod(tmp_path)


TRAINING = """
    import logging
    logging.basicConfig(level=logging.INFO)
    from sidecar import EmissionsTracker, phase
    with EmissionsTracker(project_name="of the program") as tracker:
        with phase("load"):
            used(1.2)
        with phase("train"):
            used(2.2)
    data = tracker.final_emissions_data
    print(tracker.final_emissions, data.duration, data.run_id, data.project_name)
"""


def test_a_tracker_in_a_pod_is_told_by_its_sidecar_and_records_nothing_itself(pod):
    with pod.sidecar() as running:
        printed = pod.program(TRAINING, pod.url(running))
        running.end()
    kg, duration_s, run_id = printed.stdout.split()[:3]
    assert "of the pod" in printed.stdout
    assert list(pod.work.iterdir()) == []
    assert {window["run_id"] for window in pod.windows()} == {run_id}
    assert "the sidecar of this pod meters it" in printed.stderr
    whole = sum(window["emissions_g"] for window in pod.windows())
    assert 0 < float(kg) * 1000 <= whole
    assert float(duration_s) >= 3.3


def test_phases_begin_windows_and_their_energies_are_those_of_the_run(pod):
    with pod.sidecar() as running:
        pod.program(TRAINING, pod.url(running))
        running.end()
    seconds = pod.parts("duration_s")
    assert {"load", "train"} <= set(seconds) <= {None, "load", "train", "of the program"}
    assert seconds["train"] > seconds["load"] > 0.5
    pure = [w for w in pod.windows() if w["phases"] and len(w["phases"]) == 1]
    assert pure
    for column in ("energy_kwh", "emissions_g", "duration_s"):
        whole = math.fsum(window[column] for window in pod.windows())
        assert math.fsum(pod.parts(column).values()) == pytest.approx(whole, rel=1e-9)


def test_batches_by_the_hundred_are_told_by_their_seconds_in_few_windows(pod):
    with pod.sidecar() as running:
        pod.program(
            """
            from sidecar import phase
            for _ in range(300):
                with phase("load"):
                    time.sleep(0.002)
                with phase("train"):
                    time.sleep(0.008)
            """,
            pod.url(running),
        )
        running.end()
    seconds = pod.parts("duration_s")
    assert len(pod.windows()) <= 8
    assert 0.1 < seconds["load"] / (seconds["load"] + seconds["train"]) < 0.5


def test_a_sidecar_that_dies_costs_the_program_its_figures_and_nothing_else(pod):
    with pod.sidecar() as running:
        url = pod.url(running)
        source = f"""
            import os, signal
            from sidecar import EmissionsTracker, phase
            tracker = EmissionsTracker()
            tracker.start()
            os.kill({running.process.pid}, signal.SIGKILL)
            for _ in range(50):
                with phase("train"):
                    used(0.01)
            print(tracker.stop(), tracker.final_emissions)
        """
        printed = pod.program(source, url)
    assert printed.stdout == "None None\n"
    assert "the run cannot be told now" in printed.stderr
    assert list(pod.work.iterdir()) == []


def test_a_phase_ends_with_its_program(pod):
    with pod.sidecar() as running:
        url = pod.url(running)
        pod.program("from sidecar import phase\nphase('open').__enter__()\nused(1.2)", url)
        pod.program("from sidecar import phase\nwith phase('next'):\n    used(1.2)", url)
        running.end()
    assert set(pod.parts("duration_s")) <= {None, "open", "next"}


@pytest.mark.needs("netns")
def test_a_sidecar_is_found_where_the_injector_puts_it(pod):
    """In a network namespace, as a pod has one: nothing says where the sidecar is."""
    command = [*SIDECAR, "run", "--volume", pod.volume, "--listen", "0.0.0.0:9877"]
    inside = (
        'ip link set lo up; POD_UID="$UID_" "$@" 2>"$LOG" & sidecar=$!; '
        'until grep -q "listening on" "$LOG"; do sleep 0.05; done; '
        'cd "$WORK"; "$PYTHON" -c "$PROGRAM"; kill $sidecar; wait $sidecar'
    )
    program = "from sidecar import EmissionsTracker\nwith EmissionsTracker() as t: used(1.2)\n"
    program += "print(t.final_emissions is not None)"
    run = subprocess.run(
        ["unshare", "--net", "sh", "-c", inside, "sh", *command],
        env=environment(
            UID_=UID, LOG=str(pod.log), WORK=str(pod.work), PYTHON=sys.executable,
            PROGRAM=USED + program, EMISSIONS_CONFIG="none",
        ),
        capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert run.stdout == "True\n", run.stderr
    assert list(pod.work.iterdir()) == []
    assert any("tracker" in (window["phases"] or {}) for window in pod.windows())


def test_without_a_sidecar_there_the_program_meters_itself(pod):
    printed = pod.program(TRAINING, "none")
    assert "of the program" in printed.stdout
    assert (pod.work / "emissions.csv").exists()
