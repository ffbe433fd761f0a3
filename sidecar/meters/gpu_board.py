"""One GPU: what it offers, what it has told, and its totals across losses and driver reloads."""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from sidecar.meters.condition import Condition
from sidecar.meters.gpu_library import BoardHandle, GpuCallError, GpuLibrary
from sidecar.meters.gpu_tally import LARGEST_BOARD_POWER_W, CounterTally, SampleTally
from sidecar.meters.reading import GpuEnergySource, GpuReading, MeterStatus

log = logging.getLogger(__name__)

REFRESH_S = 60.0
"""Power limit and MIG mode change rarely."""

_VGPU_PROFILE = re.compile(r"-\d+[ABCQ]$")
"""The name of a vGPU ends in its profile: memory in GB and type, as in `NVIDIA A10-24Q`."""

Answer = TypeVar("Answer")


def is_vgpu_model(model: str) -> bool:
    """Whether a name is that of a vGPU, such as `NVIDIA A10-24Q`."""
    return _VGPU_PROFILE.search(model) is not None


@dataclass(frozen=True, slots=True)
class Answers:
    """How many calls were made in one round, and how many were answered (a refusal counts)."""

    asked: int = 0
    answered: int = 0

    @property
    def silent(self) -> bool:
        """Whether something was asked and nothing answered."""
        return self.asked > 0 and self.answered == 0

    def __add__(self, other: "Answers") -> "Answers":
        return Answers(self.asked + other.asked, self.answered + other.answered)


