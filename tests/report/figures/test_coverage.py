"""What the figures rest on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.report.figures.coverage import LEVELS, QUALITIES, coverage, energy_by, mix
from sidecar.report.figures.inputs import PodWithoutRecords, ReadFacts
from sidecar.report.read import ReadReport
from tests.report.figures.rows import measures


def test_what_was_left_out_is_told_by_reason():
    row = coverage(measures(), ReadFacts(left_out={"torn": 2, "alien": 3}, duplicates=4), None)
    assert (row["lines_left_out"], row["left_out"], row["duplicates"]) == (
        5,
        {"torn": 2, "alien": 3},
        4,
    )


def test_a_quarter_of_the_records_without_emissions():
    row = coverage(measures(records=8, records_without_emissions=2), ReadFacts(), None)
    assert row["records_without_emissions_share"] == 0.25


def test_gaps_are_a_share_of_all_time():
    row = coverage(measures(duration_s=300.0, gap_s=100.0), ReadFacts(), None)
    assert row["gap_share"] == 0.25


def test_not_asked_is_not_none_found():
    assert coverage(measures(), ReadFacts(), None)["pods_without_records"] is None
    asked = coverage(measures(), ReadFacts(), [])
    assert (asked["pods_without_records_count"], asked["pods_without_records"]) == (0, [])


def test_pods_without_records_are_named_up_to_a_bound_and_all_counted():
    pods = [
        PodWithoutRecords("ml", f"train-{number}", "image not pulled") for number in range(1500)
    ]
    row = coverage(measures(), ReadFacts(), pods)
    assert row["pods_without_records_count"] == 1500
    assert len(row["pods_without_records"]) == 1000
    assert row["pods_without_records"][0] == {
        "namespace": "ml",
        "pod": "train-0",
        "reason": "image not pulled",
    }


def test_what_was_read_is_taken_from_the_reader():
    seen = ReadReport(files=3, records=5, duplicates=1)
    seen.left_out["torn"] += 2
    assert ReadFacts.of(seen, "az://emissions") == ReadFacts(
        3, 5, 1, {"torn": 2}, None, "az://emissions"
    )


def test_only_what_there_is_stands_in_the_mix_of_schema_1():
    assert energy_by(measures(energy_estimated_kwh=2.0), QUALITIES) == {"estimated": 2.0}


energy = st.floats(0, 1e9)


@given(st.tuples(energy, energy, energy), st.tuples(energy, energy, energy, energy))
def test_shares_sum_to_one_or_are_not_known(qualities, levels):
    for names, amounts in ((QUALITIES, qualities), (LEVELS, levels)):
        fields = {f"energy_{name}_kwh": amount for name, amount in zip(names, amounts, strict=True)}
        shares = [row["share"] for row in mix(measures(**fields), names).values()]
        if sum(amounts) > 0:
            assert sum(shares) == pytest.approx(1)
        else:
            assert shares == [None] * len(names)
