"""What a node's meters ask, made up of its true use: `/proc/stat`, cgroups, kubelet, GPUs.

Each is blurred as on a real machine: ticks, answers of some seconds ago, counters that begin anew,
answers that do not come.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

from sidecar.meters.node_meter_client import NodeMeterClient, NodeMeterError, parse_answer
from sidecar.meters.pod.kubelet_summary import ContainerStats, PodStats, Summary
from sidecar.meters.pod.sampled_counter import Sample
from sidecar.meters.reading import GpuReading, MemoryReading, MeterStatus, RaplReading
from sidecar.node_meter.callers import Caller
from sidecar.node_meter.gpus import NodeGpus
from sidecar.node_meter.holdings import MigPart
from sidecar.node_meter.pod_resources import PodDevices, PodName
from sidecar.node_meter.pods import NodePods
from sidecar.node_meter.refusal import Refusal
from sidecar.node_meter.service import NodeMeterService, PodNames
from sidecar.units import BYTES_PER_GIB
from sidecar.windows import rfc3339
from tests.estimate.simulation import MODEL, SLICES, at, read_slice, uuid_of

START_S = 1_795_000_200.0
"""The wall clock at second 0: ten minutes of the clock begin here."""

IDLE_W, MAX_W = 0.78, 3.76
"""Per thread."""


@dataclass
class Clock:
    """Monotonic time of the simulation, in seconds; the wall clock goes with it."""

    now_s: float = 0.0

    def __call__(self):
        return self.now_s

    def wall_s(self):
        return START_S + self.now_s


class Always:
    """What every meter here has in common: it is there, and samples nothing."""

    needs_sampling = False

    def sample(self, *_):
        pass

    def status(self):
        return (MeterStatus("simulated", available=True, detail=""),)

    def close(self):
        pass


@dataclass
class Proc(Always):
    """`/proc/stat` and `/proc/meminfo` of the node."""

    node: object
    clock: Clock

    def cpu(self):
        return self.node.cpu(self.clock())

    def memory(self):
        return MemoryReading(int(self.node.memory_gib * BYTES_PER_GIB), 0)


@dataclass
class Rapl(Always):
    """Package energy of the node; `is_there` is False in a virtual machine."""

    node: object
    clock: Clock
    is_there: bool = False

    def read(self):
        if not self.is_there:
            return None
        now_s = self.clock()
        idle_j = IDLE_W * self.node.cpus * now_s
        dynamic_j = (MAX_W - IDLE_W) * at(self.node.busy_s, now_s)
        return RaplReading(int(1e6 * (idle_j + dynamic_j)), ("package-0",))


class NoSelf:
    """A sidecar that uses nothing: its own part is another matter."""

    def cpu_s(self):
        return 0.0

    def resident_bytes(self):
        return 0


# -- cgroups -----------------------------------------------------------------------------------------


@dataclass
class CgroupOf:
    """A pod's cgroup, while the pod runs; after a restart it is a new one."""

    pod: object
    clock: Clock
    uid: str
    version: int = 2
    cpu_time_directory: str = "kubepods"

    @property
    def cpu_request(self):
        return self.pod.cpus

    def cpu_s(self):
        now_s = self.clock()
        if not self.pod.is_there(now_s):
            raise FileNotFoundError
        restarts_s = self.pod.restarts_s
        if restarts_s is not None and now_s >= restarts_s:
            return self.pod.used_s(now_s) - self.pod.used_s(restarts_s)
        return self.pod.used_s(now_s)

    def working_set_bytes(self):
        return int(self.pod.used_gib * BYTES_PER_GIB)

    def read(self):
        return self


class Cgroups:
    """The node's tree of them; pods' uids are their names."""

    def __init__(self, node, clock):
        self._clock = clock
        self._all = {pod.name: CgroupOf(pod, clock, pod.name) for pod in node.pods}

    def pods(self):
        there = self._all.items()
        return {uid: one for uid, one in there if one.pod.is_there(self._clock())}

    def pod(self, uid):
        return self.pods().get(uid)

    def problem(self):
        return None


# -- kubelet and metrics-server ----------------------------------------------------------------------


@dataclass
class Kubelet:
    """A kubelet that looked at the pod's container at these moments, and tells of the last one."""

    pod: object
    clock: Clock
    looks_s: list[float]
    url: str = "https://node"

    def get(self, path, read, deadline_s, max_bytes):
        container = self.container(self.clock())
        return Summary(PodStats((container,) if container else (), None), 1)

    def container(self, now_s):
        """The run of the container that there is, as it was at the last look at it."""
        began_s = self.pod.begins_s
        if self.pod.restarts_s is not None and now_s >= self.pod.restarts_s:
            began_s = self.pod.restarts_s
        last = bisect_right(self.looks_s, now_s) - 1
        looked_s = self.looks_s[last] if last >= 0 else -math.inf
        if looked_s < began_s or not self.pod.is_there(now_s):
            return None
        return ContainerStats(
            name="train",
            started=str(began_s),
            started_s=START_S + began_s,
            cpu=Sample(START_S + looked_s, self.pod.used_s(looked_s) - self.pod.used_s(began_s)),
            working_set_bytes=int(self.pod.used_gib * BYTES_PER_GIB),
        )


