"""Verify: what is in order passes, and what is not is found, as what it is."""

from dataclasses import replace

import pytest

from sidecar.report.findings import EXAMPLES_MAX
from sidecar.report.read import LeftOut
from sidecar.report.verify import verify
from sidecar.windows import rfc3339
from tests.report.histories import POD, START_S, Clock, Process, add_up, history, window, with_gpus


def verdict_of(records, file="a.ndjson"):
    return verify((file, record) for record in records)


def violations(records):
    return {item.kind.name: item.count for item in verdict_of(records).violations}


def notices(records):
    return {item.kind.name: item.count for item in verdict_of(records).notices}


def only(found):
    (item,) = found
    return item


# -- each record once --------------------------------------------------------------------------------


def test_a_history_in_order_has_neither_violations_nor_notices():
    verdict = verdict_of(history())
    assert (verdict.violations, verdict.notices, verdict.is_clean) == ((), (), True)


def test_nothing_at_all_is_not_clean():
    assert not verdict_of([]).is_clean


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59.9999Z", "0001-01-01T00:00:00+23:00"])
def test_a_time_beyond_all_reckoning_is_told_as_one(text):
    records = history()
    assert violations([*records, replace(records[-1], record_id=f"{POD}.x.0", window_end=text)])


def test_the_same_record_in_two_files_is_a_duplicate():
    records = history()
    verdict = verify([*(("a.ndjson", r) for r in records), ("b/a.ndjson", records[2])])
    found = only(verdict.violations)
    assert (found.kind.name, found.count) == ("duplicate", 1)
    assert found.examples == [
        {"record_id": records[2].record_id, "files": ["a.ndjson", "b/a.ndjson"]}
    ]


def test_one_id_with_two_contents_is_a_conflict_and_the_first_counts():
    records = history()
    other = add_up(replace(records[2], cpu_energy_kwh=records[2].cpu_energy_kwh / 2))
    verdict = verify([*(("a.ndjson", r) for r in records), ("b.ndjson", other)])
    assert only(verdict.violations).kind.name == "conflict"
    assert verdict.totals["energy_kwh"] == verdict_of(records).totals["energy_kwh"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("v/u.b.00000000.ndjson", "v/u.b.00000000.ndjson.gz"),
        ("v/u.b.00000000.handed-over.ndjson.gz", "v/u.b.00000000.ndjson.gz"),
    ],
)
def test_one_segment_in_two_forms_is_a_notice(first, second):
    records = history()
    verdict = verify([(file, record) for file in (first, second) for record in records])
    assert verdict.is_clean
    assert (only(verdict.notices).kind.name, verdict.duplicates) == ("two forms", len(records))


def test_totals_count_each_record_once():
    records = history()
    once, twice = verdict_of(records), verdict_of([*records, *records])
    assert twice.totals == once.totals
    assert twice.totals["duration_s"] == pytest.approx(64.0)
    assert (twice.records, twice.duplicates) == (len(records), len(records))


# -- lines -------------------------------------------------------------------------------------------


def test_torn_lines_are_told_by_file():
    torn = [("a.ndjson", LeftOut("torn line", "EOF"))] * 3 + [
        ("b.ndjson", LeftOut("torn line", "EOF"))
    ]
    verdict = verify([*(("a.ndjson", r) for r in history()), *torn])
    found = only(verdict.violations)
    assert (found.kind.name, found.count) == ("torn line", 4)
    assert [(e["file"], e["lines"]) for e in found.examples] == [("a.ndjson", 3), ("b.ndjson", 1)]


@pytest.mark.parametrize(
    "change",
    [
        {"window_start": "yesterday"},
        {"window_end": "2026-11-22T08:00:00"},
        {"record_id": "no-sequence"},
    ],
)
def test_a_record_that_has_no_place_in_time_is_a_violation(change):
    records = history()
    assert violations([*records, replace(records[1], **change)]) == {"time": 1}


def test_all_findings_are_counted_and_some_are_shown():
    records = history(EXAMPLES_MAX + 5)
    found = only(verdict_of([*records, *records]).violations)
    assert (found.count, len(found.examples)) == (len(records), EXAMPLES_MAX)


# -- one process -------------------------------------------------------------------------------------


def test_a_missing_window_is_a_gap_with_its_seconds():
    records = history()
    del records[2]
    found = only(verdict_of(records).violations)
    assert (found.kind.name, found.examples[0]["missing"], found.examples[0]["seconds"]) == (
        "gap",
        1,
        15,
    )


