"""Metrics of the node meter: the node's energy and what no pod used of it, its looks and its callers."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from sidecar.exporters.energy_metrics import (
    COMPONENT,
    Column,
    Standing,
    energy,
    power_samples,
)
from sidecar.exporters.prometheus import Label, Metric, Sample, counter, gauge
from sidecar.meters.reading import GpuReading
from sidecar.node_meter.pods import PodsUse

MILLIJOULES_PER_J: Final = 1000

_ENERGY: Final = energy(
    counter("node_meter_energy_joules", "Energy of the node.", COMPONENT), "node_{}_energy_kwh"
)
_UNALLOCATED: Final = energy(
    counter(
        "node_meter_unallocated_energy_joules", "Energy of the node that no pod used.", COMPONENT
    ),
    "{}_energy_kwh",
)
_SUMS: Final = (
    _ENERGY,
    _UNALLOCATED,
    Column(
        counter(
            "node_meter_unallocated_co2e_grams",
            "Emissions of the energy that no pod used, with the data centre's part, CO2e.",
        ),
        {"": "emissions_g"},
    ),
)
_POWER: Final = gauge(
    "node_meter_power_watts", "Power of the node, mean of the last window.", COMPONENT
)
_UNALLOCATED_POWER: Final = gauge(
    "node_meter_unallocated_power_watts",
    "Power of the node that no pod used, mean of the last window.",
    COMPONENT,
)
_INFO: Final = Metric(
    "emissions_node_meter_info",
    "info",
    "The node that is metered. What is not known is empty.",
    (
        Label("cluster", "name of the cluster"),
        Label("node", "name of the node"),
        Label("vm_size", "Azure VM size"),
        Label("region", "Azure region"),
    ),
)
_PODS: Final = gauge("node_meter_pods", "Pods of the node at the last look.")
_PODS_CPU: Final = counter(
    "node_meter_pods_cpu_seconds", "CPU time of all pods since the node meter began."
)
_LOOKS: Final = counter("node_meter_looks", "Looks at all pods.")
_LOOK_S: Final = gauge("node_meter_look_duration_seconds", "What the last look took.")
_REQUESTS: Final = counter(
    "node_meter_requests",
    "Requests of pods.",
    Label("outcome", "`answered`, or the code of the refusal"),
)
_UUID: Final = Label("uuid", "UUID of the GPU")
_GPU: Final = counter("node_meter_gpu_energy_joules", "Energy of a GPU.", _UUID)
_GPU_PODS: Final = counter(
    "node_meter_gpu_pods_energy_joules", "Energy of a GPU that was pods'.", _UUID
)
_GPU_UNALLOCATED: Final = counter(
    "node_meter_gpu_unallocated_energy_joules", "Energy of a GPU that no pod held.", _UUID
)

METRICS: Final = (
    _INFO,
    *(one.metric for one in _SUMS),
    _POWER,
    _UNALLOCATED_POWER,
    _PODS,
    _PODS_CPU,
    _LOOKS,
    _LOOK_S,
    _REQUESTS,
    _GPU,
    _GPU_PODS,
    _GPU_UNALLOCATED,
)
"""Beside those of what became of its own records, which are named as the sidecar's."""


def node_samples(standing: Standing) -> Iterator[Sample]:
    """Yield what the node's own records tell."""
    record, last = standing.totals.merged, standing.last
    for one in _SUMS:
        yield from one.samples(record, is_final=standing.is_final)
    if standing.is_final:
        known = (record.cluster, record.node, record.vm_size, record.region)
        yield Sample(_INFO, 1.0, tuple(text or "" for text in known))
    if standing.is_final and last is not None:
        yield from power_samples(_POWER, _ENERGY, last)
        yield from power_samples(_UNALLOCATED_POWER, _UNALLOCATED, last)


def pods_samples(total: PodsUse | None) -> Iterator[Sample]:
    """Yield what all pods together use; nothing before the first look."""
    if total is not None:
        yield Sample(_PODS, float(total.pods))
        yield Sample(_PODS_CPU, total.cpu_s)


def service_samples(looks: tuple[int, float], outcomes: Mapping[str, int]) -> Iterator[Sample]:
    """Yield how often was looked and how long it took last, and what callers were told."""
    count, last_look_s = looks
    yield Sample(_LOOKS, float(count))
    yield Sample(_LOOK_S, last_look_s)
    for outcome, times in outcomes.items():
        yield Sample(_REQUESTS, float(times), (outcome,))


def gpu_samples(unallocated: Iterable[GpuReading]) -> Iterator[Sample]:
    """Yield the energy of each GPU, and of it what was pods' and what nobody's."""
    for gpu in unallocated:
        if gpu.energy_mj is None or gpu.pod_energy_mj is None:
            continue
        parts_mj = (
            (_GPU, gpu.energy_mj),
            (_GPU_UNALLOCATED, gpu.pod_energy_mj),
            (_GPU_PODS, gpu.energy_mj - gpu.pod_energy_mj),
        )
        for metric, energy_mj in parts_mj:
            yield Sample(metric, energy_mj / MILLIJOULES_PER_J, (gpu.uuid,))
