"""What ends a report before its end is one line with what to do."""

import duckdb
import pytest

from sidecar.cli.failures import disk_failure, engine_failure
from sidecar.cli.main import main
from tests.report.records import record, write


@pytest.fixture
def volume(tmp_path):
    write(tmp_path / "v" / "a.ndjson", record("a.1"))
    return tmp_path / "v"


def one_line(capsys):
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error


def test_a_directory_for_temporary_files_that_is_none_is_told(
    volume, tmp_path, capsys, monkeypatch
):
    (tmp_path / "file").write_text("no directory")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    assert main(["report", str(volume)]) == 1
    error = one_line(capsys)
    assert "temporary files cannot be written" in error
    assert "TMPDIR" in error


@pytest.mark.needs("java")
@pytest.mark.filterwarnings("ignore")
def test_spark_without_java_says_what_to_install(volume, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert main(["report", str(volume), "--engine", "spark"]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1].startswith("emissions-sidecar report: engine spark did not start")
    assert "install Java 17" in lines[-1]


def test_memory_that_does_not_suffice_names_the_flag():
    connection = duckdb.connect()
    connection.execute("SET memory_limit='20MB'")
    connection.execute("SET max_temp_directory_size='0KB'")
    with pytest.raises(duckdb.OutOfMemoryException) as caught:
        connection.sql("SELECT list(x ORDER BY x) FROM range(50000000) t(x)").fetchall()
    said = engine_failure(caught.value, "1536Mi")
    assert said.startswith("1536Mi of memory do not suffice: Out of Memory Error")
    assert "--memory" in said
    assert "\n" not in said


def test_a_disk_that_does_not_suffice_names_the_directory():
    said = engine_failure(duckdb.IOException("IO Error: No space left on device\n\nmore"), "1Gi")
    assert "No space left on device; temporary files go to" in said
    assert "TMPDIR" in said


def test_an_error_of_another_kind_is_named():
    said = engine_failure(duckdb.InternalException("odd"), "1Gi")
    assert said == "the engine failed: InternalException: odd"


def test_a_full_disk_is_told_to_be_full():
    assert "where there is room" in disk_failure(OSError(28, "No space left on device", "/tmp/x"))
