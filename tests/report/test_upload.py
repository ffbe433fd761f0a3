"""A report is written to a container, and replaces the one before it."""

import pytest

from sidecar.cli.main import main
from sidecar.report.upload import content_type
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
