"""Some of the pods of `bench.fleet`, as a process: real agents on machines whose energy is known.

    python -m bench.fleet_pods < settings.json

All its pods share a clock that the benchmark turns: a window of all, then the next. Each has its own
agent, volume, outbox and shipping thread; what ships goes over HTTP to a real collector. It prints a
line of JSON when it is ready, one for each window, and one at the end.
"""

import json
import logging
import math
import random
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from bench.records import KINDS, NAMESPACE, WINDOW_S, PodKind, identified, write_cpuinfo
from bench.servers import pod_number
from sidecar.agent import Agent, Clock, Parts, Wake
from sidecar.catalogue.remembering import RememberingCatalogue
from sidecar.collector_client import CollectorClient
from sidecar.identity.fields import Resolution
from sidecar.meters.pod.ladder import PodLadder
from sidecar.meters.pod.requests import RequestsSource, Reservation
from sidecar.outbox import OutboxState
from sidecar.segment import Parcel
from sidecar.settings import load_settings
from sidecar.transport.collector import CollectorTransport
from sidecar.transport.delivery import Delivery, Transport
from tests.fakes.known_node import JOULES_PER_KWH, RAM_W_PER_GIB, KnownGpus, KnownNode, Power

PODS_PER_NODE: Final = 2
"""Each requests half of its node, so the pods' energy is the nodes'."""

START_S: Final = 1_800_000_000.0 + 12 * 3600
KINDS_OF_TEN_NODES: Final = (0, 0, 0, 0, 0, 0, 1, 1, 1, 2)
"""By index of KINDS: most nodes have no GPU."""

LATENESS_MAX_S: Final = 0.02
AT_A_TIME: Final = 8
"""Deliveries of a process at a time: those of a minute do not come within a second of fast time."""

BEHIND_MAX: Final = 16
"""Segments that may wait before the clock goes on."""

STACK_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which pods, and where they ship: `urls` in turn; `tokens` is a file, one a line, of all pods."""

    first: int
    pods: int
    hours: float
    urls: list[str]
    tokens: str
    directory: str
    side_files: bool = False
    seed: int = 0


@dataclass
class Time:
    """The clock of all pods of a process."""

    now_s: float = 0.0

    @property
    def clock(self) -> Clock:
        return Clock(lambda: START_S + self.now_s, lambda: self.now_s)


@dataclass(frozen=True, slots=True)
class Used:
    """What pods used: the truth to compare with."""

    energy_kwh: float
    duration_s: float


class PodsAgent(Agent):
    """An agent that writes records, and no summary beside them."""

    def _write_side_files(self) -> None:
        """They stay on the pod's own volume: nothing of them reaches a collector."""


class Spread(CollectorTransport):
    """The real transport, some of them at a time."""

    def __init__(self, client: CollectorClient, gate: threading.Semaphore) -> None:
        super().__init__(client)
        self._gate = gate

    def deliver(self, parcel: Parcel, timeout_s: float) -> Delivery:
        with self._gate:
            return super().deliver(parcel, timeout_s)

    def receipt(self, timeout_s: float) -> str | None:
        with self._gate:
            return super().receipt(timeout_s)


@dataclass(frozen=True, slots=True)
class Told:
    """An identity that is settled from the start."""

    resolution: Resolution

    def start(self) -> None:
        """There is nothing to ask."""

    def current(self) -> Resolution:
        return self.resolution

    def wait(self, timeout_s: float) -> Resolution:  # noqa: ARG002 - the protocol's
        return self.resolution

    def close(self) -> None:
        """There is nothing to stop."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A node of the fleet."""

    kind: PodKind
    node: KnownNode
    gpus: KnownGpus


