"""One GPU as dcgm-exporter tells of it: its totals across restarts, and the pod's part of them."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final

from sidecar.meters.dcgm_page import DevicePage, Holder
from sidecar.meters.gpu_board import is_vgpu_model, tally_notes
from sidecar.meters.gpu_tally import CounterTally, SampleTally
from sidecar.meters.mig import MigInstance, board_slices, energy_share, held_share
from sidecar.meters.reading import GpuEnergySource, GpuReading

HOLD_S: Final = 90.0
"""How long a sample of a page stands at most: the exporter looks each 30 s by default, and a window
may be a minute."""

STILL_S: Final = 120.0
"""A GPU always draws power: a counter that stands still for longer tells that DCGM hangs."""


@dataclass(frozen=True, slots=True)
class PodName:
    """What a pod is called in the labels of an exporter; `uid` where they have one."""

    namespace: str
    name: str
    uid: str | None = None

    def is_holder(self, holder: Holder) -> bool:
        """Whether this pod holds the device; one of the same name may have gone before it."""
        same_uid = not holder.uid or self.uid is None or holder.uid == self.uid
        return same_uid and (holder.namespace, holder.pod) == (self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a page tells of whose the devices are.

    `labelled`: it names pods at all. `has_pod`: it names ours, so what it does not give to ours is
    not ours. `replicas` is how many containers may share a device (time-slicing; 1 = none).
    """

    pod: PodName
    labelled: bool
    has_pod: bool
    replicas: int = 1

    @classmethod
    def of(cls, pod: PodName, devices: Collection[DevicePage], replicas: int) -> "Allocation":
        """Look through the holders of all devices of a page."""
        holders = {holder for device in devices for holder in device.all_holders}
        has_pod = any(pod.is_holder(holder) for holder in holders)
        return cls(pod, labelled=bool(holders), has_pod=has_pod, replicas=replicas)

    def part(self, holders: Collection[Holder]) -> float | None:
        """Return the pod's part (0..1) of what these hold: rows of ours by all rows; None = unknown.

        Without KUBERNETES_VIRTUAL_GPUS the exporter names one of the pods that share a device
        (dcgm-exporter issue 307): then nothing is known. With it, each has a row with a replica.
        """
        if not holders:
            return 0.0 if self.has_pod else None
        if self.replicas > 1 and not all(holder.replica for holder in holders):
            return None
        shares = max(self.replicas, len(holders))
        return sum(self.pod.is_holder(holder) for holder in holders) / shares

    def instances(self, device: DevicePage) -> list[MigInstance] | None:
        """Return the device's MIG instances with the pod's part of each; None = not known."""
        found = []
        for instance in device.instances.values():
            part = self.part(instance.holders)
            if part is None or instance.slices is None:
                return None
            found.append(MigInstance(instance.slices, part, instance.activity))
        return found