class GpuBoard:
    """One GPU. Calls that fail alone are noted; a lost board or session raises GpuCallError."""

    def __init__(self, uuid: str, *, selected_as_mig: bool = False, meter: str = "nvml") -> None:
        self.uuid = uuid
        self.selected_as_mig = selected_as_mig
        self._meter = meter
        self._pod_share: float | None = None
        self._lost: str | None = None
        self._condition = Condition(f"gpu {uuid}", log)
        self._library: GpuLibrary | None = None
        self._handle: BoardHandle | None = None
        self._model = "unknown"
        self._mig = False
        self._virtual = False
        self._power_limit_w: float | None = None
        self._refused: set[str] = set()
        self._trouble: str | None = None
        self._counter: CounterTally | None = None
        self._power: SampleTally | None = None
        self._utilization = SampleTally()
        self._refresh_s: float | None = None
        self._answers = Answers()

    @property
    def present(self) -> bool:
        """Whether the GPU can be asked now."""
        return self._handle is not None

    @property
    def status(self) -> MeterStatus:
        """Whether the GPU answers, in words."""
        return self._condition.status

    @property
    def needs_sampling(self) -> bool:
        """Whether something of this GPU must be looked at each second."""
        return self._reports_utilization or (
            "energy" in self._refused and "power" not in self._refused
        )

    @property
    def model(self) -> str:
        """Name of the product."""
        return self._model

    @property
    def sliced(self) -> bool:
        """Whether the GPU is divided into MIG devices."""
        return self._mig or self.selected_as_mig

    def hold(self, pod_share: float) -> None:
        """Take note of the share of the board that the pod's MIG devices are."""
        self._pod_share = pod_share

    def acquire(self, library: GpuLibrary, handle: BoardHandle) -> None:
        """Take a handle and find out what the GPU offers."""
        self._library, self._handle = library, handle
        self._refused.clear()
        self._trouble = None
        self._refresh_s = None
        self._model = self._ask("model", library.model) or self._model
        virtual = self._ask("virtual", library.is_virtual)
        self._virtual = is_vgpu_model(self._model) if virtual is None else virtual
        self._refresh_limits()
        energy_mj = self._ask("energy", library.energy_mj)
        if self._virtual and energy_mj == 0:
            self._refused.add("energy")
        if "energy" in self._refused:
            self._sample_power(None)
        self._lost = None
        self._condition.works(self._model)

    def release(self, reason: str) -> None:
        """Let go of a GPU that is lost (or whose session ended); its totals stay."""
        self._library = self._handle = None
        self._lost = reason
        self._condition.fails(f"lost: {reason}")
        self._utilization.interrupt()
        if self._power is not None:
            self._power.interrupt()

    def sample(self, now_s: float) -> Answers:
        """Take the samples of this second."""
        self._answers = Answers()
        if self._library is not None:
            if "energy" in self._refused:
                self._sample_power(now_s)
            if self._reports_utilization:
                utilization = self._ask("utilization", self._library.utilization)
                if utilization is not None:
                    self._utilization.add(utilization, now_s)
        return self._answers

    def meter(self, now_s: float) -> Answers:
        """Read the energy counter, and now and then what seldom changes."""
        self._answers = Answers()
        if self._library is not None:
            energy_mj = self._ask("energy", self._library.energy_mj)
            if energy_mj is not None:
                self._counter = self._counter or CounterTally()
                self._counter.add(energy_mj, now_s, self._power_limit_w)
            if self._refresh_s is None:
                self._refresh_s = now_s + REFRESH_S
            elif now_s >= self._refresh_s:
                self._refresh_s = now_s + REFRESH_S
                self._refresh_limits()
        return self._answers

    def reading(self) -> GpuReading:
        """Return the totals; after a loss those up to it."""
        counted = self._counter or CounterTally()
        sampled = self._power or SampleTally()
        known = self._counter is not None or self._power is not None
        share = self._pod_share if self.sliced else None
        return GpuReading(
            uuid=self.uuid,
            model=self._model,
            energy_mj=counted.energy_mj + int(sampled.integral * 1000) if known else None,
            energy_source=self._energy_source(),
            utilization_s=self._utilization.integral,
            observed_s=self._utilization.observed_s,
            power_limit_w=self._power_limit_w,
            mig=self.sliced,
            virtual=self._virtual,
            notes=tuple(self._notes(counted, sampled)),
            metered_s=counted.metered_s + sampled.observed_s if known else None,
            pod_share=share,
            share_method=None if share is None else self._meter,
            meter=self._meter,
        )

    @property
    def _reports_utilization(self) -> bool:
        """MIG offers none, and a vGPU's was seen stuck at 0 under load."""
        return not self.sliced and not self._virtual and "utilization" not in self._refused

    def _energy_source(self) -> GpuEnergySource:
        if "energy" in self._refused and self._power is not None:
            return "power-samples"
        return "energy-counter" if self._counter is not None else "none"

    def _sample_power(self, now_s: float | None) -> None:
        """Take a power sample; without an instant only find out whether there is one."""
        if self._library is None:
            return
        power_w = self._ask("power", self._library.power_w)
        if power_w is None:
            return
        if self._virtual and power_w == 0:
            self._refused.add("power")
        elif now_s is not None and 0 <= power_w <= LARGEST_BOARD_POWER_W:
            self._power = self._power or SampleTally()
            self._power.add(power_w, now_s)
            if self._counter is not None:
                self._counter.forget()  # if it comes back, this time was counted by samples

    def _refresh_limits(self) -> None:
        if self._library is None:
            return
        limit_w = self._ask("enforced limit", self._library.enforced_power_limit_w)
        if limit_w is None:
            limit_w = self._ask("managed limit", self._library.managed_power_limit_w)
        self._power_limit_w = limit_w if limit_w is not None else self._power_limit_w
        mig = self._ask("mig", self._library.is_mig)
        self._mig = mig if mig is not None else self._mig and "mig" not in self._refused

    def _ask(self, what: str, call: Callable[[BoardHandle], Answer]) -> Answer | None:
        if self._handle is None or what in self._refused:
            return None
        try:
            answer = call(self._handle)
        except GpuCallError as error:
            if error.session_ended or error.board_lost:
                raise
            self._answers += Answers(asked=1, answered=int(error.refused))
            if error.refused:
                self._refused.add(what)
            else:
                self._trouble = str(error)
            return None
        self._answers += Answers(asked=1, answered=1)
        return answer

    def _notes(self, counted: CounterTally, sampled: SampleTally) -> Iterator[str]:
        if self._lost is not None:
            yield f"lost: {self._lost}"
        elif self._trouble is not None:
            yield f"a call failed: {self._trouble}"
        if self.sliced:
            estimated = ", the pod's share an estimate by compute slices"
            split = "" if self._pod_share is None else estimated
            yield f"MIG: energy is that of the whole board{split}"
        if self._virtual:
            yield "vGPU: utilisation is not believed"
        yield from tally_notes(counted, sampled)


def tally_notes(counted: CounterTally, sampled: SampleTally) -> Iterator[str]:
    """Say what counter and samples lost."""
    if counted.resets:
        yield f"energy counter restarted {counted.resets} times"
    if counted.dropped:
        yield f"{counted.dropped} impossible steps of the energy counter dropped"
    if sampled.gaps:
        yield f"{sampled.gaps} gaps between power samples"
