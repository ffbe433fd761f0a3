"""Whose a GPU is, where its meter does not tell. Pure, but for the wrapper that applies it.

In this order: what the meter tells (node meter, dcgm-exporter's labels, MIG devices by NVML); replicas
of time-sliced GPUs; all GPUs there are, if the pod requests as many; NVIDIA_VISIBLE_DEVICES of the
pod. Otherwise the share stays unknown, and that of the pod's request holds. Lists of processes are
not asked: NVML gives the PIDs of the host, which mean nothing in the PID namespace of a pod.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sidecar.meters.gpu_ladder import GpuRung, HasRungs
from sidecar.meters.gpu_meter import GpuMeter
from sidecar.meters.reading import GpuReading, MeterStatus
from sidecar.meters.visible_devices import Selector, named_devices

ALL_REQUESTED: Final = "all-requested"
TIME_SLICING: Final = "time-slicing"
VISIBLE_DEVICES: Final = "visible-devices"
"""The names of the ways, as the records tell them."""

LOOK_AGAIN_S: Final = 60.0
"""How often the pod's NVIDIA_VISIBLE_DEVICES are looked for: containers start late."""


@dataclass(frozen=True, slots=True)
class PodGpus:
    """What is known of the pod's GPUs: how many it requests, and its NVIDIA_VISIBLE_DEVICES.

    `replicas` is how many containers the device plugin gives each GPU to (time-slicing or MPS; 1 =
    each GPU to one). None = not told.
    """

    requested: float | None = None
    visible_devices: str | None = None
    replicas: int = 1


def scoped(readings: Sequence[GpuReading], pod: PodGpus) -> tuple[GpuReading, ...]:
    """Give each reading without one the share of the device that is the pod's, where that is known.

    Over all pods of a node the shares of a device sum to at most 1, if what the pods request fits on
    the node and no device is handed out twice.
    """
    shares, method = _shares(readings, pod)
    return tuple(
        reading
        if _is_told(reading) or reading.uuid not in shares
        else replace(reading, pod_share=shares[reading.uuid], share_method=method)
        for reading in readings
    )


def _is_told(reading: GpuReading) -> bool:
    return reading.pod_share is not None or reading.pod_energy_mj is not None


def _shares(readings: Sequence[GpuReading], pod: PodGpus) -> tuple[dict[str, float], str]:
    """Return the shares by UUID; a device that is not in them has an unknown one."""
    has_slices = any(reading.mig for reading in readings)
    if pod.replicas > 1:
        return _time_sliced(readings, pod), TIME_SLICING
    # A slice of a MIG board may be requested by the name of a whole GPU (strategy "single").
    if readings and not has_slices and pod.requested == len(readings):
        return dict.fromkeys((reading.uuid for reading in readings), 1.0), ALL_REQUESTED
    return _named(readings, pod.visible_devices), VISIBLE_DEVICES


def _time_sliced(readings: Sequence[GpuReading], pod: PodGpus) -> dict[str, float]:
    """Return h/N: replicas held by replicas there are, idle and dynamic energy alike.

    Spread evenly over the boards that the pod's containers name, or over all where they name none.
    Which process used how much cannot be known without PIDs of the host.
    """
    if pod.requested is None or not math.isfinite(pod.requested):
        return {}
    named = [uuid for uuid, share in _named(readings, pod.visible_devices).items() if share > 0]
    boards = named or [reading.uuid for reading in readings]
    shares = {reading.uuid: 0.0 for reading in readings} if named else {}
    for uuid in boards:
        shares[uuid] = min(1.0, max(0.0, pod.requested) / (pod.replicas * len(boards)))
    return shares


def _named(readings: Sequence[GpuReading], visible_devices: str | None) -> dict[str, float]:
    """Return 1 for the boards that are named and 0 for the others, if any named one is there.

    A MIG device names a part of a board, whose size only the meter can tell: where one is named, the
    boards that have some stay unknown.
    """
    names = [Selector.parse(name) for name in named_devices(visible_devices)]
    uuids = [reading.uuid for reading in readings]
    whole = {found for name in names if not name.mig and (found := name.find(uuids))}
    has_slices = any(name.mig for name in names)
    sliced = {reading.uuid for reading in readings if reading.mig} if has_slices else set()
    has_told_slice = any(reading.uuid in sliced and reading.pod_share for reading in readings)
    if not whole and not has_told_slice:
        return {}
    return {uuid: float(uuid in whole) for uuid in uuids if uuid not in sliced}


class ScopedGpus:
    """A meter of GPUs whose readings say what is the pod's, by `requested` GPUs and their names.

    `visible_devices` is asked now and then for the NVIDIA_VISIBLE_DEVICES of the pod; what it told
    last holds, as processes end before the pod does.
    """

    def __init__(
        self,
        meter: GpuMeter,
        requested: float | None,
        *,
        visible_devices: Callable[[], str | None] = lambda: None,
        replicas: int = 1,
    ) -> None:
        self._meter = meter
        self._pod = PodGpus(requested=requested, replicas=replicas)
        self._visible_devices = visible_devices
        self._look_after_s = -math.inf

    @property
    def needs_sampling(self) -> bool:
        """Whether `sample` should be called each second."""
        return self._meter.needs_sampling

    def sample(self, monotonic_s: float) -> None:
        """Take the samples of this second."""
        self._meter.sample(monotonic_s)

    def read(self, monotonic_s: float) -> tuple[GpuReading, ...]:
        """Return the readings with the shares that are known."""
        readings = self._meter.read(monotonic_s)
        if all(_is_told(reading) for reading in readings):
            return readings
        if monotonic_s >= self._look_after_s:
            self._look_after_s = monotonic_s + LOOK_AGAIN_S
            found = self._visible_devices()
            self._pod = replace(self._pod, visible_devices=found or self._pod.visible_devices)
        return scoped(readings, self._pod)

    def status(self) -> tuple[MeterStatus, ...]:
        """How the meter does."""
        return self._meter.status()

    def probe(self, monotonic_s: float) -> None:
        """Ask every meter behind it."""
        if isinstance(self._meter, HasRungs):
            self._meter.probe(monotonic_s)

    def rungs(self) -> tuple[GpuRung, ...]:
        """Return every meter behind it, best first."""
        return self._meter.rungs() if isinstance(self._meter, HasRungs) else ()

    def close(self) -> None:
        """Let the meter go."""
        self._meter.close()
