"""What was reserved and idle: the part of a pod's own energy that its unused reservation took."""

from typing import Any

from sidecar.report.figures.numbers import product, quotient, total
from sidecar.report.measures import Measures


def reserved_idle(measures: Measures) -> dict[str, Any]:
    """Return energy and share of what was reserved and idle, and what it comes to.

    `share` is of `energy_kwh`; facility energy, emissions and their bounds are cut by it.
    `gpu_hours_equivalent` is the idle energy of GPUs over their mean power: so many GPU-hours of work
    take the same energy. As idle power is below the mean, GPUs were idle for at least that long.
    """
    idle_kwh = total((measures.cpu_reserved_idle_energy_kwh, measures.gpu_reserved_idle_energy_kwh))
    share = quotient(idle_kwh, measures.energy_kwh)
    gpu_share = quotient(measures.gpu_reserved_idle_energy_kwh, measures.gpu_energy_kwh)
    return {
        "energy_kwh": idle_kwh,
        "share": share,
        "gpu_share": gpu_share,
        "gpu_hours_equivalent": product(measures.gpu_hours, gpu_share),
        "facility_energy_kwh": product(measures.facility_energy_kwh, share),
        "emissions_g": product(measures.emissions_g, share),
        "emissions_low_g": product(measures.emissions_low_g, share),
        "emissions_high_g": product(measures.emissions_high_g, share),
    }
