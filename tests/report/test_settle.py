"""Settling: measured claims first, estimated ones share what is left, and the rest stays with nobody."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.record import GpuRecord
from sidecar.report.balance import balance_lines
from sidecar.report.claims import Claims, Nodes, Place
from sidecar.report.selection import Selection
from sidecar.report.settle import CPU, GPU, Claim, DeviceClaim, settle, settle_stretch
from sidecar.report.verify import verify
from sidecar.windows import rfc3339
from tests.report import oracle
from tests.report.histories import START_S, add_up, history, window
from tests.report.reported import reported

MINUTE = (0.0, 60.0)


def claim(boot, energy, node=1.0, span=MINUTE, **columns):
    """A claim on CPU alone, measured unless said otherwise; `row` is the boot."""
    values = {
        "row": boot,
        "boot": boot,
        "start_s": span[0],
        "end_s": span[1],
        "is_nodes_own": False,
        "is_measured": True,
        "rank": (0, 0, 0),
        "energy_kwh": (energy, 0.0, math.nan),
        "node_kwh": (node, 0.0, math.nan),
    }
    return Claim(**values | columns)


def estimated(boot, energy, node=1.0, span=MINUTE, **columns):
    return claim(boot, energy, node, span, is_measured=False, **columns)


def kept(claims, component=CPU):
    """What each claim keeps of a component, kWh, over all stretches, by row."""
    left = {}
    for stretch in settle(sorted(claims, key=lambda item: item.start_s)):
        parts = stretch.kept or [(1.0, 1.0, 1.0)] * len(stretch.claims)
        for item, part in zip(stretch.claims, parts, strict=True):
            left[item.row] = left.get(item.row, 0.0) + item.energy_kwh[component] * part[component]
    return left


def balance_of(*claims, component=CPU):
    return settle_stretch(claims).balances[component]


# -- who comes first ---------------------------------------------------------------------------------


def test_claims_that_fit_are_left_as_they_are():
    stretch = settle_stretch([claim(1, 0.3), estimated(2, 0.7)])
    assert stretch.kept is None
    assert stretch.balances[CPU].unallocated == 0.0


def test_measured_claims_come_first_and_estimated_ones_share_what_is_left():
    assert kept([claim(1, 0.4), estimated(2, 0.6), estimated(3, 0.3)]) == pytest.approx(
        {1: 0.4, 2: 0.4, 3: 0.2}
    )


def test_measured_claims_are_cut_only_where_they_alone_exceed_the_node():
    assert kept([claim(1, 0.6), claim(2, 0.6), estimated(3, 0.5)]) == pytest.approx(
        {1: 0.5, 2: 0.5, 3: 0.0}
    )


def test_nothing_is_ever_scaled_up():
    balance = balance_of(claim(1, 0.1), estimated(2, 0.2))
    assert (balance.pods, balance.unallocated) == pytest.approx((0.3, 0.7))


def test_a_claim_of_more_than_its_own_node_is_cut_to_it():
    assert kept([claim(1, 5.0)]) == {1: 1.0}


def test_where_a_record_does_not_know_the_node_it_had_at_least_what_is_claimed():
    balance = balance_of(claim(1, 0.4, node=math.nan))
    assert (balance.node, balance.pods, balance.unallocated) == (0.4, 0.4, 0.0)


# -- windows of different lengths --------------------------------------------------------------------


def test_windows_that_only_touch_are_settled_apart():
    whole = [estimated(1, 1.0, span=(0, 60)), estimated(2, 1.0, span=(60, 120))]
    assert len(list(settle(whole))) == 2
    assert kept(whole) == {1: 1.0, 2: 1.0}


def test_measured_windows_of_15_s_beside_one_of_60_s_are_compared_over_the_minute():
    """The long one does not say when its energy was used: a burst in a short one is no excess."""
    short = [
        claim(1, use, node, (15.0 * n, 15.0 * n + 15), row=n)
        for n, (use, node) in enumerate([(0.6, 0.7), (0.02, 0.1), (0.02, 0.1), (0.02, 0.1)])
    ]
    long = claim(2, 0.3, 1.0, row=9)
    assert kept([*short, long]) == pytest.approx({0: 0.6, 1: 0.02, 2: 0.02, 3: 0.02, 9: 0.3})


def test_the_node_has_what_the_one_that_saw_all_of_it_says():
    low = claim(1, 0.0, node=0.05, span=(0, 15))
    assert balance_of(low, claim(2, 0.9, node=1.0)).node == 1.0


def test_time_that_the_best_does_not_cover_is_told_by_others():
    first, second = claim(1, 0.1, 0.6, (0, 40)), claim(2, 0.1, 0.3, (30, 60))
    assert balance_of(first, second).node == pytest.approx(0.6 + 0.3 * 20 / 30)


def test_a_pod_that_claims_the_whole_node_for_a_moment_gets_nothing_of_the_time_around_it():
    moment = estimated(1, 0.25, node=0.25, span=(0, 15))
    measured = claim(2, 0.1, node=1.0)
    assert kept([measured, moment])[1] == pytest.approx(0.25 - 0.1 / 4)


def test_a_partial_first_window_claims_the_part_of_the_time_it_has():
    late = estimated(1, 0.5, node=0.5, span=(30, 60))
    assert kept([estimated(2, 1.0), late]) == pytest.approx({1: 0.25, 2: 0.75})


requests = st.lists(st.floats(0, 1), min_size=1, max_size=5)


@given(requests, st.randoms(use_true_random=False))
def test_claims_of_one_static_method_are_never_cut_however_their_windows_lie(weights, rng):
    """Σ shares ≤ 1 at every moment, and every sidecar sees the same power."""
    total = sum(weights) or 1.0
    claims = []
    for boot, weight in enumerate(weights):
        share, start_s, row = weight / max(1.0, total), 0.0, 0
        while start_s < 60:
            end_s = min(60.0, start_s + rng.choice([5.0, 15.0, 20.0, 60.0]))
            energy = energy_between(start_s, end_s)
            claims.append(
                estimated(boot, share * energy, energy, (start_s, end_s), row=100 * boot + row)
            )
            start_s, row = end_s, row + 1
    before = {item.row: item.energy_kwh[CPU] for item in claims}
    assert kept(claims) == pytest.approx(before, rel=1e-9)


def energy_between(start_s, end_s):
    """The node bursts from second 10 to 20."""
    burst_s = max(0.0, min(end_s, 20.0) - max(start_s, 10.0))
    return 0.001 * (end_s - start_s) + 0.05 * burst_s


@st.composite
def any_claims(draw):
    claims = []
    for row in range(draw(st.integers(1, 12))):
        start_s = draw(st.integers(0, 100)) / 2
        end_s = start_s + draw(st.integers(1, 120)) / 2
        amounts = st.one_of(st.floats(0, 1e6), st.just(math.nan))
        energy = tuple(draw(st.tuples(*[amounts] * 3)))
        node = tuple(draw(st.tuples(*[amounts] * 3)))
        devices = draw(
            st.lists(
                st.builds(
                    DeviceClaim,
                    st.integers(-1, 2),
                    st.floats(0, 1e6),
                    st.floats(0, 1),
                    st.booleans(),
                ),
                max_size=3,
            )
        )
        claims.append(
            Claim(
                row=row,
                boot=draw(st.integers(0, 3)),
                start_s=start_s,
                end_s=end_s,
                is_nodes_own=draw(st.sampled_from([False] * 5 + [True])),
                is_measured=draw(st.booleans()),
                rank=(0, 0, draw(st.integers(0, 2))),
                energy_kwh=energy,
                node_kwh=node,
                devices=tuple(devices),
            )
        )
    return sorted(claims, key=lambda item: item.start_s)


@given(any_claims())
def test_whatever_records_say_pods_and_untracked_and_unallocated_are_the_node(claims):
    for stretch in settle(claims):
        for component, balance in enumerate(stretch.balances):
            parts = balance.pods + balance.untracked + balance.unallocated
            assert parts == pytest.approx(balance.node, rel=1e-9, abs=1e-12)
            assert balance.pods <= balance.claimed * (1 + 1e-9)
            fractions = [item[component] for item in stretch.kept or ()]
            assert all(0 <= part <= 1 for part in fractions)


@given(any_claims())
def test_what_the_claims_keep_is_what_the_balance_says(claims):
    for stretch in settle(claims):
        parts = stretch.kept or [(1.0, 1.0, 1.0)] * len(stretch.claims)
        for component, balance in enumerate(stretch.balances):
            energies = [
                item.energy_kwh[component] * part[component]
                for item, part in zip(stretch.claims, parts, strict=True)
                if not item.is_nodes_own and not math.isnan(item.energy_kwh[component])
            ]
            assert math.fsum(energies) == pytest.approx(balance.pods, rel=1e-9, abs=1e-12)


@given(any_claims(), st.randoms(use_true_random=False))
def test_the_order_of_records_that_start_together_is_no_matter(claims, rng):
    shuffled = sorted(rng.sample(claims, len(claims)), key=lambda item: item.start_s)
    first, second = kept(claims), kept(shuffled)
    assert second == pytest.approx(first, rel=1e-6, abs=1e-6, nan_ok=True)


# -- GPUs --------------------------------------------------------------------------------------------


def on_gpus(boot, *devices, node, **columns):
    energy = math.fsum(device.energy_kwh for device in devices)
    energies = {"energy_kwh": (0.0, 0.0, energy), "node_kwh": (0.0, 0.0, node)}
    return claim(boot, 0.0, devices=devices, **energies, **columns)


def test_a_device_that_is_measured_for_one_pod_is_not_shared_with_one_that_guesses():
    exclusive = on_gpus(1, DeviceClaim(0, 0.4, 1.0, is_measured=True), node=0.8)
    half = [DeviceClaim(number, 0.2, 0.5, is_measured=False) for number in (0, 1)]
    assert kept([exclusive, on_gpus(2, *half, node=0.8)], GPU) == pytest.approx({1: 0.4, 2: 0.2})


def test_slices_of_one_board_that_fit_are_left_as_they_are():
    slices = [
        on_gpus(n, DeviceClaim(0, 0.7 * part / 7, part / 7, is_measured=True), node=0.7)
        for n, part in enumerate((3, 4))
    ]
    assert settle_stretch(slices).kept is None


def test_pods_that_see_only_their_own_devices_are_not_cut_to_what_one_of_them_sees():
    first = on_gpus(1, DeviceClaim(0, 0.3, 1.0, is_measured=True), node=0.3)
    second = on_gpus(2, DeviceClaim(1, 0.4, 1.0, is_measured=True), node=0.4)
    stretch = settle_stretch([first, second])
    assert stretch.kept is None
    assert stretch.balances[GPU].node == pytest.approx(0.7)


def test_gpus_that_only_the_vm_size_tells_of_share_what_measured_ones_leave():
    measured = on_gpus(1, DeviceClaim(0, 0.4, 1.0, is_measured=True), node=0.5, rank=(0, 0, 2))
    guessed = on_gpus(2, DeviceClaim(-1, 0.9, 1.0, is_measured=False), node=0.9, rank=(0, 0, 0))
    assert kept([measured, guessed], GPU) == pytest.approx({1: 0.4, 2: 0.1})


# -- the node meter ----------------------------------------------------------------------------------


def meter(rest, node=1.0, span=MINUTE):
    return claim(99, rest, node, span, is_nodes_own=True, rank=(9, 9, 9))


def test_the_node_meter_says_what_the_node_had_and_claims_nothing():
    balance = balance_of(claim(1, 0.3, node=0.9), meter(0.5))
    assert (balance.node, balance.claimed) == (1.0, 0.3)


def test_what_pods_without_records_used_is_their_own_line():
    balance = balance_of(claim(1, 0.3), meter(0.5))
    assert (balance.untracked, balance.unallocated) == pytest.approx((0.2, 0.5))


def test_a_pod_that_claims_more_than_it_used_leaves_less_unallocated():
    balance = balance_of(estimated(1, 0.7), meter(0.5))
    assert (balance.untracked, balance.unallocated) == pytest.approx((0.0, 0.3))


# -- records, reports and verdicts -------------------------------------------------------------------


def pod(name, share, **columns):
    return window(0, stem=f"{name}.boot", share=share, event="end", **columns)


def mixed():
    """One pod measured at 0.5 of the node, its neighbour by a request of 0.75 of it."""
    return [
        pod("measured", 0.5, pod_method="cgroup", project="first"),
        pod("guessed", 0.75, project="second"),
    ]


def test_a_report_takes_off_what_estimated_pods_claim_too_much():
    first, second = sorted(reported(mixed()).projects, key=lambda p: p.project)
    node = mixed()[0].node_energy_kwh
    assert (first.energy_kwh, second.energy_kwh) == pytest.approx((node / 2, node / 2))
    assert (first.energy_taken_off_kwh, second.energy_taken_off_kwh) == pytest.approx((0, node / 4))


def test_all_that_follows_from_energy_is_cut_in_proportion():
    (before,) = reported(mixed()[1:]).projects
    after = next(p for p in reported(mixed()).projects if p.project == "second")
    names = "cpu_energy_kwh facility_energy_kwh emissions_g emissions_low_g emissions_high_g"
    for name in names.split():
        assert getattr(after, name) == pytest.approx(getattr(before, name) * 2 / 3), name
    by_quality = (after.energy_measured_kwh, after.energy_estimated_kwh, after.energy_modelled_kwh)
    assert sum(by_quality) == pytest.approx(after.energy_kwh)


def test_neighbours_that_were_not_asked_for_are_settled_with():
    report = reported(mixed(), Selection(frozenset({"second"})))
    (second,) = report.projects
    assert second.energy_kwh == pytest.approx(mixed()[0].node_energy_kwh / 2)
    assert report.nodes is None, "what other projects left is not this one's"


def test_the_rest_of_the_node_is_its_own_line_with_its_emissions():
    record = pod("alone", 0.25)
    (node,) = reported([record]).nodes
    rest = sum(node.unallocated_energy_kwh.values())
    assert rest == pytest.approx(record.node_energy_kwh * 0.75)
    assert node.unallocated_emissions_g == pytest.approx(record.emissions_g * 3)


def test_the_node_meters_records_are_no_project():
    records = mixed()
    own = pod("meter", 0.5, pod_method="unallocated", project="unallocated")
    report = reported([*records, own])
    assert {item.project for item in report.projects} == {"first", "second"}
    (node,) = report.nodes
    parts = node.pods_energy_kwh + node.untracked_energy_kwh
    parts += sum(node.unallocated_energy_kwh.values())
    assert parts == pytest.approx(node.node_energy_kwh, rel=1e-9)


def test_settled_nodes_and_the_rest_are_told_in_words():
    text = "\n".join(balance_lines(reported(mixed()).nodes))
    assert "settled nodes, whose pods claimed more than they had: 'aks-gpu-0'" in text
    assert "unallocated, used by no pod with records: 0 Wh" in text


def test_methods_that_mix_are_a_notice_not_a_violation():
    verdict = verify(("a.ndjson", record) for record in mixed())
    assert {item.kind.name for item in verdict.notices} == {"settled"}
    assert verdict.violations == ()
    assert verdict.totals["energy_taken_off_kwh"] == pytest.approx(mixed()[0].node_energy_kwh / 4)


def test_methods_that_mix_within_the_node_are_in_order():
    records = [pod("measured", 0.25, pod_method="kubelet"), pod("guessed", 0.75)]
    verdict = verify(("a.ndjson", record) for record in records)
    assert (verdict.violations, verdict.notices) == ((), ())


def test_a_record_that_is_there_twice_is_settled_once():
    once, twice = (
        verify(("a.ndjson", record) for record in records) for records in (mixed(), mixed() * 2)
    )
    assert twice.totals == once.totals


def test_a_clock_that_is_set_back_takes_nothing_off():
    """Two windows of one process have the same name, but were not at the same time."""
    first = pod("alone", 1.0)
    second = replace(first, record_id="alone.boot.1")
    (project,) = reported([first, second]).projects
    assert project.energy_kwh == pytest.approx(2 * first.energy_kwh)


def test_records_that_nothing_is_known_of_are_left_as_they_are():
    strange = [
        pod("nowhere", 1.0, node=None),
        replace(pod("timeless", 1.0), window_start="yesterday"),
        replace(pod("nameless", 1.0), record_id="nameless"),
        replace(pod("absurd", 1.0), cpu_energy_kwh=1e300),
    ]
    report = reported(strange)
    assert report.nodes == []
    assert sum(item.energy_taken_off_kwh for item in report.projects) == 0


@pytest.mark.parametrize(
    ("energy", "share"), [(math.nan, 0.5), (-1.0, 0.5), (1.0, math.inf), (1e300, 1.0), (1.0, 9.0)]
)
def test_a_gpu_that_lies_is_not_believed(energy, share):
    honest = GpuRecord(uuid="GPU-1", energy_kwh=1e-4, share=1.0, share_method="node-meter")
    liar = GpuRecord(uuid="GPU-1", energy_kwh=energy, share=share, share_method="dcgm")
    records = [
        add_up(replace(pod(name, 0.1), gpus=(gpu,), gpu_energy_kwh=1e-4, node_gpu_energy_kwh=1e-4))
        for name, gpu in (("honest", honest), ("liar", liar))
    ]
    (node,) = oracle.tables(records, Selection())[1].values()
    assert node.pods_energy_kwh <= node.node_energy_kwh * (1 + 1e-9)


def test_merged_windows_are_measured_only_where_all_of_them_are():
    records = mixed()
    records[0] = replace(records[0], pod_method="cgroup + requests")
    energies = {p.project: p.energy_kwh for p in reported(records).projects}
    node = records[0].node_energy_kwh
    assert energies == pytest.approx({"first": node * 0.5 / 1.25, "second": node * 0.75 / 1.25})


def test_a_long_history_of_many_pods_is_settled_window_by_window():
    claims = Claims(Nodes())
    for n in range(8):
        for record in history(40, stem=f"pod-{n}.boot", share=0.125):
            claims.add(record, Place.of(record))
    stretches = list(settle(claims.of_node(0)))
    assert len(stretches) == 41
    assert all(stretch.kept is None for stretch in stretches)
    assert stretches[0].start_s == START_S
    assert rfc3339(stretches[-1].end_s) == rfc3339(START_S + 40 * 15 + 4)


def test_windows_that_never_end_together_are_settled_in_bounded_time():
    rng = random.Random(5)
    claims = []
    for boot in range(10):
        start_s = rng.random()
        for row in range(300):
            end_s = start_s + 14 + 2 * rng.random()
            node, span = end_s - start_s, (start_s, end_s)
            claims.append(estimated(boot, 0.2 * node, node, span, row=boot * 1000 + row))
            start_s = end_s
    left = kept(claims)
    span_s = max(item.end_s for item in claims)
    assert sum(left.values()) == pytest.approx(span_s, rel=0.02)


# -- answers that come late --------------------------------------------------------------------------


def late(boot, energies, node=1.0, **columns):
    """A pod's windows of 15 s one after the other, told late."""
    return [
        claim(boot, energy, node, (15.0 * n, 15.0 * (n + 1)), row=100 * boot + n, is_late=True)
        for n, energy in enumerate(energies)
    ]


