"""Clocks that jump, machines that sleep, kills and outages, in any order: energy is there once.

The agent is the real one, with journal, spool, shipper and a directory as far side; clocks and
counters are turned by hand, so hours take no time.
"""

import contextlib
import io
import json
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.agent import Agent, Clock, Parts
from sidecar.catalogue.lookup import Catalogue
from sidecar.cli.main import main
from sidecar.journal.claim import Claim
from sidecar.meters.node import NodeMeter
from sidecar.meters.nvml import NvmlMeter
from sidecar.meters.pod.ladder import PodLadder
from sidecar.meters.pod.whole_node import WholeNodeSource
from sidecar.meters.proc import ProcMeter
from sidecar.meters.rapl import RaplMeter
from sidecar.segment import Parcel, decompressed
from sidecar.settings import load_settings
from sidecar.transport import shipper as shipping
from sidecar.transport.delivery import Delivery, Undelivered
from sidecar.transport.directory import DirectoryTransport
from tests.fakes.trees import ProcTree
from tests.faults.scene import KILLED, Row, checked, segments_on
from tests.test_agent import Identities, Machine, ticks

HOUR_S, DAY_S = 3600.0, 86400.0
SET_BACK, UNCLEAR = "clock set back", "not comparable"

WINDOW_AND_MORE_S = 31.0
"""A window of 15 s ends in this time even where the wall clock was set back in it."""


@dataclass
class FarSide:
    """A directory that may be out of reach."""

    root: Path
    is_open: bool = True
    destination: str = "the far side"

    def deliver(self, parcel: Parcel, timeout_s: float) -> Delivery:
        if not self.is_open:
            raise Undelivered("out of reach")
        return DirectoryTransport(self.root).deliver(parcel, timeout_s)

    def receipt(self, timeout_s: float) -> str | None:
        return None

    def close(self) -> None:
        pass


@dataclass
class Life:
    """One pod on one machine, through whatever comes; `metered` is what its agents say they metered."""

    root: Path
    metered_kwh: list[float] = field(default_factory=list)
    metered_s: list[float] = field(default_factory=list)
    boots: int = 0

    def __post_init__(self) -> None:
        self.far = FarSide(self.root / "far")
        self.far.root.mkdir()
        self.volume = self.root / "volume"
        self.machine = Machine(ProcTree(self.root / "proc"))
        self.agent = self._started()

    def _started(self) -> Agent:
        self.boots += 1
        flags = {"volume": str(self.volume), "interval": "15s", "flush_interval": "30s"}
        clock = Clock(lambda: self.machine.wall_s, lambda: self.machine.monotonic_s)
        meter = NodeMeter(
            ProcMeter(self.machine.proc.root),
            RaplMeter(self.root / "sys", clock=clock.monotonic_s),
            NvmlMeter(selected=()),
            PodLadder((), WholeNodeSource()),
            clock=clock.monotonic_s,
        )
        agent = Agent(
            Parts(
                load_settings(flags, {}),
                Identities(),
                meter,
                Catalogue(),
                clock=clock,
                open_transport=lambda: self.far,
                boot_id=f"b{self.boots:04d}",
            )
        )
        agent.open()
        return agent

    def meter(self, seconds: float = WINDOW_AND_MORE_S) -> None:
        self.agent.run(ticks(self.machine, seconds))

    def step(self, seconds: float) -> None:
        """Step the wall clock, and go on for two windows: from their times it is seen.

        A process that is killed before leaves nothing that tells a step back from an overlap.
        """
        self.machine.wall_s += seconds
        self.meter()
        self.meter()

    def kill(self) -> None:
        """End the agent as kill -9 does, and start another on its volume."""
        self._count()
        outbox = self.agent.outbox
        assert outbox is not None
        shipper = outbox._shipper
        assert shipper is not None
        shipper.finish(0)
        shipper._thread.join()
        claims = [outbox.journal._claim, *outbox._spool._claims.values()]
        for claim in (*claims, self.agent._side_files._claim):
            _unlock(claim)
        self.agent = self._started()

    def end(self) -> None:
        """End well, in reach of the far side."""
        self.far.is_open = True
        self.agent.close("SIGTERM")
        self._count()

    def _count(self) -> None:
        totals = self.agent.totals
        assert totals is not None
        self.metered_kwh.append(totals.merged.energy_kwh or 0.0)
        self.metered_s.append(totals.merged.duration_s)

    @property
    def rows(self) -> list[Row]:
        texts = [decompressed(path.read_bytes()) for path in self.far.root.rglob("*.ndjson.gz")]
        return [json.loads(line) for text in texts for line in text.splitlines()]

    def verified(self, *notices: str) -> Row:
        """`verify` finds no violation, and notices at most this; and all that was metered is there."""
        verdict = _verify(self.far.root)
        found = {notice["kind"] for notice in verdict["notices"]}
        assert found <= set(notices)
        checked(verdict, found)
        totals = verdict["totals"]
        assert totals["energy_kwh"] == pytest.approx(math.fsum(self.metered_kwh), rel=1e-9)
        assert totals["duration_s"] == pytest.approx(math.fsum(self.metered_s), rel=1e-9)
        assert not segments_on(self.volume)
        return totals


