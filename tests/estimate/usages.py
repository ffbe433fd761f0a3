"""Usages to estimate from, whole numbers that are easy to check by hand."""

from dataclasses import replace
from typing import Any

from sidecar.carbon.intensity import CarbonIntensity
from sidecar.estimate.bounded import Bounded
from sidecar.estimate.embodied import EmbodiedRate
from sidecar.estimate.emissions import Factors
from sidecar.estimate.power import GpuPower, MeasuredOr, RamPerGib, VmShareModel
from sidecar.meters.reading import GpuUsage, NodeUsage
from sidecar.units import Figure

HOUR_S = 3600.0


def node_usage(**changes: Any) -> NodeUsage:
    """A 4-CPU, 32 GiB node over one hour at half load."""
    usage = NodeUsage(
        duration_s=HOUR_S,
        cpus=4,
        cpu_busy_s=2 * HOUR_S,
        cpu_total_s=4 * HOUR_S,
        memory_total_gib=32.0,
        memory_used_gib=8.0,
        package_energy_uj=None,
        gpus=(),
        pod_cpu_s=None,
        pod_working_set_gib=None,
    )
    return replace(usage, **changes)


def gpu_usage(**changes: Any) -> GpuUsage:
    """An A100 with an energy counter that went on by 0.2 kWh."""
    usage = GpuUsage(
        uuid="GPU-1",
        model="NVIDIA A100 80GB PCIe",
        energy_mj=720_000_000,
        energy_source="energy-counter",
        utilization=0.9,
        power_limit_w=300.0,
        mig=False,
        virtual=False,
    )
    return replace(usage, **changes)


def figure(value, unit, low=None, high=None):
    return Figure(value, unit, low or value, high or value, "test", 2026)


def factors(**changes):
    share = VmShareModel(figure(1, "W"), figure(5, "W"), 4, 4, "test")
    chosen = Factors(
        carbon=CarbonIntensity(figure(300, "g/kWh", 200, 450), "zone", None),
        pue=figure(1.2, "ratio"),
        wue=figure(0.5, "L/kWh"),
        embodied=EmbodiedRate(Bounded.exact(2.0), Bounded.exact(4.0)),
        cpu=MeasuredOr(share, share),
        ram=RamPerGib(figure(0.5, "W/GiB")),
        gpu_powers={"NVIDIA A100 80GB PCIe": GpuPower("A100", figure(50, "W"), figure(300, "W"))},
        table_gpus=(),
    )
    return replace(chosen, **changes)
