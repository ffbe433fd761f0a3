"""Sidecars of a simulated node, wired from the product's parts: only the far end is made up.

A sidecar reads a real `NodeMeter`, whose ladder holds real sources. What these ask is simulated: a
`/proc/stat` in ticks, cgroups, a kubelet that looks now and then, a metrics-server that asks it.
Readings become usage, usage an estimate, and that a record, as in the agent.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass, field

from sidecar.estimate.attribution import shares_of
from sidecar.estimate.emissions import estimate_window
from sidecar.identity.fields import Identity
from sidecar.meters.node import NodeMeter
from sidecar.meters.pod.cgroup import CgroupSource
from sidecar.meters.pod.kubelet import KubeletSource
from sidecar.meters.pod.kubelet_summary import ContainerStats, PodStats, Summary
from sidecar.meters.pod.ladder import PodLadder
from sidecar.meters.pod.metrics_api import MetricsApiSource
from sidecar.meters.pod.requests import RequestsSource, Reservation
from sidecar.meters.pod.sampled_counter import Sample
from sidecar.meters.pod.whole_node import WholeNodeSource
from sidecar.meters.reading import MemoryReading, NodeReading
from sidecar.meters.usage import usage_between
from sidecar.recording import Metered, Occasion, window_record
from sidecar.units import BYTES_PER_GIB
from sidecar.windows import rfc3339, snapped_s, window_between

START_S = 1_795_000_200.0
"""The wall clock at second 0: ten minutes of the clock begin here."""

NS_PER_S = 1e9


@dataclass
class Clock:
    """Monotonic time of the simulation, in seconds; the wall clock goes with it."""

    now_s: float = 0.0

    def __call__(self):
        return self.now_s

    def wall_s(self):
        return START_S + self.now_s


@dataclass
class Proc:
    """`/proc/stat` and `/proc/meminfo` of the node."""

    node: object
    clock: Clock

    def cpu(self):
        return self.node.cpu(self.clock())

    def memory(self):
        return MemoryReading(int(self.node.memory_gib * BYTES_PER_GIB), 0)

    def status(self):
        return ()


class NoRapl:
    needs_sampling = False

    def sample(self):
        pass

    def read(self):
        return None

    def status(self):
        return ()


class NoGpus:
    needs_sampling = False

    def sample(self, monotonic_s):
        pass

    def read(self, monotonic_s):
        return ()

    def status(self):
        return ()

    def close(self):
        pass


class NoSelf:
    """A sidecar that uses nothing: its own part is another matter."""

    def cpu_s(self):
        return 0.0

    def resident_bytes(self):
        return 0


@dataclass
class CgroupOf:
    """The pod's cgroup, as its tree shows it while the pod runs: with each restart a new one."""

    pod: object
    clock: Clock
    uid: str = "uid"
    version: int = 2
    cpu_time_directory: str = "kubepods"

    def cpu_s(self):
        now_s = self.clock()
        if not self.pod.begins_s <= now_s <= self.pod.ends_s:
            raise FileNotFoundError
        restarts_s = self.pod.restarts_s
        if restarts_s is not None and now_s >= restarts_s:
            return self.pod.used_s(now_s) - self.pod.used_s(restarts_s)
        return self.pod.used_s(now_s)

    def working_set_bytes(self):
        return int(self.pod.used_gib * BYTES_PER_GIB)


@dataclass
class TreeOf:
    cgroup: CgroupOf

    def pod(self, uid):
        return self.cgroup

    def problem(self):
        return None


@dataclass
class KubeletOf:
    """A kubelet that looked at the pod's container at these moments, and tells of the last one."""

    pod: object
    clock: Clock
    looks_s: list[float]
    url: str = "https://node"

    def get(self, path, read, deadline_s, max_bytes):
        now_s = self.clock()
        container, pod_cpu = self.container(now_s), None
        return Summary(PodStats((container,) if container else (), pod_cpu), 1)

    def container(self, now_s):
        """The run of the container that there is, as it was at the last look at it."""
        began_s = self.pod.begins_s
        if self.pod.restarts_s is not None and now_s >= self.pod.restarts_s:
            began_s = self.pod.restarts_s
        last = bisect_right(self.looks_s, now_s) - 1
        looked_s = self.looks_s[last] if last >= 0 else -math.inf
        if looked_s < began_s or not self.pod.begins_s <= now_s <= self.pod.ends_s:
            return None
        used_s = self.pod.used_s(looked_s) - self.pod.used_s(began_s)
        return ContainerStats(
            name="train",
            started=str(began_s),
            started_s=START_S + began_s,
            cpu=Sample(START_S + looked_s, used_s),
            working_set_bytes=int(self.pod.used_gib * BYTES_PER_GIB),
        )


