"""What the pages of projects show: the rows of each, however many projects there are."""

from sidecar.report.figures import details as module
from sidecar.report.figures.details import project_details
from sidecar.report.tables import Tables
from tests.report.figures.rows import day, row


def test_each_project_has_all_its_days_in_their_order():
    rows = tuple(
        day(f"2026-11-0{number}", 1.0, project=name, region=None)
        for number in (2, 1)
        for name in ("a", "b", "c")
    )
    found = list(project_details(Tables({"project_day_regions": rows}), ["c", "a"]))
    assert [details.project for details in found] == ["c", "a"]
    for details in found:
        assert [row["day"] for row in details.days] == ["2026-11-01", "2026-11-02"]
        assert {row["project"] for row in details.days} == {details.project}


def test_experiments_beyond_the_bound_are_counted(monkeypatch):
    monkeypatch.setattr(module, "EXPERIMENTS_MAX", 1)
    rows = tuple(row({"project": "a", "experiment": name}) for name in "xyz")
    (details,) = project_details(Tables({"experiments": rows}), ["a"])
    assert [item["experiment"] for item in details.experiments] == ["x"]
    assert details.experiments_left_out == 2


def test_a_project_without_rows_has_none():
    (details,) = project_details(Tables(), ["a"])
    assert (details.days, details.hours, details.experiments) == ([], [], [])
