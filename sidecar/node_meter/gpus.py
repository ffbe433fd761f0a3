"""What part of each GPU's energy is each pod's, and what is nobody's."""

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sidecar.amounts import counted
from sidecar.meters.condition import Condition
from sidecar.meters.gpu_meter import GpuMeter
from sidecar.meters.reading import GpuReading, MeterStatus
from sidecar.node_meter.grpc_unary import GrpcError
from sidecar.node_meter.holdings import Shares, holdings, is_held_whole
from sidecar.node_meter.mig_parts import MigParts
from sidecar.node_meter.pod_resources import DeviceHolders, PodDevices, PodName

log = logging.getLogger(__name__)

METHOD: Final = "node-meter"
UNALLOCATED: Final = "unallocated"

ALLOCATABLE_PERIOD_S: Final = 60.0
"""How often all devices there are are listed: replicas change when the device plugin starts anew."""

NEW_POD_PERIOD_S: Final = 1.0
"""kubelet is asked at most so often for the sake of pods that are not known yet."""

FRESH_S: Final = 0.1
"""Windows of all pods end at the same moments: what was read for one serves the others."""

PATIENCE_S: Final = 0.5
"""How long a request waits for the GPUs: a sidecar waits for 1 s in all."""

FORGET_S: Final = 600.0


@dataclass(slots=True)
class _Board:
    """One GPU: its counter, the parts of it that pods had, and the shares that they hold now.

    What the pods in `unclear` hold of it nobody can tell: what is left over is theirs or nobody's, and
    counts apart. `doubted` are those that are to be told so.
    """

    last_mj: int | None = None
    pods_mj: dict[PodName, int] = field(default_factory=dict)
    folded_mj: int = 0
    unclear_mj: int = 0
    shares: Shares = field(default_factory=dict)
    unclear: frozenset[PodName] = frozenset()
    doubted: set[PodName] = field(default_factory=set)

    def advance(self, energy_mj: int | None) -> None:
        """Give a step of the counter to those who hold the GPU; parts of a mJ are nobody's."""
        if energy_mj is None:
            return
        step_mj = 0 if self.last_mj is None else max(0, energy_mj - self.last_mj)
        self.last_mj = energy_mj
        left_mj = step_mj
        for pod, share in self.shares.items():
            part_mj = step_mj if share >= 1.0 else math.floor(step_mj * share)
            self.pods_mj[pod] = self.pods_mj.get(pod, 0) + part_mj
            left_mj -= part_mj
        if self.unclear:
            self.unclear_mj += left_mj

    def become(self, shares: Shares, unclear: frozenset[PodName]) -> None:
        """Let it be theirs from now on."""
        self.shares = shares
        self.unclear = frozenset() if is_held_whole(shares) else unclear
        self.doubted |= self.unclear

    def fold(self, pods: set[PodName]) -> None:
        """Keep only the sum of what these had."""
        for pod in pods:
            self.folded_mj += self.pods_mj.pop(pod, 0)

    def is_doubted(self, pod: PodName) -> bool:
        """Whether the pod's part was unclear at any time since it was told so last."""
        is_doubted = pod in self.doubted
        self.doubted -= {pod} - self.unclear
        return is_doubted

    @property
    def held_mj(self) -> int:
        """What all pods had, or may have had."""
        return self.folded_mj + self.unclear_mj + sum(self.pods_mj.values())


