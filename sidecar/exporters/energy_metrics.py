"""What a run has used so far, as metrics: the totals of its records, and its last window.

Counters hold what is final. Until it is settled who and where a run is (most often seconds, 75 s where
IMDS is blocked) records may still be written anew with better factors, and smaller sums; until then
counters stay at 0 and the last window is not told, so that no counter ever falls.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sidecar.exporters.prometheus import Label, Metric, Sample, counter, gauge
from sidecar.exporters.summary import Totals
from sidecar.record import EmissionRecord
from sidecar.units import JOULES_PER_KWH


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands: its totals, its last window, and whether what is told stays true."""

    totals: Totals
    last: EmissionRecord | None
    is_final: bool


@dataclass(frozen=True, slots=True)
class Column:
    """A metric, and the columns of a record that it is told from, by the value of its label, if any."""

    metric: Metric
    columns: Mapping[str, str]
    factor: float = 1.0

    def samples(self, record: EmissionRecord, *, is_final: bool = True) -> Iterator[Sample]:
        """Yield what is known; what is not final is 0, and so is a sum before the first window."""
        for component, name in self.columns.items():
            value = getattr(record, name)
            if value is None and record.event == "start" and name in _FROM_THE_START:
                value = 0.0
            if value is not None:
                labels = (component,) if component else ()
                yield Sample(self.metric, value * self.factor if is_final else 0.0, labels)


COMPONENTS: Final = ("cpu", "ram", "gpu")
COMPONENT: Final = Label("component", "`cpu`, `ram` or `gpu`")
_CPU_OR_GPU: Final = Label("component", "`cpu` or `gpu`")

_FROM_THE_START: Final = (
    "cpu_energy_kwh", "ram_energy_kwh", "facility_energy_kwh", "node_cpu_energy_kwh",
    "node_ram_energy_kwh", "emissions_g", "emissions_low_g", "emissions_high_g",
)  # fmt: skip
"""Nothing is used before metering begins: so `increase()` sees the first windows."""


def energy(metric: Metric, pattern: str) -> Column:
    """Tell a metric from the columns of the three components, in J; `{}` stands for the component."""
    return Column(metric, {one: pattern.format(one) for one in COMPONENTS}, JOULES_PER_KWH)


_ENERGY: Final = energy(
    counter("energy_joules", "Energy that the pod used.", COMPONENT), "{}_energy_kwh"
)
_SUMS: Final = (
    _ENERGY,
    Column(
        counter(
            "reserved_idle_energy_joules",
            "Of the pod's energy: spent because it held CPUs and GPUs that did nothing.",
            _CPU_OR_GPU,
        ),
        {"cpu": "cpu_reserved_idle_energy_kwh", "gpu": "gpu_reserved_idle_energy_kwh"},
        JOULES_PER_KWH,
    ),
    Column(
        counter(
            "facility_energy_joules",
            "Energy of the pod with its part of what the data centre itself uses (PUE).",
        ),
        {"": "facility_energy_kwh"},
        JOULES_PER_KWH,
    ),
    Column(
        counter(
            "co2e_grams",
            "Emissions of the pod's operation, CO2e: facility energy times carbon intensity.",
        ),
        {"": "emissions_g"},
    ),
    Column(
        counter("co2e_low_grams", "Lower bound of the emissions of the pod's operation, CO2e."),
        {"": "emissions_low_g"},
    ),
    Column(
        counter("co2e_high_grams", "Upper bound of the emissions of the pod's operation, CO2e."),
        {"": "emissions_high_g"},
    ),
    Column(
        counter(
            "embodied_co2e_grams",
            "The pod's part of what making the machine emitted, CO2e. Not in the other emissions.",
        ),
        {"": "embodied_g"},
    ),
    Column(
        counter("water_litres", "Water that the data centre used for the pod."), {"": "water_l"}
    ),
    energy(
        counter(
            "node_energy_joules",
            "Energy of the whole node as this pod's sidecar sees it. Not to be summed over the pods "
            "of a node.",
            COMPONENT,
        ),
        "node_{}_energy_kwh",
    ),
    Column(counter("pod_cpu_seconds", "CPU time that the pod used."), {"": "pod_cpu_seconds"}),
    Column(counter("metered_seconds", "Time that was metered."), {"": "duration_s"}),
    Column(
        counter(
            "gap_seconds", "Time that was not metered: the machine slept, or its clock jumped."
        ),
        {"": "gap_s"},
    ),
)