def _unlock(claim: Claim | None) -> None:
    """Let go of a lock as the kernel does when a process dies: its file stays."""
    if claim is not None and claim._descriptor >= 0:
        os.close(claim._descriptor)
        claim._descriptor = -1


def _verify(directory: Path) -> dict[str, Any]:
    """The command, in this process: it is asked often here."""
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        code = main(["verify", str(directory), "--json"])
    assert code == 0, stdout.getvalue()
    return json.loads(stdout.getvalue())


@pytest.fixture
def life(tmp_path: Path, monkeypatch) -> Iterator[Life]:
    _without_patience(monkeypatch)
    return Life(tmp_path)


def _without_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipper's own waits are real ones."""
    monkeypatch.setattr(shipping, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(shipping, "HURRIED_BACKOFF_S", 0.01)
    monkeypatch.setattr(shipping, "BACKOFF_MAX_S", 0.01)


def test_a_clock_stepped_back_an_hour_counts_no_energy_twice(life: Life):
    life.meter(60)
    life.step(-HOUR_S)
    life.meter(60)
    life.end()
    totals = life.verified(SET_BACK)
    assert totals["duration_s"] == 60 + 2 * WINDOW_AND_MORE_S + 60


def test_a_clock_stepped_forward_a_day_is_a_gap_without_energy(life: Life):
    life.meter(60)
    life.step(DAY_S)
    life.meter(60)
    life.end()
    totals = life.verified()
    assert (totals["duration_s"], totals["gap_s"]) == (60 + 2 * WINDOW_AND_MORE_S + 60, DAY_S)


def test_a_machine_suspended_for_hours_meters_only_while_it_runs(life: Life):
    life.meter(60)
    life.machine.suspend(7 * HOUR_S)
    life.meter(60)
    life.end()
    totals = life.verified()
    assert (totals["duration_s"], totals["gap_s"]) == (120, 7 * HOUR_S)


def test_back_forward_and_suspended_in_one_run_lose_and_double_nothing(life: Life):
    life.meter(60)
    life.step(-HOUR_S)
    life.step(DAY_S)
    life.machine.suspend(7 * HOUR_S)
    life.meter(60)
    life.end()
    totals = life.verified(SET_BACK)
    assert totals["duration_s"] == 120 + 4 * WINDOW_AND_MORE_S


_STEPS = st.one_of(
    st.tuples(st.just("meter"), st.floats(0.5, 100)),
    st.tuples(st.just("step"), st.sampled_from([-HOUR_S, -2.0, -0.9, 0.9, 90.0, DAY_S])),
    st.tuples(st.just("suspend"), st.floats(60, 12 * HOUR_S)),
    st.tuples(st.just("kill"), st.none()),
    st.tuples(st.just("reach"), st.booleans()),
)


@settings(max_examples=40)
@given(steps=st.lists(_STEPS, max_size=12))
def test_whatever_clocks_kills_and_outages_do_energy_is_there_once(steps):
    with (
        tempfile.TemporaryDirectory() as root,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        _without_patience(monkeypatch)
        life = Life(Path(root))
        for name, value in steps:
            if name == "suspend":
                life.machine.suspend(value)
            elif name == "reach":
                life.far.is_open = value
            elif name == "kill":
                life.kill()
            else:
                getattr(life, name)(value)
        life.end()
        life.verified(KILLED, SET_BACK, UNCLEAR)
