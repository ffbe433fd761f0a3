"""Meters of GPUs, best first: one at a time, handed over without losing or doubling energy."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar, runtime_checkable

from sidecar.meters.condition import LOGGED_CHANGES
from sidecar.meters.gpu_meter import GpuMeter
from sidecar.meters.reading import GpuReading, MeterStatus

log = logging.getLogger(__name__)

PATIENCE_S: Final = 60.0
"""How long a meter may be silent before the next one takes over. Counters go on meanwhile: one that
is back sooner has lost nothing."""

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class GpuRung:
    """One meter: whether it shows GPUs, whether it is the one in use, and how it does."""

    name: str
    available: bool
    chosen: bool
    detail: str


@runtime_checkable
class HasRungs(Protocol):
    """A meter made of several."""

    def probe(self, monotonic_s: float) -> None:
        """Ask each of them."""

    def rungs(self) -> tuple[GpuRung, ...]:
        """Return each of them, best first."""
        ...


class _Tenure:
    """The time in which one meter is used: its totals from the handover on, under a name of its own."""

    def __init__(self, rank: int, meter: GpuMeter, number: int) -> None:
        self.rank = rank
        self.meter = meter
        self._number = number
        self._base: dict[str, GpuReading] = {}
        self._counted: dict[str, GpuReading] = {}

    def begin(self, readings: Sequence[GpuReading]) -> None:
        """Count from these readings on."""
        self._base = {reading.uuid: reading for reading in readings}

    def counted(self, readings: Sequence[GpuReading]) -> tuple[GpuReading, ...]:
        """Return what came since the beginning; a GPU that came later counts from its first sight.

        One that the meter does not show any more repeats its totals: if it were left out, its return
        would look like a first sight, and all of them would count again.
        """
        self._counted |= {reading.uuid: self._since(reading) for reading in readings}
        return tuple(self._counted.values())

    def _since(self, now: GpuReading) -> GpuReading:
        name = now.meter if self._number == 1 else f"{now.meter}#{self._number}"
        base = self._base.get(now.uuid)
        if base is None:
            return replace(now, meter=name)
        if (now.pod_energy_mj or 0) < (base.pod_energy_mj or 0):
            # The pod's part was unknown in between, and its total started anew.
            base = self._base[now.uuid] = replace(base, pod_energy_mj=None)
        return replace(
            now,
            meter=name,
            energy_mj=_difference(now.energy_mj, base.energy_mj),
            metered_s=_difference(now.metered_s, base.metered_s),
            utilization_s=max(0.0, now.utilization_s - base.utilization_s),
            observed_s=max(0.0, now.observed_s - base.observed_s),
            pod_energy_mj=_difference(now.pod_energy_mj, base.pod_energy_mj),
        )


class GpuLadder:
    """Uses the first of several meters that shows GPUs.

    One that shows none any more, or was silent for a minute, is followed by the next that does; a
    better one that is back is used again. Both ends of a window come from one meter: at a handover
    this reading is still the old one's, and the new one counts from this instant on. A meter answers
    if it shows GPUs and the first status it gives is available; those that are not needed are not
    asked.
    """

    def __init__(self, meters: Sequence[GpuMeter]) -> None:
        self._meters = tuple(meters)
        self._tenure: _Tenure | None = None
        self._tenures = 0
        self._answered_s = 0.0
        self._readings: tuple[GpuReading, ...] = ()
        self._closed = False

    @property
    def needs_sampling(self) -> bool:
        """Whether `sample` should be called each second."""
        return self._tenure is not None and self._tenure.meter.needs_sampling

    def sample(self, monotonic_s: float) -> None:
        """Take the samples of this second; look for a meter where none is in use yet."""
        if self._tenure is None:
            self.read(monotonic_s)
        elif not self._closed:
            self._tenure.meter.sample(monotonic_s)

    def read(self, monotonic_s: float) -> tuple[GpuReading, ...]:
        """Return the totals of the meter in use, and see whether another must take its place."""
        if self._closed:
            return self._readings
        tenure = self._tenure
        if tenure is None:
            self._hand_over(range(len(self._meters)), monotonic_s)
            return self._readings
        readings = tenure.meter.read(monotonic_s)
        if _answers(tenure.meter, readings):
            self._answered_s = monotonic_s
        self._readings = tenure.counted(readings)
        if self._hand_over(range(tenure.rank), monotonic_s):
            return self._readings
        if not readings or monotonic_s - self._answered_s >= PATIENCE_S:
            self._hand_over(range(tenure.rank + 1, len(self._meters)), monotonic_s)
        return self._readings

    def status(self) -> tuple[MeterStatus, ...]:
        """Say how the meter in use does; where there is none, how each does."""
        if self._tenure is not None:
            return self._tenure.meter.status()
        return tuple(status for meter in self._meters for status in meter.status())

    def probe(self, monotonic_s: float) -> None:
        """Ask the meters that are not needed, too: for who wants to know, not for metering."""
        in_use = None if self._tenure is None else self._tenure.meter
        for meter in self._meters:
            if meter is not in_use and not self._closed:
                meter.read(monotonic_s)

    def rungs(self) -> tuple[GpuRung, ...]:
        """Return every meter with what became of it, best first."""
        chosen = None if self._tenure is None else self._tenure.rank
        states = [meter.status()[0] for meter in self._meters]
        return tuple(
            GpuRung(state.name, state.available, rank == chosen, state.detail)
            for rank, state in enumerate(states)
        )

    def close(self) -> None:
        """Let all meters go; later readings repeat the last totals."""
        self._closed = True
        for meter in self._meters:
            meter.close()

    def _hand_over(self, ranks: range, now_s: float) -> bool:
        """Let the first of these that answers count from now on; False if none does."""
        for rank in ranks:
            meter = self._meters[rank]
            readings = meter.read(now_s)
            if _answers(meter, readings):
                self._begin(rank, readings, now_s)
                return True
        return False

    def _begin(self, rank: int, readings: tuple[GpuReading, ...], now_s: float) -> None:
        self._tenures += 1
        self._tenure = _Tenure(rank, self._meters[rank], self._tenures)
        self._tenure.begin(readings)
        self._answered_s = now_s
        if not self._readings:  # there is nothing of an old one to show
            self._readings = self._tenure.counted(readings)
        if 1 < self._tenures <= LOGGED_CHANGES:
            log.info("GPUs are metered by %s from now on", self._tenure.meter.status()[0].name)


def _answers(meter: GpuMeter, readings: Sequence[GpuReading]) -> bool:
    return bool(readings) and meter.status()[0].available


def _difference(now: Number | None, base: Number | None) -> Number | None:
    return now if now is None or base is None else max(type(now)(0), now - base)
