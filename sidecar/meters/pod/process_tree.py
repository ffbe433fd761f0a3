"""The pod's share by its processes: CPU time and memory of everything below one process.

proc(5): `/proc/<pid>/stat` has utime, stime (own CPU time) and cutime, cstime (that of children
which ended and were waited for, theirs included) in USER_HZ ticks. A child's time so moves to its
parent when it ends; one that nobody waits for (its parent ignores SIGCHLD) takes it along.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sidecar.meters.condition import Condition
from sidecar.meters.kernel_file import read_kernel_file
from sidecar.meters.reading import MeterStatus, PodMethod, PodReading

log = logging.getLogger(__name__)

KIB = 1024

SAMPLE_PERIOD_S = 1.0
SAMPLE_CPU_SHARE = 0.005
"""Looking at 1,000 processes takes about 30 ms: they are then looked at each 6 s."""


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """One process in `/proc/<pid>/stat`; `started` (ticks since boot) tells a reused pid."""

    pid: int
    parent: int
    started: int
    own_ticks: int
    reaped_ticks: int


class CpuTimeLedger:
    """Sums the CPU time of a changing set of processes so that it never falls or counts twice.

    Each process adds its own growth. Time that a parent has taken over from ended children adds
    only what exceeds those children's last known times, which are owed until the next round: they
    were counted while the children lived. What was used before the first round is not counted.
    A process whose parent is 0 has it outside the PID namespace: nobody here takes its time over.
    """

    def __init__(self) -> None:
        self._opened = False
        self._known: dict[int, ProcessTimes] = {}
        self._owed_ticks = 0
        self.total_ticks = 0

    def last(self, pid: int) -> ProcessTimes | None:
        """Return a process as it was seen in the last round."""
        return self._known.get(pid)

    def knows(self, process: ProcessTimes) -> bool:
        """Whether this very process was seen in the last round."""
        known = self._known.get(process.pid)
        return known is not None and known.started == process.started

    def advance(self, processes: dict[int, ProcessTimes]) -> None:
        """Take the next state of all processes."""
        if self._opened:
            self._add_growth(processes)
        self._opened = True
        self._known = processes

    def _add_growth(self, processes: dict[int, ProcessTimes]) -> None:
        own_ticks = reaped_ticks = 0
        for process in processes.values():
            if self.knows(process):
                known = self._known[process.pid]
                own_ticks += max(0, process.own_ticks - known.own_ticks)
                reaped_ticks += max(0, process.reaped_ticks - known.reaped_ticks)
            else:
                own_ticks += process.own_ticks + process.reaped_ticks
        ended_ticks = sum(
            known.own_ticks + known.reaped_ticks
            for known in self._known.values()
            if known.parent != 0 and not _is_same(known, processes.get(known.pid))
        )
        owed_ticks = self._owed_ticks + ended_ticks
        paid_ticks = min(owed_ticks, reaped_ticks)
        self.total_ticks += own_ticks + reaped_ticks - paid_ticks
        self._owed_ticks = min(owed_ticks - paid_ticks, ended_ticks)


class MemoryIntegral:
    """A working set integrated over time: each stretch at the mean of what was seen at its ends."""

    def __init__(self) -> None:
        self._byte_s = 0.0
        self._seen: tuple[float, int] | None = None

    def advance(self, now_s: float, working_set_bytes: int | None) -> float:
        """Add the stretch up to now; one that ends unseen counts nothing."""
        if working_set_bytes is None:
            self._seen = None
            return self._byte_s
        if self._seen is not None:
            then_s, before_bytes = self._seen
            self._byte_s += max(0.0, now_s - then_s) * (before_bytes + working_set_bytes) / 2
        self._seen = (now_s, working_set_bytes)
        return self._byte_s


class SamplePace:
    """When to look at memory again: each second, or as often as a small share of a CPU allows."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next_s = 0.0

    @property
    def is_due(self) -> bool:
        """Whether the time has come."""
        return self._clock() >= self._next_s

    def looked(self, began_s: float) -> None:
        """Note a look that began at that time and has just ended."""
        cost_s = max(0.0, self._clock() - began_s)
        self._next_s = began_s + max(SAMPLE_PERIOD_S, cost_s / SAMPLE_CPU_SHARE)