def test_a_missing_short_window_is_a_gap_too():
    process = Process().begin().meter().meter(0.5).meter().end()
    del process.records[2]
    assert violations(process.records) == {"gap": 1}


def test_a_lost_beginning_is_a_gap():
    assert violations(history()[2:]) == {"gap": 1}


def test_windows_that_do_not_join_are_a_gap_even_with_numbers_in_order():
    clock = Clock()
    process = Process(clock=clock).begin().meter()
    clock.wall_s += 2.0
    assert violations(process.meter().end().records) == {"gap": 1}


def test_a_second_between_windows_is_within_the_tolerance():
    clock = Clock()
    process = Process(clock=clock).begin().meter()
    clock.wall_s += 0.9
    assert violations(process.meter().end().records) == {}


def test_a_machine_that_was_suspended_is_in_order():
    verdict = verdict_of(Process().begin().meter(step_s=3600).meter().end().records)
    assert (verdict.violations, verdict.notices) == ((), ())


def test_a_clock_that_is_set_back_is_a_notice_with_its_seconds():
    verdict = verdict_of(Process().begin().meter(step_s=-3600).meter().end().records)
    found = only(verdict.notices)
    assert (found.kind.name, found.examples[0]["seconds"]) == ("clock set back", 3600)
    assert verdict.is_clean


def test_a_window_lost_where_the_clock_was_set_back_is_a_gap():
    process = Process().begin().meter().meter().meter(step_s=-3600).meter().end()
    del process.records[3]
    assert violations(process.records) == {"gap": 1}


def test_merged_windows_are_a_notice():
    process = Process().begin().meter().meter().merge().meter().end()
    assert violations(process.records) == {}
    assert notices(process.records) == {"merged": 1}


def test_a_start_that_was_merged_is_a_notice():
    process = Process().begin().meter().merge().meter().end()
    assert violations(process.records) == {}
    assert notices(process.records) == {"merged": 1}


def test_windows_merged_over_a_clock_that_was_set_back_are_notices():
    process = Process().begin().meter().meter().meter(step_s=-3600).meter().merge().meter().end()
    assert violations(process.records) == {}
    assert notices(process.records) == {"merged": 1, "clock set back": 1}


def test_a_merged_record_need_not_be_the_product_of_its_last_factors():
    process = Process().begin().meter().meter()
    process.records[-1] = add_up(process.records[-1], pue=1.3, intensity=100.0)
    assert violations(process.merge().meter().end().records) == {}


def test_a_process_without_a_last_record_is_a_notice():
    records = history()[:-1]
    assert violations(records) == {}
    assert notices(records) == {"no end": 1}


def test_a_record_after_the_last_is_a_violation():
    records = Process().begin().meter(event="end").meter().end().records
    assert violations(records) == {"misplaced event": 1}


def test_a_second_start_is_a_violation():
    records = history()
    records[2] = replace(records[2], event="start")
    assert violations(records) == {"misplaced event": 1}


def test_a_window_that_ends_before_it_starts_is_a_violation():
    records = history()
    records[2] = replace(records[2], window_end=rfc3339(START_S - 60))
    assert "backwards" in violations(records)


def test_a_duration_that_is_not_that_of_its_window_is_a_violation():
    records = history()
    records[2] = replace(records[2], duration_s=12.0)
    found = only(verdict_of(records).violations)
    assert found.kind.name == "duration"
    assert (found.examples[0]["found"], found.examples[0]["expected"]) == (15, 12)


def test_the_order_of_reading_is_no_matter():
    records = history()
    assert verdict_of(reversed(records)).totals == verdict_of(records).totals
    assert violations(reversed(records)) == {}


# -- one pod -----------------------------------------------------------------------------------------


def test_a_container_that_was_restarted_is_in_order():
    clock = Clock()
    killed = Process(f"{POD}.one", clock).begin().meter().records
    clock.wall_s += 20
    assert violations(killed + history(stem=f"{POD}.two", clock=clock)) == {}


def test_two_processes_that_meter_one_pod_overlap():
    records = history(stem=f"{POD}.one") + history(stem=f"{POD}.two", clock=Clock(START_S + 30))
    found = only(verdict_of(records).violations)
    assert found.kind.name == "overlap"
    assert found.examples[0]["boots"] == [f"{POD}.one", f"{POD}.two"]
    assert found.examples[0]["seconds"] == 34


