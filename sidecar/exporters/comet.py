"""Comet: figures as metrics and totals as "other" values, of the experiment that runs or of a new one.

The step is the number of the window. Where to, and as which experiment, Comet's own variables say:
COMET_API_KEY, COMET_EXPERIMENT_KEY, COMET_PROJECT_NAME, COMET_WORKSPACE; with COMET_START_ONLINE=0 an
archive is written to COMET_OFFLINE_DIRECTORY, which `comet upload` sends.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.exporters.tracked import TrackedWindow, figures, words
from sidecar.exporters.tracker_feed import Opener

if TYPE_CHECKING:
    from comet_ml import CometExperiment, ExperimentConfig

# ruff: noqa: PLC0415 - Comet's client patches what it finds at import: only where it is chosen

OWN_PROCESS: Final[Mapping[str, str]] = {
    "COMET_DISABLE_AUTO_LOGGING": "1",
    "COMET_LOGGING_CONSOLE": "ERROR",
}
"""How Comet behaves in a process that only meters: it looks at no other library there, and tells on
standard error only what fails. What the user set stays."""

_OFF: Final = ("0", "false", "no", "off")


class CometTracker:
    """One experiment of Comet."""

    def __init__(self, experiment: "CometExperiment", *, is_own: bool) -> None:
        self._experiment = experiment
        self._is_own = is_own

    def log(self, windows: Sequence[TrackedWindow]) -> None:
        """Log the figures of the windows, and the totals of the last one."""
        for window in windows:
            self._experiment.log_metrics(figures(window), step=window.number)
        self._experiment.log_others(words(windows[-1].totals))

    def close(self) -> None:
        """End the experiment, if it is ours: waits until all is sent, or the archive is written."""
        if self._is_own:
            self._experiment.end()


def comet_opener(environ: Mapping[str, str], *, owns_process: bool) -> Opener:
    """Return how to open the tracker, later and in another thread.

    An experiment that runs in this process is the one that is logged to.
    """
    is_offline = environ.get("COMET_START_ONLINE", "").lower() in _OFF

    def opened() -> CometTracker:
        if owns_process:
            for name, text in OWN_PROCESS.items():
                os.environ.setdefault(name, text)
        import comet_ml

        running = None if owns_process else comet_ml.get_running_experiment()
        if running is not None:
            return CometTracker(running, is_own=False)
        directory = environ.get("COMET_OFFLINE_DIRECTORY") if is_offline else None
        if directory:
            Path(directory).mkdir(parents=True, exist_ok=True)
        config = _quiet_config(directory or None)
        experiment = comet_ml.start(online=not is_offline, experiment_config=config)
        return CometTracker(experiment, is_own=True)

    return Opener(opened, is_local=is_offline)


def _quiet_config(offline_directory: str | None) -> "ExperimentConfig":
    """Configure an experiment that looks at nothing of this process: it is not the training's."""
    from comet_ml import ExperimentConfig

    return ExperimentConfig(
        auto_log_co2=False,
        auto_metric_logging=False,
        auto_output_logging="",
        auto_param_logging=False,
        display_summary_level=0,
        log_code=False,
        log_env_details=False,
        log_git_metadata=False,
        log_git_patch=False,
        log_graph=False,
        offline_directory=offline_directory,
        parse_args=False,
    )