def test_what_is_blurred_into_the_next_window_is_left_to_its_pod():
    first, second = late(1, [0.9, 0.9, 0.0]), late(2, [0.0, 0.6, 0.6])
    assert kept([*first, *second]) == pytest.approx(
        {100: 0.9, 101: 0.9, 102: 0.0, 200: 0.0, 201: 0.6, 202: 0.6}
    )


def test_beyond_what_the_node_had_in_ten_minutes_late_claims_are_cut_too():
    left = kept([*late(1, [0.9] * 4), *late(2, [0.6] * 4)])
    assert sum(left.values()) == pytest.approx(4.0)


def test_ten_minutes_are_those_of_the_clock():
    """So that a part of the records is settled as all of them are."""
    span = [(600.0 - 15.0, 600.0), (600.0, 615.0)]
    claims = [
        claim(boot, energy, 1.0, span[n], row=10 * boot + n, is_late=True)
        for boot, energies in ((1, (0.9, 0.1)), (2, (0.9, 0.1)))
        for n, energy in enumerate(energies)
    ]
    left = kept(claims)
    assert (left[10], left[20], left[11], left[21]) == pytest.approx((0.5, 0.5, 0.1, 0.1))


def test_late_claims_that_fit_in_each_window_are_settled_window_by_window():
    stretches = list(settle(sorted(late(1, [0.4] * 4) + late(2, [0.5] * 4), key=_start)))
    assert len(stretches) == 4


def test_claims_that_are_not_late_are_never_joined():
    claims = [
        item._replace(is_late=False)
        for item in (*late(1, [0.9, 0.9, 0.0]), *late(2, [0.0, 0.6, 0.6]))
    ]
    assert kept(claims)[101] == pytest.approx(0.9 / 1.5)


def test_who_tells_the_node_of_the_window_itself_knows_it_better_than_who_is_late():
    records = [
        window(stem=f"pod-{n}.boot", pod_method=m) for n, m in enumerate(["kubelet", "cgroup"])
    ]
    claims = Claims(Nodes())
    for record in records:
        claims.add(record, Place.of(record))
    first, second = claims.of_node(0)
    assert (first.is_late, second.is_late) == (True, False)
    assert first.rank[CPU] < second.rank[CPU]


def _start(item):
    return item.start_s
