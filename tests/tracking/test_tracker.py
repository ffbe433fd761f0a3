"""Trackers in this very process: what they return, what they leave, and what they never do."""

import gc
import json
import logging
import threading

import pytest
from codecarbon.output import EmissionsData as Theirs
from codecarbon.output import TaskEmissionsData as TheirTask

import sidecar
from sidecar import (
    EmissionsData,
    EmissionsTracker,
    OfflineEmissionsTracker,
    OutputMethod,
    TaskEmissionsTracker,
)
from sidecar.exporters.codecarbon_csv import COLUMNS
from sidecar.metering import Metering
from sidecar.tracking.process import this_process
from sidecar.tracking.session import Session
from tests.fakes.imds import FakeImds
from tests.tracking.conftest import used

FRANCE = {"country_iso_code": "FRA"}


# -- one run ---------------------------------------------------------------------------------------


def test_stop_returns_the_kilograms_that_the_records_and_the_csv_have(left):
    tracker = EmissionsTracker(project_name="demo")
    tracker.start()
    used()
    kg = tracker.stop()
    assert kg > 0
    assert tracker.final_emissions == kg
    grams = sum(window["emissions_g"] for window in left.windows())
    assert kg == pytest.approx(grams / 1000, rel=1e-12)
    (row,) = left.rows()
    assert (row["project_name"], float(row["emissions"])) == ("demo", pytest.approx(kg))


def test_as_a_context_it_starts_and_stops(left):
    with EmissionsTracker() as tracker:
        assert tracker.final_emissions is None
        used()
    assert tracker.final_emissions > 0
    assert [record["event"] for record in left.records()] == ["start", "end"]
    assert left.records()[-1]["end_reason"] == "stopped"


def test_it_meters_this_process_not_the_machine(left):
    with EmissionsTracker():
        used()
    (window,) = left.windows()
    assert window["pod_method"] == "process-tree"
    assert window["pod_cpu_seconds"] >= 0.04
    assert window["energy_kwh"] <= window["node_energy_kwh"]


def test_the_machine_is_metered_where_that_is_asked_for(left):
    with EmissionsTracker(tracking_mode="machine") as tracker:
        used()
    assert left.windows()[-1]["pod_method"] == "whole-node"
    assert tracker.final_emissions_data.tracking_mode == "machine"


def test_the_final_data_are_codecarbons_columns(left):
    with EmissionsTracker(experiment_name="e") as tracker:
        used()
    data = tracker.final_emissions_data
    assert tuple(data.values) == COLUMNS == tuple(Theirs.__dataclass_fields__)
    assert (data.emissions, data.run_id) == (tracker.final_emissions, tracker.run_id)
    assert (data.experiment_id, data.gpu_energy) == ("e", 0.0)
    assert data.energy_consumed == pytest.approx(data.cpu_energy + data.ram_energy)


def test_a_flush_writes_what_was_metered_so_far(left):
    with EmissionsTracker() as tracker:
        used()
        first = tracker.flush()
        assert 0 < first <= tracker.emissions_data_so_far.emissions * 1.001
        assert len(left.windows()) == 1
        assert float(left.rows()[0]["emissions"]) == pytest.approx(first)
        used()
    assert tracker.final_emissions > first
    assert len(left.rows()) == 1


def test_a_tracker_can_be_started_again_and_is_another_run(left):
    tracker = EmissionsTracker()
    for _ in range(2):
        tracker.start()
        used(0.02)
        tracker.stop()
    assert len({record["run_id"] for record in left.records()}) == len(left.rows()) == 2


def test_starting_twice_and_stopping_twice_is_said_and_does_nothing(left, caplog):
    tracker = EmissionsTracker()
    assert tracker.stop() is None
    tracker.start()
    tracker.start()
    used(0.02)
    kg = tracker.stop()
    assert tracker.stop() == kg
    assert tracker.flush() is None
    assert len([r for r in left.records() if r["event"] == "start"]) == 1
    assert "has started already" in caplog.text
    assert "has stopped already" in caplog.text


def test_the_hardware_is_told_under_codecarbons_names(left):
    tracker = EmissionsTracker()
    assert tracker.get_detected_hardware() == dict.fromkeys(
        ("ram_total_size", "cpu_count", "cpu_model", "gpu_count", "gpu_model")
    )
    with tracker:
        assert tracker.get_detected_hardware()["cpu_count"] >= 1
        assert tracker.run_id


