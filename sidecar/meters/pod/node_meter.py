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

    A node meter that started anew counts anew: a new epoch.
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
        self._worked = False
        self._boot: str | None = None
        self._epoch = 0
        self._memory_byte_s = 0.0
        self._cpu_time = PodCpuTime()
        self._own_memory = MemoryIntegral()

    def sample(self) -> None:
        """Do nothing: the node meter samples."""

    def read(self) -> PodReading:
        """Ask the node meter; takes at most about a second. None while it does not answer."""
        try:
            answer = self._client.ask()
            return self._reading(answer)
        except (NodeMeterError, CounterBackError) as error:
            return self._nothing(str(error))

    def status(self) -> tuple[MeterStatus, ...]:
        """How the last reading went."""
        return (self._condition.status,)

    def _reading(self, answer: NodeMeterAnswer) -> PodReading:
        if answer.boot != self._boot:
            if self._boot is not None:
                self._epoch += self._cpu_time.epoch + 1
            self._boot = answer.boot
            self._begin_epoch()
        cpu_s = self._cpu_time.advance(answer.cpu_s, self._ourselves.cpu_s())
        own_bytes = self._ourselves.resident_bytes()
        own_byte_s = self._own_memory.advance(self._clock(), own_bytes)
        self._memory_byte_s = max(self._memory_byte_s, answer.memory_byte_s - own_byte_s)
        size = answer.working_set_bytes
        self._condition.works(f"node meter {self._client.url}")
        self._worked = True
        return PodReading(
            cpu_s=cpu_s,
            working_set_bytes=None if size is None else max(0, size - own_bytes),
            memory_byte_s=None if size is None else self._memory_byte_s,
            method=self.name,
            epoch=self._epoch + self._cpu_time.epoch,
        )

    def _begin_epoch(self) -> None:
        self._cpu_time = PodCpuTime()
        self._own_memory = MemoryIntegral()
        self._memory_byte_s = 0.0

    def _nothing(self, detail: str) -> PodReading:
        if self._worked:
            self._condition.fails(detail)
        else:  # nobody promised that there is one: the next source is asked
            self._condition.absent(detail)
        return PodReading(cpu_s=None, working_set_bytes=None, method=self.name)
