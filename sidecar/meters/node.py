"""`NodeMeter`: all meters of the node, and this pod's, read as one."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from sidecar.meters.gpu_ladder import GpuRung, HasRungs
from sidecar.meters.gpu_meter import GpuMeter
from sidecar.meters.node_history import NodeHistory
from sidecar.meters.pod.ladder import PodLadder, RungStatus
from sidecar.meters.proc import ProcMeter
from sidecar.meters.rapl import RaplMeter
from sidecar.meters.reading import MeterStatus, NodeReading, PodReading


class NodeMeter:
    """Reads every counter of the node at one instant.

    Locked: a `read` at the end of a run may meet a tick of another thread without counting twice.
    """

    def __init__(
        self,
        proc: ProcMeter,
        rapl: RaplMeter,
        gpus: GpuMeter,
        pod_ladder: PodLadder,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._proc = proc
        self._rapl = rapl
        self._gpus = gpus
        self._pod_ladder = pod_ladder
        self._clock = clock
        self._lock = threading.Lock()
        self._history = NodeHistory()
        self._is_late = False

    @property
    def needs_sampling(self) -> bool:
        """Whether `sample` has anything to do between two readings."""
        parts = (self._rapl, self._gpus, self._pod_ladder)
        return self._is_late or any(part.needs_sampling for part in parts)

    def sample(self) -> None:
        """Take what must be looked at each second; cheap where there is no such thing."""
        with self._lock:
            self._rapl.sample()
            self._gpus.sample(self._clock())
            self._pod_ladder.sample()
            now_s = self._clock()
            if self._is_late and self._history.is_due(now_s):
                self._history.add(now_s, self._proc.cpu(), self._rapl.read())

    def read(self, *, gpus: bool = True) -> NodeReading:
        """Read everything. A meter that fails leaves its part None (or empty), never raises.

        Without `gpus` it takes microseconds; GPUs first sampled later count from then on.
        """
        with self._lock:
            now_s = self._clock()
            cpu, rapl = self._proc.cpu(), self._rapl.read()
            pod = self._pod_ladder.read()  # before the GPUs, which may take a second
            self._history.add(now_s, cpu, rapl)
            self._is_late = any(reading.age_s > 0 for reading in pod)
            return NodeReading(
                monotonic_s=now_s,
                cpu=cpu,
                memory=self._proc.memory(),
                rapl=rapl,
                gpus=self._gpus.read(now_s) if gpus else (),
                pod=tuple(self._beside_its_node(reading, now_s) for reading in pod),
            )

    def _beside_its_node(self, pod: PodReading, now_s: float) -> PodReading:
        """Give a counter that is old the node's counters of its moment."""
        return replace(pod, node_then=self._history.at(now_s - pod.age_s)) if pod.age_s else pod

    def status(self) -> tuple[MeterStatus, ...]:
        """How every meter does, for `detect`."""
        with self._lock:
            return (
                *self._proc.status(),
                *self._rapl.status(),
                *self._gpus.status(),
                *self._pod_ladder.status(),
            )

    def rungs(self) -> tuple[RungStatus, ...]:
        """Return the ladder of sources of the pod's part: tried, chosen, and what each needs."""
        with self._lock:
            return self._pod_ladder.rungs()

    def gpu_rungs(self) -> tuple[GpuRung, ...]:
        """Ask every meter of GPUs, and return what became of it, best first."""
        with self._lock:
            if not isinstance(self._gpus, HasRungs):
                return ()
            self._gpus.probe(self._clock())
            return self._gpus.rungs()

    def close(self) -> None:
        """Let go of the GPUs; later readings repeat their last totals."""
        with self._lock:
            self._gpus.close()