def test_short_windows_that_overlap_are_added_up():
    first, second = Process(f"{POD}.one").begin(), Process(f"{POD}.two").begin()
    for _ in range(3):
        first.meter(0.9)
        second.meter(0.9)
    assert violations(first.records + second.records) == {"overlap": 1}


def test_windows_that_only_seem_to_overlap_as_the_clock_was_set_back_are_a_notice():
    clock = Clock()
    killed = Process(f"{POD}.one", clock).begin().meter().meter(step_s=-60).meter().records
    records = killed + history(stem=f"{POD}.two", clock=clock)
    assert violations(records) == {}
    assert notices(records)["not comparable"] > 0


def test_processes_outside_pods_may_run_at_the_same_time():
    apart = {"pod_uid": None, "node": None}
    records = history(stem="run.one") + history(stem="run.two")
    assert violations([replace(record, **apart) for record in records]) == {}


# -- one node ----------------------------------------------------------------------------------------


def pods(*shares, **columns):
    return [
        window(0, stem=f"pod-{n}.boot", share=share, event="end", **columns)
        for n, share in enumerate(shares)
    ]


def test_pods_that_share_a_node_are_in_order():
    assert violations(pods(0.5, 0.25, 0.25)) == {}


def test_requests_that_exceed_their_node_are_a_violation():
    found = violations(pods(0.5, 0.3, 0.25))
    assert found == {"shares": 3, "node energy": 2}  # cpu, idle, ram; and their energies


def test_the_example_names_node_window_sum_and_pods():
    finding = next(f for f in verdict_of(pods(0.75, 0.5)).violations if f.kind.name == "shares")
    example = finding.examples[0]
    assert (example["node"], example["found"], example["pods"]) == ("aks-gpu-0", 1.25, 2)
    assert (example["window_start"], example["column"]) == (rfc3339(START_S), "share_cpu")


def test_requests_are_compared_however_their_windows_lie():
    late = Process("late.boot", Clock(START_S + 7), share=0.5).begin().meter().meter().end()
    early = Process("early.boot", share=0.75).begin().meter().meter().end()
    assert violations(early.records + late.records) == {"shares": 3}


def test_a_pod_that_follows_another_is_no_excess():
    early = Process("early.boot", share=0.75).begin().meter().end()
    late = Process("late.boot", Clock(START_S + 18.5), share=0.75).begin().meter().end()
    assert violations(early.records + late.records) == {}


def test_use_is_compared_in_windows_of_one_name_only():
    by_use = {"pod_method": "process-tree"}
    early = [replace(r, **by_use) for r in history(stem="early.boot", share=0.75)]
    late = [
        replace(r, **by_use) for r in history(stem="late.boot", share=0.5, clock=Clock(START_S + 7))
    ]
    assert violations(early + late) == {}


def test_shares_by_use_that_exceed_their_node_are_a_violation():
    found = violations(pods(0.6, 0.6, pod_method="process-tree"))
    assert found == {"shares": 3, "node energy": 2}


def test_windows_of_one_name_are_not_of_quite_the_same_moments():
    assert violations(pods(0.52, 0.52, pod_method="process-tree")) == {}


def told_late(stem, shares, method="kubelet"):
    """A pod whose CPU time is told late: dynamic energy alone, so that its share is all that counts."""
    records = Process(stem, Clock(TEN_S), share=0.0).begin()
    for left in range(len(shares), 0, -1):
        records.meter(event="end" if left == 1 else "window")
    told = [records.records[0]]
    for record, share in zip(records.records[1:], shares, strict=True):
        energy = share * record.node_cpu_energy_kwh
        changed = replace(record, pod_method=method, share_cpu=share, cpu_energy_kwh=energy)
        told.append(add_up(changed))
    return told


TEN_S = START_S - START_S % 600
"""Ten minutes of the clock begin here."""


@pytest.mark.parametrize("method", ["kubelet", "metrics-api"])
def test_what_is_told_late_may_exceed_a_single_window(method):
    records = told_late("a.boot", [0.9, 0.9, 0, 0], method)
    records += told_late("b.boot", [0, 0.6, 0.6, 0], method)
    verdict = verdict_of(records)
    assert (verdict.violations, verdict.notices) == ((), ())


def test_what_late_answers_claim_too_much_in_ten_minutes_is_a_notice():
    records = told_late("a.boot", [0.6] * 40) + told_late("b.boot", [0.5] * 40)
    assert violations(records) == {}
    assert notices(records) == {"blurred": 1}