@dataclass
class Pods:
    """The pods of this process."""

    wanted: Wanted
    time: Time = field(default_factory=Time)
    machines: list[Machine] = field(default_factory=list)
    agents: list[Agent] = field(default_factory=list)
    reserved: list[tuple[Machine, Reservation]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._root = Path(self.wanted.directory)
        self._tokens = Path(self.wanted.tokens).read_text().splitlines()
        self._gate = threading.Semaphore(AT_A_TIME)
        self._catalogue = RememberingCatalogue()
        self._resolutions = [self._resolution(kind) for kind in KINDS]
        last = self.wanted.first + self.wanted.pods
        for number in range(self.wanted.first, last, PODS_PER_NODE):
            machine = self._machine(number // PODS_PER_NODE)
            self.machines.append(machine)
            for place in range(min(PODS_PER_NODE, last - number)):
                self._add_pod(number + place, place, machine)

    def _resolution(self, kind: PodKind) -> Resolution:
        directory = self._root / f"kind-{kind.gpus}"
        node = KnownNode(directory, Power(0), kind.cpus, kind.memory_gib)
        write_cpuinfo(kind, node.proc.root)
        return identified(kind, directory, node.proc.root).current()

    def _machine(self, number: int) -> Machine:
        kind = KINDS[KINDS_OF_TEN_NODES[number % 10]]
        seed = (self.wanted.seed, number)
        node = KnownNode(self._root / f"node-{number}", Power(seed), kind.cpus, kind.memory_gib)
        powers = [Power((*seed, gpu), 100, int(kind.gpu_power_w)) for gpu in range(kind.gpus)]
        return Machine(kind, node, KnownGpus(kind.gpu_model, powers, kind.gpu_power_w, number))

    def _add_pod(self, number: int, place: int, machine: Machine) -> None:
        kind, known = machine.kind, pod_number(number, PODS_PER_NODE)
        gpus = kind.gpus / PODS_PER_NODE if kind.gpus != 1 else float(place == 0)
        reserved = Reservation(kind.cpus / PODS_PER_NODE, kind.memory_gib / PODS_PER_NODE, gpus)
        volume = self._root / f"pod-{number}"
        settings = load_settings({"volume": str(volume), "ship_deadline": "10m"}, {})
        base = self._resolutions[KINDS.index(kind)]
        names = {"pod": known.pod, "pod_uid": known.pod_uid, "node": known.node}
        identity = replace(base.identity, namespace=NAMESPACE, **names)
        clock = self.time.clock
        ladder = PodLadder((), RequestsSource(reserved))
        made = Agent if self.wanted.side_files else PodsAgent
        agent = made(
            Parts(
                settings=settings,
                identity=Told(replace(base, identity=identity)),
                meter=machine.node.meter(ladder, clock.monotonic_s, machine.gpus),
                catalogue=self._catalogue,
                reserved=reserved,
                clock=clock,
                open_transport=self._opener(number),
            )
        )
        self.agents.append(agent)
        self.reserved.append((machine, reserved))

    def _opener(self, number: int) -> Callable[[], Transport]:
        token = self._root / f"token-{number}"
        token.write_text(self._tokens[number])
        url = self.wanted.urls[number % len(self.wanted.urls)]
        return lambda: Spread(CollectorClient(url, token), self._gate)

    # -- their time -----------------------------------------------------------------------------

    def run(self) -> Iterator[int]:
        """Yield the number of each window that is over."""
        dice = random.Random(self.wanted.seed)
        for agent in self.agents:
            agent.begin()
            agent.open()
        for number in range(1, round(self.wanted.hours * 3600 / WINDOW_S) + 1):
            self.time.now_s = number * WINDOW_S + dice.uniform(0.001, LATENESS_MAX_S)
            for agent in self.agents:
                agent.run(_one_tick())
            self._catch_up()
            yield number

    def end(self) -> None:
        """End all; several at a time, as each waits for its last delivery."""
        self.time.now_s += 1.0
        with ThreadPoolExecutor(2 * AT_A_TIME) as threads:
            list(threads.map(lambda agent: agent.close("pod ended"), self.agents))

    def _catch_up(self) -> None:
        """Let the shippers do what they would have done in the time that did not pass."""
        behind = self.agents
        while True:
            behind = [agent for agent in behind if _state(agent).unshipped_segments]
            if len(behind) <= BEHIND_MAX:
                return
            time.sleep(0.005)

    # -- what came of it ------------------------------------------------------------------------

    def used(self) -> Used:
        """Return what the pods used by the counters of their machines: each its share of them."""
        end_s = self.time.now_s
        energies = [self._energy_kwh(*reserved) for reserved in self.reserved]
        return Used(math.fsum(energies), end_s * len(self.agents))

    def _energy_kwh(self, machine: Machine, reserved: Reservation) -> float:
        kind, node, end_s = machine.kind, machine.node, self.time.now_s
        cpu_j = node.power.energy_uj(end_s) / 1e6 - node.power.energy_uj(0.0) / 1e6
        ram_j = RAM_W_PER_GIB * kind.memory_gib * end_s
        gpu_kwh = machine.gpus.energy_kwh(0.0, end_s)
        of_cpu = (reserved.cpus or 0.0) / kind.cpus
        of_gpu = (reserved.gpus or 0.0) / max(1, kind.gpus)
        return (cpu_j + ram_j) * of_cpu / JOULES_PER_KWH + gpu_kwh * of_gpu

    def summary(self) -> dict[str, Any]:
        states = [_state(agent) for agent in self.agents]
        spent = resource.getrusage(resource.RUSAGE_SELF)
        return {
            **asdict(self.used()),
            "segments": sum(state.shipped_segments for state in states),
            "records": sum(state.shipped_records for state in states),
            "left": sum(state.unshipped_records + state.waiting_records for state in states),
            "failures": sum(state.ship_failures for state in states),
            "cpu_s": spent.ru_utime + spent.ru_stime,
            "peak_mib": spent.ru_maxrss / 1024,
        }


def _state(agent: Agent) -> OutboxState:
    state = agent.state()
    if state is None:
        raise RuntimeError("an agent is not open")
    return state


def _one_tick() -> Callable[[float], Wake]:
    """Return a waiter that lets the agent look once at what is due."""
    wakes = iter((Wake(), Wake(stop="until the next window")))
    return lambda _: next(wakes)


def main() -> None:
    wanted = Wanted(**json.load(sys.stdin))
    logging.disable(logging.CRITICAL)
    threading.stack_size(STACK_BYTES)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    pods = Pods(wanted)
    _say({"ready": len(pods.agents)})
    for number in pods.run():
        _say({"window": number})
    pods.end()
    _say(pods.summary())


def _say(about: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(about) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
