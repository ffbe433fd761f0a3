"""What all records of a run agree on."""

from dataclasses import replace

from sidecar.report.dataset import Dataset
from sidecar.report.duckdb_engine import DuckDBEngine
from sidecar.report.engine import totals
from sidecar.report.places import DirectoryPlace
from sidecar.report.selection import Selection
from tests.report.histories import START_S, start, window
from tests.report.records import write

AGREED = {"run_id": "r", "region": "westeurope", "identity_source": {"pue": "a table"}}


def facts_of(root):
    with Dataset.open([DirectoryPlace(root)]) as dataset:
        found = totals(dataset, Selection(), DuckDBEngine(dataset.connection))
        return {row.keys["run"]: facts for row, facts in found.tables.runs()}


def records(*changes):
    stem = "11111111-aaaa.boot"
    yield start(stem, **AGREED)
    for number, changed in enumerate(changes, start=1):
        record = window(number, START_S + 15 * (number - 1), stem=stem, **AGREED)
        yield replace(record, **changed)


def test_a_run_is_of_the_sources_that_all_its_records_name(tmp_path):
    same = {"carbon_intensity_source": "a map", "carbon_intensity_year": 2025}
    sizes = [{"cpu_power_source": f"CPUs of size {number}"} for number in (1, 2)]
    write(tmp_path / "a.ndjson", *records(*(same | size for size in sizes)))
    found = facts_of(tmp_path)["r"]
    assert (found.carbon_intensity_source, found.carbon_intensity_year) == ("a map", 2025)
    assert (found.region, found.pue_source) == ("westeurope", "a table")
    assert found.cpu_power_source is None


def test_what_no_record_says_is_not_known(tmp_path):
    write(tmp_path / "a.ndjson", *records({"carbon_intensity_year": None, "vm_size": None}))
    found = facts_of(tmp_path)["r"]
    assert (found.carbon_intensity_year, found.vm_size) == (None, None)