def test_what_no_late_answer_explains_is_a_violation():
    records = told_late("a.boot", [0.9] * 40) + told_late("b.boot", [0.9] * 40)
    found = only(verdict_of(records).violations)
    assert (found.kind.name, found.examples[0]["column"]) == ("node energy", "cpu_energy_kwh")


def test_of_pods_told_late_idle_shares_are_compared_in_each_window():
    records = [replace(r, pod_method="kubelet") for r in pods(0.6, 0.6)]
    assert "shares" in violations([replace(r, share_cpu=0.0) for r in records])


def test_two_ways_to_be_late_are_not_compared():
    first, second = pods(0.6, 0.6)
    found = violations(
        [replace(first, pod_method="kubelet"), replace(second, pod_method="metrics-api")]
    )
    assert found == {}


def test_pods_of_different_nodes_are_not_compared():
    first, second = pods(0.75, 0.75)
    assert violations([first, replace(second, node="aks-gpu-1")]) == {}
    apart = [replace(record, cluster=None) for record in (first, replace(second, vm_id="other"))]
    assert violations(apart) == {}, "without a cluster's name two nodes may be called the same"


def test_a_pod_that_knows_the_vm_is_compared_with_one_that_does_not():
    """IMDS may be blocked for some pods of a node."""
    first, second = pods(0.75, 0.75)
    assert "shares" in violations([first, replace(second, vm_id=None)])


def test_pods_that_do_not_know_their_node_are_not_compared():
    assert violations([replace(record, node=None) for record in pods(0.75, 0.75)]) == {}


def test_energies_that_exceed_the_nodes_are_a_violation():
    first, second = pods(0.5, 0.5)
    greedy = add_up(replace(second, ram_energy_kwh=second.node_ram_energy_kwh))
    found = only(verdict_of([first, greedy]).violations)
    assert (found.kind.name, found.examples[0]["column"]) == ("node energy", "ram_energy_kwh")


def test_shares_on_a_node_whose_clock_was_set_back_are_a_notice():
    clock = Clock()
    first = Process("one.boot", clock, share=0.75).begin().meter(step_s=-15.0).end()
    second = Process("two.boot", clock, share=0.75).begin().meter().end()
    assert violations(first.records + second.records) == {}


# -- one record --------------------------------------------------------------------------------------


def changed(**columns):
    records = history()
    records[2] = replace(with_gpus(records[2], 1e-4, 2e-4), **columns)
    return violations(records)


def test_a_record_with_gpus_adds_up():
    assert changed() == {}


@pytest.mark.parametrize(
    ("column", "factor", "found"),
    [
        ("cpu_energy_kwh", 0.99, {"energy": 1}),
        ("gpu_energy_kwh", 0.99, {"energy": 2}),
        ("node_ram_energy_kwh", 1.01, {"energy": 1}),
        ("energy_kwh", 1 + 1e-6, {"energy": 1, "facility energy": 1}),
        ("facility_energy_kwh", 1.01, {"facility energy": 1, "emissions": 1}),
        ("emissions_g", 1.01, {"emissions": 1}),
        ("emissions_low_g", 1.2, {"emissions": 1}),
        ("emissions_high_g", 0.5, {"emissions": 1}),
        ("pue", 1.01, {"facility energy": 1}),
        ("carbon_intensity_g_per_kwh", 1.01, {"emissions": 1}),
    ],
)
def test_an_amount_that_does_not_add_up_is_a_violation(column, factor, found):
    records = history()
    records[2] = with_gpus(records[2], 1e-4, 2e-4)
    records[2] = replace(records[2], **{column: getattr(records[2], column) * factor})
    assert violations(records) == found


def test_a_sum_that_is_null_though_its_parts_are_known_is_a_violation():
    assert changed(energy_kwh=None) == {"energy": 1}
    assert changed(emissions_g=None) == {"emissions": 1}


def test_a_part_that_is_not_known_is_no_violation():
    records = history()
    records[2] = add_up(replace(records[2], ram_energy_kwh=None, node_ram_energy_kwh=None))
    assert violations(records) == {}


def test_a_pod_with_more_than_its_node_is_a_violation():
    records = history()
    greedy = replace(records[2], cpu_energy_kwh=records[2].node_cpu_energy_kwh * 1.001)
    records[2] = add_up(greedy)
    assert violations(records) == {"node energy": 1}


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_share_that_is_none_is_a_violation(share):
    assert changed(share_gpu=share)["shares"] >= 1
