"""CodeCarbon's model in the place of ours, so that people who migrate can compare."""

from dataclasses import dataclass

from sidecar.estimate.bounded import NOTHING, Bounded
from sidecar.estimate.codecarbon import CodeCarbonModel
from sidecar.estimate.power import CpuEnergy, cpu_utilization
from sidecar.meters.reading import NodeUsage
from sidecar.units import kwh_from_power


@dataclass(frozen=True, slots=True)
class CodeCarbonCpu:
    """The whole chip's TDP · (0.1 + 0.9 · load³), whatever slice of the chip this VM has."""

    model: CodeCarbonModel
    method: str = "codecarbon"

    @property
    def source(self) -> str:
        """Where the TDP comes from."""
        tdp = self.model.tdp
        return f"CodeCarbon 3.3.2 load curve on {tdp.value:g} W: {tdp.source}"

    def energy_kwh(self, usage: NodeUsage) -> CpuEnergy | None:
        """Return the energy over the window; the floor of 0.1 · TDP counts as idle."""
        utilization = cpu_utilization(usage)
        if utilization is None:
            return None
        total = kwh_from_power(self.model.cpu_power_w(utilization), usage.duration_s)
        idle = kwh_from_power(self.model.cpu_power_w(0.0), usage.duration_s)
        dynamic = Bounded.exact(max(0.0, total - idle))
        return CpuEnergy(
            Bounded.exact(total), Bounded.exact(idle), dynamic, self.method, self.source, NOTHING
        )


@dataclass(frozen=True, slots=True)
class CodeCarbonRam:
    """Power by the memory modules CodeCarbon supposes; never less than its floor."""

    model: CodeCarbonModel
    source: str = "CodeCarbon 3.3.2 RAM model"

    def energy_kwh(self, usage: NodeUsage, included_gib: Bounded) -> Bounded | None:  # noqa: ARG002
        """Return P · Δt; CodeCarbon's CPU figure holds no RAM, so nothing is included."""
        if usage.memory_total_gib is None:
            return None
        power_w = self.model.ram_power_w(usage.memory_total_gib)
        return Bounded.exact(kwh_from_power(power_w, usage.duration_s))
