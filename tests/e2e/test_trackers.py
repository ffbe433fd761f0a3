"""`exec` and `run` with trackers: the same totals as the records, and no harm from any of them."""

import json
import signal
import socket
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from tests.e2e.commands import (
    PYTHON,
    ROOT,
    Running,
    environment,
    finished,
    records,
    sidecar,
    total,
    until,
    windows,
)
from tests.fakes.mlflow_server import serving
from tests.fakes.otlp import OtlpReceiver, points_of

BUSY = """
import time
end = time.monotonic() + 2.5
while time.monotonic() < end: pass
raise SystemExit(7)
"""

READ_RUNS = """
import json, sys, warnings
warnings.simplefilter("ignore")
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1])
runs = client.search_runs([client.get_experiment_by_name(sys.argv[2]).experiment_id])
print(json.dumps([{"metrics": r.data.metrics, "tags": r.data.tags, "status": r.info.status,
  "steps": [[m.step, m.value] for m in client.get_metric_history(r.info.run_id, "emissions/energy_kwh")]}
  for r in runs]))
"""


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of MLflow; to make its tables takes seconds, so the tests share it."""
    with serving(tmp_path_factory.mktemp("mlflow") / "store.db") as url:
        yield url


def runs_of(uri: str, experiment: str) -> list[dict]:
    """The runs of an experiment, read by MLflow."""
    env = environment(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_LOGGING_LEVEL="ERROR")
    outcome = finished([sys.executable, "-c", READ_RUNS, uri, experiment], env=env)
    return json.loads(outcome.stdout.splitlines()[-1])


def test_mlflow_comet_and_opentelemetry_show_the_same_totals_as_the_records(
    tmp_path: Path, mlflow_url: str
):
    comet = tmp_path / "comet"
    with OtlpReceiver() as receiver:
        env = environment(
            MLFLOW_TRACKING_URI=mlflow_url,
            MLFLOW_EXPERIMENT_NAME="of-all",
            COMET_START_ONLINE="0",
            COMET_OFFLINE_DIRECTORY=str(comet),
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        )
        outcome = sidecar(
            "exec", "--interval", "1s", "--volume", tmp_path, "--region", "westeurope",
            "--export", "mlflow,comet,otlp", "--export-deadline", "5m", "--", *PYTHON, BUSY,
            env=env,
        )  # fmt: skip
    (run,) = runs_of(mlflow_url, "of-all")
    assert outcome.code == 7
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("emissions-sidecar: "), outcome.stderr
    rows = windows(tmp_path)
    energy_kwh, emissions_g = total(rows, "energy_kwh"), total(rows, "emissions_g")
    assert run["metrics"]["emissions/energy_kwh"] == pytest.approx(energy_kwh, rel=1e-9)
    assert run["metrics"]["emissions/emissions_g"] == pytest.approx(emissions_g, rel=1e-9)
    assert float(run["tags"]["emissions.emissions_g"]) == pytest.approx(emissions_g, rel=1e-9)
    assert [step for step, _ in run["steps"]] == list(range(1, len(rows) + 1))
    assert run["status"] == "FINISHED"
    points = points_of(receiver.requests[-1])
    assert points["emissions.co2e", None] == pytest.approx(emissions_g, rel=1e-9)
    assert points["emissions.energy", "cpu"] == pytest.approx(
        total(rows, "cpu_energy_kwh") * 3.6e6, rel=1e-9
    )
    shown = comet_totals(comet)
    assert shown["emissions/energy_kwh"] == pytest.approx(energy_kwh, rel=1e-9)
    assert shown["emissions/emissions_g"] == pytest.approx(emissions_g, rel=1e-9)


def comet_totals(directory: Path) -> dict[str, float]:
    """The last value of each metric in the one archive that is there."""
    (path,) = directory.glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        messages = [json.loads(line) for line in archive.read("messages.json").splitlines()]
    metrics = [item["payload"]["metric"] for item in messages if item["type"] == "metric_msg"]
    return {metric["metricName"]: metric["metricValue"] for metric in metrics}


def test_a_run_that_is_named_is_the_one_of_the_command_too(tmp_path: Path, mlflow_url: str):
    """As in AzureML: MLFLOW_RUN_ID is the job's, and its program logs to it."""
    program = f"""
import os, sys, warnings
sys.path[:] = {sys.path!r}
warnings.simplefilter("ignore")
import mlflow
with mlflow.start_run():
    mlflow.log_metric("loss", 0.5)
"""
    made = finished(
        [sys.executable, "-c", MAKE_RUN, mlflow_url], env=environment(MLFLOW_DISABLE_TELEMETRY="1")
    ).stdout.split()[-1]
    env = environment(MLFLOW_TRACKING_URI=mlflow_url, MLFLOW_RUN_ID=made)
    outcome = sidecar(
        "exec", "--volume", tmp_path, "--export", "mlflow", "--export-deadline", "5m",
        "--", sys.executable, "-c", program, env=env,
    )  # fmt: skip
    (run,) = runs_of(mlflow_url, "named")
    assert outcome.code == 0, outcome.stderr
    assert run["metrics"]["loss"] == 0.5
    assert run["metrics"]["emissions/energy_kwh"] == pytest.approx(
        total(windows(tmp_path), "energy_kwh"), rel=1e-9
    )


MAKE_RUN = """
import sys
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1])
print(client.create_run(client.create_experiment("named")).info.run_id)
"""


