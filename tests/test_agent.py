"""The loop under a clock and counters that the test turns by hand."""

import itertools
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from sidecar.agent import (
    EARLY_WINDOWS_MAX,
    Agent,
    Clock,
    Parts,
    Wake,
    record_stem,
)
from sidecar.assembly import assemble
from sidecar.catalogue.lookup import Catalogue
from sidecar.exporters.energy_metrics import energy_samples
from sidecar.exporters.summary import totals_text
from sidecar.identity.fields import Hardware, Identity, Resolution
from sidecar.journal import append
from sidecar.meters.node import NodeMeter
from sidecar.meters.nvml import NvmlMeter
from sidecar.meters.pod.ladder import PodLadder
from sidecar.meters.pod.requests import Reservation
from sidecar.meters.pod.whole_node import WholeNodeSource
from sidecar.meters.proc import ProcMeter
from sidecar.meters.rapl import RaplMeter
from sidecar.record import to_mapping
from sidecar.settings import SettingsError, load_settings
from tests.fakes.trees import ProcTree

START_S = 1_800_000_000.0


@dataclass
class Machine:
    """A machine whose time and counters move when told; suspended time moves the wall clock only."""

    proc: ProcTree
    wall_s: float = START_S
    monotonic_s: float = 1000.0

    def run(self, seconds, *, load=0.5):
        self.wall_s += seconds
        self.monotonic_s += seconds
        busy = seconds * self.proc.cpus * load
        idle = seconds * self.proc.cpus * (1 - load)
        self.proc.stat(user=self.proc.times_s["user"] + busy, idle=self.proc.times_s["idle"] + idle)

    def suspend(self, seconds):
        self.wall_s += seconds


@dataclass
class Identities:
    """An identity chain that says what the test sets."""

    resolution: Resolution = field(
        default_factory=lambda: Resolution(
            Identity(project="demo", pod_uid="0000-uid", sources={"project": "setting"}),
            Hardware(cpu_model="AMD EPYC 7763 64-Core Processor", logical_cpus=2),
            (),
            settled=True,
        )
    )
    closed: bool = False

    def start(self):
        pass

    def current(self):
        return self.resolution

    def wait(self, timeout_s):
        return self.resolution

    def close(self):
        self.closed = True

    def answer(self, **fields):
        identity = replace(self.resolution.identity, **fields)
        self.resolution = replace(self.resolution, identity=identity, settled=True)


@pytest.fixture
def machine(tmp_path):
    return Machine(ProcTree(tmp_path / "proc"))


@pytest.fixture
def identities():
    return Identities()


@pytest.fixture
def make_agent(tmp_path, machine, identities):
    def make(**flags):
        given = {"volume": str(tmp_path / "volume"), "interval": "15s", **flags}
        settings = load_settings(given, {})
        clock = Clock(lambda: machine.wall_s, lambda: machine.monotonic_s)
        meter = NodeMeter(
            ProcMeter(machine.proc.root),
            RaplMeter(tmp_path / "sys", clock=clock.monotonic_s),
            NvmlMeter(selected=()),
            PodLadder((), WholeNodeSource()),
            clock=clock.monotonic_s,
        )
        return Agent(Parts(settings, identities, meter, Catalogue(), clock=clock, boot_id="b"))

    return make


def method_of(parts):
    """The method of last resort."""
    return parts.meter.rungs()[-1].method


def records(tmp_path):
    (segment,) = (tmp_path / "volume" / "records").glob("*.ndjson")
    return [json.loads(line) for line in segment.read_text().splitlines()]


def ticks(machine, *steps):
    """A waiter that runs the machine through the steps, one a wait, and then stops."""
    remaining = list(steps)

    def wait(timeout_s):
        if not remaining:
            return Wake(stop="test over")
        step = remaining.pop(0)
        if isinstance(step, Wake):
            return step
        machine.run(timeout_s if step == "full" else step)
        return Wake()

    return wait


def run_through(agent, machine, *steps):
    agent.open()
    return agent.close(agent.run(ticks(machine, *steps)))


