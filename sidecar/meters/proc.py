"""CPU time and memory of the whole node, from `/proc/stat` and `/proc/meminfo`.

Both show the whole (virtual) machine in every container: one denominator for all pods of a node.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from sidecar.meters.condition import Condition
from sidecar.meters.kernel_file import read_kernel_file
from sidecar.meters.reading import CpuReading, MemoryReading, MeterStatus

log = logging.getLogger(__name__)

HELD_DIP_S = 60.0
"""Dips up to this are held: proc(5) says of iowait that it "may decrease in certain conditions"."""

KIB = 1024


@dataclass(frozen=True, slots=True)
class CpuTicks:
    """The first line of `/proc/stat` in USER_HZ ticks, and how many CPUs are online."""

    busy: int
    idle: int
    cpus: int


class RisingSeconds:
    """CPU seconds that only rise, made from a kernel counter that now and then falls.

    A small dip is held at the highest value seen. A large one is held once (it may be a torn read);
    if the next reading confirms it, the counter has restarted and counting goes on from there.
    """

    def __init__(self) -> None:
        self._carried_s = 0.0
        self._highest_s = 0.0
        self._restart_s: float | None = None

    def advance(self, counter_s: float) -> float:
        """Take the next value of the counter; return the total, never less than before."""
        if counter_s >= self._highest_s - HELD_DIP_S:
            self._highest_s = max(self._highest_s, counter_s)
            self._restart_s = None
        elif self._restart_s is None or counter_s < self._restart_s:
            self._restart_s = counter_s
        else:
            self._carried_s += self._highest_s - self._restart_s
            self._highest_s = counter_s
            self._restart_s = None
        return self._carried_s + self._highest_s


class ProcMeter:
    """Reads the node's CPU time and memory below `proc_root` (normally `/proc`)."""

    def __init__(self, proc_root: Path) -> None:
        self._stat_path = str(proc_root / "stat")
        self._meminfo_path = str(proc_root / "meminfo")
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")
        self._busy = RisingSeconds()
        self._idle = RisingSeconds()
        self._cpu_condition = Condition("cpu-time", log)
        self._memory_condition = Condition("memory", log)

    def cpu(self) -> CpuReading | None:
        """CPU seconds since boot, never less than before; None when the file is missing or torn.

        busy = user + nice + system + irq + softirq (guest time is inside user and nice);
        idle = idle + iowait. Steal is in neither: the hypervisor gave that time to other machines.
        """
        try:
            ticks = parse_stat(read_kernel_file(self._stat_path, until=b"\nintr"))
        except (OSError, ValueError) as error:
            self._cpu_condition.fails(f"cannot read CPU time from {self._stat_path}: {error}")
            return None
        self._cpu_condition.works(f"{ticks.cpus} CPUs, {self._stat_path}")
        busy_s = self._busy.advance(ticks.busy / self._ticks_per_s)
        idle_s = self._idle.advance(ticks.idle / self._ticks_per_s)
        return CpuReading(busy_s=busy_s, total_s=busy_s + idle_s, cpus=ticks.cpus)

    def memory(self) -> MemoryReading | None:
        """Memory of the node now; None when the file is missing or torn."""
        try:
            memory = parse_meminfo(read_kernel_file(self._meminfo_path, until=b"\nBuffers"))
        except (OSError, ValueError) as error:
            self._memory_condition.fails(f"cannot read memory from {self._meminfo_path}: {error}")
            return None
        self._memory_condition.works(self._meminfo_path)
        return memory

    def status(self) -> tuple[MeterStatus, ...]:
        """How the last readings went."""
        return (self._cpu_condition.status, self._memory_condition.status)


def parse_stat(content: bytes) -> CpuTicks:
    """Read the CPU lines of `/proc/stat` (proc(5)).

    Raises:
        ValueError: the content is torn or is no `/proc/stat`.

    """
    lines = content.split(b"\n")
    lines.pop()  # after the last line end; anything else there is half a line
    first = lines[0].split() if lines else []
    if len(first) < 8 or first[0] != b"cpu":
        raise ValueError(f"torn, it starts with {content[:40]!r}")
    user, nice, system, idle, iowait, irq, softirq = map(_counter, first[1:8])
    cpus = sum(1 for line in lines[1:] if line.startswith(b"cpu"))
    if cpus == 0 or (len(lines) == cpus + 1 and not content.endswith(b"\n")):
        raise ValueError(f"torn after {cpus} CPU lines")
    return CpuTicks(busy=user + nice + system + irq + softirq, idle=idle + iowait, cpus=cpus)


def _counter(field: bytes) -> int:
    """Read a counter of the kernel, which has 64 bits."""
    if len(field) > 20:
        raise ValueError(f"{field[:20]!r}… is no counter")
    return int(field)


def parse_meminfo(content: bytes) -> MemoryReading:
    """Read MemTotal and MemAvailable (kernel 3.14 and newer) of `/proc/meminfo`; its kB are KiB.

    Raises:
        ValueError: the content is torn or lacks one of the two.

    """
    found: dict[bytes, int] = {}
    for line in content.split(b"\n")[:-1]:
        fields = line.split()
        if len(fields) == 3 and fields[0] in (b"MemTotal:", b"MemAvailable:"):
            found[fields[0]] = _counter(fields[1]) * KIB
    total = found.get(b"MemTotal:", 0)
    available = found.get(b"MemAvailable:")
    if total <= 0 or available is None:
        raise ValueError("torn, MemTotal or MemAvailable is missing")
    return MemoryReading(total_bytes=total, available_bytes=min(max(available, 0), total))