def test_the_sidecar_shows_its_run_too(tmp_path: Path):
    with OtlpReceiver() as receiver:
        env = environment(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
        options = ("--interval", "1s", "--volume", tmp_path, "--export", "otlp")
        with Running("run", *options, log=tmp_path / "log", env=env) as running:
            running.until(lambda: receiver.requests)
            outcome = running.end()
        points = points_of(receiver.requests[-1])
    assert outcome.code == 0
    assert points["emissions.time", None] == pytest.approx(
        total(windows(tmp_path), "duration_s"), rel=1e-9
    )


# -- within a program ---------------------------------------------------------------------------

PROGRAM = """
import json, time, warnings
warnings.simplefilter("ignore")
import mlflow
from sidecar import EmissionsTracker

with mlflow.start_run():
    with EmissionsTracker(project_name="p", output_dir={volume!r}, measure_power_secs=1) as tracker:
        end = time.monotonic() + 2.2
        while time.monotonic() < end: pass
    mlflow.log_metric("loss", 0.5)
print(tracker.final_emissions)
"""


def test_a_tracker_within_a_program_logs_to_its_active_run(tmp_path: Path, mlflow_url: str):
    env = environment(
        MLFLOW_TRACKING_URI=mlflow_url,
        MLFLOW_EXPERIMENT_NAME="within",
        MLFLOW_DISABLE_TELEMETRY="true",
        EMISSIONS_EXPORT="mlflow",
        EMISSIONS_EXPORT_DEADLINE="5m",
        EMISSIONS_SIDECAR_URL="none",
    )
    program = PROGRAM.format(volume=str(tmp_path))
    outcome = finished([sys.executable, "-c", program], env=env, cwd=tmp_path)
    assert outcome.code == 0, outcome.stderr
    (run,) = runs_of(mlflow_url, "within")
    rows = windows(tmp_path)
    assert run["metrics"]["loss"] == 0.5
    assert run["metrics"]["emissions/emissions_g"] == pytest.approx(
        total(rows, "emissions_g"), rel=1e-9
    )
    assert run["metrics"]["emissions/emissions_g"] == pytest.approx(
        float(outcome.stdout.splitlines()[-1]) * 1000, rel=1e-9
    )


def test_in_a_program_a_missing_extra_is_told_and_it_is_metered_all_the_same(tmp_path: Path):
    program = f"""
from sidecar import EmissionsTracker
with EmissionsTracker(output_dir={str(tmp_path)!r}):
    sum(range(3_000_000))
"""
    env = without_trackers(tmp_path, EMISSIONS_EXPORT="mlflow", EMISSIONS_SIDECAR_URL="none")
    outcome = finished([sys.executable, "-S", "-c", program], env=env, cwd=tmp_path)
    assert outcome.code == 0
    assert "install the extra 'mlflow'" in outcome.stderr
    assert windows(tmp_path)


# -- servers that do not play along -----------------------------------------------------------------


class Hanging:
    """A server that takes connections and never answers."""

    def __enter__(self) -> str:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class Failing:
    """A server that answers 500 to everything."""

    def __enter__(self) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_error(500)

            do_GET = do_POST  # noqa: N815 - the name that http.server calls

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Refusing:
    """A port that nobody listens on."""

    def __enter__(self) -> str:
        return "http://127.0.0.1:1"

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture(params=[Hanging, Failing, Refusing], ids=["hangs", "fails", "refuses"])
def bad_server(request: pytest.FixtureRequest) -> Iterator[str]:
    with request.param() as url:
        yield url


@pytest.mark.parametrize("tracker", ["mlflow", "comet", "otlp"])
def test_a_server_that_does_not_play_along_costs_the_run_nothing(
    tmp_path: Path, bad_server: str, tracker: str
):
    env = environment(
        MLFLOW_TRACKING_URI=bad_server,
        MLFLOW_RUN_ID="f" * 32,
        COMET_URL_OVERRIDE=f"{bad_server}/clientlib/",
        COMET_API_KEY="x" * 25,
        OTEL_EXPORTER_OTLP_ENDPOINT=bad_server,
    )
    outcome = sidecar(
        "exec", "--interval", "1s", "--volume", tmp_path, "--export", tracker,
        "--export-deadline", "500ms", "--", *PYTHON, BUSY, env=env,
    )  # fmt: skip
    assert outcome.code == 7
    assert outcome.stdout == ""
    assert len(windows(tmp_path)) >= 2
    told = [line for line in outcome.messages.splitlines() if tracker in line]
    assert told
    assert len(told) <= 4


def test_a_missing_extra_is_one_line_and_nothing_is_begun(tmp_path: Path):
    command = [sys.executable, "-S", "-m", "sidecar", "exec", "--export", "mlflow"]
    outcome = finished(
        [*command, "--", "touch", "begun"], env=without_trackers(tmp_path), cwd=tmp_path
    )
    assert outcome.code == 2
    assert outcome.stderr.count("\n") == 1
    assert (
        "flag --export: export 'mlflow' needs mlflow; install the extra 'mlflow'" in outcome.stderr
    )
    assert not (tmp_path / "begun").exists()


def without_trackers(directory: Path, **variables: str) -> dict[str, str]:
    """An environment for `python -S`: no site-packages, so no client of a tracker; psutil is lent."""
    lent = directory / "lent"
    lent.mkdir()
    (lent / "psutil").symlink_to(Path(psutil.__file__).parent)
    return environment(PYTHONPATH=f"{ROOT}:{lent}", **variables)


def test_an_impatient_end_does_not_wait_for_a_tracker(tmp_path: Path):
    with Hanging() as url:
        env = environment(OTEL_EXPORTER_OTLP_ENDPOINT=url)
        options = ("--volume", tmp_path, "--export", "otlp", "--export-deadline", "10m")
        with Running("run", *options, log=tmp_path / "log", env=env) as running:
            running.until(lambda: records(tmp_path) if (tmp_path / "records").exists() else [])
            running.process.send_signal(signal.SIGTERM)
            until(lambda: windows(tmp_path))
            outcome = running.end()
    assert outcome.code == 0