def test_records_begin_with_a_start_that_meters_nothing(make_agent, machine, tmp_path):
    run_through(make_agent(), machine)
    first = records(tmp_path)[0]
    assert (first["event"], first["record_id"]) == ("start", "0000-uid.b.0")
    assert first["energy_kwh"] is None
    assert first["duration_s"] == 0.0


def test_windows_follow_one_another_on_the_wall_clock(make_agent, machine, tmp_path):
    machine.wall_s = START_S + 4.0
    run_through(make_agent(), machine, "full", "full", "full", 5.0)
    rows = records(tmp_path)
    assert [row["duration_s"] for row in rows] == [0.0, 11.0, 15.0, 15.0, 5.0]
    for earlier, later in itertools.pairwise(rows):
        assert later["window_start"] == earlier["window_end"]
    assert [row["event"] for row in rows] == ["start", "window", "window", "window", "end"]
    assert rows[-1]["end_reason"] == "test over"


def test_record_ids_count_up(make_agent, machine, tmp_path):
    run_through(make_agent(), machine, "full", "full")
    assert [row["record_id"] for row in records(tmp_path)] == [
        f"0000-uid.b.{number}" for number in range(4)
    ]


def test_energy_is_the_formulas(make_agent, machine, tmp_path):
    run_through(make_agent(), machine, "full")
    row = records(tmp_path)[1]
    cpu = Catalogue().cpu_named("AMD EPYC 7763 64-Core Processor")
    idle_w, max_w = cpu.idle_per_thread.value, cpu.max_per_thread.value
    expected_j = 15 * 2 * (idle_w + (max_w - idle_w) * 0.5)
    assert row["cpu_energy_kwh"] == pytest.approx(expected_j / 3.6e6, rel=1e-12)
    assert row["cpu_utilization"] == 0.5


def test_a_late_tick_is_one_long_window_of_the_same_power(make_agent, machine, tmp_path):
    run_through(make_agent(), machine, "full", 100.0, "full")
    _, normal, late, *_ = records(tmp_path)
    assert late["duration_s"] == 100.0
    assert late["gap_s"] == 0.0
    power_before = normal["cpu_energy_kwh"] / normal["duration_s"]
    assert late["cpu_energy_kwh"] / late["duration_s"] == pytest.approx(power_before)


def test_a_suspended_machine_is_a_gap_without_energy(make_agent, machine, tmp_path):
    agent = make_agent()
    agent.open()
    machine.suspend(3600)
    agent.close(agent.run(ticks(machine, 15.0)))
    row = records(tmp_path)[1]
    assert row["gap_s"] == 3600.0
    assert row["duration_s"] == 15.0
    power_w = row["cpu_energy_kwh"] * 3.6e6 / 15
    assert power_w < 2 * 2  # two threads at half load: nothing of the hour


def test_a_wall_clock_set_back_does_not_stop_the_windows(make_agent, machine, tmp_path):
    agent = make_agent()
    agent.open()
    machine.wall_s -= 7200
    agent.close(agent.run(ticks(machine, 20.0, 20.0, 20.0)))
    rows = records(tmp_path)
    assert sum(row["duration_s"] for row in rows) == 60.0
    assert all(row["gap_s"] == 0 for row in rows)
    assert all(row["window_end"] >= row["window_start"] for row in rows)


def test_an_announced_end_makes_windows_short(make_agent, machine, tmp_path):
    run_through(make_agent(), machine, 5.0, Wake(hurry=True), "full", "full", "full")
    durations = [row["duration_s"] for row in records(tmp_path)]
    assert durations[1] == 5.0
    assert all(duration <= 2.0 for duration in durations[2:])


def test_early_records_are_completed_when_the_identity_settles(
    make_agent, machine, identities, tmp_path
):
    identities.resolution = replace(identities.resolution, settled=False)
    agent = make_agent()
    agent.open()
    agent.run(ticks(machine, "full", "full"))
    assert {row["region"] for row in records(tmp_path)} == {None}
    before = [row["record_id"] for row in records(tmp_path)]
    identities.answer(region="swedencentral", vm_size="Standard_D2as_v5", provider="azure")
    agent.close(agent.run(ticks(machine, "full")))
    rows = records(tmp_path)
    assert {row["region"] for row in rows} == {"swedencentral"}
    assert {row["carbon_intensity_level"] for row in rows} == {"zone"}
    assert [row["record_id"] for row in rows][: len(before)] == before
    total_g = sum(row["emissions_g"] for row in rows if row["emissions_g"])
    assert agent.totals.merged.emissions_g == pytest.approx(total_g)