class DcgmGpu:
    """Adds up one device over the pages. `idle_w` tells a model's idle power, None if not known."""

    def __init__(self, uuid: str, idle_w: Callable[[str], float | None]) -> None:
        self.uuid = uuid
        self._idle_w = idle_w
        self._model = "unknown"
        self._mig = False
        self._power_limit_w: float | None = None
        self._counter: CounterTally | None = None
        self._power: SampleTally | None = None
        self._sampling = False
        self._utilization = SampleTally(hold_s=HOLD_S)
        self._last_mj: int | None = None
        self._moved_s = 0.0
        self._taken_s: float | None = None
        self._trouble: str | None = None
        self._pod_mj: float | None = None
        self._pod_share: float | None = None

    @property
    def trouble(self) -> str | None:
        """Why nothing is known of the device now; None where all is well."""
        return self._trouble

    def take(self, seen: DevicePage, allocation: Allocation | None, now_s: float) -> None:
        """Take what a page says. Without an allocation nobody knows whose the device is."""
        before_mj = self._energy_mj
        self._trouble = None
        self._model, self._mig = seen.model, bool(seen.instances)
        self._power_limit_w = seen.enforced_limit_w or seen.managed_limit_w
        self._count(seen, now_s)
        # MIG offers none, and a vGPU's was seen stuck at 0 under load.
        if seen.utilization is not None and not self._mig and not self._virtual:
            self._utilization.add(seen.utilization, now_s)
        step_mj = (self._energy_mj or 0) - (before_mj or 0)
        elapsed_s = 0.0 if self._taken_s is None else now_s - self._taken_s
        self._taken_s = now_s
        self._give(seen, allocation, step_mj, elapsed_s)

    def miss(self) -> None:
        """Take note that a page does not tell of the device; its totals and its share stay."""
        self._trouble = "lost: the exporter does not show it any more"
        self._utilization.interrupt()
        if self._power is not None:
            self._power.interrupt()

    def reading(self) -> GpuReading:
        """Return the totals."""
        counted, sampled = self._tallies()
        pod_mj = self._pod_mj
        energy_mj = self._energy_mj
        return GpuReading(
            uuid=self.uuid,
            model=self._model,
            energy_mj=energy_mj,
            energy_source=self._energy_source(),
            utilization_s=self._utilization.integral,
            observed_s=self._utilization.observed_s,
            power_limit_w=self._power_limit_w,
            mig=self._mig,
            virtual=self._virtual,
            notes=tuple(self._notes(counted, sampled)),
            metered_s=None if energy_mj is None else counted.metered_s + sampled.observed_s,
            pod_energy_mj=None if pod_mj is None else min(int(pod_mj), energy_mj or 0),
            pod_share=self._pod_share,
            share_method=None if self._pod_share is None else "dcgm",
            meter="dcgm",
        )

    @property
    def _virtual(self) -> bool:
        return is_vgpu_model(self._model)

    @property
    def _energy_mj(self) -> int | None:
        if self._counter is None and self._power is None:
            return None
        counted, sampled = self._tallies()
        return counted.energy_mj + int(sampled.integral * 1000)

    def _tallies(self) -> tuple[CounterTally, SampleTally]:
        return self._counter or CounterTally(), self._power or SampleTally()

    def _energy_source(self) -> GpuEnergySource:
        if self._sampling:
            return "power-samples"
        return "energy-counter" if self._counter is not None else "none"

    def _count(self, seen: DevicePage, now_s: float) -> None:
        """Prefer the counter; where there is none (a vGPU's is 0), integrate the power."""
        if seen.energy_mj is not None and not (self._virtual and seen.energy_mj == 0):
            self._sampling = False
            self._count_energy(seen.energy_mj, now_s)
        elif seen.power_w is not None and not (self._virtual and seen.power_w == 0):
            self._sampling = True
            self._power = self._power or SampleTally(hold_s=HOLD_S)
            self._power.add(seen.power_w, now_s)
            if self._counter is not None:
                self._counter.forget()  # if it comes back, this time was counted by samples
        else:
            self._trouble = "the exporter tells neither energy nor power of it"

    def _count_energy(self, counter_mj: int, now_s: float) -> None:
        if self._power is not None:
            self._power.interrupt()
        if counter_mj != self._last_mj:
            self._last_mj, self._moved_s = counter_mj, now_s
        elif now_s - self._moved_s > STILL_S:
            self._trouble = f"lost: its energy counter has not moved for {STILL_S:g} s"
            return
        self._counter = self._counter or CounterTally()
        self._counter.add(counter_mj, now_s, self._power_limit_w)

    def _give(
        self, seen: DevicePage, allocation: Allocation | None, step_mj: int, elapsed_s: float
    ) -> None:
        """Give the pod its part of the energy since the last page.

        Where that is not known the pod's total starts anew: a difference over such a time would be
        taken for all of the energy since the beginning.
        """
        held, part = self._shares(seen, allocation, step_mj, elapsed_s)
        self._pod_share = held
        self._pod_mj = None if part is None else (self._pod_mj or 0.0) + step_mj * part

    def _shares(
        self, seen: DevicePage, allocation: Allocation | None, step_mj: int, elapsed_s: float
    ) -> tuple[float | None, float | None]:
        """Return the share that the pod holds, and its share of the energy of this step."""
        if allocation is None or not allocation.labelled or seen.crowded:
            return None, None
        if not seen.instances:
            part = allocation.part(seen.holders)
            return part, part
        instances = allocation.instances(seen)
        if instances is None:
            return None, None
        slices = board_slices(seen.model)
        idle_w = self._idle_w(seen.model)
        idle_fraction = None
        if idle_w is not None and step_mj > 0:
            idle_fraction = min(1.0, idle_w * elapsed_s * 1000 / step_mj)
        return held_share(instances, slices), energy_share(instances, slices, idle_fraction)

    def _notes(self, counted: CounterTally, sampled: SampleTally) -> Iterator[str]:
        if self._trouble is not None:
            yield self._trouble
        if self._mig:
            estimated = ", the pod's share an estimate by slices and activity"
            split = "" if self._pod_share is None else estimated
            yield f"MIG: energy is that of the whole board{split}"
        if self._virtual:
            yield "vGPU: utilisation is not believed"
        yield from tally_notes(counted, sampled)
