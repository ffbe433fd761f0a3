"""Embodied emissions of a VM: its share of the server it runs on, spread over the server's life.

Method and figures: Teads / Cloud Carbon Footprint, "Embodied emissions" (2021-2023, Apache-2.0
tables). A server is 1,000 kg CO2e with 16 GB of RAM and one CPU, + 1.388 kg per further GB, + 100 kg
per further CPU, + 100 kg per SSD (50 per HDD), + 150 kg per GPU; it lives 4 years = 35,040 h. A VM
takes vCPUs / vCPUs of the largest size of its family; GPUs are counted one by one. The figures are
uncertain by a factor of about two, so low is half and high is double.
"""

from dataclasses import dataclass
from typing import Final

from sidecar.estimate.bounded import Bounded

SERVER_KG: Final = 1000.0
SERVER_RAM_GB: Final = 16.0
RAM_KG_PER_GB: Final = 1.388
FURTHER_CPU_KG: Final = 100.0
SSD_KG: Final = 100.0
HDD_KG: Final = 50.0
GPU_KG: Final = 150.0
LIFE_H: Final = 35_040
UNCERTAINTY: Final = 2.0
SOURCE: Final = "Teads/Cloud Carbon Footprint embodied emissions method"
YEAR: Final = 2023


@dataclass(frozen=True, slots=True)
class Server:
    """The server behind a VM family, as its largest size shows it; `cpus` are sockets."""

    memory_gib: float
    cpus: int
    ssds: int = 0
    hdds: int = 1


@dataclass(frozen=True, slots=True)
class EmbodiedRate:
    """Embodied emissions of the VM in g CO2e per hour: CPU, RAM and the rest, and its GPUs apart."""

    base_g_per_h: Bounded
    gpu_g_per_h: Bounded
    source: str = f"{SOURCE} ({YEAR})"

    def over(self, duration_s: float, base_share: float, gpu_share: float) -> Bounded:
        """Return the grams of a window for these shares of the VM and of its GPUs."""
        hours = duration_s / 3600
        return self.base_g_per_h.scaled(hours * base_share) + self.gpu_g_per_h.scaled(
            hours * gpu_share
        )


def server_kg(server: Server) -> float:
    """Embodied emissions in kg CO2e of a server without GPUs."""
    further_gb = max(0.0, server.memory_gib - SERVER_RAM_GB)
    return (
        SERVER_KG
        + RAM_KG_PER_GB * further_gb
        + FURTHER_CPU_KG * max(0, server.cpus - 1)
        + SSD_KG * server.ssds
        + HDD_KG * server.hdds
    )


def embodied_rate(server: Server, vcpu_share: float, gpu_count: float) -> EmbodiedRate:
    """Rate of a VM that has `vcpu_share` (0..1) of the server and `gpu_count` GPUs (fractions count)."""
    base = server_kg(server) * 1000 * vcpu_share / LIFE_H
    gpus = GPU_KG * 1000 * gpu_count / LIFE_H
    return EmbodiedRate(_doubtful(base), _doubtful(gpus))


def _doubtful(value: float) -> Bounded:
    return Bounded(value, value / UNCERTAINTY, value * UNCERTAINTY)