def test_an_identity_that_answers_at_the_end_still_completes_all(
    make_agent, machine, identities, tmp_path
):
    identities.resolution = replace(identities.resolution, settled=False)
    agent = make_agent()
    agent.open()
    reason = agent.run(ticks(machine, "full"))
    identities.answer(region="westeurope")
    agent.close(reason)
    assert {row["country_iso3"] for row in records(tmp_path)} == {"NLD"}


def test_an_identity_that_never_answers_keeps_the_records_as_they_are(
    make_agent, machine, identities, tmp_path
):
    identities.resolution = replace(identities.resolution, settled=False)
    run_through(make_agent(), machine, "full", "full")
    rows = records(tmp_path)
    assert len(rows) == 4
    assert {row["region"] for row in rows} == {None}
    assert {row["carbon_intensity_level"] for row in rows} == {"world"}
    assert identities.closed


@pytest.mark.parametrize("settles_after", [0, 1, 3, None])
def test_what_is_told_as_counted_never_falls_and_is_in_the_end_the_sum_of_the_records(
    make_agent, machine, identities, tmp_path, settles_after
):
    """The place makes early windows smaller; as long as that may happen nothing counts yet."""
    identities.resolution = replace(identities.resolution, settled=False)
    agent = make_agent()
    agent.open()
    counted = []
    for number in range(5):
        if number == settles_after:
            identities.answer(region="swedencentral", vm_size="Standard_D2as_v5")
        agent.run(ticks(machine, "full"))
        counted.append(grams_told(agent))
    agent.close("test over")
    final_g = sum(row["emissions_g"] for row in records(tmp_path) if row["emissions_g"])
    assert grams_told(agent) == pytest.approx(final_g, rel=1e-12)
    counted.append(grams_told(agent))
    assert counted == sorted(counted)
    early = len(counted) - 1 if settles_after is None else settles_after
    assert counted[:early] == [0.0] * early
    assert min(counted[early:]) > 0


def grams_told(agent):
    """What /metrics says at this moment."""
    (grams,) = (
        one.value
        for one in energy_samples(agent.standing)
        if one.metric.name == "emissions_co2e_grams_total"
    )
    return grams


def test_the_last_window_that_is_told_is_the_completed_one(make_agent, machine, identities):
    identities.resolution = replace(identities.resolution, settled=False)
    agent = make_agent()
    agent.open()
    reason = agent.run(ticks(machine, "full"))
    identities.answer(region="swedencentral")
    agent.close(reason)
    assert agent.standing.last.region == "swedencentral"
    assert agent.standing.is_final


def test_windows_merged_on_a_full_disk_count_as_if_they_had_been_written(
    make_agent, machine, tmp_path, monkeypatch
):
    monkeypatch.setattr(append, "WAITING_MAX", 3)
    (tmp_path / "volume").write_text("a file where the volume should be")
    agent = make_agent()
    agent.open()
    agent.run(ticks(machine, *["full"] * 8))
    assert agent.state().write_failures == 9
    assert agent.state().waiting_records == 3
    (tmp_path / "volume").unlink()
    agent.close("test over")
    rows = records(tmp_path)
    assert agent.standing.totals.windows > len(rows)
    total_g = sum(row["emissions_g"] for row in rows if row["emissions_g"])
    assert grams_told(agent) == pytest.approx(total_g, rel=1e-12)


def test_memory_stays_bounded_while_the_identity_is_open(make_agent, machine, identities):
    identities.resolution = replace(identities.resolution, settled=False)
    agent = make_agent(interval="1s")
    agent.open()
    agent.run(ticks(machine, *[1.0] * (EARLY_WINDOWS_MAX + 20)))
    assert agent._early is None


