"""What every pod of the node uses, from its cgroup: looked at each few seconds, and when asked.

Each pod's counters only rise, and so do those of all together, in which pods stay that have ended: what
a pod used after the last look at it is not seen, and counts as nobody's.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sidecar.meters.condition import Condition
from sidecar.meters.pod.cgroup_tree import CgroupTree, PodCgroup
from sidecar.meters.pod.process_tree import MemoryIntegral
from sidecar.meters.reading import MeterStatus

log = logging.getLogger(__name__)

FORGET_S: Final = 600.0
"""A pod that has not been seen for so long does not come back: its own counters are let go."""

REQUEST_PERIOD_S: Final = 60.0
"""How often a pod's CPU request is read: it changes only when a pod is resized in place."""


@dataclass(frozen=True, slots=True)
class PodUse:
    """One pod: CPU seconds, working set now (None = not told) and its integral since it was seen."""

    cpu_s: float
    working_set_bytes: int | None
    memory_byte_s: float


@dataclass(frozen=True, slots=True)
class PodsUse:
    """All pods together since metering began; `working_set_bytes` and `pods` are those there now."""

    cpu_s: float
    memory_byte_s: float
    reserved_cpu_s: float
    working_set_bytes: int
    pods: int


@dataclass(slots=True)
class _Sum:
    cpu_s: float = 0.0
    memory_byte_s: float = 0.0
    reserved_cpu_s: float = 0.0


@dataclass(slots=True)
class _Tally:
    """One pod. `_told_s` begins with what the pod had used when it was first seen."""

    seen_s: float
    _told_s: float
    _last_s: float
    working_set_bytes: int | None = None
    memory_byte_s: float = 0.0
    _fallen_s: float | None = None
    _request: float = 0.0
    _request_after_s: float = 0.0
    _memory: MemoryIntegral = field(default_factory=MemoryIntegral)

    def take(self, cgroup: PodCgroup, now_s: float, total: _Sum) -> None:
        """Read the pod's counters, and add what is new to the total. Raises OSError."""
        total.cpu_s += self._take_cpu(cgroup.cpu_s())
        total.reserved_cpu_s += self._request * max(0.0, now_s - self.seen_s)
        if now_s >= self._request_after_s:
            self._request = cgroup.read().cpu_request or 0.0
            self._request_after_s = now_s + REQUEST_PERIOD_S
        self.working_set_bytes = cgroup.working_set_bytes()
        before, self.memory_byte_s = (
            self.memory_byte_s,
            self._memory.advance(now_s, self.working_set_bytes),
        )
        total.memory_byte_s += self.memory_byte_s - before
        self.seen_s = max(self.seen_s, now_s)

    def use(self) -> PodUse:
        return PodUse(self._told_s, self.working_set_bytes, self.memory_byte_s)

    def _take_cpu(self, counter_s: float) -> float:
        """Return the step forward. A fall is believed when the next reading confirms it."""
        step_s = counter_s - self._last_s
        if step_s < 0:
            if self._fallen_s is None or counter_s < self._fallen_s:
                self._fallen_s = counter_s
                return 0.0
            step_s = counter_s - self._fallen_s
        self._fallen_s = None
        self._last_s = counter_s
        self._told_s += step_s
        return step_s


class NodePods:
    """Meters all pods below one tree of cgroups; every call may come from any thread."""

    def __init__(self, tree: CgroupTree, clock: Callable[[], float] = time.monotonic) -> None:
        self._tree = tree
        self._clock = clock
        self._lock = threading.Lock()
        self._tallies: dict[str, _Tally] = {}
        self._total = _Sum()
        self._there: frozenset[str] = frozenset()
        self._has_begun = False
        self._condition = Condition("pods", log)

    def look(self) -> None:
        """Look at every pod that there is: one listing, and three small files for each pod."""
        with self._lock:
            listed = self._tree.pods()
            now_s = self._clock()
            self._there = frozenset(
                uid for uid, cgroup in listed.items() if self._took(cgroup, now_s)
            )
            if not self._there:
                self._condition.fails(self._tree.problem() or "no pod's cgroup can be read")
                return
            self._condition.works(f"cgroups of {len(self._there)} pods")
            self._has_begun = True
            self._forget(now_s)

    def read(self, uid: str) -> PodUse | None:
        """Look at one pod; None if it has no cgroup here (any more)."""
        cgroup = self._tree.pod(uid)
        if cgroup is None:
            return None
        with self._lock:
            if not self._took(cgroup, self._clock()):
                return None
            self._there |= {uid}
            return self._tallies[uid].use()

    def total(self) -> PodsUse | None:
        """Return what all pods used as of the last look; None before there was one."""
        with self._lock:
            if not self._has_begun or not self._condition.status.available:
                return None
            sizes = (self._tallies[uid].working_set_bytes or 0 for uid in self._there)
            return PodsUse(
                cpu_s=self._total.cpu_s,
                memory_byte_s=self._total.memory_byte_s,
                reserved_cpu_s=self._total.reserved_cpu_s,
                working_set_bytes=sum(sizes),
                pods=len(self._there),
            )

    def is_there(self, uid: str) -> bool:
        """Whether the pod had a cgroup when it, or all pods, were last looked at."""
        return uid in self._there

    def status(self) -> MeterStatus:
        """How the last look went."""
        return self._condition.status

    def _took(self, cgroup: PodCgroup, now_s: float) -> bool:
        """Take a pod's counters; False if it has just ended, or cannot be read."""
        try:
            tally = self._tallies.get(cgroup.uid) or self._begun(cgroup, now_s)
            tally.take(cgroup, now_s, self._total)
        except OSError as error:
            log.debug("pod %s: %s", cgroup.uid, error)
            return False
        return True

    def _begun(self, cgroup: PodCgroup, now_s: float) -> _Tally:
        """Begin a tally: what the pod had used counts unless it was there before us."""
        cpu_s = cgroup.cpu_s()
        if self._has_begun:
            self._total.cpu_s += cpu_s
        tally = self._tallies[cgroup.uid] = _Tally(now_s, cpu_s, cpu_s)
        return tally

    def _forget(self, now_s: float) -> None:
        gone = [
            uid
            for uid, tally in self._tallies.items()
            if uid not in self._there and now_s - tally.seen_s > FORGET_S
        ]
        for uid in gone:
            del self._tallies[uid]
