"""The pod's part of the node by its processes, which a shared PID namespace lets us see.

Kubernetes docs, "Share Process Namespace between Containers in a Pod": process 1 is then `pause`,
which takes over and waits for orphans, so that their CPU time moves to it.
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sidecar.identity.bounded import shown
from sidecar.meters.condition import Condition
from sidecar.meters.kernel_file import read_kernel_file
from sidecar.meters.pod.process_tree import (
    CpuTimeLedger,
    MemoryIntegral,
    ProcessTable,
    SamplePace,
    without_own_time,
)
from sidecar.meters.reading import MeterStatus, PodMethod, PodReading

log = logging.getLogger(__name__)

PAUSE: Final = "pause"
"""The name of the program in the sandbox container of every pod (Kubernetes, build/pause)."""


class SharedPidSource:
    """CPU time since opening, and the working set, of all processes of the pod except this one.

    Children of ours count: the only one is a command that is the work. Containers' first processes
    have parent 0: who waits for them is outside.

    Works where process 1 is the pod's `pause` only. In a PID namespace of our own there is nothing
    else to see; in the node's (hostPID) there is every pod, and nothing tells them apart.
    """

    name: PodMethod = "shared-pid"
    needs = 'annotation emissions/share-process-namespace: "true"'
    is_local = True
    needs_sampling = True

    def __init__(
        self, own_pid: int, proc_root: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._own_pid = own_pid
        self._proc_root = str(proc_root)
        self._clock = clock
        self._pace = SamplePace(clock)
        self._table = ProcessTable(proc_root)
        self._ledger = CpuTimeLedger()
        self._memory = MemoryIntegral()
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")
        self._condition = Condition("pod", log)
        self._worked = False
        self.read()

    def sample(self) -> None:
        """Look at the memory, as often as a small share of one CPU allows."""
        if self._worked and self._pace.is_due:
            self.read()

    def read(self) -> PodReading:
        """CPU seconds since opening, never less than before; None where the pod is not seen."""
        began_s = self._clock()
        refusal = self._refusal()
        reading = self._nothing(refusal) if refusal else self._look(began_s)
        self._pace.looked(began_s)
        return reading

    def status(self) -> tuple[MeterStatus, ...]:
        """How the last reading went."""
        return (self._condition.status,)

    def _refusal(self) -> str | None:
        if self._own_pid == 1:
            return "the containers of this pod do not share a PID namespace: we are process 1"
        path = f"{self._proc_root}/1/comm"
        try:
            name = read_kernel_file(path).decode(errors="replace").removesuffix("\n")
        except OSError as error:
            return f"cannot tell whose PID namespace this is: {error}"
        if name == PAUSE:
            return None
        return (
            f"process 1 is {shown(name)}, not the pod's pause process: the PID namespace is not "
            "that of the pod's containers"
        )

    def _look(self, now_s: float) -> PodReading:
        try:
            processes = self._table.below(0, self._ledger)
        except OSError as error:
            return self._nothing(f"cannot list the processes of the pod: {error}")
        own = processes.pop(self._own_pid, None)
        counted = {} if own is None else {own.pid: without_own_time(own)}
        self._ledger.advance({**processes, **counted})
        self._worked = True
        self._condition.works("processes of the shared PID namespace")
        working_set_bytes = self._table.working_set_bytes(processes)
        return PodReading(
            cpu_s=self._ledger.total_ticks / self._ticks_per_s,
            working_set_bytes=working_set_bytes,
            memory_byte_s=self._memory.advance(now_s, working_set_bytes),
            method=self.name,
        )

    def _nothing(self, detail: str) -> PodReading:
        self._condition.missing(detail)
        return PodReading(cpu_s=None, working_set_bytes=None, method=self.name)