def test_the_summary_is_the_sum_of_the_windows(make_agent, machine, tmp_path):
    run_through(make_agent(), machine, "full", "full", 3.0)
    summary = json.loads((tmp_path / "volume" / "summary.json").read_text())
    rows = records(tmp_path)
    assert summary["windows"] == 3
    assert summary["energy_kwh"] == pytest.approx(
        sum(row["energy_kwh"] for row in rows if row["energy_kwh"])
    )
    assert summary["window_start"] == rows[0]["window_start"]


def windows_told(tmp_path):
    return json.loads((tmp_path / "volume" / "summary.json").read_text())["windows"]


def test_short_windows_write_the_totals_with_the_first_and_then_each_5_s(
    make_agent, machine, tmp_path
):
    agent = make_agent(interval="1s")
    agent.open()
    told = []
    for _ in range(12):
        agent.run(ticks(machine, 1.0))
        told.append(windows_told(tmp_path))
    assert told == [1] * 5 + [6] * 5 + [11] * 2
    assert (tmp_path / "volume" / "emissions.csv").exists()


def test_a_flush_writes_the_totals_whenever_the_last_were_written(make_agent, machine, tmp_path):
    agent = make_agent(interval="1s")
    agent.open()
    agent.run(ticks(machine, 1.0, 1.0, 0.5))
    assert windows_told(tmp_path) == 1
    agent.flush()
    assert windows_told(tmp_path) == 3


def test_a_run_without_an_id_gets_one_and_keeps_it(make_agent, machine, tmp_path):
    run_through(make_agent(), machine, "full", "full")
    (run_id,) = {row["run_id"] for row in records(tmp_path)}
    assert run_id
    assert records(tmp_path)[0]["identity_source"]["run_id"] == "generated"


def test_a_volume_that_fails_does_not_stop_metering(make_agent, machine, tmp_path, caplog):
    (tmp_path / "volume").write_text("a file where the volume should be")
    totals = run_through(make_agent(), machine, "full", "full")
    assert totals.windows == 3
    assert totals.merged.energy_kwh > 0
    told = [line for line in caplog.messages if "metering goes on, records wait" in line]
    assert len(told) == 1
    assert any("could not be written" in line and "Wh" in line for line in caplog.messages)


def test_records_that_waited_are_written_when_the_volume_is_back(make_agent, machine, tmp_path):
    blocker = tmp_path / "volume"
    blocker.write_text("in the way")
    agent = make_agent()
    agent.open()
    agent.run(ticks(machine, "full"))
    blocker.unlink()
    agent.close(agent.run(ticks(machine, "full")))
    assert [row["event"] for row in records(tmp_path)] == ["start", "window", "window", "end"]


def test_a_missing_proc_stat_gives_null_not_zero(make_agent, machine, tmp_path):
    (machine.proc.root / "stat").unlink()
    agent = make_agent()
    agent.open()

    machine.suspend(15.0)
    machine.monotonic_s += 15.0
    agent.close("over")
    row = records(tmp_path)[1]
    assert row["cpu_energy_kwh"] is None
    assert row["ram_energy_kwh"] > 0


@pytest.mark.parametrize(
    ("uid", "stem"),
    [
        ("8e1f-22", "8e1f-22.b"),
        (None, "run.b"),
        ("../../etc/passwd", "------etc-passwd.b"),
        ("x" * 500, "x" * 64 + ".b"),
    ],
)
def test_segment_names_hold_nothing_a_path_could_be_made_of(uid, stem):
    assert record_stem(uid, "b") == stem


def test_totals_name_energy_emissions_bounds_and_project(make_agent, machine):
    text = totals_text(run_through(make_agent(), machine, "full"))
    assert "Wh" in text
    assert "g CO2e" in text
    assert "project demo" in text


def settings_in(tmp_path, **flags):
    return load_settings({"volume": str(tmp_path), "imds_endpoint": "none", **flags}, {})


def test_a_command_is_metered_by_its_process_tree(tmp_path):
    assert method_of(assemble(settings_in(tmp_path), {}, "exec")) == "process-tree"


def test_a_managed_azureml_job_has_the_machine_for_itself(tmp_path):
    parts = assemble(settings_in(tmp_path), {"AZUREML_RUN_ID": "run-1"}, "exec")
    assert method_of(parts) == "whole-node"


