"""The node's counters of the last minutes: what pods' counters that come late are compared with."""

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from typing import Final

from sidecar.meters.reading import CpuReading, NodeCounters, RaplReading

KEPT_S: Final = 150.0
"""More than the longest lag of any source."""

PERIOD_S: Final = 5.0
"""Moments between two looks are told by a straight line: looks are to be nearer to each other than those
of the sources, so that a burst is not seen in the pod before it is seen in the node."""


@dataclass(frozen=True, slots=True)
class _Look:
    moment_s: float
    counters: NodeCounters


class NodeHistory:
    """Looks at counters that only rise, by the monotonic clock in seconds; some kilobytes."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque()

    def is_due(self, now_s: float) -> bool:
        """Whether the last look is a while ago."""
        return not self._looks or now_s - self._looks[-1].moment_s >= PERIOD_S

    def add(self, now_s: float, cpu: CpuReading | None, rapl: RaplReading | None) -> None:
        """Take a look; one without CPU time is none. Only one is kept that is older than `KEPT_S`."""
        if cpu is None or (self._looks and now_s <= self._looks[-1].moment_s):
            return
        self._looks.append(_Look(now_s, NodeCounters(cpu, rapl)))
        while len(self._looks) > 1 and self._looks[1].moment_s <= now_s - KEPT_S:
            self._looks.popleft()

    def at(self, moment_s: float) -> NodeCounters | None:
        """Return the counters of a moment: linear between two looks; None outside of them."""
        after = bisect_right(self._looks, moment_s, key=lambda look: look.moment_s)
        if after == 0:
            return None
        left = self._looks[after - 1]
        if left.moment_s == moment_s:
            return left.counters
        if after == len(self._looks):
            return None
        right = self._looks[after]
        part = (moment_s - left.moment_s) / (right.moment_s - left.moment_s)
        return _between(left.counters, right.counters, part)


def _between(left: NodeCounters, right: NodeCounters, part: float) -> NodeCounters:
    rapl: RaplReading | None = None
    if left.rapl and right.rapl and left.rapl.domains == right.rapl.domains:
        step_uj = right.rapl.energy_uj - left.rapl.energy_uj
        rapl = RaplReading(left.rapl.energy_uj + round(part * step_uj), right.rapl.domains)
    cpu = CpuReading(
        busy_s=left.cpu.busy_s + part * (right.cpu.busy_s - left.cpu.busy_s),
        total_s=left.cpu.total_s + part * (right.cpu.total_s - left.cpu.total_s),
        cpus=right.cpu.cpus,
    )
    return NodeCounters(cpu, rapl)
