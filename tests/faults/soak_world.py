"""The stage of a soak: sidecars, two collectors behind two addresses, Azurite, and who breaks them."""

import contextlib
import heapq
import itertools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, Self

import requests

from sidecar.segment import compressed
from tests.collector.running import CollectorProcess
from tests.e2e.commands import PATIENCE_S, until
from tests.fakes.disk import SmallDisk, small_disk
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.kubernetes_api import FakeKubernetesApi
from tests.faults.scene import Pod, Store, ndjson, segments_on
from tests.faults.soak_plan import Event, Plan
from tests.faults.soak_pod import About, FastClock, footprint, live
from tests.faults.test_hostile import bomb

GROUP: Final = 5
"""Pods that share a volume, where they do: the last pods of the soak, in groups."""

PLACES: Final = (
    "machines", "diaries", "logs", "volumes", "slots", "collector-0", "collector-1",
)  # fmt: skip
POSTPONED_S: Final = 20.0
WINDOWS_AFTER_A_STEP: Final = 2
"""Until so many windows stand, nothing tells a clock that was set back from two processes at once."""

DISK_SIZE: Final = "1m"
SHARED_DISK_SIZE: Final = "4m"

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.faults.soak_pod"])


@dataclass
class Boot:
    """One process of a pod: what it was started with, and how it ended."""

    about: About
    process: BaseProcess
    commands: Connection
    killed_s: float | None = None
    steps: int = 0
    """How often it was told that its machine's clock is stepped."""

    @property
    def diary(self) -> list[dict[str, Any]]:
        """What it noted; the last line may be torn by its death."""
        with contextlib.suppress(FileNotFoundError):
            lines = self.about.diary.read_text().splitlines(keepends=True)
            return [json.loads(line) for line in lines if line.endswith("\n")]
        return []

    def noted(self, name: str, otherwise: Any = None) -> Any:
        """The last that it noted of something."""
        return next((row[name] for row in reversed(self.diary) if name in row), otherwise)

    @property
    def has_begun(self) -> bool:
        return self.noted("began_s") is not None

    @property
    def is_running(self) -> bool:
        return self.process.is_alive()

    @property
    def was_set_back_of_late(self) -> bool:
        """Whether it ended now, its last step of the clock could not be told."""
        steps, windows, is_back, offset_s = 0, 0, False, self.about.wall_offset_s
        for row in self.diary:
            if "wall_offset_s" in row:
                is_pending = is_back and windows < WINDOWS_AFTER_A_STEP
                is_back = row["wall_offset_s"] < offset_s or is_pending
                steps, windows, offset_s = steps + 1, 0, row["wall_offset_s"]
            windows += "windows" in row
        return steps < self.steps or (is_back and windows < WINDOWS_AFTER_A_STEP)

    def tell(self, *command: Any) -> None:
        with contextlib.suppress(OSError):  # it is just being killed
            self.commands.send(command)

    def ask_state(self) -> dict[str, Any]:
        self.tell("state")
        assert self.commands.poll(PATIENCE_S), self.about.log.read_text()[-3000:]
        state: dict[str, Any] = self.commands.recv()
        return state

    def kill(self, now_s: Callable[[], float]) -> None:
        assert self.process.pid is not None
        if not self.is_running:
            return
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(PATIENCE_S)
        if self.process.exitcode == -signal.SIGKILL:
            self.killed_s = now_s()


@dataclass
class Slot:
    """A place for a pod: a machine and a volume, on which one pod follows another."""

    number: int
    root: Path
    volume: Path
    disk: SmallDisk | None
    front: FaultProxy
    generation: int = 1
    boots: list[Boot] = field(default_factory=list)
    is_settled: bool = True
    """Nothing is about to happen to it by itself, such as its next start."""

    @property
    def uid(self) -> str:
        return f"{self.number:08d}-0000-4000-8000-{self.generation:012d}"

    @property
    def name(self) -> str:
        return f"train-{self.number}-{self.generation}"

    @property
    def namespace(self) -> str:
        return f"team-{self.volume.name}"

    @property
    def node(self) -> str:
        return f"node-{self.number}"

    @property
    def token_file(self) -> Path:
        return self.root / f"token-{self.generation}"

    @property
    def boot(self) -> Boot:
        return self.boots[-1]


