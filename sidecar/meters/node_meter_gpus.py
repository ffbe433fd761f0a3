"""The node's GPUs, and which part of them is the pod's, as the node meter tells it."""

import logging
from dataclasses import dataclass, replace
from typing import Final

from sidecar.meters.condition import Condition
from sidecar.meters.gpu_tally import LARGEST_BOARD_POWER_W, SHORTEST_JUDGED_S
from sidecar.meters.node_meter_client import GPUS_MAX, NodeMeterClient, NodeMeterError
from sidecar.meters.reading import GpuReading, MeterStatus

log = logging.getLogger(__name__)

JITTER_S: Final = 0.25
JITTER: Final = 0.02
"""The same stretch of time differs by so much (whichever is more) between our clock and the node meter's
readings, as one is taken before the request and the other while it is answered."""


@dataclass(slots=True)
class _Gpu:
    """Totals of one GPU since it was first seen, and what the node meter told last."""

    boot: str
    told: GpuReading
    told_at_s: float
    energy_mj: int = 0
    metered_s: float = 0.0
    utilization_s: float = 0.0
    observed_s: float = 0.0
    pod_energy_mj: int = 0

    def advance(self, told: GpuReading, boot: str, now_s: float) -> None:
        """Add what is new; after a restart of the node meter counting goes on from its first answer.

        What it did not see in between counts in no total, and `metered_s` stands still for it. So it
        is with a step that no board can have made: that is a lie, or a fault.
        """
        last, self.told = self.told, told
        elapsed_s = now_s - self.told_at_s
        is_same = boot == self.boot
        self.boot, self.told_at_s = boot, now_s
        if last.pod_energy_mj is None and told.pod_energy_mj is not None:
            self.pod_energy_mj = 0  # whose it was before is not known: its total starts anew
        most_mj = LARGEST_BOARD_POWER_W * 1000 * max(elapsed_s, SHORTEST_JUDGED_S)
        if not is_same or _step(last.energy_mj, told.energy_mj) > most_mj:
            return
        self.energy_mj += _step(last.energy_mj, told.energy_mj)
        self.pod_energy_mj += _step(last.pod_energy_mj, told.pod_energy_mj)
        metered_s = _step_s(last.metered_s, told.metered_s)
        is_all = abs(metered_s - elapsed_s) <= max(JITTER_S, JITTER * elapsed_s)
        self.metered_s += elapsed_s if is_all else metered_s
        self.utilization_s += _step_s(last.utilization_s, told.utilization_s)
        self.observed_s += _step_s(last.observed_s, told.observed_s)

    def reading(self) -> GpuReading:
        told = self.told
        is_metered = told.energy_mj is not None
        return replace(
            told,
            energy_mj=self.energy_mj if is_metered else None,
            metered_s=self.metered_s if is_metered and told.metered_s is not None else None,
            utilization_s=self.utilization_s,
            observed_s=self.observed_s,
            pod_energy_mj=None if told.pod_energy_mj is None else self.pod_energy_mj,
        )


class NodeMeterGpus:
    """Meters the node's GPUs through its node meter, since the first answer."""

    needs_sampling = False

    def __init__(self, client: NodeMeterClient) -> None:
        self._client = client
        self._condition = Condition("node-meter", log)
        self._gpus: dict[str, _Gpu] = {}
        self._closed = False

    def sample(self, monotonic_s: float) -> None:
        """Do nothing: the node meter samples."""

    def read(self, monotonic_s: float) -> tuple[GpuReading, ...]:
        """Ask the node meter; takes at most about a second. Without an answer totals stand still."""
        if not self._closed:
            self._ask(monotonic_s)
        return tuple(gpu.reading() for gpu in self._gpus.values())

    def status(self) -> tuple[MeterStatus, ...]:
        """How the last reading went."""
        return (self._condition.status,)

    def close(self) -> None:
        """Ask no more; later readings repeat the last totals."""
        self._closed = True

    def _ask(self, now_s: float) -> None:
        try:
            answer = self._client.ask()
        except NodeMeterError as error:
            self._condition.missing(str(error))
            return
        for told in answer.gpus:
            known = self._gpus.get(told.uuid)
            if known is None and len(self._gpus) >= GPUS_MAX:
                continue  # no node has so many: whoever tells of ever new ones is not believed
            if known is None:
                self._gpus[told.uuid] = _Gpu(answer.boot, told, now_s)
            else:
                known.advance(told, answer.boot, now_s)
        if answer.gpus:
            self._condition.works(f"node meter {self._client.url}")
        else:
            self._condition.absent(f"node meter {self._client.url} sees no GPU on this node")


def _step(before: int | None, after: int | None) -> int:
    return 0 if before is None or after is None else max(0, after - before)


def _step_s(before: float | None, after: float | None) -> float:
    return 0.0 if before is None or after is None else max(0.0, after - before)
