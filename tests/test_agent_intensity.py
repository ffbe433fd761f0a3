"""The loop and carbon intensity over time: each window takes what held in it, and never waits for it."""

import threading
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sidecar.agent import Agent, Clock, Parts, Wake
from sidecar.carbon.feed import LiveFeed
from sidecar.carbon.keeper import IntensityKeeper
from sidecar.carbon.series import Series, Span
from sidecar.carbon.uk import Uk
from sidecar.catalogue.lookup import Catalogue
from sidecar.identity.fields import Hardware, Identity, Resolution
from sidecar.meters.node import NodeMeter
from sidecar.meters.nvml import NvmlMeter
from sidecar.meters.pod.ladder import PodLadder
from sidecar.meters.pod.whole_node import WholeNodeSource
from sidecar.meters.proc import ProcMeter
from sidecar.meters.rapl import RaplMeter
from sidecar.settings import load_settings
from tests.fakes.collector import hang, respond
from tests.fakes.intensity import FakeIntensity
from tests.fakes.trees import ProcTree
from tests.test_agent import START_S, Identities, Machine, records, run_through, ticks

PATIENCE_S = 60
HOUR_S = START_S // 3600 * 3600


def zone_of(region):
    return "GB" if region == "uksouth" else None


@pytest.fixture
def machine(tmp_path):
    return Machine(ProcTree(tmp_path / "proc"))


@pytest.fixture
def identities():
    return Identities(
        Resolution(
            Identity(project="demo", pod_uid="0000-uid", region="uksouth", sources={}),
            Hardware(cpu_model="AMD EPYC 7763 64-Core Processor", logical_cpus=2),
            (),
            settled=True,
        )
    )


@pytest.fixture
def fake(machine):
    with FakeIntensity(lambda: machine.wall_s) as fake:
        yield fake


@pytest.fixture
def make_feed(fake, machine):
    made = []

    def feed():
        keeper = IntensityKeeper(Uk(fake.url), clock=lambda: machine.wall_s)
        made.append(LiveFeed(keeper, zone_of, lambda: machine.wall_s, lambda: 0.0))
        return made[-1]

    yield feed
    for feed in made:
        feed.close()


@pytest.fixture
def make_agent(tmp_path, machine, identities):
    def make(feed, **flags):
        settings = load_settings(
            {"volume": str(tmp_path / "volume"), "interval": "10m", **flags}, {}
        )
        clock = Clock(lambda: machine.wall_s, lambda: machine.monotonic_s)
        meter = NodeMeter(
            ProcMeter(machine.proc.root),
            RaplMeter(tmp_path / "sys", clock=clock.monotonic_s),
            NvmlMeter(selected=()),
            PodLadder((), WholeNodeSource()),
            clock=clock.monotonic_s,
        )
        parts = Parts(
            settings, identities, meter, Catalogue(), clock=clock, boot_id="b", intensity=feed
        )
        return Agent(parts)

    return make


def windows(tmp_path):
    return [row for row in records(tmp_path) if row["event"] != "start"]


class Answered:
    """A feed that has what the test says, from the moment the test says."""

    def __init__(self, *values, settled=True):
        spans = tuple(
            Span(HOUR_S + n * 3600, HOUR_S + (n + 1) * 3600, value, "observed")
            for n, value in enumerate(values)
        )
        self.timeline = Series("uk", "GB", "the test", "zone", spans)
        self.settled = threading.Event()
        self.aims = []
        self.waits = []
        if settled:
            self.settled.set()

    def start(self):
        pass

    def aim(self, region):
        self.aims.append(region)

    @property
    def is_settled(self):
        return self.settled.is_set()

    def wait(self, timeout_s):
        self.waits.append(timeout_s)

    def during(self, start_s, end_s, otherwise):
        from sidecar.carbon.feed import fallen_back, intensity_during

        if not self.is_settled:
            return fallen_back(otherwise, "uk")
        return intensity_during(self.timeline, (start_s, end_s), otherwise, "uk")

    def close(self):
        pass