def test_a_sidecar_takes_the_share_of_the_requests_when_there_are_some(tmp_path):
    parts = assemble(settings_in(tmp_path, requests_cpu="500m"), {}, "run")
    assert (method_of(parts), parts.reserved) == ("requests", Reservation(cpus=0.5))


def test_a_sidecar_without_requests_takes_the_whole_node(tmp_path):
    assert method_of(assemble(settings_in(tmp_path), {}, "run")) == "whole-node"


def test_a_replica_of_a_gpu_is_a_part_of_it_where_no_meter_tells(tmp_path):
    settings = settings_in(tmp_path, requests_gpu="1", gpu_replicas="4")
    assert assemble(settings, {"POD_UID": "u"}, "run").reserved.gpus == 0.25


def test_a_sidecar_cannot_meter_a_tree_it_did_not_start(tmp_path):
    with pytest.raises(SettingsError, match="use 'exec'"):
        assemble(settings_in(tmp_path, attribution="process-tree"), {}, "run")


@pytest.mark.parametrize(
    "flags",
    [
        {"requests_cpu": "-1"},
        {"energy_mix": "coal=-3"},
        {"energy_mix": "unobtainium=5"},
        {"project": "two\nlines"},
        {"vm_sizes_file": "/nonexistent/sizes.csv"},
    ],
    ids=lambda flags: next(iter(flags)),
)
def test_settings_that_cannot_be_used_are_told_before_metering(tmp_path, flags):
    with pytest.raises(SettingsError):
        assemble(settings_in(tmp_path, **flags), {}, "run")


def podinfo(tmp_path, interval):
    directory = tmp_path / "podinfo"
    directory.mkdir()
    (directory / "annotations").write_text(f'emissions/interval="{interval}"\n')
    return str(directory)


def test_the_pods_annotation_sets_the_interval(tmp_path):
    settings = settings_in(tmp_path, podinfo=podinfo(tmp_path, "30s"))
    assert assemble(settings, {"POD_UID": "u"}, "run").settings.interval == 30.0


def test_a_setting_wins_over_the_pods_annotation(tmp_path):
    settings = settings_in(tmp_path, podinfo=podinfo(tmp_path, "30s"), interval="5s")
    assert assemble(settings, {"POD_UID": "u"}, "run").settings.interval == 5.0


def test_a_bad_annotation_keeps_the_default(tmp_path):
    settings = settings_in(tmp_path, podinfo=podinfo(tmp_path, "often"))
    assert assemble(settings, {"POD_UID": "u"}, "run").settings.interval == 15.0


def test_the_volume_is_made_where_it_is_missing(make_agent, machine, tmp_path):
    run_through(make_agent(volume=str(tmp_path / "volume")), machine, "full")
    assert Path(tmp_path / "volume" / "emissions.csv").is_file()


def test_azureml_on_kubernetes_shares_its_node(tmp_path):
    environ = {"AZUREML_RUN_ID": "run-1", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert method_of(assemble(settings_in(tmp_path), environ, "exec")) == "process-tree"


def test_an_error_names_the_setting_it_comes_from(tmp_path):
    with pytest.raises(SettingsError, match="flag --energy-mix: "):
        assemble(settings_in(tmp_path, energy_mix="coal=-3"), {}, "run")


def test_a_country_nobody_knows_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="flag --country: 'Atlantis' is no country"):
        assemble(settings_in(tmp_path, country="Atlantis"), {}, "run")


def test_requests_that_are_not_told_are_warned_of(tmp_path, caplog):
    assemble(settings_in(tmp_path, requests_cpu="1"), {}, "run")
    (told,) = [line for line in caplog.messages if "not given" in line]
    assert "EMISSIONS_REQUESTS_MEMORY, EMISSIONS_REQUESTS_GPU" in told


def test_an_unknown_region_is_warned_of_once(make_agent, machine, identities, caplog):
    identities.answer(region="atlantis")
    run_through(make_agent(), machine, "full", "full")
    assert len([line for line in caplog.messages if "'atlantis'" in line]) == 1


