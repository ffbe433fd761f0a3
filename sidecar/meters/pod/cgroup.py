"""The pod's part of the node by its cgroup: exact, and nothing that ends escapes it."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from sidecar.meters.condition import Condition
from sidecar.meters.pod.cgroup_tree import CgroupTree, PodCgroup
from sidecar.meters.pod.ourselves import Ourselves
from sidecar.meters.pod.process_tree import MemoryIntegral, SamplePace
from sidecar.meters.reading import MeterStatus, PodMethod, PodReading

log = logging.getLogger(__name__)


class CounterBackError(Exception):
    """A counter fell; the message says from what to what."""


class PodCpuTime:
    """The pod's CPU seconds without ours, which only rise while `epoch` is the same.

    A counter that fell is not believed at first: it may be one bad reading, after which the old
    counter goes on, and the way back up must not count. If the next reading confirms it, the pod's
    cgroup was made anew, and counting begins there.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._began_pod_s = self._began_own_s = 0.0
        self._last_s = 0.0
        self._fallen_s: float | None = None
        self._total_s = 0.0

    def advance(self, pod_s: float, own_s: float) -> float:
        """Take both counters; return what the pod used since the epoch began, never less than before.

        Raises:
            CounterBackError: the pod's counter fell, for the first time.

        """
        if pod_s < self._last_s:
            self._fall(pod_s, own_s)
        self._fallen_s = None
        self._last_s = pod_s
        used_s = (pod_s - self._began_pod_s) - (own_s - self._began_own_s)
        self._total_s = max(self._total_s, used_s)
        return self._total_s

    def _fall(self, pod_s: float, own_s: float) -> None:
        if self._fallen_s is None or pod_s < self._fallen_s:
            self._fallen_s = pod_s
            raise CounterBackError(f"CPU time went back from {self._last_s:g} s to {pod_s:g} s")
        self.epoch += 1
        self._began_pod_s, self._began_own_s = pod_s, own_s
        self._total_s = 0.0


class CgroupSource:
    """Reads the pod's cgroup below `root`: all its containers, also those that ended, without us."""

    name: PodMethod = "cgroup"
    needs = (
        "the node's /sys/fs/cgroup mounted read-only (hostPath: Pod Security privileged) and "
        "EMISSIONS_CGROUP_ROOT set to it"
    )
    is_local = True
    needs_sampling = True

    def __init__(
        self,
        pod_uid: str,
        root: Path,
        ourselves: Ourselves,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pod_uid = pod_uid
        self._root = root
        self._tree = CgroupTree(root)
        self._ourselves = ourselves
        self._clock = clock
        self._pod: PodCgroup | None = None
        self._cpu_time = PodCpuTime()
        self._memory = MemoryIntegral()
        self._pace = SamplePace(clock)
        self._condition = Condition("pod", log)

    def sample(self) -> None:
        """Look at the memory, as often as a small share of one CPU allows."""
        if self._pod is not None and self._pace.is_due:
            self._look_at_memory(self._pod)

    def read(self) -> PodReading:
        """CPU seconds of the pod without ours; None while its cgroup is not there."""
        self._pod = self._pod or self._tree.pod(self._pod_uid)
        if self._pod is None:
            return self._nothing(self._tree.problem() or self._no_such_pod())
        try:
            cpu_s = self._cpu_time.advance(self._pod.cpu_s(), self._ourselves.cpu_s())
        except (OSError, CounterBackError) as error:
            self._pod = None
            return self._nothing(f"cannot read the pod's cgroup: {error}")
        self._condition.works(f"cgroup v{self._pod.version}, {self._pod.cpu_time_directory}")
        working_set_bytes, memory_byte_s = self._look_at_memory(self._pod)
        return PodReading(
            cpu_s=cpu_s,
            working_set_bytes=working_set_bytes,
            memory_byte_s=memory_byte_s,
            method=self.name,
            epoch=self._cpu_time.epoch,
        )

    def status(self) -> tuple[MeterStatus, ...]:
        """How the last reading went."""
        return (self._condition.status,)

    def _look_at_memory(self, pod: PodCgroup) -> tuple[int | None, float]:
        began_s = self._clock()
        whole_bytes = pod.working_set_bytes()
        size: int | None = None
        if whole_bytes is not None:
            size = max(0, whole_bytes - self._ourselves.resident_bytes())
        memory_byte_s = self._memory.advance(began_s, size)
        self._pace.looked(began_s)
        return size, memory_byte_s

    def _no_such_pod(self) -> str:
        return (
            f"no cgroup of pod {self._pod_uid} below {self._root}: is POD_UID this pod's uid, and "
            "is this its node?"
        )

    def _nothing(self, detail: str) -> PodReading:
        self._condition.missing(detail)
        return PodReading(cpu_s=None, working_set_bytes=None, method=self.name)
