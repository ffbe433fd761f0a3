"""What is of a dataset, and what only lies there."""

from sidecar.report.figures.model import report_model
from sidecar.report.files import write_report_files
from sidecar.report.places import DirectoryPlace
from tests.report.figures.rows import inputs, report_of
from tests.report.records import record, write


def names(root):
    return [file.name for file in DirectoryPlace(root).files()]


def report_to(directory):
    given = inputs(report_of())
    write_report_files(directory, given, report_model(given))
    for name in ("index.html", "projects/demo.html", "runs/x.html"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text("")


def test_reports_of_each_volume_are_left_out(tmp_path):
    write(tmp_path / "vol1" / "records" / "a.ndjson", record("u.b.1"))
    report_to(tmp_path / "vol1" / "reports" / "v1")
    assert names(tmp_path) == ["vol1/records/a.ndjson"]
    assert names(tmp_path / "vol1") == ["records/a.ndjson"]


def test_a_report_that_was_told_to_go_into_its_source_is_left_out(tmp_path):
    write(tmp_path / "records" / "a.ndjson", record("u.b.1"))
    report_to(tmp_path / "out")
    report_to(tmp_path)
    assert names(tmp_path) == ["records/a.ndjson"]


def test_the_mark_of_a_report_hides_no_records(tmp_path):
    report_to(tmp_path)
    write(tmp_path / "a.ndjson", record("u.b.1"))
    write(tmp_path / "projects" / "deep" / "b.ndjson", record("u.b.2"))
    (tmp_path / "emissions.csv").write_text("")
    assert names(tmp_path) == ["a.ndjson", "emissions.csv", "projects/deep/b.ndjson"]


def test_what_is_hidden_is_left_out(tmp_path):
    write(tmp_path / ".a.ndjson", record("u.b.1"))
    assert names(tmp_path) == []
