"""Which of the pods that asked have records, and what of them is missing."""

import pytest

from sidecar.report.arrivals import looked_up
from sidecar.report.dataset import Dataset
from sidecar.report.duckdb_engine import DuckDBEngine
from sidecar.report.figures.inputs import Amounts
from sidecar.report.places import DirectoryPlace
from sidecar.report.tracked_pods import LastWords, TrackedPod
from tests.report.records import record, write

BEGIN = "2026-11-22T08:00:00.000Z"


def tracked(uid, kind="silent", words=None):
    return TrackedPod("vision", f"train-{uid}", uid, kind, "why", words)


def words(energy_kwh=3.0, unshipped=2, since=BEGIN, refused=0):
    amounts = Amounts(energy_kwh, 30.0, 20.0, 40.0)
    return LastWords(amounts, unshipped, refused, "vision", since)


@pytest.fixture
def look(tmp_path):
    def look(pods, *records):
        write(tmp_path / "a.ndjson", *records)
        with Dataset.open([DirectoryPlace(tmp_path)]) as dataset:
            return looked_up(pods, dataset, DuckDBEngine(dataset.connection))

    return look


def of_pod(uid, number, **fields):
    amounts = {"energy_kwh": 1.0, "emissions_g": 10.0, "emissions_low_g": None}
    return record(f"{uid}.{number}", pod_uid=uid, **amounts | fields)


def test_pods_with_records_are_not_missing(look):
    found = look([tracked("a"), tracked("b")], of_pod("a", 1))
    assert found.asked == 2
    assert [pod.pod for pod in found.missing] == ["train-b"]


def test_what_a_pod_without_records_told_is_kept_with_its_project(look):
    (pod,) = look([tracked("b", words=words())], of_pod("a", 1)).missing
    assert (pod.kind, pod.project, pod.records) == ("silent", "vision", 2)
    assert pod.amounts == Amounts(3.0, 30.0, 20.0, 40.0)


def test_the_rest_of_a_pod_is_what_it_told_less_what_arrived(look):
    (pod,) = look([tracked("a", words=words())], of_pod("a", 1), of_pod("b", 1)).missing
    assert (pod.kind, pod.records) == ("incomplete", 2)
    assert pod.amounts.energy_kwh == pytest.approx(2.0)
    assert pod.amounts.emissions_g == pytest.approx(20.0)
    assert pod.amounts.emissions_low_g is None  # the records know no bounds


def test_records_from_before_the_last_start_are_no_part_of_it(look):
    before = of_pod("a", 1, window_start="2026-11-22T07:00:00.000Z",
                    window_end="2026-11-22T07:00:15.000Z")  # fmt: skip
    (pod,) = look([tracked("a", words=words())], before, of_pod("a", 2)).missing
    assert pod.amounts.energy_kwh == pytest.approx(2.0)


def test_a_rest_that_arrived_by_now_is_not_missing(look):
    rows = [of_pod("a", number) for number in (1, 2, 3)]
    assert look([tracked("a", words=words())], *rows).missing == ()


def test_refused_segments_are_a_rest_too(look):
    (pod,) = look([tracked("a", words=words(unshipped=0, refused=1))], of_pod("a", 1)).missing
    assert pod.kind == "incomplete"


def test_a_pod_that_shipped_everything_is_not_missing(look):
    assert look([tracked("a", words=words(unshipped=0))], of_pod("a", 1)).missing == ()


def test_how_much_is_missing_is_not_known_where_the_start_is_not(look):
    (pod,) = look([tracked("a", words=words(since=None))], of_pod("a", 1)).missing
    assert (pod.records, pod.amounts) == (2, Amounts())


def test_nobody_asked_is_no_gap(look):
    assert look([], of_pod("a", 1)).missing == ()


def test_a_report_of_nothing_lists_all(tmp_path):
    with Dataset.open([DirectoryPlace(tmp_path)]) as dataset:
        found = looked_up([tracked("a")], dataset, DuckDBEngine(dataset.connection))
    assert len(found.missing) == 1