class ProcessTable:
    """The processes in one `/proc`, and the memory they have."""

    def __init__(self, proc_root: Path) -> None:
        self._proc_root = str(proc_root)
        self._page_bytes = os.sysconf("SC_PAGESIZE")

    def times_of(self, pid: int) -> ProcessTimes:
        """Read one process.

        Raises:
            OSError: there is none, or none that we may see.
            ValueError: its file is torn.

        """
        return parse_process_stat(pid, read_kernel_file(f"{self._proc_root}/{pid}/stat"))

    def below(
        self, parent_pid: int, ledger: CpuTimeLedger, *, without: int = 0
    ) -> dict[int, ProcessTimes]:
        """Descendants of a process, and what the ledger knows, each read after its parent.

        In that order a child that ends meanwhile is missed once (the ledger makes up for it), but
        never read alive and then again as time its parent took over. Parent 0 gives all processes
        of a PID namespace; `without` is a process that the caller has read himself, before.

        Raises:
            OSError: `/proc` cannot be listed.

        """
        listed = {process.pid: process for process in self._all(ledger) if process.pid != without}
        children: dict[int, list[ProcessTimes]] = {}
        for process in listed.values():
            children.setdefault(process.parent, []).append(process)
        tree: dict[int, ProcessTimes] = {}
        pending = [(process, False) for process in listed.values() if ledger.knows(process)]
        pending.extend((process, False) for process in children.get(parent_pid, ()))
        visited = {without}
        while pending:
            process, stale = pending.pop()
            if process.pid in visited:
                continue
            visited.add(process.pid)
            # Listed by pid: a child with a lower pid than its parent's was read before it.
            stale = stale or process.pid < process.parent
            current = self._times_if_alive(process.pid, ledger) if stale else process
            if current is not None and current.started == process.started:
                tree[process.pid] = current
            pending.extend((child, stale) for child in children.get(process.pid, ()))
        return tree

    def working_set_bytes(self, pids: Iterable[int]) -> int | None:
        """Sum of (resident - shared) of `statm` plus the largest shared part.

        Libraries and shared memory are mostly the same pages in all processes of a job. Pages that
        forked workers share by copy-on-write count in each, so the sum is cut off at what the node
        uses (MemTotal - MemFree): it is never more than there is. None where that is not told.
        """
        private_pages = largest_shared_pages = 0
        for pid in pids:
            resident, shared = self._pages_of(pid)
            private_pages += max(0, resident - shared)
            largest_shared_pages = max(largest_shared_pages, shared)
        size = (private_pages + largest_shared_pages) * self._page_bytes
        used = self._used_bytes()
        return None if used is None else min(size, used)

    def _all(self, ledger: CpuTimeLedger) -> Iterator[ProcessTimes]:
        with os.scandir(self._proc_root) as entries:
            pids = sorted(int(entry.name) for entry in entries if entry.name.isdecimal())
        for pid in pids:
            process = self._times_if_alive(pid, ledger)
            if process is not None:
                yield process

    def _times_if_alive(self, pid: int, ledger: CpuTimeLedger) -> ProcessTimes | None:
        """None for a process that has just ended; one that cannot be read now is as it was."""
        try:
            return self.times_of(pid)
        except (FileNotFoundError, ProcessLookupError):
            return None
        except (OSError, ValueError):
            return ledger.last(pid)

    def _pages_of(self, pid: int) -> tuple[int, int]:
        try:
            fields = read_kernel_file(f"{self._proc_root}/{pid}/statm").split()
            return int(fields[1]), int(fields[2])
        except (OSError, ValueError, IndexError):
            return 0, 0

    def _used_bytes(self) -> int | None:
        try:
            content = read_kernel_file(f"{self._proc_root}/meminfo", until=b"\nBuffers")
            fields = dict(line.split(b":", 1) for line in content.splitlines() if b":" in line)
            total, free = (int(fields[name].split()[0]) for name in (b"MemTotal", b"MemFree"))
        except (OSError, ValueError, KeyError, IndexError):
            return None
        return max(0, total - free) * KIB


