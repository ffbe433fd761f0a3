"""The callbacks in real trainings, in an environment that has the frameworks (`make frameworks`)."""

import csv
import json
import re
from pathlib import Path

import pytest

from tests.e2e.commands import (
    ROOT,
    Outcome,
    Running,
    environment,
    finished,
    records,
    total,
    windows,
)
from tests.needs import FRAMEWORKS_PYTHON

PROGRAMS = ["huggingface_program.py", "lightning_program.py"]

pytestmark = pytest.mark.needs("frameworks")


def trained(program: str, directory: Path, *words: str, **variables: str) -> Outcome:
    """Run a program; what it prints last is JSON."""
    command = [FRAMEWORKS_PYTHON, ROOT / "tests" / "frameworks" / program, directory, *words]
    env = environment(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", **variables)
    return finished(command, env=env, cwd=directory)


def told(outcome: Outcome) -> dict:
    return json.loads(outcome.stdout.splitlines()[-1])


def phases_of(rows: list[dict]) -> set[str]:
    return {name for row in rows for name in row["phases"] or ()}


def test_a_trainer_of_hugging_face_is_metered_and_its_loggers_are_told(tmp_path: Path):
    outcome = trained("huggingface_program.py", tmp_path)
    assert outcome.code == 0, outcome.stderr
    shown, rows = told(outcome), windows(tmp_path)
    final = shown["history"][-1]
    assert final["emissions/facility_energy_kwh"] == pytest.approx(
        total(rows, "facility_energy_kwh"), rel=1e-9
    )
    assert final["emissions/emissions_g"] == pytest.approx(total(rows, "emissions_g"), rel=1e-9)
    assert all("emissions/duration_s" in line for line in shown["logs"])
    assert phases_of(rows) == {"train", "validate"}
    assert {row["project"] for row in rows} == {"frameworks"}


def test_a_trainer_of_lightning_is_metered_and_its_loggers_are_told(tmp_path: Path):
    outcome = trained("lightning_program.py", tmp_path)
    assert outcome.code == 0, outcome.stderr
    rows = windows(tmp_path)
    with (tmp_path / "csv" / "metrics.csv").open() as file:
        logged = [
            float(line["emissions/facility_energy_kwh"] or "nan") for line in csv.DictReader(file)
        ]
    runs = {row["run_id"] for row in rows}
    totals = {
        run: total([row for row in rows if row["run_id"] == run], "facility_energy_kwh")
        for run in runs
    }
    assert len(runs) == 2  # fit, then test
    for amount in totals.values():
        assert any(value == pytest.approx(amount, rel=1e-9) for value in logged)
    assert phases_of(rows) == {"train", "validate", "test"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_error_of_the_training_passes_and_what_was_metered_is_kept(tmp_path: Path, program: str):
    outcome = trained(program, tmp_path, "fail")
    assert outcome.code == 0, outcome.stderr
    assert told(outcome) == {"error": "out of memory"}
    assert windows(tmp_path)
    assert records(tmp_path)[-1]["event"] == "end"


@pytest.mark.parametrize("program", PROGRAMS)
def test_in_a_pod_with_a_sidecar_nothing_is_metered_twice(tmp_path: Path, program: str):
    pod = environment(POD_UID="0000-uid", POD_NAME="p", POD_NAMESPACE="team")
    volume = tmp_path / "sidecar"
    options = ("--volume", volume, "--interval", "1s", "--listen", "127.0.0.1:0")
    with Running("run", *options, log=tmp_path / "log", env=pod) as sidecar:
        url = sidecar.until(lambda: re.search(r"listening on (http://[\d.:]+)", sidecar.log))[1]
        outcome = trained(program, tmp_path, EMISSIONS_SIDECAR_URL=url)
        assert outcome.code == 0, outcome.stderr
        sidecar.end()
    assert not (tmp_path / "records").exists()
    assert phases_of(windows(volume)) >= {"train", "validate"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_volume_that_cannot_be_written_fails_no_training(tmp_path: Path, program: str):
    (tmp_path / "records").write_text("in the way")
    outcome = trained(program, tmp_path)
    assert outcome.code == 0, outcome.stderr
    assert told(outcome).get("error") is None