class NodeGpus:
    """Splits the energy of a meter's GPUs over pods; every call may come from any thread.

    Energy between two looks goes to who held the GPU at the first of them. While kubelet does not
    answer its last answer holds: it gives out no devices then. A pod known to have ended holds nothing
    any more (kubelet lists it until it is deleted). Where a pod holds a device that cannot be placed (a
    slice that NVML does not show, a ResourceClaim), its part of the boards it may be of is not told, nor
    what nobody had of them.
    """

    def __init__(
        self,
        boards: GpuMeter,
        holders: DeviceHolders,
        mig: MigParts,
        has_ended: Callable[[PodName], bool] = lambda _: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._meter = boards
        self._holders = holders
        self._mig = mig
        self._has_ended = has_ended
        self._clock = clock
        self._lock = threading.Lock()
        self._asking = threading.Lock()  # kubelet is asked by one, and nobody else waits for it
        self._readings: tuple[GpuReading, ...] = ()
        self._boards: dict[str, _Board] = {}
        self._allocatable: tuple[str, ...] = ()
        self._allocatable_after_s = -math.inf
        self._listed: dict[PodName, float] = {}
        self._read_s = self._asked_s = -math.inf
        self._is_known = False
        self._condition = Condition("pod-resources", log)
        self.on_listed: Callable[[Collection[PodName]], None] = lambda _: None
        """Is told the pods that kubelet lists, each time."""

    @property
    def needs_sampling(self) -> bool:
        """Whether `sample` should be called each second."""
        return self._meter.needs_sampling

    def sample(self) -> None:
        """Take the samples of this second."""
        with self._lock:
            self._meter.sample(self._clock())

    def look(self) -> None:
        """Read the GPUs' counters, and then who holds them."""
        with self._lock:
            self._advance()
        if self._readings:
            self._ask_holders()

    def of(self, pod: PodName) -> tuple[GpuReading, ...]:
        """Return every GPU of the node as of now, with the part of it that is this pod's.

        None of them while the driver hangs: a pod's other counters are not held up by it.
        """
        is_due = self._clock() - self._asked_s >= NEW_POD_PERIOD_S
        if self._readings and pod not in self._listed and is_due:
            self._ask_holders()
        if not self._lock.acquire(timeout=PATIENCE_S):
            return ()
        try:
            self._advance()
            return tuple(self._part(reading, pod) for reading in self._readings)
        finally:
            self._lock.release()

    def unallocated(self) -> tuple[GpuReading, ...]:
        """Return every GPU of the node as of now, with the part of it that no pod had."""
        with self._lock:
            self._advance()
            return tuple(self._rest(reading) for reading in self._readings)

    def status(self) -> tuple[MeterStatus, ...]:
        """How the meter does, and kubelet where it was asked."""
        asked = (self._condition.status,) if self._asked_s > -math.inf else ()
        return (*self._meter.status(), *asked)

    def close(self) -> None:
        """Let the meter go; later readings repeat the last totals."""
        with self._lock:
            self._meter.close()
            self._mig.close()

    def _advance(self) -> None:
        now_s = self._clock()
        if now_s - self._read_s < FRESH_S:
            return
        self._read_s = now_s
        self._readings = self._meter.read(now_s)
        for reading in self._readings:
            board = self._boards.setdefault(reading.uuid, _Board())
            board.advance(reading.energy_mj)

    def _ask_holders(self) -> None:
        if not self._asking.acquire(blocking=False):
            return
        try:
            self._asked_s = self._clock()
            listed = self._holders.pods()
            self.on_listed({pod.pod for pod in listed})
            if self._asked_s >= self._allocatable_after_s:
                self._allocatable = self._holders.allocatable()
                self._allocatable_after_s = self._asked_s + ALLOCATABLE_PERIOD_S
            self._take([pod for pod in listed if not self._has_ended(pod.pod)])
        except GrpcError as error:
            self._condition.fails(str(error))
        finally:
            self._asking.release()

    def _take(self, holding: Sequence[PodDevices]) -> None:
        """Let the boards be theirs from now on."""
        models = {reading.uuid: reading.model for reading in self._readings}
        sliced = {reading.uuid for reading in self._readings if reading.mig}
        found = holdings(holding, self._allocatable, lambda uuid: self._mig.part(uuid, models))
        with self._lock:
            for uuid, board in self._boards.items():
                slices = found.unplaced_slices if uuid in sliced else frozenset()
                board.become(found.shares.get(uuid, {}), slices | found.unplaced)
                if not self._is_known:  # whose the energy was until now is not known: in no part
                    board.folded_mj = board.last_mj or 0
            self._is_known = True
            self._listed |= dict.fromkeys((pod.pod for pod in holding), self._asked_s)
            self._forget(self._asked_s)
        count = sum(bool(pod.device_ids) for pod in holding)
        self._condition.works(f"kubelet tells who holds devices: {counted(count, 'pod')}")

    def _forget(self, now_s: float) -> None:
        gone = {pod for pod, seen_s in self._listed.items() if now_s - seen_s > FORGET_S}
        for pod in gone:
            del self._listed[pod]
        for board in self._boards.values():
            board.fold(gone)

    def _part(self, reading: GpuReading, pod: PodName) -> GpuReading:
        if not self._is_known:
            return reading
        board = self._boards[reading.uuid]
        if board.is_doubted(pod):
            return reading
        return replace(
            reading,
            pod_energy_mj=None if reading.energy_mj is None else board.pods_mj.get(pod, 0),
            pod_share=board.shares.get(pod, 0.0),
            share_method=METHOD,
        )

    def _rest(self, reading: GpuReading) -> GpuReading:
        if not self._is_known:
            return reading
        board = self._boards[reading.uuid]
        if board.unclear:
            return reading
        energy_mj = reading.energy_mj
        return replace(
            reading,
            pod_energy_mj=None if energy_mj is None else max(0, energy_mj - board.held_mj),
            pod_share=max(0.0, 1.0 - sum(board.shares.values())),
            share_method=UNALLOCATED,
        )
