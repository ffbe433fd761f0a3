"""The report as files: whole, safe and readable again."""

import csv
import json
import os

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from sidecar.report import files
from sidecar.report.figures.inputs import FactorUse
from sidecar.report.figures.model import report_model
from sidecar.report.files import (
    write_boamps,
    write_report_files,
    write_summary,
    write_tables,
)
from sidecar.report.measures import GROUPINGS
from sidecar.report.tables import Tables
from tests.report.figures.rows import inputs, report_of, row
from tests.report.figures.test_boamps import SCHEMA


def write(directory, given_inputs):
    return write_report_files(directory, given_inputs, report_model(given_inputs))


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_all_tables_are_written_twice_and_the_document_once(tmp_path):
    written = {path.name for path in write(tmp_path, inputs(report_of()))}
    tables = GROUPINGS.keys() - {"total", "phases"}  # no run has marked a phase
    assert {f"{name}.csv" for name in tables} | {f"{name}.parquet" for name in tables} <= written
    assert {"summary.json", "boamps.ndjson"} <= written
    assert all(path.name in written for path in tmp_path.iterdir() if path.is_file())


def test_the_document_is_read_again_as_it_was(tmp_path):
    model = report_model(inputs(report_of()))
    path = write_summary(tmp_path, model)
    assert json.loads(path.read_bytes()) == model


def test_each_entry_of_a_list_has_a_line(tmp_path):
    model = report_model(inputs(report_of("</script>")))
    lines = write_summary(tmp_path, model).read_text().splitlines()
    (line,) = [
        line for line in lines if line.startswith('{"project":') and '"emissions_share"' in line
    ]
    assert json.loads(line.rstrip(",]"))["project"] == "</script>"


def test_csv_and_parquet_hold_the_same(tmp_path):
    write(tmp_path, inputs(report_of()))
    for name in ("projects", "runs", "days", "hours"):
        (cells,) = rows_of(tmp_path / f"{name}.csv")
        (record,) = parquet.read_table(tmp_path / f"{name}.parquet").to_pylist()
        assert list(cells) == list(record)
        for column, value in record.items():
            text = cells[column]
            assert text == "" if value is None else type(value)(text) == value


def test_columns_without_a_value_keep_their_type(tmp_path):
    write(tmp_path, inputs(report_of()))
    schema = parquet.read_schema(tmp_path / "projects.parquet")
    kinds = {name: str(schema.field(name).type) for name in ("water_l", "records", "window_end")}
    assert kinds == {"water_l": "double", "records": "int64", "window_end": "string"}


def test_the_table_of_projects_begins_as_it_did_before(tmp_path):
    factors = [
        FactorUse("demo", "westeurope", pue_source="a"),
        FactorUse("demo", None, pue_source="b"),
    ]
    write(tmp_path, inputs(report_of(), factors=factors))
    (now,) = rows_of(tmp_path / "projects.csv")
    assert list(now)[:4] == ["project", "window_start", "window_end", "records"]
    assert list(now)[6:10] == ["pods", "duration_s", "gap_s", "cpu_energy_kwh"]
    assert (now["region"], now["pue_source"]) == ("westeurope", "a; b")
    assert float(now["energy_kwh_by_quality.estimated"]) == 1.0


@pytest.mark.parametrize(
    "name", ["=cmd()", "+1", "-1", "@a", "\t=x", "a\nb", "<script>", "../", "\ud800"]
)
def test_a_hostile_name_runs_nowhere_and_writes_nowhere_else(tmp_path, name):
    out = tmp_path / "out"
    written = write(out, inputs(report_of(name)))
    assert all(path.resolve().is_relative_to(out) for path in written)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (cells,) = rows_of(out / "projects.csv")
    assert not cells["project"].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert "\n" not in cells["project"]


def test_an_empty_report_is_written_with_the_table_of_projects(tmp_path):
    names = {path.name for path in write(tmp_path, inputs())}
    assert names == {
        ".emissions-report", "summary.json", "projects.csv", "projects.parquet", "boamps.ndjson",
    }  # fmt: skip
    assert rows_of(tmp_path / "projects.csv") == []
    assert parquet.read_table(tmp_path / "projects.parquet").num_rows == 0


def test_what_an_earlier_report_left_is_not_taken_for_this_one(tmp_path):
    write(tmp_path, inputs(report_of()))
    write(tmp_path, inputs())
    assert not (tmp_path / "runs.csv").exists()
    assert not (tmp_path / "runs.parquet").exists()
    assert not list((tmp_path / "boamps").iterdir())


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    write(tmp_path, inputs(report_of()))
    before = (tmp_path / "days.csv").read_bytes()

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, inputs(report_of("other")))
    assert (tmp_path / "days.csv").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_each_run_has_a_boamps_record_and_the_largest_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BOAMPS_FILES_MAX", 2)
    runs = tuple(row({"project": "demo", "run": str(number)}) for number in range(3))
    unknown = row({"project": "demo", "run": "unknown"}, energy_kwh=None)
    write_boamps(tmp_path, inputs({"runs": (*runs, unknown)}))
    records = [json.loads(line) for line in (tmp_path / "boamps.ndjson").read_text().splitlines()]
    assert [record["task"]["taskDescription"] for record in records] == [
        f"run {number} of project demo" for number in range(3)
    ]
    for record in records:
        jsonschema.validate(record, SCHEMA)
    single = [json.loads(path.read_bytes()) for path in (tmp_path / "boamps").iterdir()]
    assert len(single) == 2
    assert all(record in records for record in single)


amounts = st.none() | st.floats(-1e18, 1e18)
names = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=30)


@given(st.lists(st.tuples(names, amounts, st.integers(0, 2**60)), min_size=1, max_size=5))
def test_numbers_and_names_come_back_from_csv_as_they_were(tmp_path_factory, found):
    directory = tmp_path_factory.mktemp("csv")
    tables = Tables(
        {
            "namespaces": tuple(
                row({"namespace": name}, energy_kwh=amount, records=records)
                for name, amount, records in found
            )
        }
    )
    write_tables(directory, tables, None)
    for cells, (name, amount, records) in zip(
        rows_of(directory / "namespaces.csv"), found, strict=True
    ):
        assert cells["namespace"].removeprefix("'") == name.removeprefix("'")
        assert (float(cells["energy_kwh"]) if cells["energy_kwh"] else None) == amount
        assert int(cells["records"]) == records
