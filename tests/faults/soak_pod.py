"""One sidecar of the soak, a process of its own: the real agent and shipper on a clock that runs fast.

It is told what happens to its machine through a pipe, and dies by SIGKILL. What it had metered, and how
much of that was safe, stands in its diary, one JSON line at a time: the end of the soak compares.
"""

import functools
import gc
import json
import logging
import math
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import sidecar.outbox as outbox_module
from sidecar.agent import Agent, Clock, Parts, Wake
from sidecar.catalogue.lookup import Catalogue
from sidecar.collector_client import CollectorClient
from sidecar.exporters.summary import Totals
from sidecar.identity.fields import Hardware, Identity, Resolution
from sidecar.meters.pod.ladder import PodLadder
from sidecar.meters.pod.whole_node import WholeNodeSource
from sidecar.outbox import Outbox
from sidecar.segment import Parcel
from sidecar.settings import load_settings
from sidecar.transport.collector import CollectorTransport
from sidecar.transport.delivery import Delivery
from sidecar.transport.shipper import Pace, Shipper
from tests.fakes.known_node import KnownNode, Power

WALL_START_S: Final = 1_800_000_000.0
PATIENCE_S: Final = 3.0
"""Of a delivery, in real seconds, while there are faults: the network does not run faster because the
clock does. Once all is well a delivery takes as long as it may: the machine may be busy."""

SETTLED_AT: Final = 10
"""The window after which a sidecar is as large as it should stay."""


@dataclass(frozen=True)
class FastClock:
    """Seconds since the soak began, `speed` of them in each real one; the same in every process."""

    speed: float
    began_s: float = field(default_factory=time.monotonic)

    def now_s(self) -> float:
        return (time.monotonic() - self.began_s) * self.speed

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(max(0.0, seconds) / self.speed)


@dataclass(frozen=True)
class About:
    """What a sidecar is started with; `wall_offset_s` is by how much its machine's clock was stepped."""

    uid: str
    name: str
    namespace: str
    node: str
    project: str
    boot_id: str
    volume: Path
    machine: Path
    diary: Path
    log: Path
    token_file: Path
    collector_url: str
    power_seed: str
    wall_offset_s: float = 0.0

    @property
    def stem(self) -> str:
        return f"{self.uid}.{self.boot_id}"

    def node_there(self) -> KnownNode:
        """Its machine: also for who wants to know what it used."""
        return KnownNode(self.machine, Power(self.power_seed))


def live(about: About, commands: Connection, clock: FastClock) -> None:
    """Meter until told to stop; the target of a process."""
    handler = logging.FileHandler(about.log)
    logging.basicConfig(
        handlers=[handler], level=logging.INFO, format="%(message)s [%(threadName)s]"
    )
    random.seed()
    pace = Pace(clock.now_s, random.uniform, clock.wait)
    outbox_module.Shipper = functools.partial(Shipper, pace=pace)  # type: ignore[assignment,misc]
    life = _Life(about, commands, clock)
    life.run()