def test_a_handler_of_signals_stops_it(left):
    tracker = EmissionsTracker()
    tracker.start()
    tracker.service_shutdown(15, None)
    assert tracker.final_emissions is not None


# -- where things go -------------------------------------------------------------------------------


def test_without_a_directory_the_csv_is_where_codecarbons_is(left):
    with EmissionsTracker():
        used(0.02)
    files = {name for name in left.files() if not name.startswith(".")}
    assert {"emissions.csv", "emissions/summary.json"} <= files
    assert "emissions/emissions.csv" not in files


def test_a_directory_is_made_and_has_everything(left):
    with EmissionsTracker(output_dir="some/where", output_file="e.csv"):
        used(0.02)
    assert {"some/where/e.csv", "some/where/summary.json"} <= left.files()
    assert len(left.rows("some/where/e.csv")) == 1
    assert left.windows("some/where")


def test_the_volume_of_the_environment_is_obeyed(left, monkeypatch):
    monkeypatch.setenv("EMISSIONS_VOLUME", "outputs")
    with EmissionsTracker():
        used(0.02)
    assert "outputs/emissions.csv" in left.files()
    assert "emissions.csv" not in left.files()


@pytest.mark.parametrize("options", [{"save_to_file": False}, {"output_methods": []}])
def test_without_files_there_are_figures_and_nothing_is_left(left, options):
    with EmissionsTracker(**options) as tracker:
        used()
    assert tracker.final_emissions > 0
    assert left.files() == set()


def test_a_transport_ships_records_though_no_csv_is_wanted(left, monkeypatch):
    monkeypatch.setenv("EMISSIONS_TRANSPORT", "directory")
    monkeypatch.setenv("EMISSIONS_TRANSPORT_DIRECTORY", "far")
    (left.directory / "far").mkdir()
    with EmissionsTracker(save_to_file=False):
        used(0.02)
    assert any(name.startswith("far/records/v1/") for name in left.files())


def test_the_summary_tells_the_seconds_of_each_phase(left):
    with EmissionsTracker(), sidecar.phase("train"):
        used(0.1)
    summary = json.loads((left.directory / "emissions/summary.json").read_text())
    assert set(summary["phases"]) == {"train"}


def test_several_runs_of_a_directory_are_rows_of_one_csv(left):
    for number in range(3):
        with EmissionsTracker(project_name=f"p{number}"):
            used(0.02)
    assert [row["project_name"] for row in left.rows()] == ["p0", "p1", "p2"]


# -- trackers within trackers ----------------------------------------------------------------------


def test_a_tracker_within_another_is_a_phase_of_one_run(left):
    with EmissionsTracker(project_name="outer") as outer:
        used()
        with EmissionsTracker(project_name="inner") as inner:
            used()
        used()
    assert {record["project"] for record in left.records()} == {"outer"}
    assert len({record["run_id"] for record in left.records()}) == 1
    assert 0 < inner.final_emissions < outer.final_emissions
    inner_s = sum((w["phases"] or {}).get("inner", 0.0) for w in left.windows())
    # The figures are asked for just before and after, which takes as long as the machine is busy.
    assert 0.04 < inner_s <= inner.final_emissions_data.duration + 0.1


def test_a_tracker_that_nobody_holds_does_not_hold_the_run_beyond_the_end_of_another(left):
    """As where the cell of a notebook that starts a tracker runs again."""
    for _ in range(2):  # the second is a phase of the first one's run
        EmissionsTracker().start()
    gc.collect()
    used()
    assert this_process()._run is not None  # it may be all that the program wants
    tracker = EmissionsTracker()
    tracker.start()
    used()
    assert tracker.stop() > 0
    assert this_process()._run is None
    assert left.records()[-1]["end_reason"] == "stopped"


def test_a_run_lasts_as_long_as_any_tracker_of_it(left):
    first, second = EmissionsTracker(project_name="a"), EmissionsTracker(project_name="b")
    first.start()
    used()
    second.start()
    used()
    kg_of_first = first.stop()
    used()
    kg_of_second = second.stop()
    grams = sum(window["emissions_g"] for window in left.windows())
    assert len({record["run_id"] for record in left.records()}) == len(left.rows()) == 1
    assert max(kg_of_first, kg_of_second) < grams / 1000 < kg_of_first + kg_of_second


