"""MLflow: the real client, a real local store, and the real server in front of one."""

import pytest

from sidecar.exporters.mlflow import METRICS_PER_CALL, WINDOWS_PER_CALL, mlflow_opener
from sidecar.exporters.tracked import TOTALS, WINDOW, figures, words
from sidecar.record import EmissionRecord
from tests.exporters.tracked_windows import record, tracked
from tests.fakes.mlflow_server import serving

# MLflow's store uses what SQLAlchemy calls outdated: not our code, and not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A new store; making its tables takes seconds, so all tests share it."""
    return tmp_path_factory.mktemp("mlflow") / "store.db"


@pytest.fixture
def store(database, monkeypatch):
    """The store as MLflow's variables name it."""
    environ = {"MLFLOW_TRACKING_URI": f"sqlite:///{database}"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environ["MLFLOW_TRACKING_URI"])
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(database.parent)
    return environ


def client():
    from mlflow.tracking import MlflowClient

    return MlflowClient()


def shown(environ, windows, *, owns_process=False):
    """Hand windows to a tracker and return the run as MLflow has it."""
    tracker = mlflow_opener(environ, owns_process=owns_process).open()
    tracker.log(windows)
    tracker.close()
    return client().get_run(tracker._run_id)


def test_the_metrics_are_the_totals_of_the_records(store):
    windows = tracked(4)
    run = shown(store, windows)
    for name in TOTALS:
        total = getattr(windows[-1].totals, name)
        assert run.data.metrics.get(f"emissions/{name}") == total
    for name in WINDOW:
        assert run.data.metrics.get(f"emissions/window/{name}") == getattr(windows[-1].record, name)


def test_each_window_is_a_step_at_its_end(store):
    windows = tracked(3)
    run = shown(store, windows)
    history = client().get_metric_history(run.info.run_id, "emissions/energy_kwh")
    assert [(item.step, item.value) for item in history] == [
        (window.number, window.totals.energy_kwh) for window in windows
    ]
    assert [item.timestamp for item in history] == [
        1795334400_000 + 15_000 * window.number for window in windows
    ]


def test_the_totals_are_tags_that_read_back_as_the_same_numbers(store):
    windows = tracked(3)
    tags = shown(store, windows).data.tags
    assert float(tags["emissions.energy_kwh"]) == windows[-1].totals.energy_kwh
    assert tags["emissions.region"] == "westeurope"
    assert tags["emissions.run_id"] == "run-1"


def test_a_run_of_its_own_is_named_and_ended(store):
    run = shown(store, tracked(1))
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run-1"
    assert run.info.experiment_id == "0"


def test_a_run_of_its_own_goes_to_the_experiment_that_is_named(store):
    environ = {**store, "MLFLOW_EXPERIMENT_NAME": "vision"}
    first, second = shown(environ, tracked(1)), shown(environ, tracked(1))
    experiment = client().get_experiment_by_name("vision")
    assert {first.info.experiment_id, second.info.experiment_id} == {experiment.experiment_id}
    by_id = {**store, "MLFLOW_EXPERIMENT_ID": experiment.experiment_id}
    assert shown(by_id, tracked(1)).info.experiment_id == experiment.experiment_id


def test_a_run_that_is_named_is_logged_to_and_stays_open(store):
    """As in AzureML, which sets MLFLOW_RUN_ID for the job."""
    made = client().create_run("0")
    run = shown({**store, "MLFLOW_RUN_ID": made.info.run_id}, tracked(2), owns_process=True)
    assert run.info.run_id == made.info.run_id
    assert run.info.status == "RUNNING"
    assert run.data.metrics["emissions/duration_s"] == 30.0


def test_the_active_run_of_a_program_goes_before_and_stays_open(store):
    import mlflow

    with mlflow.start_run() as active:
        run = shown({**store, "MLFLOW_RUN_ID": "f" * 32}, tracked(1))
        assert run.info.run_id == active.info.run_id
        assert run.info.status == "RUNNING"
    assert client().get_run(active.info.run_id).data.tags["emissions.project"] == "demo"


def test_a_run_without_windows_leaves_no_trace(store):
    before = len(client().search_runs(["0"]))
    mlflow_opener(store, owns_process=False).open().close()
    assert len(client().search_runs(["0"])) == before


def test_more_windows_than_a_call_takes_are_several_calls(store):
    windows = tracked(2 * WINDOWS_PER_CALL + 1)
    run = shown(store, windows)
    history = client().get_metric_history(run.info.run_id, "emissions/window/energy_kwh")
    assert [item.step for item in history] == [window.number for window in windows]


def test_the_most_that_a_window_has_fits_a_call():
    full = dict.fromkeys((*TOTALS, *WINDOW), 1.0)
    (window,) = tracked(1, **full)
    assert len(figures(window)) * WINDOWS_PER_CALL <= METRICS_PER_CALL
    assert len(words(EmissionRecord(**full))) <= 100  # tags of one call


def test_windows_that_come_twice_count_once(store):
    """A call whose answer was lost is made again."""
    tracker = mlflow_opener(store, owns_process=False).open()
    windows = tracked(2)
    tracker.log(windows)
    tracker.log(windows)
    tracker.close()
    history = client().get_metric_history(tracker._run_id, "emissions/energy_kwh")
    assert [item.step for item in history] == [1, 2]


@pytest.mark.parametrize(
    "name", ["../../etc", "a/b\n\x00c", "\udcff", "🌍" * 500, "='1'; DROP TABLE"]
)
def test_hostile_names_are_tags_like_any_other(store, name):
    windows = tracked(1, project=name, run_id=name)
    tags = shown(store, windows).data.tags
    assert "\n" not in tags["emissions.project"]
    assert len(tags["emissions.project"]) <= 250


def test_the_real_server_shows_the_same_totals(store, database, monkeypatch):
    with serving(database) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        windows = tracked(3)
        run = shown({"MLFLOW_TRACKING_URI": url}, windows)
    assert run.data.metrics["emissions/energy_kwh"] == windows[-1].totals.energy_kwh
    assert run.data.metrics["emissions/emissions_g"] == windows[-1].totals.emissions_g


@pytest.mark.parametrize(
    ("uri", "is_local"),
    [
        ("", True),
        ("sqlite:///x.db", True),
        ("file:///x", True),
        ("./mlruns", True),
        ("http://host", False),
        ("https://host", False),
        ("azureml://westeurope.api.azureml.ms/mlflow/v1.0/x", False),
        ("databricks", True),
        ("postgresql://u:p@h/db", False),
    ],
)
def test_a_store_is_local_where_it_is_files(uri, is_local):
    assert mlflow_opener({"MLFLOW_TRACKING_URI": uri}, owns_process=True).is_local is is_local


def test_our_own_process_tells_nobody_and_leaves_standard_output_alone():
    from sidecar.exporters.mlflow import OWN_PROCESS

    assert OWN_PROCESS["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert OWN_PROCESS["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"


def test_the_record_of_a_start_alone_names_the_run():
    assert record(0).run_id == "run-1"
