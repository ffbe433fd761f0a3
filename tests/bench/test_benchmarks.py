"""The benchmarks still run: smallest sizes, and no figure is looked at."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

import bench
from bench.days import lived
from bench.figures import Figure, percentile, table
from bench.peers import image_variables
from bench.records import KINDS, Course, simulate
from bench.report_records import COMPACTED, Fleet, made
from bench.slowdown import student_t
from sidecar.report.commits import Commit
from tests.e2e.commands import PATIENCE_S, ROOT, environment

MODULES = sorted(path.stem for path in Path(bench.__file__).parent.glob("[a-z]*.py"))
NEEDS_KOPF = "kopf_webhook"


@pytest.mark.parametrize("name", [name for name in MODULES if name != NEEDS_KOPF])
def test_a_benchmark_can_be_loaded(name: str) -> None:
    importlib.import_module(f"bench.{name}")


def test_a_pod_is_simulated_to_its_end(tmp_path: Path) -> None:
    agent = simulate(KINDS[2], Course(hours=0.05), tmp_path)
    assert agent.totals is not None
    assert agent.totals.windows >= 12
    assert agent.totals.merged.gpu_energy_kwh


def test_days_pass_and_all_is_closed_at_the_end() -> None:
    past = lived(0.01)
    assert past.ticks == 58
    assert past.threads >= 1


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("case", ["no GPU, by requests", "8 GPUs by a node meter"])
def test_a_window_is_timed_under_a_clock_that_jumps(case: str) -> None:
    code = "from bench.ahead import AHEAD; AHEAD.install(); from bench.ticks import main; main()"
    command = [sys.executable, "-c", code, "--case", case, "--windows", "2"]
    run = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert run.returncode == 0, run.stderr
    all_s, reading_s = json.loads(run.stdout)
    assert len(all_s) == len(reading_s) == 2
    assert all(0 < part <= whole for part, whole in zip(reading_s, all_s, strict=True))


def test_a_day_that_is_moved_is_as_if_it_had_been_compacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.report_records.WINDOWS_A_DAY", 240)  # of an hour: less to wait for
    fleet = Fleet(pods=8, days=2)
    roots = {days: tmp_path / str(days) for days in (1, 2)}
    for days, root in roots.items():
        assert len(list(made(root, fleet, days))) == 2
    commits = [
        Commit.of_json((root / COMPACTED / name).read_bytes(), f"{COMPACTED}{name}")
        for root in roots.values()
        for name in ["commits/commit-00000002.json"]
    ]
    moved, compacted = ([(p.ids, p.records, p.energy_kwh) for p in c.parts] for c in commits)
    assert moved == compacted
    tables = [
        content_of(root / COMPACTED, c) for root, c in zip(roots.values(), commits, strict=True)
    ]
    assert tables[0] == tables[1]


def content_of(base: Path, commit: Commit) -> list[list[tuple[Any, ...]]]:
    """What is in all files of a commit, whatever they are named."""
    return [
        sorted(
            duckdb.sql(f"FROM read_parquet('{base / name}', hive_partitioning = false)").fetchall(),
            key=repr,
        )
        for name in commit.files
    ]


@pytest.mark.parametrize("target", ["sidecar", "services"])
def test_the_variables_of_the_images_are_found(target: str) -> None:
    assert image_variables(target)["MALLOC_TRIM_THRESHOLD_"].isdigit()


@pytest.mark.parametrize(("degrees", "quantile"), [(4, 2.776), (9, 2.262), (19, 2.093)])
def test_students_t_is_that_of_the_tables(degrees: int, quantile: float) -> None:
    assert student_t(degrees) == pytest.approx(quantile, rel=0.01)


def test_figures_are_shown_in_three_digits() -> None:
    assert Figure.of([1234.5, 0.5, 12.0]).shown() == "12.0 (0.500–1,234)"
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert table(("a", "b"), [("x", "1")]).splitlines()[-1] == "  x  1"
