"""Datasets: any mixture of files, each record once, what is wrong told, and nothing left behind."""

import os
from dataclasses import replace

import pytest

from sidecar.exporters.codecarbon_csv import COLUMNS
from sidecar.report.dataset import SAME_RUN, Dataset, Resources
from sidecar.report.duckdb_engine import DuckDBEngine
from sidecar.report.engine import totals
from sidecar.report.places import DirectoryPlace, open_place
from sidecar.report.source import SourceUnreadable
from sidecar.report.staging import TOO_MUCH
from sidecar.segment import compressed, parcel_of
from sidecar.settings import Settings, SettingsError
from tests.fakes.fault_proxy import FaultProxy
from tests.report.histories import history, window
from tests.report.records import record, write
from tests.report.test_engine import ALL, assert_same_rows, computed
from tests.report.test_imports import RUN


def csv_row(**changes):
    row = RUN | changes
    return ",".join(str(row.get(name, "")) for name in COLUMNS)


def emissions_csv(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")


def projects(found):
    return {row.keys["project"]: row.measures for row in found.rows["projects"]}


def test_an_empty_directory_has_tables_without_rows(tmp_path):
    found, nodes, seen = computed(tmp_path)
    assert all(not rows for rows in found.rows.values())
    assert (nodes, seen.files, seen.records) == ([], 0, 0)


def test_runs_of_csv_and_records_are_added_up_together(tmp_path):
    write(tmp_path / "a.ndjson", record("u.b.1", run_id="mine"))
    emissions_csv(tmp_path / "emissions.csv", csv_row(run_id="theirs", project_name="other"))
    found, _, seen = computed(tmp_path)
    assert projects(found)["other"].facility_energy_kwh == 1.2
    assert projects(found)["other"].energy_kwh == 1.0
    assert projects(found)["demo"].energy_kwh == 1.0
    assert (seen.files, seen.records) == (2, 2)


def test_a_run_in_csv_whose_records_are_there_is_not_counted_twice(tmp_path):
    write(tmp_path / "a.ndjson", record("u.b.1", run_id="run-1"))
    emissions_csv(tmp_path / "emissions.csv", csv_row(run_id="run-1"))
    found, _, seen = computed(tmp_path)
    assert projects(found)["demo"].energy_kwh == 1.0
    assert seen.left_out == {SAME_RUN: 1}


def test_a_run_without_id_is_known_by_its_first_record(tmp_path):
    write(tmp_path / "a.ndjson", record("u.b.1", run_id=None))
    emissions_csv(tmp_path / "emissions.csv", csv_row(run_id="u.b.1"))
    assert computed(tmp_path)[2].left_out == {SAME_RUN: 1}


def test_of_two_records_of_one_id_the_first_by_name_and_line_counts(tmp_path):
    write(tmp_path / "b.ndjson", record("u.b.1", energy_kwh=5.0))
    write(tmp_path / "a.ndjson", record("u.b.1", energy_kwh=2.0), record("u.b.1", energy_kwh=3.0))
    found, _, seen = computed(tmp_path)
    assert projects(found)["demo"].energy_kwh == 2.0
    assert seen.duplicates == 2


def test_an_absurd_amount_is_left_out(tmp_path):
    write(tmp_path / "a.ndjson", record("u.b.1"), record("u.b.2", energy_kwh=1e300))
    found, _, seen = computed(tmp_path)
    assert projects(found)["demo"].energy_kwh == 1.0
    assert seen.left_out == {TOO_MUCH: 1}


@pytest.mark.parametrize(
    "name", ["*.ndjson", "[a].ndjson", "a'; DROP.ndjson", "ü\n.ndjson", "{a,b}.ndjson"]
)
def test_a_files_name_means_nothing(tmp_path, name):
    write(tmp_path / name, record("u.b.1"))
    write(tmp_path / "a.ndjson", record("u.b.2"))
    assert computed(tmp_path)[2].records == 2


def test_many_small_files_are_read_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("sidecar.report.staging.BATCH_FILES", 3)
    for number in range(10):
        write(tmp_path / f"{number}.ndjson.gz", record(f"u.b.{number}"))
    (tmp_path / "4.ndjson.gz").write_bytes(b"no gzip")
    seen = computed(tmp_path)[2]
    assert (seen.files, seen.records) == (10, 9)


def test_files_that_cannot_be_had_are_told(tmp_path):
    write(tmp_path / "a.ndjson", record("u.b.1"))
    (tmp_path / "gone.ndjson").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.ndjson")
    (tmp_path / "dir.ndjson").mkdir()
    seen = computed(tmp_path)[2]
    assert (seen.files, seen.records) == (1, 1)


def test_what_reports_write_is_no_source(tmp_path):
    write(tmp_path / "reports" / "v1" / "a.ndjson", record("u.b.1"))
    write(tmp_path / ".b.ndjson", record("u.b.2"))
    assert computed(tmp_path)[2].files == 0


def test_several_places_are_one_dataset(tmp_path):
    write(tmp_path / "one" / "a.ndjson", record("u.b.1"))
    write(tmp_path / "two" / "a.ndjson", record("u.b.1"), record("u.b.2"))
    with Dataset.open([DirectoryPlace(tmp_path / name) for name in ("one", "two")]) as dataset:
        assert (dataset.seen.records, dataset.seen.duplicates) == (2, 1)


def test_nothing_is_left_behind(tmp_path):
    write(tmp_path / "data" / "a.ndjson", *history())
    (tmp_path / "work").mkdir()
    computed(tmp_path / "data", ALL, Resources(directory=tmp_path / "work"))
    assert list((tmp_path / "work").iterdir()) == []


def test_nothing_is_left_behind_where_reading_fails(tmp_path):
    (tmp_path / "work").mkdir()
    with pytest.raises(SourceUnreadable):
        Dataset.open([DirectoryPlace(tmp_path / "none")], Resources(directory=tmp_path / "work"))
    assert list((tmp_path / "work").iterdir()) == []


def test_a_hundred_thousand_records_are_added_up_in_a_quarter_of_a_gibibyte(tmp_path):
    lines = [
        replace(window(n + 1, 1_795_000_000.0 + 15 * n), run_id=f"r{n % 7}") for n in range(2000)
    ]
    for pod in range(50):
        write(
            tmp_path / f"{pod}.ndjson",
            *(
                replace(item, record_id=f"p{pod}.b.{n}", node=f"n{pod}")
                for n, item in enumerate(lines)
            ),
        )
    found, nodes, seen = computed(tmp_path, ALL, Resources(memory_mib=256, threads=2))
    assert seen.records == 100_000
    assert len(nodes) == 50
    assert found.rows["total"][0].measures.energy_kwh == pytest.approx(
        50 * sum(item.energy_kwh for item in lines), rel=1e-12
    )


def test_an_address_that_cannot_be_is_one_line(tmp_path):
    with pytest.raises(SettingsError, match="no such directory"):
        open_place(str(tmp_path / "none"), Settings(), {})


# -- Azure Blob ----------------------------------------------------------------------------------------


@pytest.fixture
def container(azurite, container_name, tmp_path):
    """The same segments in a container and in a directory."""
    for number in range(4):
        parcel = parcel_of(
            compressed(b"".join(_line(item) for item in history(3, stem=f"p{number}.b")))
        )
        azurite.put(container_name, parcel.blob_name, parcel.content)
        path = tmp_path / "volume" / parcel.blob_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(parcel.content)
    row = csv_row(run_id="other").encode()
    content = ",".join(COLUMNS).encode() + b"\n" + row + b"\n"
    azurite.put(container_name, "emissions.csv", content)
    (tmp_path / "volume" / "emissions.csv").write_bytes(content)
    return container_name


def _line(item):
    from sidecar.record import to_ndjson

    return to_ndjson(item).encode()


def of_container(name, text):
    place = open_place(f"az://{name}", Settings(blob_connection_string=text), {})
    try:
        with Dataset.open([place]) as dataset:
            found = totals(dataset, ALL, DuckDBEngine(dataset.connection))
            return found.tables, found.nodes, dataset.seen
    finally:
        place.close()


@pytest.mark.needs("node", "azurite")
def test_a_container_is_the_same_as_a_directory(container, azurite, tmp_path):
    wanted, wanted_nodes, wanted_seen = computed(tmp_path / "volume")
    found, nodes, seen = of_container(container, azurite.connection_string)
    assert_same_rows(wanted, found, wanted_nodes, nodes)
    assert seen == wanted_seen


@pytest.mark.needs("node", "azurite")
def test_a_container_that_is_not_reached_is_one_line(container, azurite, monkeypatch):
    monkeypatch.setattr("sidecar.report.blob_source.BACKOFFS_S", ())
    with FaultProxy("127.0.0.1", azurite.port) as proxy:
        port = proxy.port
    text = azurite.connection_string_at("127.0.0.1", port)
    with pytest.raises(SourceUnreadable, match="is not reached"):
        of_container(container, text)


@pytest.mark.needs("node", "azurite")
def test_more_than_there_is_room_for_is_not_fetched(container, azurite):
    place = open_place(
        f"az://{container}", Settings(blob_connection_string=azurite.connection_string), {}
    )
    try:
        with pytest.raises(SourceUnreadable, match="more than the 0 GiB allowed"):
            Dataset.open([place], Resources(disk_gib=0))
    finally:
        place.close()