class _Life:
    def __init__(self, about: About, commands: Connection, clock: FastClock) -> None:
        self.about = about
        self.commands = commands
        self.clock = clock
        # Frozen between two waits: what the agent does takes no time, however busy the machine is.
        self.now_s = clock.now_s()
        self.wall_offset_s = about.wall_offset_s
        self.began_s = self.safe_s = self.now_s
        self.ends_s: dict[int, float] = {}
        self.footprint: dict[str, int] | None = None
        self.patience_s = PATIENCE_S
        self._diary = os.open(about.diary, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.agent = self._agent()

    def _agent(self) -> Agent:
        about = self.about
        flags = {
            "volume": str(about.volume),
            "interval": "15s",
            "flush_interval": "5m",
            "ship_deadline": "10m",
            "transport": "collector",
            "collector_url": about.collector_url,
            "collector_token_file": str(about.token_file),
        }
        clock = Clock(
            lambda: WALL_START_S + self.now_s + self.wall_offset_s,
            lambda: self.now_s,
        )
        meter = about.node_there().meter(PodLadder((), WholeNodeSource()), clock.monotonic_s)
        agent = Agent(
            Parts(
                load_settings(flags, {}),
                _Told(about),
                meter,
                Catalogue(),
                clock=clock,
                open_transport=lambda: _Brisk(about, lambda: self.patience_s),
                boot_id=about.boot_id,
            )
        )
        agent.watch(self._wrote)
        return agent

    def run(self) -> None:
        agent = self.agent
        agent.begin()
        self.began_s = self.safe_s = self.now_s
        self.note(began_s=self.now_s)
        agent.open()
        reason = agent.run(self._wait)
        agent.close(reason)
        state = agent.state()
        assert state is not None
        if not state.waiting_records:
            self.safe_s = self.now_s
        self.note(safe_s=self.safe_s, ended=asdict(state))

    # -- time and commands ----------------------------------------------------------------------

    def _wait(self, timeout_s: float) -> Wake:
        left_s = self.now_s + timeout_s - self.clock.now_s()
        has_command = self.commands.poll(max(0.0, left_s) / self.clock.speed)
        self.now_s = self.clock.now_s()
        return self._obey(*self.commands.recv()) if has_command else Wake()

    def _obey(self, command: str, *arguments: Any) -> Wake:
        match command:
            case "stop":
                return Wake(stop="SIGTERM")
            case "hurry":
                return Wake(hurry=True)
            case "step":
                self.wall_offset_s += arguments[0]
                self.note(wall_offset_s=self.wall_offset_s)
            case "be_patient":
                self.patience_s = math.inf
            case "state":
                self.commands.send(self._told())
            case _:
                self._break_volume(command)
        return Wake()

    def _break_volume(self, command: str) -> None:
        match command:
            case "remove":
                self._lose(lambda path: path.unlink(missing_ok=True))
            case "cut":
                self._lose(lambda path: os.truncate(path, path.stat().st_size // 2))
            case "unmount":
                self._lose(lambda _: _unmounted(self.about.volume), alone=True)

    def _lose(self, act: Callable[[Path], object], *, alone: bool = False) -> None:
        """Take the open segment away; where `alone`, only while there is no other on the volume."""
        path = self._outbox.journal.path
        if path is None or (alone and self._others(path)):
            return
        first = int(path.name.split(".")[-2])
        self.safe_s = min(self.safe_s, self.ends_s.get(first - 1, self.began_s))
        self.note(safe_s=self.safe_s, lost=path.name)
        act(path)

    def _others(self, path: Path) -> bool:
        there = {other for other in path.parent.glob("*.ndjson*") if other != path}
        return bool(there) or self._outbox.state().unshipped_segments > 0

    @property
    def _outbox(self) -> Outbox:
        outbox = self.agent.outbox
        assert isinstance(outbox, Outbox)
        return outbox

    # -- what it says ---------------------------------------------------------------------------

    def _wrote(self, totals: Totals) -> None:
        """Note how far metering is, and up to where all of it outlives this process."""
        agent, outbox = self.agent, self.agent.outbox
        assert agent._mark is not None
        assert outbox is not None
        self.ends_s[agent._sequence] = metered_s = agent._mark.reading.monotonic_s
        for old in [number for number in self.ends_s if number < agent._sequence - 600]:
            del self.ends_s[old]
        if not outbox.state().waiting_records:
            self.safe_s = metered_s
        self.note(windows=agent._sequence, metered_s=metered_s, safe_s=self.safe_s)
        if agent._sequence == SETTLED_AT:
            self.footprint = footprint(os.getpid())

    def _told(self) -> dict[str, Any]:
        gc.collect()
        state = self.agent.state()
        assert state is not None
        return {
            "state": asdict(state),
            "before": self.footprint,
            "now": footprint(os.getpid()),
            "threads": [thread.name for thread in threading.enumerate()],
        }

    def note(self, **said: Any) -> None:
        os.write(self._diary, json.dumps(said).encode() + b"\n")


def footprint(pid: int) -> dict[str, int]:
    """Resident bytes that are not shared, file descriptors and threads of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {
        "rss": int(fields["RssAnon"].split()[0]) * 1024,
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(fields["Threads"]),
    }


def _unmounted(volume: Path) -> None:
    subprocess.run(["umount", "--lazy", volume], check=True)


class _Brisk(CollectorTransport):
    """The real transport, with the patience that suits a real network on loopback."""

    def __init__(self, about: About, patience_s: Callable[[], float]) -> None:
        super().__init__(CollectorClient(about.collector_url, about.token_file))
        self._patience_s = patience_s

    def deliver(self, parcel: Parcel, timeout_s: float) -> Delivery:
        return super().deliver(parcel, self._at_most(timeout_s))

    def receipt(self, timeout_s: float) -> str | None:
        return super().receipt(self._at_most(timeout_s))

    def _at_most(self, timeout_s: float) -> float:
        """Of the clock that runs fast the rest of the time is short: at least the usual patience."""
        return min(max(timeout_s, PATIENCE_S), self._patience_s())


class _Told:
    """Who and where, as the downward API says it: known at once."""

    def __init__(self, about: About) -> None:
        identity = Identity(
            project=about.project,
            cluster="soak",
            namespace=about.namespace,
            pod=about.name,
            pod_uid=about.uid,
            node=about.node,
            region="westeurope",
            vm_size="Standard_D8s_v5",
            sources={"project": "setting"},
        )
        hardware = Hardware(cpu_model="Intel(R) Xeon(R) Platinum 8370C", logical_cpus=8)
        self._resolution = Resolution(identity, hardware, (), settled=True)

    def start(self) -> None: ...

    def current(self) -> Resolution:
        return self._resolution

    def wait(self, timeout_s: float) -> Resolution:
        return self._resolution

    def close(self) -> None: ...