def test_windows_over_an_hours_end_take_each_its_own_hours_value(
    make_agent, make_feed, machine, fake, tmp_path
):
    machine.wall_s = HOUR_S + 30 * 60
    feed = make_feed()
    agent = make_agent(feed)
    agent.open()
    feed.wait(PATIENCE_S)
    agent.close(agent.run(ticks(machine, *[600.0] * 6)))
    rows = windows(tmp_path)
    first, last = 200 + 10 * (HOUR_S // 3600 % 24), 200 + 10 * (HOUR_S // 3600 % 24 + 1)
    assert [row["carbon_intensity_g_per_kwh"] for row in rows[:6]] == [first] * 3 + [last] * 3
    times = [row["carbon_intensity_at"][11:16] for row in rows[:6]]
    assert times == ["08:30"] * 3 + ["09:00"] * 3
    assert {row["carbon_intensity_kind"] for row in rows} == {"forecast"}
    for row in rows:
        assert row["emissions_g"] == pytest.approx(
            row["facility_energy_kwh"] * row["carbon_intensity_g_per_kwh"]
        )


def test_a_window_that_lies_in_two_hours_takes_their_mean_by_time(make_agent, machine, tmp_path):
    machine.wall_s = HOUR_S + 45 * 60
    agent = make_agent(Answered(100, 200), interval="50m")
    agent.begin()
    machine.run(35 * 60)
    agent.open()
    agent.close("test over")
    (row,) = windows(tmp_path)
    assert row["carbon_intensity_g_per_kwh"] == pytest.approx((15 * 100 + 20 * 200) / 35)
    assert row["emissions_low_g"] < row["emissions_g"] < row["emissions_high_g"]
    assert row["carbon_intensity_kind"] == "observed"


def test_many_windows_ask_once(make_agent, make_feed, machine, fake, tmp_path):
    machine.wall_s = HOUR_S
    feed = make_feed()
    agent = make_agent(feed, interval="15s")
    agent.open()
    feed.wait(PATIENCE_S)
    agent.close(agent.run(ticks(machine, *["full"] * 100)))
    assert len(fake.requests) == 1
    assert len(windows(tmp_path)) > 90


def test_windows_before_the_first_answer_are_written_anew_with_it(make_agent, machine, tmp_path):
    machine.wall_s = HOUR_S
    feed = Answered(100, 200, settled=False)
    agent = make_agent(feed)
    agent.open()
    agent.run(ticks(machine, 600.0, 600.0))
    assert {row["carbon_intensity_kind"] for row in records(tmp_path)} == {"fallback"}
    feed.settled.set()
    agent.run(ticks(machine, 600.0))
    rows = records(tmp_path)
    assert {row["carbon_intensity_kind"] for row in rows} == {"observed"}
    assert agent.totals.merged.emissions_g == pytest.approx(
        sum(row["emissions_g"] for row in rows if row["event"] != "start")
    )
    agent.close("test over")


def test_windows_that_wait_for_who_and_where_keep_their_own_hours(
    make_agent, machine, identities, tmp_path
):
    machine.wall_s = HOUR_S + 3000
    identities.resolution = Resolution(
        Identity(project="demo", pod_uid="0000-uid"),
        identities.resolution.hardware,
        (),
        settled=False,
    )
    feed = Answered(100, 200)
    agent = make_agent(feed)
    agent.open()
    agent.run(ticks(machine, 600.0, 600.0))
    identities.answer(region="uksouth")
    agent.run(ticks(machine, 600.0))
    rows = windows(tmp_path)
    assert [row["carbon_intensity_g_per_kwh"] for row in rows] == [100, 200, 200]
    assert {row["region"] for row in rows} == {"uksouth"}
    assert feed.aims == [None, "uksouth"]
    agent.close("test over")


def test_an_answer_that_comes_too_late_leaves_marked_averages(make_agent, machine, tmp_path):
    machine.wall_s = HOUR_S
    feed = Answered(100, settled=False)
    run_through(make_agent(feed), machine, 600.0)
    assert feed.waits == [0.3]
    rows = windows(tmp_path)
    assert {row["carbon_intensity_kind"] for row in rows} == {"fallback"}
    assert {row["carbon_intensity_at"] for row in rows} == {None}
    assert all("uk gave no value for this time" in row["carbon_intensity_source"] for row in rows)
    assert all(row["carbon_intensity_year"] == 2025 for row in rows)


def test_who_and_where_are_completed_at_the_end_though_no_intensity_came(
    make_agent, machine, identities, tmp_path
):
    identities.resolution = Resolution(
        Identity(project="demo", pod_uid="0000-uid"),
        identities.resolution.hardware,
        (),
        settled=False,
    )
    agent = make_agent(Answered(100, settled=False))
    agent.open()
    agent.run(ticks(machine, 600.0))
    identities.answer(region="uksouth")
    agent.close("test over")
    assert {row["region"] for row in records(tmp_path)} == {"uksouth"}


def test_a_run_that_ends_before_who_and_where_is_told_has_its_intensity(
    make_agent, machine, identities, tmp_path
):
    machine.wall_s = HOUR_S
    identities.resolution = replace(identities.resolution, settled=False)
    feed = Answered(100, settled=False)
    agent = make_agent(feed)
    agent.open()
    agent.run(ticks(machine, 600.0))
    feed.settled.set()
    agent.close("test over")
    assert {row["carbon_intensity_kind"] for row in records(tmp_path)} == {"observed"}


@pytest.mark.parametrize("fault", [hang, respond(500)], ids=["hangs", "fails"])
def test_a_service_that_fails_never_holds_a_window_up(make_agent, make_feed, machine, fake, fault):
    fake.always = fault
    totals = run_through(make_agent(make_feed()), machine, *[600.0] * 3)
    assert totals.windows == 4
    assert totals.merged.carbon_intensity_kind == "fallback"
    assert totals.merged.emissions_g > 0
    fake.release()


def test_the_totals_of_a_run_say_that_a_part_of_them_is_a_fallback(make_agent, machine, tmp_path):
    machine.wall_s = HOUR_S
    totals = run_through(make_agent(Answered(100)), machine, *[600.0] * 30)
    assert totals.merged.carbon_intensity_kind == "carried + fallback + observed"


def test_the_end_that_is_near_does_not_wait_for_an_answer(make_agent, machine, tmp_path):
    feed = Answered(100, settled=False)
    agent = make_agent(feed)
    agent.open()
    agent.run(ticks(machine, 600.0, Wake(hurry=True), 1.0, 1.0))
    agent.close("test over")
    assert len(windows(tmp_path)) >= 3
    assert feed.waits == [0.3]


def test_without_a_source_nothing_changes(make_agent, machine, tmp_path):
    run_through(make_agent(None), machine, 600.0)
    for row in records(tmp_path):
        assert row["carbon_intensity_kind"] is None
        assert row["carbon_intensity_at"] is None
        assert row["carbon_intensity_level"] == "zone"


@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.floats(0, 1000), min_size=4, max_size=4),
    steps=st.lists(st.sampled_from([1.0, 15.0, 600.0, 1799.5]), min_size=1, max_size=6),
)
def test_emissions_are_energy_times_the_matched_intensity(
    values, steps, make_agent, tmp_path_factory
):
    """Σ emissions = Σ facility energy · matched intensity, window by window and in the totals."""
    machine = Machine(ProcTree(tmp_path_factory.mktemp("proc")), wall_s=HOUR_S + 1234.0)
    root = tmp_path_factory.mktemp("run")
    settings = load_settings({"volume": str(root / "volume"), "interval": "30m"}, {})
    clock = Clock(lambda: machine.wall_s, lambda: machine.monotonic_s)
    meter = NodeMeter(
        ProcMeter(machine.proc.root), RaplMeter(root / "sys", clock=clock.monotonic_s),
        NvmlMeter(selected=()), PodLadder((), WholeNodeSource()), clock=clock.monotonic_s,
    )  # fmt: skip
    parts = Parts(
        settings,
        Identities(),
        meter,
        Catalogue(),
        clock=clock,
        boot_id="b",
        intensity=Answered(*values),
    )
    totals = run_through(Agent(parts), machine, *steps)
    rows = windows(root)
    for row in rows:
        if row["facility_energy_kwh"] is not None:
            assert row["emissions_g"] == pytest.approx(
                row["facility_energy_kwh"] * row["carbon_intensity_g_per_kwh"]
            )
            assert row["emissions_low_g"] <= row["emissions_g"] <= row["emissions_high_g"]
    assert totals.merged.emissions_g == pytest.approx(sum(row["emissions_g"] or 0 for row in rows))
