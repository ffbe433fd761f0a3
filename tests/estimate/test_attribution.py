"""Shares: worked examples, and conservation over random nodes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.estimate.attribution import MEASURED, WHOLE_NODE, shares_of
from sidecar.meters.pod.requests import Reservation
from tests.estimate.usages import HOUR_S, gpu_usage, node_usage


def test_a_pod_that_has_the_node_for_itself_gets_all_of_it():
    assert shares_of(node_usage(pod_method="whole-node"), Reservation(), 8) == WHOLE_NODE


def test_requests_share_cpu_memory_and_gpus_by_what_the_node_has():
    shares = shares_of(node_usage(pod_method="requests"), Reservation(1.0, 8.0, 2.0), 8)
    assert (shares.cpu, shares.idle, shares.ram, shares.gpu) == (0.25, 0.25, 0.25, 0.25)


def test_a_pod_that_requests_zero_of_a_kind_owns_nothing_of_it():
    shares = shares_of(node_usage(pod_method="requests"), Reservation(1.0, 0.0, 0.0), 8)
    assert (shares.ram, shares.gpu) == (0.0, 0.0)


def test_a_request_that_is_not_told_is_unknown_not_zero():
    shares = shares_of(node_usage(pod_method="requests"), Reservation(cpus=1.0), 8)
    assert (shares.ram, shares.gpu) == (None, None)


@pytest.mark.parametrize("method", ["requests", "cgroup"])
@pytest.mark.parametrize(
    ("requested", "told", "share"),
    [(1.0, None, None), (8.0, None, None), (3 / 7, None, 3 / 7), (0.0, None, 0.0), (1.0, 0.5, 1.0)],
)
def test_a_whole_gpu_of_a_board_in_slices_may_be_one_slice_so_the_share_is_not_known(
    method, requested, told, share
):
    board = gpu_usage(mig=True, pod_share=told)
    usage = node_usage(pod_cpu_s=0.0, pod_method=method, gpus=(board,))
    assert shares_of(usage, Reservation(1.0, 8.0, requested), 1).gpu == share


def test_a_replica_of_a_shared_gpu_is_a_part_of_it():
    assert Reservation(1.0, 8.0, 1.0).of_shared_gpus(4) == Reservation(1.0, 8.0, 0.25)
    assert Reservation(1.0, 8.0).of_shared_gpus(4) == Reservation(1.0, 8.0)


def test_requests_beyond_the_node_are_cut_at_the_whole():
    shares = shares_of(node_usage(pod_method="requests"), Reservation(64.0, 512.0, 16.0), 8)
    assert (shares.cpu, shares.idle, shares.ram, shares.gpu) == (1.0, 1.0, 1.0, 1.0)


def test_a_node_of_unknown_size_gives_unknown_shares():
    usage = node_usage(cpus=None, memory_total_gib=None)
    shares = shares_of(replace(usage, pod_method="requests"), Reservation(1.0, 8.0), 0)
    assert (shares.cpu, shares.idle, shares.ram) == (None, None, None)


def test_a_process_tree_gets_the_dynamic_energy_of_its_cpu_time():
    usage = node_usage(pod_cpu_s=0.5 * HOUR_S, pod_working_set_gib=4.0)
    shares = shares_of(replace(usage, pod_method="process-tree"), Reservation(), 0)
    assert shares.cpu == 0.25  # 0.5 of 2 busy hours
    assert shares.idle == 0.125  # 0.5 of 4 hours of capacity
    assert shares.ram == 0.125


def test_a_process_tree_with_a_reservation_gets_idle_by_it():
    usage = node_usage(pod_cpu_s=0.5 * HOUR_S, pod_working_set_gib=4.0)
    assert (
        shares_of(replace(usage, pod_method="process-tree"), Reservation(cpus=2.0), 0).idle == 0.5
    )


def test_cpu_time_beyond_the_nodes_tick_rounding_never_exceeds_the_whole():
    usage = node_usage(cpu_busy_s=0.99, pod_cpu_s=1.0)
    assert shares_of(replace(usage, pod_method="process-tree"), Reservation(), 0).cpu == 1.0


def test_an_idle_process_tree_has_no_dynamic_share_even_on_an_idle_node():
    usage = node_usage(cpu_busy_s=0.0, pod_cpu_s=0.0)
    assert shares_of(replace(usage, pod_method="process-tree"), Reservation(), 0).cpu == 0.0


def test_unknown_cpu_time_gives_unknown_shares_not_zero():
    shares = shares_of(node_usage(pod_method="process-tree"), Reservation(), 0)
    assert (shares.cpu, shares.idle, shares.ram) == (None, None, None)


@st.composite
def nodes(draw):
    """A node and pods whose reservations, CPU time and memory fit on it."""
    cpus = draw(st.integers(1, 128))
    count = draw(st.integers(1, 8))
    weights = draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    total = sum(weights) or 1.0
    fill = draw(st.floats(0, 1))
    busy_s = draw(st.floats(0, 1)) * cpus * HOUR_S
    usage = node_usage(cpus=cpus, cpu_busy_s=busy_s, cpu_total_s=cpus * HOUR_S)
    parts = [weight / total * fill for weight in weights]
    return usage, busy_s, parts


@pytest.mark.parametrize("method", ["requests", *sorted(MEASURED)])
@given(node=nodes())
def test_shares_of_all_pods_never_sum_to_more_than_the_node(method, node):
    usage, busy_s, parts = node
    sums = [0.0, 0.0, 0.0, 0.0]
    for part in parts:
        reserved = Reservation(usage.cpus * part, usage.memory_total_gib * part, 8 * part)
        mine = node_usage(
            cpus=usage.cpus,
            cpu_busy_s=busy_s,
            cpu_total_s=usage.cpu_total_s,
            pod_cpu_s=busy_s * part,
            pod_working_set_gib=usage.memory_total_gib * part,
            pod_method=method,
        )
        shares = shares_of(mine, reserved, 8)
        for index, share in enumerate((shares.cpu, shares.idle, shares.ram, shares.gpu)):
            sums[index] += share
    assert all(total <= 1 + 1e-9 for total in sums)


@given(node=nodes())
def test_process_trees_without_reservation_conserve_idle_energy_too(node):
    usage, busy_s, parts = node
    idle = [
        shares_of(
            node_usage(
                cpus=usage.cpus,
                cpu_busy_s=busy_s,
                cpu_total_s=usage.cpu_total_s,
                pod_cpu_s=busy_s * part,
                pod_method="process-tree",
            ),
            Reservation(),
            0,
        ).idle
        for part in parts
    ]
    assert sum(idle) <= 1 + 1e-9
