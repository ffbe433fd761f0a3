"""Sidecars of a simulated node, wired from the product's parts; `far_ends` are made up.

A sidecar reads a real `NodeMeter`, whose ladders hold real sources and meters. Readings become usage,
usage an estimate, and that a record, as in the agent. So do those of the node meter itself.
"""

import random
from dataclasses import dataclass, field

from sidecar.carbon.intensity import CarbonIntensity
from sidecar.estimate.attribution import shares_of
from sidecar.estimate.emissions import Factors, estimate_window
from sidecar.estimate.power import GpuPower, MeasuredOr, RamPerGib, VmShareModel
from sidecar.identity.fields import Identity
from sidecar.meters.gpu_ladder import GpuLadder
from sidecar.meters.gpu_scope import ScopedGpus
from sidecar.meters.node import NodeMeter
from sidecar.meters.node_meter_gpus import NodeMeterGpus
from sidecar.meters.pod.cgroup import CgroupSource
from sidecar.meters.pod.kubelet import KubeletSource
from sidecar.meters.pod.ladder import PodLadder
from sidecar.meters.pod.metrics_api import MetricsApiSource
from sidecar.meters.pod.node_meter import NodeMeterSource
from sidecar.meters.pod.requests import RequestsSource, Reservation
from sidecar.meters.pod.whole_node import WholeNodeSource
from sidecar.meters.usage import usage_between
from sidecar.node_meter.unallocated import UnallocatedGpus, UnallocatedSource
from sidecar.recording import Metered, Occasion, window_record
from sidecar.units import Figure
from sidecar.windows import snapped_s, window_between
from tests.estimate.far_ends import (
    IDLE_W,
    MAX_W,
    Boards,
    Cgroups,
    Client,
    Clock,
    Kubelet,
    MetricsServer,
    NodeMeterHere,
    NoSelf,
    Proc,
    Rapl,
    looks_of,
)
from tests.estimate.simulation import MODEL, Node, Pod

EXACT = ("cgroup", "node-meter")
LATE = ("kubelet", "metrics-api")
METHODS = (*EXACT, "node-meter+cgroup", *LATE, "requests", "whole-node")


def figure(value):
    return Figure(value, "W", value, value, "test", 2026)


def factors_of(node, *, has_rapl=False):
    model = VmShareModel(figure(IDLE_W), figure(MAX_W), node.cpus, node.cpus, "test")
    return Factors(
        carbon=CarbonIntensity(figure(300.0), "zone", None),
        pue=figure(1.2),
        wue=None,
        embodied=None,
        cpu=MeasuredOr(model, model) if has_rapl else model,
        ram=RamPerGib(),
        gpu_powers={MODEL: GpuPower("A100", figure(50.0), figure(300.0))},
        table_gpus=(),
    )


class Sidecar:
    """One process: a reading at each end of a window, and the records of them."""

    def __init__(self, pod, meter, factors, clock, reserved):
        self.pod, self.meter, self.factors, self.clock = pod, meter, factors, clock
        self.reserved = reserved
        self.interval_s = 15
        self.records = []
        self._mark = None

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
        shares = shares_of(usage, self.reserved, self.factors.gpu_count(usage))
        estimate = estimate_window(usage, shares, self.factors)
        occasion = Occasion(
            f"{self.pod.name}.boot.{len(self.records) + 1}",
            window_between(began_s, wall_s, usage.duration_s),
            "end" if is_last else "window",
        )
        identity = Identity(node="node", cluster="c", pod=self.pod.name, pod_uid=self.pod.name)
        record = window_record(identity, self.factors, occasion, Metered(usage, estimate))
        self.records.append(record)