class ProcessTreeSource:
    """CPU time since opening, and the working set, of the descendants of a process.

    `root_pid` is normally the metering process itself, which becomes the parent of orphans
    (PR_SET_CHILD_SUBREAPER); its own CPU time and memory are left out unless `include_root` (a
    program that meters itself). A process once seen stays in, even when it moves to another parent.
    Not seen: what starts and ends between two readings under a parent that never waits for it.
    """

    name: PodMethod = "process-tree"
    needs = ""
    is_local = True

    def __init__(
        self,
        root_pid: int,
        proc_root: Path,
        *,
        include_root: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root_pid = root_pid
        self._include_root = include_root
        self._clock = clock
        self._pace = SamplePace(clock)
        self._table = ProcessTable(proc_root)
        self._ledger = CpuTimeLedger()
        self._memory = MemoryIntegral()
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")
        self._condition = Condition("pod", log)
        self.read()

    @property
    def needs_sampling(self) -> bool:
        """Memory is seen only when it is looked at."""
        return True

    def sample(self) -> None:
        """Look at the memory, as often as a small share of one CPU allows."""
        if self._pace.is_due:
            self.read()

    def read(self) -> PodReading:
        """CPU seconds since opening, never less than before; None while `/proc` cannot be read."""
        began_s = self._clock()
        reading = self._look(began_s)
        self._pace.looked(began_s)
        return reading

    def _look(self, now_s: float) -> PodReading:
        try:
            root = self._table.times_of(self._root_pid)
            below = self._table.below(self._root_pid, self._ledger, without=self._root_pid)
        except (OSError, ValueError) as error:
            self._condition.fails(f"cannot read process {self._root_pid}: {error}")
            return PodReading(cpu_s=None, working_set_bytes=None, method=self.name)
        self._ledger.advance({root.pid: self._counted(root), **below})
        self._condition.works(f"processes below {self._root_pid}")
        pids = [root.pid, *below] if self._include_root else [*below]
        working_set_bytes = self._table.working_set_bytes(pids)
        return PodReading(
            cpu_s=self._ledger.total_ticks / self._ticks_per_s,
            working_set_bytes=working_set_bytes,
            memory_byte_s=self._memory.advance(now_s, working_set_bytes),
            method=self.name,
        )

    def status(self) -> tuple[MeterStatus, ...]:
        """How the last reading went."""
        return (self._condition.status,)

    def _counted(self, root: ProcessTimes) -> ProcessTimes:
        return root if self._include_root else without_own_time(root)


def parse_process_stat(pid: int, content: bytes) -> ProcessTimes:
    """Read `/proc/<pid>/stat` (proc(5)); the name in it may hold spaces and parentheses.

    Raises:
        ValueError: the content is torn.

    """
    fields = content[content.rfind(b")") + 1 :].split()
    if len(fields) < 20 or b")" not in content:
        raise ValueError(f"torn, it starts with {content[:40]!r}")
    utime, stime, cutime, cstime = (int(field) for field in fields[11:15])
    return ProcessTimes(
        pid=pid,
        parent=int(fields[1]),
        started=int(fields[19]),
        own_ticks=utime + stime,
        reaped_ticks=cutime + cstime,
    )


def without_own_time(process: ProcessTimes) -> ProcessTimes:
    """Return a process of which only the time of its ended children counts."""
    return ProcessTimes(process.pid, process.parent, process.started, 0, process.reaped_ticks)


def _is_same(known: ProcessTimes, now: ProcessTimes | None) -> bool:
    return now is not None and now.started == known.started