def looks_of(rng, seconds):
    """When kubelet looks at a container: each 10 to 15 s, times a random 1 to 2."""
    looks, moment_s = [], rng.uniform(0, 10)
    while moment_s <= seconds:
        looks.append(moment_s)
        moment_s += rng.uniform(10, 15) * rng.uniform(1, 2)
    return looks


@dataclass
class MetricsServer:
    """A metrics-server that asks this kubelet each 15 s, and tells the mean between two looks."""

    kubelet: Kubelet
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
        size = int(self.kubelet.pod.used_gib * BYTES_PER_GIB)
        return {
            "kind": "PodMetrics",
            "timestamp": rfc3339(last.moment_s),
            "window": f"{window_s:.3f}s",
            "containers": [
                {"name": "train", "usage": {"cpu": f"{int(cpus * 1e9)}n", "memory": str(size)}}
            ],
        }

    def _ask(self, now_s):
        container = self.kubelet.container(now_s)
        if container is None:
            return
        if self.seen and container.cpu.value < self.seen[-1].value:
            self.seen.clear()
        if not self.seen or container.cpu.moment_s > self.seen[-1].moment_s + 0.001:
            self.seen.append(container.cpu)


# -- GPUs --------------------------------------------------------------------------------------------


@dataclass
class Boards(Always):
    """The node's boards by NVML: exact counters. `hides` says when one does not answer."""

    node: object
    clock: Clock
    hides: Callable[[], bool] = lambda: False
    _last: tuple[GpuReading, ...] = ()

    def read(self, monotonic_s):
        if self._last and self.hides():
            return self._last
        self._last = tuple(
            GpuReading(
                uuid=uuid_of(device),
                model=MODEL,
                energy_mj=int(at(self.node.gpu_mj[device], self.clock())),
                energy_source="energy-counter",
                utilization_s=0.5 * self.clock(),
                observed_s=self.clock(),
                power_limit_w=300.0,
                mig=self.node.slicing == "mig",
                metered_s=self.clock(),
            )
            for device in range(self.node.gpus)
        )
        return self._last


@dataclass
class Holders:
    """kubelet's PodResources: who holds which devices, while the pod is there."""

    node: object
    clock: Clock

    def pods(self):
        return tuple(
            PodDevices(PodName("team", pod.name), tuple(pod.device_ids))
            for pod in self.node.pods
            if pod.is_there(self.clock())
        )

    def allocatable(self):
        if self.node.slicing != "replicas":
            return ()
        boards = range(self.node.gpus)
        return tuple(f"{uuid_of(d)}::{n}" for d in boards for n in range(self.node.replicas))


@dataclass
class Slices:
    """NVML's MIG devices; those in `hidden` it does not show."""

    hidden: frozenset[str] = frozenset()

    def part(self, uuid, model_of):
        if uuid in self.hidden:
            return None
        device, slices = read_slice(uuid)
        return MigPart(uuid_of(device), slices / SLICES)

    def close(self):
        pass


# -- the node meter ----------------------------------------------------------------------------------


class NodeMeterHere(NodeMeterService):
    """The node meter of the node, without its HTTP server; `restart` makes it begin anew."""

    def __init__(self, node, clock, hidden=frozenset()):
        self._true_node, self._clock_, self._hidden = node, clock, hidden
        self.restart()

    def restart(self):
        node, clock = self._true_node, self._clock_
        self.pods = NodePods(Cgroups(node, clock), clock)
        names = PodNames(self.pods.is_there)
        self.gpus = NodeGpus(
            Boards(node, clock), Holders(node, clock), Slices(self._hidden), names.has_ended, clock
        )
        self.gpus.on_listed = names.keep
        super().__init__(None, self.pods, self.gpus, None, names)
        self.look()

    def look(self):
        self.pods.look()
        self.gpus.look()

    def told(self, pod_name):
        answer = self._granted(Caller("team", pod_name, pod_name, None))
        return json.loads(answer.body)


class Client(NodeMeterClient):
    """A sidecar's client, whose requests go right there; `fails` says which get no answer."""

    def __init__(self, service, pod, clock, fails=lambda: False):
        super().__init__("http://node-meter", None, clock=clock)
        self._service, self._pod, self._fails = service, pod, fails

    def _exchanged(self):
        if self._fails():
            raise NodeMeterError("it does not answer")
        try:
            return parse_answer(self._service.told(self._pod.name), None)
        except Refusal as refusal:
            raise NodeMeterError(refusal.detail) from refusal