def test_the_last_export_holds_the_last_window(make_agent, machine, tmp_path):
    totals = run_through(make_agent(), machine, "full", 4.0)
    summary = json.loads((tmp_path / "volume" / "summary.json").read_text())
    assert summary["windows"] == totals.windows == 2
    assert summary["duration_s"] == 19.0


def test_a_run_without_a_known_region_says_that_its_grams_are_an_average(make_agent, machine):
    assert "region unknown: world average" in totals_text(
        run_through(make_agent(), machine, "full")
    )


def test_a_run_in_a_known_region_has_nothing_to_excuse(make_agent, machine, identities):
    identities.answer(region="westeurope")
    assert "unknown" not in totals_text(run_through(make_agent(), machine, "full"))


def test_a_part_of_a_machine_is_told_beside_the_whole(make_agent, machine):
    totals = run_through(make_agent(), machine, "full")
    part = replace(totals, merged=replace(totals.merged, pod_method="process-tree"))
    assert "(the whole machine: " in totals_text(part)
    assert "whole machine" not in totals_text(totals)


def test_no_cpu_time_at_all_is_too_short_to_meter_not_zero(make_agent, machine):
    totals = run_through(make_agent(), machine, "full")
    nothing = replace(totals, merged=replace(totals.merged, energy_kwh=0.0))
    assert totals_text(nothing).startswith("too short to meter")


# -- who is shown the run --------------------------------------------------------------------------


class StubFollower:
    """Remembers what it is shown; `patience` is how often it says that it is not done."""

    def __init__(self, patience=0):
        self.steps = []
        self.records = []
        self.patience = patience

    def begin(self):
        self.steps.append("begin")

    def take(self, record):
        self.records.append(record)

    def finish(self):
        self.steps.append("finish")

    def wait(self, timeout_s):
        self.steps.append("wait")
        self.patience -= 1
        return self.patience < 0


@pytest.fixture
def followed(make_agent):
    def make(*followers, **flags):
        agent = make_agent(**flags)
        return Agent(replace(agent._parts, followers=followers))

    return make


def test_each_record_is_shown_as_it_is_written(followed, machine, tmp_path):
    follower = StubFollower()
    run_through(followed(follower), machine, "full", "full", 3.0)
    assert [to_mapping(item) for item in follower.records] == [
        {**row, "gpus": []} for row in records(tmp_path)
    ]
    assert follower.steps == ["begin", "finish", "wait"]


def test_records_that_may_be_written_anew_are_shown_when_they_stand(
    followed, machine, identities, tmp_path
):
    identities.resolution = replace(identities.resolution, settled=False)
    follower = StubFollower()
    agent = followed(follower)
    agent.open()
    agent.run(ticks(machine, "full", "full"))
    assert follower.records == []
    identities.answer(region="westeurope")
    agent.close(agent.run(ticks(machine, "full")))
    assert {item.region for item in follower.records} == {"westeurope"}
    assert [item.record_id for item in follower.records] == [
        row["record_id"] for row in records(tmp_path)
    ]
    assert [item.emissions_g for item in follower.records] == [
        row["emissions_g"] for row in records(tmp_path)
    ]


@pytest.mark.parametrize("last", [[], [Wake(hurry=True)]])
def test_where_nobody_answers_the_end_shows_what_there_is(
    followed, machine, identities, tmp_path, last
):
    identities.resolution = replace(identities.resolution, settled=False)
    follower = StubFollower()
    run_through(followed(follower), machine, "full", *last)
    assert [item.record_id for item in follower.records] == [
        row["record_id"] for row in records(tmp_path)
    ]


def test_the_end_waits_for_each_follower_until_it_is_done_or_its_time_is_over(followed, machine):
    quick, slow = StubFollower(), StubFollower(patience=2)
    run_through(followed(quick, slow), machine, "full")
    assert quick.steps == ["begin", "finish", "wait"]
    assert slow.steps == ["begin", "finish", "wait", "wait", "wait"]


def test_who_is_impatient_does_not_wait(followed, machine):
    endless = StubFollower(patience=10**9)
    agent = followed(endless)
    agent.open()
    agent.ship_briefly()
    agent.close("test over")
    assert endless.steps == ["begin", "finish", "wait"]
