"""The ladder: the best source that answers, both ends of a window from one, and what it costs."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.pod.ladder import FIRST_PAUSE_S, LONGEST_PAUSE_S, PodLadder
from sidecar.meters.pod.whole_node import WholeNodeSource
from sidecar.meters.reading import CpuReading, MeterStatus, NodeReading, PodReading
from sidecar.meters.usage import usage_between


@dataclass
class Source:
    """A source whose counter the test sets; None = it does not answer."""

    name: str
    cpu_s: float | None = 0.0
    is_local: bool = True
    epoch: int = 0
    reads: int = 0
    needs: str = "a right"
    needs_sampling: bool = False
    samples: int = 0

    def sample(self):
        self.samples += 1

    def read(self):
        self.reads += 1
        return PodReading(self.cpu_s, None, method=self.name, epoch=self.epoch)

    def status(self):
        return (MeterStatus("pod", available=self.cpu_s is not None, detail=f"as {self.name}"),)


@dataclass
class Node:
    """A node with a ladder; `window` closes one and returns its usage."""

    sources: list[Source]
    now_s: float = 0.0
    ladder: PodLadder = field(init=False)

    def __post_init__(self):
        self.ladder = PodLadder(self.sources, WholeNodeSource(), lambda: self.now_s)
        self.mark = self.reading()

    def reading(self):
        cpu = CpuReading(busy_s=self.now_s, total_s=4 * self.now_s, cpus=4)
        return NodeReading(self.now_s, cpu, None, None, (), self.ladder.read())

    def window(self, seconds=15.0):
        self.now_s += seconds
        before, self.mark = self.mark, self.reading()
        return usage_between(before, self.mark)

    @property
    def chosen(self):
        return next(rung.method for rung in self.ladder.rungs() if rung.chosen)


def test_the_best_source_that_answers_is_used():
    node = Node([Source("cgroup", None), Source("kubelet"), Source("shared-pid")])
    assert (node.chosen, node.window().pod_method) == ("kubelet", "kubelet")


def test_where_none_answers_the_last_rung_has_the_window():
    node = Node([Source("cgroup", None)])
    assert (node.chosen, node.window().pod_method) == ("whole-node", "whole-node")


def test_beside_a_remote_source_a_local_one_is_kept_warm_and_others_are_not_asked():
    sources = [Source("node-meter", is_local=False), Source("cgroup"), Source("shared-pid")]
    node = Node(sources)
    node.window()
    assert [source.reads for source in sources] == [2, 2, 0]


def test_a_window_in_which_the_best_source_goes_away_is_measured_by_the_next():
    remote, local = Source("node-meter", 100.0, is_local=False), Source("cgroup", 7.0)
    node = Node([remote, local])
    remote.cpu_s, local.cpu_s = None, 9.0
    usage = node.window()
    assert (usage.pod_method, usage.pod_cpu_s) == ("cgroup", 2.0)


def test_between_two_remote_sources_no_window_is_lost():
    better, other = Source("node-meter", None, is_local=False), Source("kubelet", is_local=False)
    node = Node([better, other])
    better.cpu_s, other.cpu_s = 50.0, 4.0
    usage = node.window(FIRST_PAUSE_S)
    assert (usage.pod_method, usage.pod_cpu_s, node.chosen) == ("kubelet", 4.0, "node-meter")
    better.cpu_s = 53.0
    usage = node.window()
    assert (usage.pod_method, usage.pod_cpu_s) == ("node-meter", 3.0)
    assert other.reads == 2, "it is not asked any more"


def test_a_source_that_fails_once_is_asked_again_at_the_next_window():
    source = Source("node-meter", 10.0, is_local=False)
    node = Node([source])
    source.cpu_s = None
    assert node.window(5.0).pod_method == "whole-node"
    source.cpu_s = 20.0
    assert node.window(5.0).pod_method == "whole-node", "it did not tell where this window began"
    source.cpu_s = 21.0
    assert node.window(5.0).pod_cpu_s == 1.0


def test_a_source_that_comes_back_is_used_from_the_window_after():
    remote, local = Source("node-meter", None, is_local=False), Source("cgroup", 0.0)
    node = Node([remote, local])
    remote.cpu_s = 50.0
    assert node.window(FIRST_PAUSE_S).pod_method == "cgroup"
    remote.cpu_s = 53.0
    usage = node.window()
    assert (usage.pod_method, usage.pod_cpu_s) == ("node-meter", 3.0)


def test_a_counter_of_another_epoch_does_not_continue_the_one_before():
    source = Source("cgroup", 1000.0)
    node = Node([source])
    source.cpu_s, source.epoch = 5.0, 1
    assert node.window().pod_method == "whole-node"
    source.cpu_s = 6.0
    assert node.window().pod_cpu_s == 1.0


def test_a_counter_that_goes_back_gives_the_window_to_the_next():
    source = Source("cgroup", 10.0)
    node = Node([source])
    source.cpu_s = 9.0
    assert node.window().pod_method == "whole-node"


def test_a_source_that_fails_is_asked_ever_more_seldom():
    source = Source("kubelet", None, is_local=False)
    node = Node([source])
    for _ in range(400):
        node.window()
    hours_s = 400 * 15.0
    assert source.reads <= 9 + hours_s / LONGEST_PAUSE_S


def test_only_sources_in_use_are_sampled():
    used, unused = (
        Source("shared-pid", needs_sampling=True),
        Source("metrics-api", needs_sampling=True),
    )
    node = Node([used, unused])
    assert node.ladder.needs_sampling
    node.ladder.sample()
    assert (used.samples, unused.samples) == (1, 0)


def test_every_rung_says_what_became_of_it_and_what_it_needs():
    node = Node([Source("cgroup", None), Source("kubelet")])
    rungs = {rung.method: rung for rung in node.ladder.rungs()}
    assert (rungs["cgroup"].available, rungs["cgroup"].needs) == (False, "a right")
    assert (rungs["kubelet"].chosen, rungs["whole-node"].chosen) == (True, False)
    assert rungs["whole-node"].available


@given(
    st.lists(
        st.tuples(st.floats(0, 15), st.lists(st.booleans(), min_size=3, max_size=3)), max_size=12
    )
)
def test_whatever_comes_and_goes_no_cpu_time_counts_twice(history):
    """Each source counts all of the pod's CPU time; windows of different sources never overlap."""
    sources = [Source("node-meter", is_local=False), Source("cgroup"), Source("metrics-api")]
    node = Node(sources)
    used_s = counted_s = 0.0
    for busy_s, answers in history:
        used_s += busy_s
        for source, does in zip(sources, answers, strict=True):
            source.cpu_s = used_s if does else None
        counted_s += node.window().pod_cpu_s or 0.0
    assert counted_s <= used_s + 1e-9


@pytest.mark.parametrize("local", [True, False])
def test_all_windows_of_a_source_that_always_answers_add_up_to_its_counter(local):
    source = Source("cgroup", is_local=local)
    node = Node([source])
    counted_s = 0.0
    for used_s in (1.0, 4.5, 4.5, 100.25):
        source.cpu_s = used_s
        counted_s += node.window().pod_cpu_s
    assert counted_s == 100.25
