"""Phases in the records, under a clock that the test turns by hand: windows, sums, what is asked."""

import json
import math
from dataclasses import dataclass

import pytest

from sidecar.agent import Agent, Clock, Parts, Wake
from sidecar.catalogue.lookup import Catalogue
from sidecar.meters.node import NodeMeter
from sidecar.meters.nvml import NvmlMeter
from sidecar.meters.pod.ladder import PodLadder
from sidecar.meters.pod.whole_node import WholeNodeSource
from sidecar.meters.proc import ProcMeter
from sidecar.meters.rapl import RaplMeter
from sidecar.phases import PhaseClock, phase_shares
from sidecar.settings import load_settings
from tests.fakes.trees import ProcTree
from tests.test_agent import Identities, Machine


@dataclass
class Scene:
    """An agent on a machine, and the phases of a program on it."""

    agent: Agent
    machine: Machine
    phases: PhaseClock

    def run(self, *steps):
        """Run through steps: seconds to pass, a phase to be in from now on (None: in none)."""
        remaining, token, nudges = list(steps), None, []
        self.phases.changed = lambda: nudges.append(None)

        def wait(timeout_s):
            nonlocal token
            while remaining and not isinstance(remaining[0], float):
                if token is not None:
                    self.phases.leave(token)
                name = remaining.pop(0)
                token = None if name is None else self.phases.enter(name)
            if nudges:
                nudges.clear()
                return Wake()
            if not remaining:
                return Wake(stop="test over")
            step_s = min(remaining[0], timeout_s) if timeout_s > 0 else 0.0
            self.machine.run(step_s)
            remaining[0] -= step_s
            if remaining[0] <= 1e-9:
                del remaining[0]
            return Wake()

        self.agent.open()
        return self.agent.close(self.agent.run(wait))


@pytest.fixture
def scene(tmp_path):
    machine = Machine(ProcTree(tmp_path / "proc"))
    clock = Clock(lambda: machine.wall_s, lambda: machine.monotonic_s)
    phases = PhaseClock(clock.monotonic_s)
    meter = NodeMeter(
        ProcMeter(machine.proc.root),
        RaplMeter(tmp_path / "sys", clock=clock.monotonic_s),
        NvmlMeter(selected=()),
        PodLadder((), WholeNodeSource()),
        clock=clock.monotonic_s,
    )
    settings = load_settings({"volume": str(tmp_path / "volume"), "interval": "15s"}, {})
    parts = Parts(settings, Identities(), meter, Catalogue(), clock=clock, phases=phases)
    return Scene(Agent(parts), machine, phases)


def windows(tmp_path):
    (segment,) = (tmp_path / "volume" / "records").glob("*.ndjson")
    records = [json.loads(line) for line in segment.read_text().splitlines()]
    return [record for record in records if record["event"] != "start"]


def test_a_run_without_phases_says_null(scene, tmp_path):
    scene.run(20.0)
    assert [window["phases"] for window in windows(tmp_path)] == [None, None]


def test_a_change_of_phase_begins_a_window_so_that_each_belongs_to_one(scene, tmp_path):
    scene.run("load", 4.0, "train", 20.0, "evaluate", 3.0)
    rows = windows(tmp_path)
    assert [row["phases"] for row in rows] == [
        {"load": 4.0},
        {"train": 11.0},
        {"train": 9.0},
        {"evaluate": 3.0},
    ]
    assert [row["window_end"] for row in rows[:-1]] == [row["window_start"] for row in rows[1:]]


def test_time_before_between_and_after_phases_is_in_none(scene, tmp_path):
    scene.run(2.0, "train", 3.0, None, 4.0)
    assert [row["phases"] for row in windows(tmp_path)] == [None, {"train": 3.0}, None]


def test_short_phases_share_a_window_and_are_told_by_their_seconds(scene, tmp_path):
    scene.run(*("load", 0.2, "train", 0.8) * 60)
    rows = windows(tmp_path)
    assert len(rows) <= 12
    told = [row["phases"] or {} for row in rows]
    seconds = {name: math.fsum(row.get(name, 0.0) for row in told) for name in ("load", "train")}
    assert seconds == pytest.approx({"load": 12.0, "train": 48.0}, rel=0.05)


def test_the_energy_of_all_phases_is_that_of_the_run(scene, tmp_path):
    totals = scene.run("load", 4.0, *("a", 0.3, "b", 0.4) * 9, None, 2.0, "train", 20.0)
    parts: dict[str | None, list[float]] = {}
    for row in windows(tmp_path):
        for name, share in phase_shares(row["phases"], row["duration_s"]).items():
            parts.setdefault(name, []).append(row["energy_kwh"] * share)
    energies = [math.fsum(part) for part in parts.values()]
    assert {None, "load", "a", "b", "train"} == set(parts)
    assert math.fsum(energies) == pytest.approx(totals.merged.energy_kwh, rel=1e-9)


def test_the_totals_of_a_run_add_its_phases_up(scene, tmp_path):
    totals = scene.run("load", 4.0, "train", 20.0, "load", 5.0)
    assert totals.merged.phases == pytest.approx({"load": 9.0, "train": 20.0})


def test_the_totals_now_hold_the_open_window_and_write_nothing(scene, tmp_path):
    agent, machine = scene.agent, scene.machine
    agent.open()
    machine.run(5)
    now = agent.run_so_far().totals
    assert (now.windows, now.merged.duration_s) == (1, 5.0)
    assert now.merged.energy_kwh > 0
    assert windows(tmp_path) == []
    machine.run(5)
    assert agent.run_so_far().totals.merged.energy_kwh == pytest.approx(2 * now.merged.energy_kwh)


def test_a_flush_ends_the_window_and_its_totals_are_those_that_were_told(scene, tmp_path):
    agent, machine = scene.agent, scene.machine
    agent.open()
    machine.run(5)
    before = agent.run_so_far().totals
    assert agent.flush().totals == before
    assert [row["duration_s"] for row in windows(tmp_path)] == [5.0]


def test_an_errand_is_done_between_two_windows(scene):
    done = []
    wakes = [Wake(errand=lambda: done.append("errand")), Wake(stop="test over")]
    scene.agent.open()
    scene.agent.run(lambda timeout_s: wakes.pop(0))
    assert done == ["errand"]
