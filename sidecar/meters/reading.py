"""What the meters hand on: one immutable reading of every counter, and the difference of two.

All counters are cumulative and never go back (each meter handles wrap-around, resets and lost
devices itself), so that a late or missed tick loses nothing: the next difference covers it.
"""

from dataclasses import dataclass
from typing import Literal

GpuEnergySource = Literal["energy-counter", "power-samples", "none"]

PodMethod = Literal[
    "node-meter",
    "cgroup",
    "kubelet",
    "shared-pid",
    "metrics-api",
    "process-tree",
    "requests",
    "whole-node",
    "unallocated",
]
"""How a pod's part of the node is found, best first; docs/explanation/attribution.md compares them.

`process-tree` is for commands of ours, `unallocated` the node meter's own: what no pod used.
"""


@dataclass(frozen=True, slots=True)
class MeterStatus:
    """Whether a meter works here, in words a person can act on (for `detect`)."""

    name: str
    available: bool
    detail: str


@dataclass(frozen=True, slots=True)
class CpuReading:
    """CPU time of the whole node since boot, from `/proc/stat`; iowait counts as idle."""

    busy_s: float
    total_s: float
    cpus: int


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Memory of the whole node now, from `/proc/meminfo`."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class RaplReading:
    """Energy of all CPU packages since the meter was opened, wrap-around undone."""

    energy_uj: int
    domains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeCounters:
    """The node's CPU time, and its package energy where there is a meter of it, at one moment."""

    cpu: CpuReading
    rapl: RaplReading | None = None


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU since the meter was opened.

    `energy_mj` is cumulative and None where the device tells neither energy nor power.
    `utilization_s` is the integral of utilisation (0..1) over `observed_s` seconds, so that the
    mean of a window is the quotient of two differences; a device that reports no utilisation, or
    (vGPU) one that cannot be believed, observes 0 seconds. `notes` say what was lost or odd.
    `metered_s` are the seconds that `energy_mj` covers (None = all of them): it stands still while
    a GPU is lost, so that a window without news is told from a window without energy.

    Whose it is, where this meter knows: `pod_energy_mj` is the part of `energy_mj` that is the
    pod's, cumulative too; else `pod_share` is the constant share of the device that the pod holds
    (1 = all, 0 = none of it); both None = not known. `share_method` names how that was found.
    `meter` tells counters apart that do not continue each other.
    """

    uuid: str
    model: str
    energy_mj: int | None
    energy_source: GpuEnergySource
    utilization_s: float
    observed_s: float
    power_limit_w: float | None
    mig: bool = False
    virtual: bool = False
    notes: tuple[str, ...] = ()
    metered_s: float | None = None
    pod_energy_mj: int | None = None
    pod_share: float | None = None
    share_method: str | None = None
    meter: str = "nvml"


@dataclass(frozen=True, slots=True)
class PodReading:
    """The pod's CPU seconds since start and its working set; None = this source cannot tell.

    `memory_byte_s` is the working set integrated over time since start: processes that come and go
    between two readings are in it, where they sampled. `reserved_cpu_s` is the same of the CPUs
    reserved (only for `unallocated`, where pods come and go). Counters of one `method` continue
    each other while `epoch` is the same.

    Sources that answer late tell `cpu_s` as it was `age_s` ago. `node_then` are the node's counters of
    that moment (None = not known): two counters compare only over the same time.
    """

    cpu_s: float | None
    working_set_bytes: int | None
    memory_byte_s: float | None = None
    method: PodMethod = "whole-node"
    epoch: int = 0
    reserved_cpu_s: float | None = None
    age_s: float = 0.0
    node_then: NodeCounters | None = None


@dataclass(frozen=True, slots=True)
class NodeReading:
    """Every counter of the node at one instant. What could not be read is None (or empty).

    `pod` holds what each working source told, best first; the last one always answers.
    """

    monotonic_s: float
    cpu: CpuReading | None
    memory: MemoryReading | None
    rapl: RaplReading | None
    gpus: tuple[GpuReading, ...]
    pod: tuple[PodReading, ...]


@dataclass(frozen=True, slots=True)
class GpuUsage:
    """One GPU over a window. `energy_mj` None = to be modelled; `utilization` None = not observed.

    `metered_s` are the seconds that `energy_mj` covers (None = those of the window): less than the
    window where power samples were late or the GPU came late, more where it was silent before: then
    energy of those windows is in it. `notes` as in `GpuReading`.
    `pod_share` is the pod's part of the device over this window (None = not known).
    """

    uuid: str
    model: str
    energy_mj: int | None
    energy_source: GpuEnergySource
    utilization: float | None
    power_limit_w: float | None
    mig: bool
    virtual: bool
    metered_s: float | None = None
    notes: tuple[str, ...] = ()
    pod_share: float | None = None
    share_method: str | None = None


@dataclass(frozen=True, slots=True)
class NodeUsage:
    """What the node, and this pod on it, used between two readings; times in seconds.

    `pod_method` is the best source that answered at both ends. Where it answers late, all CPU figures
    (`cpu_busy_s`, `cpu_total_s`, `package_energy_uj`, `pod_cpu_s`) are of the time it tells of, which is
    as long and some seconds earlier.
    """

    duration_s: float
    cpus: int | None
    cpu_busy_s: float | None
    cpu_total_s: float | None
    memory_total_gib: float | None
    memory_used_gib: float | None
    package_energy_uj: int | None
    gpus: tuple[GpuUsage, ...]
    pod_cpu_s: float | None
    pod_working_set_gib: float | None
    pod_method: PodMethod = "whole-node"
    pod_reserved_cpu_s: float | None = None