class Balancer(FaultProxy):
    """An address before both collectors; each request goes to one of those last known to listen."""

    def __init__(self, replicas: "list[Replica]") -> None:
        self._turns = itertools.cycle(replicas)
        super().__init__("127.0.0.1", 0)

    @property
    def target(self) -> tuple[str, int]:
        return next(self._turns).address

    @target.setter
    def target(self, _: tuple[str, int]) -> None:
        """Chosen anew for each connection."""


class Replica:
    """A collector that is killed and started again, on another port each time."""

    def __init__(self, start: Callable[[], CollectorProcess]) -> None:
        self._start = start
        self._process: CollectorProcess | None = None
        self.address = ("127.0.0.1", 9)
        self.before: dict[str, int] = {}
        self.starts = 0

    @property
    def is_up(self) -> bool:
        return self._process is not None and self._process.process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.process.pid

    @property
    def log(self) -> str:
        assert self._process is not None
        return self._process.log

    def start(self) -> None:
        self.starts += 1
        self._process = self._start()
        self.address = ("127.0.0.1", 9)

    def look(self) -> None:
        """Find out where it listens, once it does."""
        if self._process is not None and self.is_up and self.address[1] == 9:
            told = self._process._told("listening on ")
            if told:
                self.address = ("127.0.0.1", int(told.rpartition(":")[2]))
                self.before = footprint(self.pid)

    def kill(self) -> None:
        if self._process is not None:
            assert "Traceback" not in self._process.log, self._process.log
            self._process.process.kill()
            self._process.process.wait()


