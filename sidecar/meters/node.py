"""`NodeMeter`: all meters of the node, and this pod's, read as one."""

import threading
import time
from collections.abc import Callable

from sidecar.meters.nvml import NvmlMeter
from sidecar.meters.pod.source import PodSource
from sidecar.meters.proc import ProcMeter
from sidecar.meters.rapl import RaplMeter
from sidecar.meters.reading import MeterStatus, NodeReading


class NodeMeter:
    """Reads every counter of the node at one instant.

    Locked: a `read` at the end of a run may meet a tick of another thread without counting twice.
    """

    def __init__(
        self,
        proc: ProcMeter,
        rapl: RaplMeter,
        nvml: NvmlMeter,
        pod_source: PodSource,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._proc = proc
        self._rapl = rapl
        self._nvml = nvml
        self._pod_source = pod_source
        self._clock = clock
        self._lock = threading.Lock()

    @property
    def needs_sampling(self) -> bool:
        """Whether `sample` has anything to do between two readings."""
        parts = (self._rapl, self._nvml, self._pod_source)
        return any(part.needs_sampling for part in parts)

    def sample(self) -> None:
        """Take what must be looked at each second; cheap where there is no such thing."""
        with self._lock:
            self._rapl.sample()
            self._nvml.sample(self._clock())
            self._pod_source.sample()

    def read(self, *, gpus: bool = True) -> NodeReading:
        """Read everything. A meter that fails leaves its part None (or empty), never raises.

        Without `gpus` it takes microseconds; GPUs first sampled later count from then on.
        """
        with self._lock:
            now_s = self._clock()
            return NodeReading(
                monotonic_s=now_s,
                cpu=self._proc.cpu(),
                memory=self._proc.memory(),
                rapl=self._rapl.read(),
                gpus=self._nvml.read(now_s) if gpus else (),
                pod=self._pod_source.read(),
            )

    def status(self) -> tuple[MeterStatus, ...]:
        """How every meter does, for `detect`."""
        with self._lock:
            return (
                *self._proc.status(),
                *self._rapl.status(),
                *self._nvml.status(),
                *self._pod_source.status(),
            )

    def close(self) -> None:
        """Let go of the GPUs; later readings repeat their last totals."""
        with self._lock:
            self._nvml.close()