_WINDOWS: Final = counter("windows", "Windows that the totals here are of.")

_GAUGES: Final = (
    Column(
        gauge(
            "utilization_ratio",
            "Utilisation of the node's CPUs, and of the GPUs seen, in the last window.",
            _CPU_OR_GPU,
        ),
        {"cpu": "cpu_utilization", "gpu": "gpu_utilization"},
    ),
    Column(
        gauge(
            "share_ratio",
            "The pod's share of the node's energy in the last window.",
            Label("component", "`cpu` (its dynamic part), `cpu_idle`, `ram` or `gpu`"),
        ),
        {"cpu": "share_cpu", "cpu_idle": "share_idle", "ram": "share_ram", "gpu": "share_gpu"},
    ),
    Column(
        gauge(
            "carbon_intensity_grams_per_joule",
            "Carbon intensity used in the last window, CO2e; times 3.6e6 it is g/kWh.",
        ),
        {"": "carbon_intensity_g_per_kwh"},
        1 / JOULES_PER_KWH,
    ),
    Column(gauge("pue_ratio", "Power usage effectiveness used in the last window."), {"": "pue"}),
)

_POWER: Final = gauge("power_watts", "Power of the pod, mean of the last window.", COMPONENT)
_WINDOW_S: Final = gauge("window_seconds", "Time metered in the last window.")
_WINDOW_END: Final = gauge("window_end_timestamp_seconds", "When the last window ended.")
_IDENTITY: Final = Metric(
    "emissions_info",
    "info",
    "Who and where the run is. What is not known is empty.",
    (
        Label("project", "what the emissions are charged to"),
        Label("experiment", "experiment within the project"),
        Label("run_id", "id of the run"),
        Label("cluster", "name of the cluster"),
        Label("namespace", "Kubernetes namespace"),
        Label("pod", "name of the pod"),
        Label("workload", "workload the pod belongs to"),
        Label("node", "name of the node"),
        Label("vm_size", "Azure VM size"),
        Label("region", "Azure region"),
        Label("zone", "availability zone"),
        Label("country_iso3", "country, ISO 3166 alpha-3"),
        Label("priority", "`Regular`, `Low` or `Spot`"),
    ),
)
_METHODS: Final = Metric(
    "emissions_method_info",
    "info",
    "How the numbers of the last window were found.",
    (
        Label("quality", "`measured`, `estimated` or `modelled`"),
        Label("cpu_power_method", "as in the record"),
        Label("gpu_method", "as in the record"),
        Label("pod_method", "as in the record"),
        Label("carbon_intensity_level", "`zone`, `country`, `world`, or empty where it was set"),
    ),
)

METRICS: Final = (
    _IDENTITY,
    _METHODS,
    *(one.metric for one in _SUMS),
    _WINDOWS,
    _POWER,
    *(one.metric for one in _GAUGES),
    _WINDOW_S,
    _WINDOW_END,
)


def energy_samples(standing: Standing) -> Iterator[Sample]:
    """Yield what a run tells of itself."""
    totals, is_final = standing.totals, standing.is_final
    if is_final:
        yield _info(_IDENTITY, totals.merged)
    for one in _SUMS:
        yield from one.samples(totals.merged, is_final=is_final)
    yield Sample(_WINDOWS, float(totals.windows) if is_final else 0.0)
    if standing.last is not None:
        yield from _window_samples(standing.last, is_final=is_final)


def _window_samples(last: EmissionRecord, *, is_final: bool) -> Iterator[Sample]:
    """Yield what the last window tells; when it ended is true whoever the pod is."""
    yield Sample(_WINDOW_S, last.duration_s)
    yield Sample(_WINDOW_END, datetime.fromisoformat(last.window_end).timestamp())
    if is_final:
        yield _info(_METHODS, last)
        for one in _GAUGES:
            yield from one.samples(last)
        yield from power_samples(_POWER, _ENERGY, last)


def power_samples(metric: Metric, of: Column, last: EmissionRecord) -> Iterator[Sample]:
    """Yield the mean power of a window, in W: its energy over its duration."""
    if last.duration_s > 0:
        for one in of.samples(last):
            yield Sample(metric, one.value / last.duration_s, one.labels)


def _info(metric: Metric, record: EmissionRecord) -> Sample:
    return Sample(metric, 1.0, tuple(getattr(record, label) or "" for label in metric.label_names))