class World(contextlib.AbstractContextManager["World"]):
    """Everything, and what can be done to it. `run` lets it happen."""

    def __init__(self, plan: Plan, root: Path, store: Store, api: FakeKubernetesApi) -> None:
        self.plan, self.root, self.store, self.api = plan, root, store, api
        self.clock = FastClock(plan.speed)
        self.slots: list[Slot] = []
        self.done: list[str] = []
        self.is_over = False
        self.waits_for: list[str] = []
        self.footprints: list[dict[str, int]] = []
        self.attacks: list[Future[None]] = []
        self._attackers = ThreadPoolExecutor(4)
        self._stack = contextlib.ExitStack()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._dice = random.Random(plan.seed)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for name in PLACES:
                (self.root / name).mkdir()
            key = self.root / "key"
            key.write_bytes(b"k" * 32)
            azurite = ("127.0.0.1", self.store.azurite.port)
            self.storage = stack.enter_context(FaultProxy(*azurite))
            backend = self.store.credential(self.storage)
            options = ("--handover-key-file", key)
            self.replicas = [
                Replica(lambda root=root: CollectorProcess(self.api, root, *options, **backend))
                for root in (self.root / "collector-0", self.root / "collector-1")
            ]
            for replica in self.replicas:
                stack.callback(replica.kill)
                replica.start()
            self.fronts = [stack.enter_context(Balancer(self.replicas)) for _ in range(2)]
            self._make_slots(stack)
            stack.callback(self._kill_all)
            # Collectors that are killed while they ask are no news.
            self.api._server.handle_error = lambda *_: None  # type: ignore[method-assign]
            until(lambda: all(self._is_ready(replica) for replica in self.replicas))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *about: object) -> None:
        self._attackers.shutdown()
        self._stack.close()

    def _is_ready(self, replica: Replica) -> bool:
        replica.look()
        return "ready: " in replica.log

    def _make_slots(self, stack: contextlib.ExitStack) -> None:
        volumes = self.root / "volumes"
        alone = self.plan.pods - GROUP * (self.plan.pods // 25 or 1)
        for number in range(self.plan.pods):
            disk, volume = None, volumes / f"shared-{(number - alone) // GROUP}"
            if number < alone:
                volume = volumes / f"{number}"
                disk = stack.enter_context(small_disk(volume, DISK_SIZE))
            elif not volume.exists():
                stack.enter_context(small_disk(volume, SHARED_DISK_SIZE))
            root = self.root / "slots" / f"{number}"
            root.mkdir()
            self.slots.append(Slot(number, root, volume, disk, self.fronts[number % 2]))

    def _kill_all(self) -> None:
        for slot in self.slots:
            for boot in slot.boots[-1:]:
                boot.kill(self.clock.now_s)

    # -- pods -----------------------------------------------------------------------------------

    def begin(self, slot: Slot) -> None:
        """A new pod in a slot."""
        self.api.add_pod(slot.namespace, slot.name, slot.uid)
        self.give_token(slot)
        self.start(slot)

    def give_token(self, slot: Slot) -> None:
        token = self.api.token(
            namespace=slot.namespace, pod=slot.name, pod_uid=slot.uid, node=slot.node
        )
        fresh = slot.token_file.with_suffix(".new")
        fresh.write_text(token)
        fresh.replace(slot.token_file)

    def start(self, slot: Slot) -> None:
        """Start the pod's next process; its machine's clock is as it was left."""
        number = len(slot.boots)
        if number:
            slot.boot.commands.close()
        offset_s = slot.boot.noted("wall_offset_s", slot.boot.about.wall_offset_s) if number else 0
        about = About(
            uid=slot.uid,
            name=slot.name,
            namespace=slot.namespace,
            node=slot.node,
            project=f"project-{slot.number % 4}",
            boot_id=f"b{number:04d}",
            volume=slot.volume,
            machine=self.root / "machines" / f"{slot.number}",
            diary=self.root / "diaries" / f"{slot.number}-{number}",
            log=self.root / "logs" / f"{slot.number}",
            token_file=slot.token_file,
            collector_url=slot.front.url,
            power_seed=f"{self.plan.seed} {slot.number}",
            wall_offset_s=offset_s,
        )
        ours, theirs = _forks.Pipe()
        process = _forks.Process(target=live, args=(about, theirs, self.clock), daemon=True)
        process.start()
        theirs.close()
        slot.boots.append(Boot(about, process, ours))
        slot.is_settled = True

    # -- what happens ---------------------------------------------------------------------------

    def run(self) -> None:
        """Let the plan happen; at the end all is well again, and everything has arrived."""
        self.clock = FastClock(self.plan.speed)
        for slot in self.slots:
            self.begin(slot)
        for event in self.plan.events():
            self.at(event.at_s, lambda event=event: self._happen(event))
        while self.clock.now_s() < self.plan.end_s:
            self._step()
        self.make_well()
        self._drain()

    def at(self, when_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when_s, next(self._numbers), act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.at(self.clock.now_s() + seconds, act)

    def _step(self) -> None:
        for replica in self.replicas:
            replica.look()
        while self._due and self._due[0][0] <= self.clock.now_s():
            heapq.heappop(self._due)[2]()
        next_s = self._due[0][0] if self._due else self.plan.end_s
        time.sleep(min(0.05, max(0.0, next_s - self.clock.now_s()) / self.plan.speed))

    def _happen(self, event: Event) -> None:
        if self.is_over:
            return
        kind, _, number = event.whom.partition(" ")
        if kind == "pod":
            self._happen_to_pod(event, self.slots[int(number)])
            return
        self._note(event)
        match kind:
            case "front":
                self._break_network(event, self.fronts[int(number)])
            case "storage":
                self._break_network(event, self.storage)
            case "collector":
                self._kill_collector(event, self.replicas[int(number)])
            case "api":
                self.api._released.clear()
                self.api.mode = event.what
                self.after(event.lasts_s, self.api.release)
            case "attacker":
                self.attacks.append(self._attackers.submit(self._attack, event.what))

    def _note(self, event: Event) -> None:
        self.done.append(f"{self.clock.now_s():8.1f} {event}")

    def _happen_to_pod(self, event: Event, slot: Slot) -> None:
        ends = event.what in _ENDS
        if not slot.is_settled or (ends and not self._may_end(event, slot)):
            self.after(POSTPONED_S, lambda: self._happen(event))
            return
        getattr(self, f"_{event.what}")(event, slot)
        self._note(event)

    def _may_end(self, event: Event, slot: Slot) -> bool:
        if slot.boot.was_set_back_of_late:
            return False
        return event.what != "replace" or _all_have_receipts(slot)

    # -- faults of pods; each is named in the plan --------------------------------------------------

    def _kill(self, event: Event, slot: Slot) -> None:
        slot.boot.kill(self.clock.now_s)
        self._start_later(event.lasts_s, slot)

    def _start_later(self, seconds: float, slot: Slot) -> None:
        slot.is_settled = False
        self.after(seconds, lambda: self.start(slot))

    def _restart(self, event: Event, slot: Slot) -> None:
        slot.is_settled = False
        slot.boot.tell("stop")
        self._once_ended(slot, lambda: self._start_later(event.lasts_s, slot))

    def _once_ended(self, slot: Slot, act: Callable[[], None]) -> None:
        if slot.boot.is_running:
            self.after(2.0, lambda: self._once_ended(slot, act))
        else:
            act()

    def _terminate_and_kill(self, event: Event, slot: Slot) -> None:
        slot.is_settled = False
        slot.boot.tell("stop")
        self.after(2.0, lambda: self._kill(event, slot))

    def _replace(self, event: Event, slot: Slot) -> None:
        slot.is_settled = False
        if event.how == "ended":
            slot.boot.tell("stop")
        else:
            slot.boot.kill(self.clock.now_s)
        self._once_ended(slot, lambda: self._gone(event, slot))

    def _gone(self, event: Event, slot: Slot) -> None:
        self.api.add_pod(slot.namespace, slot.name, slot.uid, phase="Succeeded")
        slot.generation += 1
        self.after(event.lasts_s, lambda: self.begin(slot))

    def _announce(self, event: Event, slot: Slot) -> None:
        slot.boot.tell("hurry")

    def _step_clock(self, event: Event, slot: Slot) -> None:
        slot.boot.steps += 1
        slot.boot.tell("step", event.how)

    def _suspend(self, event: Event, slot: Slot) -> None:
        """From its process, a machine that slept looks like one whose clock was set forward."""
        self._step_clock(event, slot)

    def _fill(self, event: Event, slot: Slot) -> None:
        disk = slot.disk
        if disk is not None and not _is_read_only(disk.path):
            disk.fill(leave_bytes=event.how)
            self.after(event.lasts_s, lambda: _is_read_only(disk.path) or disk.free())

    def _start_read_only(self, event: Event, slot: Slot) -> None:
        disk = slot.disk
        if disk is None:
            return
        slot.boot.kill(self.clock.now_s)
        _remount(disk.path, "ro")
        self._start_later(1.0, slot)
        self.after(event.lasts_s, lambda: _make_writable(disk))

    def _cut(self, event: Event, slot: Slot) -> None:
        slot.boot.tell("cut")

    def _remove(self, event: Event, slot: Slot) -> None:
        slot.boot.tell("remove")

    def _unmount(self, event: Event, slot: Slot) -> None:
        if slot.disk is not None:
            slot.boot.tell("unmount")
            slot.disk = None

    def _expire_token(self, event: Event, slot: Slot) -> None:
        with contextlib.suppress(FileNotFoundError, KeyError):  # it is lost, or expired, already
            self.api.revoke(slot.token_file.read_text())
        self.after(event.lasts_s, lambda: self.give_token(slot))

    def _lose_token(self, event: Event, slot: Slot) -> None:
        slot.token_file.unlink(missing_ok=True)
        self.after(event.lasts_s, lambda: self.give_token(slot))

    # -- faults of the others -----------------------------------------------------------------------

    def _kill_collector(self, event: Event, replica: Replica) -> None:
        replica.kill()
        self.after(event.lasts_s, lambda: None if replica.is_up else replica.start())

    def _break_network(self, event: Event, way: FaultProxy) -> None:
        match event.what:
            case "cut_request" | "slow" | "drip_answer":
                getattr(way, event.what)(event.how)
            case "busy":
                way.status(503, {"Retry-After": str(event.how)})
            case "broken":
                way.status(502, {"Content-Type": "text/html"}, b"<html>Bad Gateway</html>")
            case _:
                getattr(way, event.what)()
        self.after(event.lasts_s, way.pass_on)

    def _attack(self, what: str) -> None:
        """Nothing of it may be stored, and nobody else may suffer."""
        hostile = Pod(9999, project="../../etc" if what == "climbing_project" else "hostile")
        token = hostile.token(self.api)
        content = compressed(ndjson(hostile.history()))
        match what:
            case "bomb":
                content = bomb(b"x")
            case "foreign_records" | "climbing_project":
                victim = Pod(9998, project=hostile.project)
                content = compressed(ndjson(victim.history()))
            case "no_token":
                token = ""
            case "invented_token":
                token = "eyJhbGciOiJub25lIn0.e30."
            case "garbage":
                content = self._dice.randbytes(2000)
        with contextlib.suppress(requests.RequestException):
            url = f"{self.fronts[0].url}/v1/segments"
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/gzip"}
            answer = requests.post(url, data=content, headers=headers, timeout=2)
            assert answer.status_code >= 400, (what, answer.status_code, answer.text)

    # -- the end ------------------------------------------------------------------------------------

    def make_well(self) -> None:
        """End every fault; what was still to happen happens now, restarts among it."""
        self.is_over = True
        for way in (*self.fronts, self.storage):
            way.pass_on()
        self.api.release()
        for slot in self.slots:
            if slot.disk is not None:
                _make_writable(slot.disk)
            self.give_token(slot)

        def is_well() -> bool:
            for replica in self.replicas:
                if not replica.is_up:
                    replica.start()
                replica.look()
            waiting, self._due = self._due, []
            for _, _, act in sorted(waiting):
                act()
            return all(slot.is_settled and slot.boot.is_running for slot in self.slots)

        until(is_well)

    def _drain(self) -> None:
        """Wait until nothing waits of what was there when all was well, as long as it gets less."""
        for slot in self.slots:
            slot.boot.tell("be_patient")
        before = self._closed_segments()

        def gets_on() -> bool:
            for replica in self.replicas:
                replica.look()
            waiting = sorted(map(str, before & self._closed_segments()))
            for slot in self.slots:
                state = slot.boot.ask_state()["state"]
                if state["waiting_records"] or state["ship_failure"]:
                    waiting.append(f"{slot.boot.about.stem}: {state}")
            is_less = len(waiting) < len(self.waits_for)
            self.waits_for = waiting
            return is_less or not waiting

        until(gets_on)
        while self.waits_for:
            until(gets_on)

    def _closed_segments(self) -> set[Path]:
        """All on the volumes, but what a living process is writing."""
        running = {slot.boot.about.stem for slot in self.slots}
        paths = {path for slot in self.slots for path in segments_on(slot.volume)}
        return {
            path
            for path in paths
            if path.suffix == ".gz" or path.name.rsplit(".", 2)[0] not in running
        }


_ENDS: Final = {"kill", "terminate_and_kill", "restart", "replace", "start_read_only"}


def _all_have_receipts(slot: Slot) -> bool:
    """Whether another pod could hand over what this one leaves: else it would stay on the volume."""
    owners = [path.read_text() for path in (slot.volume / "records").glob(f".{slot.uid}.*.owner")]
    return bool(owners) and all('"receipt": "' in owner for owner in owners)


def _is_read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _make_writable(disk: SmallDisk) -> None:
    """Also what has filled it is gone: that cannot be removed before."""
    _remount(disk.path, "rw")
    disk.free()


def _remount(path: Path, mode: str) -> None:
    if path.is_mount():
        subprocess.run(["mount", "-o", f"remount,{mode}", path], check=True)
