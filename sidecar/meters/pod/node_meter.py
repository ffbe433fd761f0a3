"""The pod's part of the node as the node meter tells it: its cgroup, read by who may see it."""

import logging
import time
from collections.abc import Callable
from typing import Final

from sidecar.meters.condition import Condition
from sidecar.meters.node_meter_client import NodeMeterAnswer, NodeMeterClient, NodeMeterError
from sidecar.meters.pod.cgroup import CounterBackError, PodCpuTime
from sidecar.meters.pod.ourselves import Ourselves
from sidecar.meters.pod.process_tree import MemoryIntegral
from sidecar.meters.reading import MeterStatus, PodMethod, PodReading

log = logging.getLogger(__name__)

NEEDS: Final = "the node meter: nodeMeter.enabled=true in the chart"


class NodeMeterSource:
    """CPU time and memory of the pod without ours, from the node meter of this node.

    The CPU time is the counter of the pod's cgroup, which goes on while the node meter is away or starts
    anew. The integral of memory is its own: for the window of a new start it is not told.
    """

    name: PodMethod = "node-meter"
    needs = NEEDS
    is_local = False
    needs_sampling = False

    def __init__(
        self,
        client: NodeMeterClient,
        ourselves: Ourselves,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._ourselves = ourselves
        self._clock = clock
        self._condition = Condition("pod", log)
        self._answer: NodeMeterAnswer | None = None
        self._refusal = ""
        self._memory_byte_s = 0.0
        self._own_byte_s = 0.0
        self._cpu_time = PodCpuTime()
        self._own_memory = MemoryIntegral()

    def sample(self) -> None:
        """Do nothing: the node meter samples."""

    def read(self) -> PodReading:
        """Ask the node meter; takes at most about two seconds. None while it does not answer."""
        try:
            answer = self._client.ask()
            return self._reading(answer)
        except (NodeMeterError, CounterBackError) as error:
            return self._nothing(str(error))

    def status(self) -> tuple[MeterStatus, ...]:
        """How the last reading went."""
        return (self._condition.status,)

    def _reading(self, answer: NodeMeterAnswer) -> PodReading:
        before, self._answer = self._answer, answer
        if answer is before and self._refusal:  # the next answer decides, not the same one again
            raise CounterBackError(self._refusal)
        cpu_s = self._advanced(answer.cpu_s)
        own_bytes = self._ourselves.resident_bytes()
        size = answer.working_set_bytes
        is_continued = before is None or answer.boot == before.boot
        self._add_memory(before if is_continued else None, answer, own_bytes)
        self._condition.works(f"node meter {self._client.url}")
        return PodReading(
            cpu_s=cpu_s,
            working_set_bytes=None if size is None else max(0, size - own_bytes),
            memory_byte_s=None if size is None or not is_continued else self._memory_byte_s,
            method=self.name,
            epoch=self._cpu_time.epoch,
        )

    def _advanced(self, cpu_s: float) -> float:
        """Return the pod's CPU seconds without ours. Raises CounterBackError."""
        self._refusal = ""
        try:
            return self._cpu_time.advance(cpu_s, self._ourselves.cpu_s())
        except CounterBackError as error:
            self._refusal = str(error)
            raise

    def _add_memory(
        self, before: NodeMeterAnswer | None, answer: NodeMeterAnswer, own_bytes: int
    ) -> None:
        """Add what is new of the integral, without our own memory."""
        last_byte_s = self._own_byte_s
        self._own_byte_s = self._own_memory.advance(self._clock(), own_bytes)
        if before is not None:
            step = answer.memory_byte_s - before.memory_byte_s - (self._own_byte_s - last_byte_s)
            self._memory_byte_s += max(0.0, step)

    def _nothing(self, detail: str) -> PodReading:
        self._condition.missing(detail)
        return PodReading(cpu_s=None, working_set_bytes=None, method=self.name)