def test_trackers_of_many_threads_share_one_run(left):
    kgs = []

    def work():
        with EmissionsTracker() as tracker:
            used(0.03)
        kgs.append(tracker.final_emissions)

    with EmissionsTracker():
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(kgs) == 6
    assert all(kg is not None for kg in kgs)
    assert len({record["run_id"] for record in left.records()}) == len(left.rows()) == 1


def test_figures_that_are_not_to_be_had_in_time_are_not_known_rather_than_old(left, monkeypatch):
    """A volume or a driver may hang, or the machine stand still."""
    tracker = EmissionsTracker()
    tracker.start()
    used()
    assert tracker.flush() > 0
    with monkeypatch.context() as hanging:
        hanging.setattr(Metering, "ask", lambda *_: None)
        assert tracker.emissions_data_so_far is None
        assert tracker.flush() is None
        tracker.start_task("hung")
        assert tracker.stop_task("hung") is None
    assert tracker.stop() > 0


def test_an_end_that_does_not_come_in_time_has_no_final_figures(left, monkeypatch):
    tracker = EmissionsTracker()
    tracker.start()
    used()
    assert tracker.flush() > 0
    ended = Metering.end
    monkeypatch.setattr(Metering, "end", lambda *given: ended(*given) and False)
    assert tracker.stop() is None
    assert tracker.final_emissions_data is None


# -- tasks -----------------------------------------------------------------------------------------


def test_tasks_have_results_of_their_own_and_are_phases(left):
    tracker = EmissionsTracker(project_name="demo", experiment_name="exp")
    tracker.start_task("load data")
    used()
    loading = tracker.stop_task()
    tracker.start_task("train")
    used(0.2)
    training = tracker.stop_task("train")
    kg = tracker.stop()
    assert isinstance(loading, EmissionsData)
    assert 0 < loading.emissions < training.emissions
    assert loading.emissions + training.emissions <= kg * 1.01
    marked = {name for window in left.windows() for name in window["phases"] or {}}
    assert marked == {"load data", "train"}
    (file,) = [name for name in left.files() if name.startswith("emissions_exp_")]
    rows = left.rows(file)
    assert list(rows[0]) == list(TheirTask.__dataclass_fields__)
    assert [row["task_name"] for row in rows] == ["load data", "train"]


def test_tasks_lie_within_one_another_and_names_may_repeat(left):
    tracker = EmissionsTracker()
    tracker.start_task("outer")
    for _ in range(2):
        tracker.start_task("step")
        used()
        tracker.stop_task()
    outer = tracker.stop_task()
    tracker.stop()
    (file,) = [name for name in left.files() if name.startswith("emissions_base_")]
    names = [row["task_name"] for row in left.rows(file)]
    assert names[0] == "step"
    assert names[1].startswith("step_")
    assert names[2] == "outer"
    assert outer.emissions > 0


def test_stopping_a_task_that_there_is_not_is_said(left, caplog):
    with EmissionsTracker() as tracker:
        assert tracker.stop_task() is None
        assert tracker.stop_task("nothing") is None
    assert "no task 'nothing'" in caplog.text


def test_tasks_that_go_on_end_with_the_tracker(left):
    tracker = EmissionsTracker()
    tracker.start_task("a")
    tracker.start_task("b")
    used()
    tracker.stop()
    (file,) = [name for name in left.files() if name.startswith("emissions_base_")]
    assert [row["task_name"] for row in left.rows(file)] == ["b", "a"]


def test_a_task_that_a_handler_of_signals_ends_amidst_the_end_is_ended_once(
    left, monkeypatch, caplog
):
    tracker = EmissionsTracker()
    tracker.start_task("a")
    tracker.start_task("b")
    told = Session._end_task

    def interrupted(session, name, share):
        monkeypatch.setattr(Session, "_end_task", told)
        tracker.stop_task("b")  # by a handler of signals, just here
        return told(session, name, share)

    monkeypatch.setattr(Session, "_end_task", interrupted)
    assert tracker.stop() is not None
    (file,) = [name for name in left.files() if name.startswith("emissions_base_")]
    assert [row["task_name"] for row in left.rows(file)] == ["b", "a"]
    assert "failed" not in caplog.text


