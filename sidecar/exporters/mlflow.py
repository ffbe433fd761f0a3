"""MLflow: figures as metrics, totals as tags, of the run that is active, that is named, or of a new one.

The step is the number of the window, the time stamp its end. Where MLflow is, and which run or
experiment is meant, its own variables say: MLFLOW_TRACKING_URI, MLFLOW_RUN_ID, MLFLOW_EXPERIMENT_ID,
MLFLOW_EXPERIMENT_NAME.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from sidecar.exporters.tracked import TrackedWindow, figures, value_text, words
from sidecar.exporters.tracker_feed import Opener
from sidecar.record import EmissionRecord

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

# ruff: noqa: PLC0415 - MLflow takes a second and 70 MB to load: only where it is chosen, in a thread

METRICS_PER_CALL: Final = 1000
"""MLflow's REST API takes at most so many metrics in one `log-batch` (its documentation)."""

WINDOWS_PER_CALL: Final = 40
"""A window has fewer than 25 figures."""

DEFAULT_EXPERIMENT: Final = "0"

LOCAL_SCHEMES: Final = ("", "file", "sqlite")

OWN_PROCESS: Final[Mapping[str, str]] = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""How MLflow behaves in a process that only meters: it tells nobody, leaves standard output to the
command, and gives up soon, because the next window tries again. What the user set stays."""


class MlflowTracker:
    """One run of MLflow: the given one, or one that is made for the first window."""

    def __init__(
        self, client: "MlflowClient", run_id: str | None, environ: Mapping[str, str]
    ) -> None:
        self._client = client
        self._run_id = run_id
        self._environ = environ
        self._is_own = run_id is None

    def log(self, windows: Sequence[TrackedWindow]) -> None:
        """Log the figures of the windows, and the totals of the last one. Raises MLflow's errors."""
        from mlflow.entities import RunTag

        if self._run_id is None:
            self._run_id = self._created(windows[0].record)
        tags = [RunTag(name, text) for name, text in words(windows[-1].totals).items()]
        for first in range(0, len(windows), WINDOWS_PER_CALL):
            part = windows[first : first + WINDOWS_PER_CALL]
            metrics = [metric for window in part for metric in _metrics(window)]
            is_last = first + WINDOWS_PER_CALL >= len(windows)
            self._client.log_batch(
                self._run_id, metrics, tags=tags if is_last else (), synchronous=True
            )

    def close(self) -> None:
        """End the run, if it is ours."""
        if self._is_own and self._run_id is not None:
            self._client.set_terminated(self._run_id, "FINISHED")

    def _created(self, record: EmissionRecord) -> str:
        name = value_text(record.run_id or record.record_id)
        experiment = _experiment_id(self._client, self._environ)
        return str(self._client.create_run(experiment, run_name=name).info.run_id)


def _metrics(window: TrackedWindow) -> "list[Metric]":
    from mlflow.entities import Metric

    end_ms = round(window.end_s * 1000)
    return [Metric(name, value, end_ms, window.number) for name, value in figures(window).items()]


def mlflow_opener(environ: Mapping[str, str], *, owns_process: bool) -> Opener:
    """Return how to open the tracker, later and in another thread.

    A run that is active in this thread now is the one that is logged to, else the one that
    MLFLOW_RUN_ID names, else a new one.
    """
    active_run = None if owns_process else _active_run()

    def opened() -> MlflowTracker:
        if owns_process:
            for name, text in OWN_PROCESS.items():
                os.environ.setdefault(name, text)
        from mlflow.tracking import MlflowClient

        run_id = active_run or environ.get("MLFLOW_RUN_ID") or None
        return MlflowTracker(MlflowClient(), run_id, environ)

    scheme = urlsplit(environ.get("MLFLOW_TRACKING_URI", "")).scheme
    return Opener(opened, is_local=scheme in LOCAL_SCHEMES)


def _active_run() -> str | None:
    """Return the run that the user's own code has open; MLflow is not loaded to find that out."""
    mlflow = sys.modules.get("mlflow")
    run = None if mlflow is None else mlflow.active_run()
    return None if run is None else str(run.info.run_id)


def _experiment_id(client: "MlflowClient", environ: Mapping[str, str]) -> str:
    if environ.get("MLFLOW_EXPERIMENT_ID"):
        return environ["MLFLOW_EXPERIMENT_ID"]
    name = environ.get("MLFLOW_EXPERIMENT_NAME")
    if not name:
        return DEFAULT_EXPERIMENT
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)
