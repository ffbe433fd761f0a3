"""What the figures rest on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.report.figures.coverage import (
    LEVELS,
    QUALITIES,
    coverage,
    energy_by,
    mix,
    pue_share,
)
from sidecar.report.figures.inputs import (
    Amounts,
    FactorUse,
    MissingPod,
    PodsLookedUp,
    ReadFacts,
)
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


def test_the_energy_whose_pue_is_known_needs_no_source_of_it():
    factors = [
        FactorUse("a", pue=1.14, pue_source="a table", energy_kwh=2.0),
        FactorUse("b", pue=1.0, energy_kwh=1.0),  # CodeCarbon's files name none
        FactorUse("c", energy_kwh=1.0),
    ]
    assert pue_share(factors) == 0.75
    assert pue_share([]) is None
    assert pue_share(None) is None


def test_not_asked_is_not_none_found():
    assert coverage(measures(), ReadFacts(), None)["pods_without_records"] is None
    asked = coverage(measures(), ReadFacts(), PodsLookedUp(asked=3))
    assert (asked["pods_without_records_count"], asked["pods_without_records"]) == (0, [])
    assert asked["pods_asked"] == 3


def test_a_failed_look_up_is_not_known_and_says_why():
    row = coverage(measures(), ReadFacts(), PodsLookedUp(failure="403: no rights"))
    assert (row["pods_without_records"], row["pods_failure"]) == (None, "403: no rights")


def silent(number=0, energy_kwh=None, kind="silent"):
    amounts = Amounts(energy_kwh, None, None, None)
    return MissingPod("ml", f"train-{number}", kind, "image not pulled", amounts=amounts)


def test_pods_without_records_are_named_up_to_a_bound_and_all_counted():
    row = coverage(measures(), ReadFacts(), PodsLookedUp(1500, [silent(n) for n in range(1500)]))
    assert row["pods_without_records_count"] == 1500
    assert len(row["pods_without_records"]) == 1000
    first = row["pods_without_records"][0]
    assert (first["namespace"], first["pod"], first["reason"]) == (
        "ml", "train-0", "image not pulled",
    )  # fmt: skip


def test_who_told_most_comes_first_and_all_is_added_up():
    pods = [silent(1, 0.5), silent(2, 2.0), silent(3), silent(4, 0.25, "incomplete")]
    row = coverage(measures(), ReadFacts(), PodsLookedUp(9, pods))
    assert [pod["pod"] for pod in row["pods_without_records"]] == ["train-2", "train-1", "train-3"]
    assert [pod["pod"] for pod in row["pods_incomplete"]] == ["train-4"]
    assert row["pods_not_arrived"]["energy_kwh"] == 2.75
    assert row["pods_not_arrived"]["emissions_g"] is None


def test_pods_that_begin_only_now_are_counted_apart():
    row = coverage(measures(), ReadFacts(), PodsLookedUp(1, [silent(1, kind="starting")]))
    assert (row["pods_without_records_count"], row["pods_starting_count"]) == (0, 1)


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