@dataclass
class Scene:
    """One node, its node meter where there is one, and the sidecars of its pods."""

    node: Node
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    has_rapl: bool = False
    outages: float = 0.0
    """How often (0..1) the node meter does not answer."""
    hidden: frozenset[str] = frozenset()
    """MIG devices that NVML does not show to the node meter."""
    clock: Clock = field(default_factory=Clock)
    sidecars: list[Sidecar] = field(default_factory=list)

    def __post_init__(self):
        self.factors = factors_of(self.node, has_rapl=self.has_rapl)
        self.service = NodeMeterHere(self.node, self.clock, self.hidden)

    def add(self, pod, method, *, interval_s=15, sees_gpus=True):
        """Give a pod a sidecar whose ladder has the sources of this method, and the last rung."""
        client = self._client(pod)
        reserved = Reservation(pod.cpus, pod.memory_gib, pod.requested_gpus)
        last = WholeNodeSource() if method == "whole-node" else RequestsSource(reserved)
        ladder = PodLadder(self._sources(pod, method, client), last, self.clock)
        meters = [NodeMeterGpus(client)] if "node-meter" in method else []
        meters += [Boards(self.node, self.clock, self._is_out)] if sees_gpus else []
        gpus = ScopedGpus(
            GpuLadder(meters),
            pod.requested_gpus,
            visible_devices=lambda: _visible(pod),
            replicas=self.node.replicas,
        )
        sidecar = Sidecar(
            pod, self._meter(gpus, ladder), self.factors, self.clock,
            reserved.of_shared_gpus(self.node.replicas),
        )  # fmt: skip
        sidecar.interval_s = interval_s
        self.sidecars.append(sidecar)
        return sidecar

    def add_node_meters_own(self):
        """The node meter's own records: what no pod used."""
        life = Pod("node-meter", 0.0, 0.0, {}, 0, self.node.seconds, [0.0, 0.0], 0.0)
        ladder = PodLadder((), UnallocatedSource(self.service.pods))
        gpus = UnallocatedGpus(self.service.gpus)
        own = Sidecar(life, self._meter(gpus, ladder), self.factors, self.clock, Reservation())
        self.sidecars.append(own)
        return own

    def run(self, late=lambda: 0.0, restarts_s=()):
        """Let time pass, and return all records; the node meter begins anew at these seconds."""
        for moment_s, _, what, sidecar in sorted(self._events(late, restarts_s), key=_when):
            self.clock.now_s = moment_s
            what(sidecar)
        return [record for sidecar in self.sidecars for record in sidecar.records]

    def _events(self, late, restarts_s):
        """Each sidecar begins and ends with its pod, and samples each 5 s if it wants to."""
        for sidecar in self.sidecars:
            begins_s, ends_s = sidecar.pod.begins_s, sidecar.pod.ends_s
            yield float(begins_s), 1, Sidecar.begin, sidecar
            for s in range(begins_s, ends_s, 5):
                yield s + 0.5, 3, _sample, sidecar
            for s in range(0, ends_s, sidecar.interval_s):
                if begins_s + 1 < s and s + 2 < ends_s:
                    yield s + late(), 2, Sidecar.end_window, sidecar
            yield float(ends_s), 4, _end, sidecar
        for s in range(5, self.node.seconds, 5):
            yield s + 0.25, 0, lambda _: self.service.look(), None
        for s in restarts_s:
            yield s, 0, lambda _: self.service.restart(), None

    def _sources(self, pod, method, client):
        cgroup = CgroupSource(pod.name, None, NoSelf(), self.clock)
        cgroup._tree = Cgroups(self.node, self.clock)
        kubelet = Kubelet(pod, self.clock, looks_of(self.rng, self.node.seconds))
        wall_s = self.clock.wall_s
        known = {
            "node-meter": NodeMeterSource(client, NoSelf(), self.clock),
            "cgroup": cgroup,
            "kubelet": KubeletSource(kubelet, pod.name, clock=wall_s),
            "metrics-api": MetricsApiSource(MetricsServer(kubelet), "team", pod.name, clock=wall_s),
        }
        return [known[name] for name in method.split("+") if name in known]

    def _client(self, pod):
        return Client(self.service, pod, self.clock, self._is_out)

    def _is_out(self):
        return self.rng.random() < self.outages

    def _meter(self, gpus, ladder):
        rapl = Rapl(self.node, self.clock, self.has_rapl)
        return NodeMeter(Proc(self.node, self.clock), rapl, gpus, ladder, self.clock)


def _when(event):
    return event[:2]


def _sample(sidecar):
    if sidecar.meter.needs_sampling:
        sidecar.meter.sample()


def _end(sidecar):
    sidecar.end_window(is_last=True)


def _visible(pod):
    names = dict.fromkeys(name.partition("::")[0] for name in pod.device_ids)
    return ",".join(names) or None