def test_a_task_tracker_takes_a_tracker_or_has_its_own(left):
    tracker = EmissionsTracker()
    with tracker, TaskEmissionsTracker("within", tracker=tracker):
        used(0.02)
    with TaskEmissionsTracker("alone") as alone:
        used(0.02)
    assert alone.tracker.final_emissions is not None
    assert len(left.rows()) == 2


# -- handlers --------------------------------------------------------------------------------------


class Handler:
    def __init__(self):
        self.calls = []

    def out(self, total, delta):
        self.calls.append(("out", total.emissions, delta.emissions))

    def task_out(self, tasks, experiment_name):
        self.calls.append(("task_out", [task.task_name for task in tasks], experiment_name))

    def exit(self):
        self.calls.append(("exit",))


class Bad:
    def out(self, total, delta):
        raise RuntimeError("no disk")


def test_handlers_get_totals_and_what_is_new_and_the_end(left):
    handler = Handler()
    with EmissionsTracker(output_handlers=[handler]) as tracker:
        used()
        flushed = tracker.flush()
        used()
    kg = tracker.final_emissions
    assert handler.calls == [
        ("out", flushed, flushed),
        ("out", kg, pytest.approx(kg - flushed)),
        ("exit",),
    ]


def test_handlers_get_tasks(left):
    handler = Handler()
    tracker = EmissionsTracker(output_handlers=[handler])
    tracker.start_task("a")
    tracker.stop_task()
    tracker.stop()
    assert ("task_out", ["a"], "base") in handler.calls


def test_a_handler_that_fails_keeps_nobody_from_theirs(left, caplog):
    handler = Handler()
    with EmissionsTracker(output_handlers=[Bad(), handler]) as tracker:
        used(0.02)
    assert tracker.final_emissions is not None
    assert ("exit",) in handler.calls
    assert "no disk" in caplog.text


def test_a_logger_is_a_handler_where_it_is_asked_for(left):
    logger = Handler()
    with EmissionsTracker(
        output_methods=[OutputMethod.CSV, OutputMethod.LOGGER], logging_logger=logger
    ):
        used(0.02)
    assert logger.calls


