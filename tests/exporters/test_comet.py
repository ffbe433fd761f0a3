"""Comet: the real client writes its offline archive, and the archive is read."""

import json
import subprocess
import sys
import zipfile

import pytest

from tests.e2e.commands import ROOT, environment
from tests.exporters.tracked_windows import tracked

PROGRAM = """
import logging, sys
from sidecar.exporters.comet import comet_opener
from tests.exporters.tracked_windows import tracked
import os

logging.basicConfig(level="ERROR")
{before}
tracker = comet_opener(os.environ, owns_process={owns}).open()
tracker.log(tracked(3, project={project!r}))
tracker.close()
{after}
"""
"""In a process of its own: Comet's client replaces sys.excepthook and looks at what is imported."""


def archive(tmp_path, *, project="demo", owns=True, before="", after=""):
    """Run a program; return the messages of the one archive that it left."""
    env = environment(COMET_START_ONLINE="0", COMET_OFFLINE_DIRECTORY=str(tmp_path / "comet"))
    program = PROGRAM.format(project=project, owns=owns, before=before, after=after)
    run = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    (path,) = (tmp_path / "comet").glob("*.zip")
    with zipfile.ZipFile(path) as opened:
        return [json.loads(line) for line in opened.read("messages.json").splitlines()]


def metrics_of(messages):
    """Each metric's values by step."""
    found = {}
    for message in messages:
        if message["type"] == "metric_msg":
            metric = message["payload"]["metric"]
            found.setdefault(metric["metricName"], {})[metric["step"]] = metric["metricValue"]
    return found


def others_of(messages):
    return {
        message["payload"]["key"]: message["payload"]["value"]
        for message in messages
        if message["type"] == "log_other"
    }


def test_the_archive_shows_the_totals_of_the_records(tmp_path):
    windows = tracked(3)
    messages = archive(tmp_path)
    metrics, others = metrics_of(messages), others_of(messages)
    assert metrics["emissions/energy_kwh"] == {
        window.number: window.totals.energy_kwh for window in windows
    }
    assert metrics["emissions/window/emissions_g"] == {
        window.number: window.record.emissions_g for window in windows
    }
    assert float(others["emissions.emissions_g"]) == windows[-1].totals.emissions_g
    assert others["emissions.region"] == "westeurope"


def test_an_experiment_of_ours_looks_at_nothing_else_in_the_process(tmp_path):
    types = {message["type"] for message in archive(tmp_path)}
    assert types.isdisjoint({"os_packages", "git_metadata", "system_details", "log_dependency"})
    assert types.isdisjoint({"standard_output", "file_name", "graph"})


def test_the_experiment_of_a_program_is_logged_to_and_stays_open(tmp_path):
    messages = archive(
        tmp_path,
        owns=False,
        before="import comet_ml; mine = comet_ml.start(online=False, experiment_config="
        "comet_ml.ExperimentConfig(offline_directory=os.environ['COMET_OFFLINE_DIRECTORY']))",
        after="mine.log_metric('loss', 0.5, step=9)\nmine.end()",
    )
    metrics = metrics_of(messages)
    assert metrics["loss"] == {9: 0.5}
    assert set(metrics["emissions/energy_kwh"]) == {1, 2, 3}


@pytest.mark.parametrize("project", ["../../etc", "a\nb\x1b[31m", "🌍" * 300])
def test_hostile_names_are_values_like_any_other(tmp_path, project):
    shown = others_of(archive(tmp_path, project=project))["emissions.project"]
    assert "\n" not in shown
    assert len(shown) <= 250