@dataclass
class MetricsServerOf:
    """A metrics-server that asks this kubelet each 15 s, and tells the mean between two looks."""

    kubelet: KubeletOf
    url: str = "https://api"
    seen: list[Sample] = field(default_factory=list)
    asked_s: float = 0.0

    def get_json(self, path, deadline_s, max_bytes):
        now_s = self.kubelet.clock()
        while self.asked_s <= now_s:
            self._ask(self.asked_s)
            self.asked_s += 15.0
        if len(self.seen) < 2:
            raise ValueError("not seen yet")
        first, last = self.seen[-2:]
        window_s = last.moment_s - first.moment_s
        cpus = max(0.0, (last.value - first.value) / window_s)
        usage = {"cpu": f"{round(cpus * 1e9)}n", "memory": "1Ki"}
        return {
            "kind": "PodMetrics",
            "timestamp": rfc3339(last.moment_s),
            "window": f"{window_s:.3f}s",
            "containers": [{"name": "train", "usage": usage}],
        }

    def _ask(self, now_s):
        container = self.kubelet.container(now_s)
        if container is None:
            return
        if self.seen and container.cpu.value < self.seen[-1].value:
            self.seen.clear()
        if not self.seen or container.cpu.moment_s > self.seen[-1].moment_s:
            self.seen.append(container.cpu)


def looks_of(rng, seconds):
    """When kubelet looks at a container: each 10 to 15 s, times a random 1 to 2."""
    looks, moment_s = [], rng.uniform(0, 10)
    while moment_s <= seconds:
        looks.append(moment_s)
        moment_s += rng.uniform(10, 15) * rng.uniform(1, 2)
    return looks


def sources_of(node, pod, clock, rng):
    """Every source that a sidecar may be given, by its method; the last rungs are apart."""
    cgroup = CgroupSource("uid", None, NoSelf(), clock)
    cgroup._tree = TreeOf(CgroupOf(pod, clock))
    kubelet = KubeletOf(pod, clock, looks_of(rng, node.seconds))
    return {
        "cgroup": cgroup,
        "kubelet": KubeletSource(kubelet, "uid", clock=clock.wall_s),
        "metrics-api": MetricsApiSource(
            MetricsServerOf(kubelet), "team", pod.name, clock=clock.wall_s
        ),
    }


def last_of(pod, method):
    reservation = Reservation(pod.cpus, pod.memory_gib, sum(pod.gpus.values()))
    return WholeNodeSource() if method == "whole-node" else RequestsSource(reservation)


class Sidecar:
    """One pod's sidecar: a reading at each end of a window, and the records of them."""

    def __init__(self, pod, meter, factors, clock, interval_s=15):
        self.pod = pod
        self.meter = meter
        self.factors = factors
        self.clock = clock
        self.interval_s = interval_s
        self.reservation = Reservation(pod.cpus, pod.memory_gib, sum(pod.gpus.values()))
        self.records = []
        self._mark: tuple[float, NodeReading] | None = None

    def begin(self):
        self._mark = self.clock.wall_s(), self.meter.read(gpus=False)
        self.meter.sample()

    def end_window(self, *, is_last=False):
        """Read and record, as `Agent._close_window` does."""
        began_s, before = self._mark
        wall_s, reading = self.clock.wall_s(), self.meter.read()
        usage = usage_between(before, reading)
        if not is_last:
            wall_s = snapped_s(wall_s, self.interval_s)
        self._mark = wall_s, reading
        shares = shares_of(usage, self.reservation, self.factors.gpu_count(usage))
        estimate = estimate_window(usage, shares, self.factors)
        occasion = Occasion(
            f"{self.pod.name}.boot.{len(self.records) + 1}",
            window_between(began_s, wall_s, usage.duration_s),
            "end" if is_last else "window",
        )
        identity = Identity(node="node", cluster="c", pod=self.pod.name, pod_uid=self.pod.name)
        record = window_record(identity, self.factors, occasion, Metered(usage, estimate))
        self.records.append(record)


def sidecar_of(node, pod, method, factors, *, clock, rng, interval_s=15):
    """A sidecar whose ladder has one source, and the last rung behind it."""
    source = sources_of(node, pod, clock, rng).get(method)
    ladder = PodLadder([source] if source else [], last_of(pod, method), clock)
    meter = NodeMeter(Proc(node, clock), NoRapl(), NoGpus(), ladder, clock)
    return Sidecar(pod, meter, factors, clock, interval_s)


def run(sidecars, clock, seconds, late=lambda: 0.0):
    """Let time pass: each sidecar begins and ends with its pod, and samples if it wants to."""
    events = []
    for n, sidecar in enumerate(sidecars):
        begins_s, ends_s = sidecar.pod.begins_s, sidecar.pod.ends_s
        events.append((float(begins_s), 0, n, "begin"))
        inner = range(0, int(ends_s), sidecar.interval_s)
        events += [
            (s + late(), 1, n, "window") for s in inner if begins_s + 1 < s and s + 2 < ends_s
        ]
        events += [(s + 0.5, 2, n, "sample") for s in range(int(begins_s), int(ends_s), 5)]
        events.append((float(ends_s), 3, n, "end"))
    for moment_s, _, n, what in sorted(events):
        clock.now_s, sidecar = moment_s, sidecars[n]
        if what == "begin":
            sidecar.begin()
        elif what == "sample":
            if sidecar.meter.needs_sampling:
                sidecar.meter.sample()
        else:
            sidecar.end_window(is_last=what == "end")
    return [record for sidecar in sidecars for record in sidecar.records]