def test_codecarbons_own_handlers_take_our_results(left):
    from codecarbon.output import LoggerOutput

    lines = []

    class Lines(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    log = logging.getLogger("results")
    log.addHandler(Lines())
    log.setLevel(logging.INFO)
    with EmissionsTracker(save_to_logger=True, logging_logger=LoggerOutput(log, logging.INFO)):
        used(0.02)
    assert '"emissions"' in lines[0]


# -- offline ---------------------------------------------------------------------------------------


def test_offline_the_country_decides_and_nobody_is_asked(left, monkeypatch):
    with FakeImds("aks-regular") as imds:
        monkeypatch.setenv("EMISSIONS_IMDS_ENDPOINT", imds.url)
        with OfflineEmissionsTracker(**FRANCE) as tracker:
            used()
        assert list(imds.requests) == []
    record = left.windows()[-1]
    assert (record["country_iso3"], record["carbon_intensity_level"]) == ("FRA", "country")
    assert tracker.final_emissions_data.country_iso_code == "FRA"
    assert tracker.final_emissions_data.country_name == "France"


def test_online_the_metadata_service_is_asked(left, monkeypatch):
    with FakeImds("aks-regular") as imds:
        monkeypatch.setenv("EMISSIONS_IMDS_ENDPOINT", imds.url)
        with EmissionsTracker() as tracker:
            used()
        assert imds.requests
    assert tracker.final_emissions_data.cloud_region == "eastus"


def test_an_azure_region_is_worth_more_than_its_country(left):
    with OfflineEmissionsTracker(cloud_provider="azure", cloud_region="swedencentral"):
        used(0.02)
    record = left.windows()[-1]
    assert (record["region"], record["carbon_intensity_level"]) == ("swedencentral", "zone")


def test_a_forced_intensity_and_pue_are_the_records(left):
    with EmissionsTracker(force_carbon_intensity_g_co2e_kwh=100, pue=1.5, force_cpu_power=50):
        used()
    record = left.windows()[-1]
    assert (record["carbon_intensity_g_per_kwh"], record["pue"]) == (100.0, 1.5)
    assert record["cpu_power_method"] == "constant"


# -- what is wrong never reaches the program -------------------------------------------------------


def test_a_parameter_that_there_is_not_is_a_type_error_as_in_any_call(left):
    with pytest.raises(TypeError, match="unexpected keyword argument 'projekt'"):
        EmissionsTracker(projekt="x")
    with pytest.raises(TypeError, match="multiple values for argument 'project_name'"):
        EmissionsTracker("a", project_name="b")
    with pytest.raises(TypeError, match="country_iso_code"):
        EmissionsTracker(**FRANCE)
    with pytest.raises(TypeError, match="at most 36"):
        EmissionsTracker(*range(50))


def test_bad_values_are_said_and_the_defaults_hold(left, caplog):
    with OfflineEmissionsTracker(
        country_iso_code="XYZ", tracking_mode="both", pue="high", measure_power_secs="often",
        output_methods=["paper"], log_level="loud", output_handlers=3, output_file=7,
        output_dir=5, force_carbon_intensity_g_co2e_kwh=-1, gpu_ids=object(), project_name="a\nb",
    ) as tracker:  # fmt: skip
        used()
    assert tracker.final_emissions > 0
    told = {line.partition("=")[0] for line in caplog.messages if "the default holds" in line}
    assert told >= {
        "country_iso_code", "tracking_mode", "pue", "measure_power_secs", "output_methods",
        "log_level", "output_file", "output_dir", "force_carbon_intensity_g_co2e_kwh", "gpu_ids",
        "project_name",
    }  # fmt: skip


def test_a_directory_that_cannot_be_written_costs_no_figures(left, caplog):
    (left.directory / "file").write_text("")
    with EmissionsTracker(output_dir="file") as tracker:
        used()
    assert tracker.final_emissions > 0
    assert "cannot" in caplog.text


def test_settings_that_contradict_each_other_are_said_and_nothing_is_metered(
    left, caplog, monkeypatch
):
    monkeypatch.setenv("EMISSIONS_CARBON_INTENSITY", "100")
    monkeypatch.setenv("EMISSIONS_ENERGY_MIX", "coal=100")
    with EmissionsTracker() as tracker:
        used(0.02)
    assert tracker.final_emissions is None
    assert tracker.flush() is None
    assert tracker.stop_task() is None
    assert "the program goes on without it" in caplog.text


def test_a_bad_variable_is_said_and_left_out(left, caplog, monkeypatch):
    monkeypatch.setenv("EMISSIONS_PUE", "banana")
    monkeypatch.setenv("EMISSIONS_PROJEKT", "x")
    monkeypatch.setenv("EMISSIONS_PROJECT", "from the environment")
    with EmissionsTracker():
        used(0.02)
    assert left.windows()[-1]["project"] == "from the environment"
    assert "EMISSIONS_PUE" in caplog.text
    assert "EMISSIONS_PROJEKT" in caplog.text


def test_a_bad_configuration_file_is_said_and_left_out(left, caplog, monkeypatch):
    monkeypatch.delenv("EMISSIONS_CONFIG")
    (left.directory / "emissions.toml").write_text("pue = 'banana'\n")
    with EmissionsTracker():
        used(0.02)
    assert left.windows()[-1]["pue"] == 1.0
    assert "emissions.toml" in caplog.text


def test_a_configuration_file_speaks_where_no_parameter_does(left, monkeypatch):
    monkeypatch.delenv("EMISSIONS_CONFIG")
    (left.directory / "emissions.toml").write_text("project = 'file'\npue = 1.3\n")
    with EmissionsTracker(project_name="parameter"):
        used(0.02)
    record = left.windows()[-1]
    assert (record["project"], record["pue"]) == ("parameter", 1.3)


def test_what_the_program_raises_passes_and_the_run_is_recorded(left):
    with pytest.raises(KeyError, match="mine"), EmissionsTracker():
        used(0.02)
        raise KeyError("mine")
    assert left.records()[-1]["event"] == "end"


# -- the module ------------------------------------------------------------------------------------


def test_the_package_offers_the_api_and_nothing_else():
    assert sorted(sidecar.__all__) == dir(sidecar)
    assert all(getattr(sidecar, name) for name in sidecar.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sidecar.nothing  # noqa: B018
