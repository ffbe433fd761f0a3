"""CSV files that somebody put beside the records: what they make of memory and disk is bounded."""

import contextlib
import io
from dataclasses import dataclass

import duckdb
import pytest

from sidecar.report import imports
from sidecar.report.dataset import Resources, connect
from sidecar.report.imports import TOO_MANY, parted, runs
from sidecar.report.read import ReadReport
from tests.hostile.budget import memory_budget

HEADER = "timestamp,project_name,run_id,duration,emissions,energy_consumed\n"


@dataclass
class Table:
    content: str
    name: str = "emissions.csv"

    def open(self):
        return io.BytesIO(self.content.encode())


def row(run: object, duration_s: float = 60) -> str:
    return f"2026-11-22T09:00:00,demo,{run},{duration_s},0.1,0.2\n"


def test_of_runs_without_end_so_many_are_taken_and_the_others_counted(monkeypatch):
    monkeypatch.setattr(imports, "RUNS_MAX", 1000)
    seen = ReadReport()
    tables = [Table(HEADER + "".join(row(f"{n}.{m}") for m in range(4000))) for n in range(5)]
    with memory_budget(32 * 1024**2):
        found = runs(tables, seen)
    assert len(found) == 1000
    assert seen.left_out[TOO_MANY] == 19_000


def test_a_run_that_is_known_goes_on_however_many_there_are(monkeypatch):
    monkeypatch.setattr(imports, "RUNS_MAX", 2)
    seen = ReadReport()
    found = runs([Table(HEADER + row(1) + row(2) + row(3) + row(1, 120))], seen)
    assert sorted(run.duration_s for run in found) == [60, 120]
    assert seen.left_out[TOO_MANY] == 1


def test_long_runs_without_end_are_not_spread_over_more_hours_than_fit(monkeypatch):
    monkeypatch.setattr(imports, "PARTS_IN_ALL_MAX", 2500)
    found = runs([Table(HEADER + "".join(row(n, 900 * 3600) for n in range(40)))], ReadReport())
    energies = [part.energy_kwh for part in parted(found)]
    assert len(energies) <= 2500 + 40
    assert round(sum(energies), 6) == round(40 * 0.2, 6)


def test_the_reports_database_loads_nothing_from_afar_and_reads_nothing_of_the_program(tmp_path):
    secret = [1]  # noqa: F841 - what a query by this name would find
    with contextlib.closing(connect(tmp_path, Resources())) as database:
        for name in ("autoinstall_known_extensions", "autoload_known_extensions"):
            assert database.sql(f"SELECT current_setting('{name}')").fetchall() == [(False,)]
        with pytest.raises(duckdb.Error):
            database.sql("SELECT * FROM secret")
        with pytest.raises(duckdb.Error, match="extension"):
            database.sql("SELECT * FROM read_csv('http://127.0.0.1:1/x.csv')")
