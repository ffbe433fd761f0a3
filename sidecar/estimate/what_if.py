"""What-if: a whole VM at a given utilisation, from factors alone."""

from dataclasses import dataclass, replace

from sidecar.estimate.attribution import WHOLE_NODE
from sidecar.estimate.bounded import Bounded
from sidecar.estimate.emissions import Factors, WindowEstimate, estimate_window
from sidecar.meters.reading import NodeUsage


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Duration in seconds; utilisations 0..1, `gpu_utilization` None where it is left open."""

    duration_s: float
    cpu_utilization: float
    gpu_utilization: Bounded | None


def estimate_what_if(
    what_if: WhatIf, vcpus: int, memory_gib: float | None, factors: Factors
) -> WindowEstimate:
    """Estimate a VM of this size that runs like this, all of it for one tenant."""
    total_s = vcpus * what_if.duration_s
    usage = NodeUsage(
        duration_s=what_if.duration_s,
        cpus=vcpus,
        cpu_busy_s=total_s * what_if.cpu_utilization,
        cpu_total_s=total_s,
        memory_total_gib=memory_gib,
        memory_used_gib=None,
        package_energy_uj=None,
        gpus=(),
        pod_cpu_s=None,
        pod_working_set_gib=None,
    )
    if what_if.gpu_utilization is not None:
        factors = replace(factors, table_gpu_utilization=what_if.gpu_utilization)
    return estimate_window(usage, WHOLE_NODE, factors)
