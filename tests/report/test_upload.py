"""A report is written to a container, and replaces the one before it."""

import json
from contextlib import closing

import pytest

from sidecar.cli.main import main
from sidecar.report.blob_place import BlobPlace
from sidecar.report.upload import content_type, upload_report
from sidecar.settings import Settings
from sidecar.transport.blob_container import open_container
from tests.fakes.fault_proxy import FaultProxy
from tests.report.records import record, write

pytestmark = pytest.mark.needs("azurite")


@pytest.fixture
def volume(tmp_path):
    write(tmp_path / "v" / "a.ndjson", record("a.1"), record("b.1", project="other"))
    return tmp_path / "v"


@pytest.fixture
def environ(azurite, container_name, monkeypatch):
    monkeypatch.setenv("EMISSIONS_BLOB_CONNECTION_STRING", azurite.connection_string)
    return f"az://{container_name}/reports/v1"


def test_a_report_is_written_back_with_types_that_a_browser_shows(
    volume, environ, azurite, container_name
):
    assert main(["report", str(volume), "--out", environ]) == 0
    blobs = azurite.blobs(container_name)
    assert {"reports/v1/index.html", "reports/v1/summary.json"} <= blobs.keys()
    assert any(name.startswith("reports/v1/projects/") for name in blobs)


def test_pages_of_projects_that_are_gone_are_removed(volume, environ, azurite, container_name):
    main(["report", str(volume), "--out", environ])
    main(["report", str(volume), "--project", "demo", "--out", environ])
    pages = [name for name in azurite.blobs(container_name) if "/projects/" in name]
    assert pages == ["reports/v1/projects/demo.html"]


def test_tables_that_an_earlier_report_had_are_removed_and_files_of_others_stay(
    tmp_path, azurite, container_name
):
    for name in ("experiments.csv", "runs.parquet", "runs/a.html", "notes.txt", "mine/runs.csv"):
        azurite.put(container_name, f"reports/v1/{name}", b"old")
    (tmp_path / "index.html").write_text("new")
    settings = Settings(
        blob_connection_string=azurite.connection_string, blob_container=container_name
    )
    with closing(BlobPlace(open_container(settings, {}), "reports/v1")) as place:
        assert upload_report(place, tmp_path) == 1
    kept = {"reports/v1/index.html", "reports/v1/notes.txt", "reports/v1/mine/runs.csv"}
    assert azurite.blobs(container_name).keys() == kept


def test_the_page_that_links_to_all_comes_last(volume, environ, azurite, container_name):
    main(["report", str(volume), "--out", environ])
    with azurite.container(container_name) as container:
        times = {blob.name: blob.last_modified for blob in container.list_blobs()}
    assert times["reports/v1/index.html"] == max(times.values())


def test_a_moment_without_an_answer_is_survived(volume, azurite, container_name, monkeypatch):
    with FaultProxy("127.0.0.1", azurite.port) as proxy:
        proxy.drop_answer(faults=1)
        text = azurite.connection_string_at("127.0.0.1", proxy.port)
        monkeypatch.setenv("EMISSIONS_BLOB_CONNECTION_STRING", text)
        monkeypatch.setattr("sidecar.report.blob_source.BACKOFFS_S", (0.0, 0.0, 0.0))
        assert main(["report", str(volume), "--out", f"az://{container_name}/reports/v1"]) == 0
    assert "reports/v1/index.html" in azurite.blobs(container_name)


def test_an_identity_that_may_only_read_is_told_what_it_lacks(
    volume, azurite, container_name, monkeypatch, capsys
):
    sas = azurite.sas(container_name, "rl")
    monkeypatch.setenv("EMISSIONS_BLOB_SAS", sas)
    url = ["--blob-account-url", azurite.blob_endpoint]
    out = ["--out", f"az://{container_name}/reports/v1"]
    assert main(["report", str(volume), *out, *url]) == 1
    error = capsys.readouterr().err
    assert "Storage Blob Data Contributor" in error
    assert "Data Reader" not in error


EXPORT = "Month,Scope,Emissions (kgCO2e)\n2026-11,2,1.5\n"


def test_the_export_of_azure_may_lie_in_the_container(
    volume, environ, azurite, container_name, capsys
):
    azurite.put(container_name, "exports/carbon.csv", EXPORT.encode())
    flag = f"--azure-export=az://{container_name}/exports/carbon.csv"
    assert main(["report", str(volume), flag, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reconciliation"]["known"] is True
    assert main(["report", str(volume), f"{flag}.absent"]) == 1
    assert "cannot be read: 404" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("index.html", "text/html; charset=utf-8"),
        ("days.csv", "text/csv; charset=utf-8"),
        ("days.parquet", "application/vnd.apache.parquet"),
        ("summary.json", "application/json"),
    ],
)
def test_every_file_has_its_media_type(tmp_path, name, kind):
    assert content_type(tmp_path / name) == kind
