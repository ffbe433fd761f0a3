"""OpenTelemetry metrics over OTLP/HTTP: cumulative sums and gauges, pushed at the end of each window.

Names follow OpenTelemetry's conventions: dots between namespaces, units (UCUM) beside the name and not
in it, what identifies the source as attributes of the resource. Where to, its own variables say:
OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS,
OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

from sidecar.exporters.tracked import TrackedWindow, mean_power_w, value_text
from sidecar.exporters.tracker_feed import Opener
from sidecar.record import EmissionRecord
from sidecar.units import JOULES_PER_KWH
from sidecar.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import Metric, MetricsData
    from opentelemetry.sdk.resources import Resource

# ruff: noqa: PLC0415 - loaded only where it is chosen

SCOPE: Final = "emissions-sidecar"
COMPONENT: Final = "emissions.component"

RESOURCE: Final = {
    "emissions.project": "project",
    "emissions.experiment": "experiment",
    "service.instance.id": "run_id",
    "cloud.provider": "provider",
    "cloud.region": "region",
    "cloud.availability_zone": "zone",
    "host.type": "vm_size",
    "host.id": "vm_id",
    "k8s.cluster.name": "cluster",
    "k8s.namespace.name": "namespace",
    "k8s.node.name": "node",
    "k8s.pod.name": "pod",
    "k8s.pod.uid": "pod_uid",
}
"""Attribute (OpenTelemetry semantic conventions 1.37 where it is not ours) and field of the record."""


@dataclass(frozen=True, slots=True)
class _Point:
    value: float
    component: str | None = None


@dataclass(frozen=True, slots=True)
class _Instrument:
    name: str
    unit: str
    description: str
    kind: Literal["sum", "gauge"]
    points: Callable[[TrackedWindow], Sequence[_Point]]


def _of_total(field: str, factor: float = 1.0) -> Callable[[TrackedWindow], Sequence[_Point]]:
    return lambda window: _known(getattr(window.totals, field), factor)


def _of_window(field: str) -> Callable[[TrackedWindow], Sequence[_Point]]:
    return lambda window: _known(getattr(window.record, field))


def _known(value: float | None, factor: float = 1.0) -> Sequence[_Point]:
    return () if value is None else (_Point(value * factor),)


def _energies(window: TrackedWindow) -> Sequence[_Point]:
    parts = {name: getattr(window.totals, f"{name}_energy_kwh") for name in ("cpu", "ram", "gpu")}
    return [
        _Point(energy_kwh * JOULES_PER_KWH, name)
        for name, energy_kwh in parts.items()
        if energy_kwh is not None
    ]


INSTRUMENTS: Final = (
    _Instrument("emissions.energy", "J", "energy used, without PUE, by component", "sum", _energies),
    _Instrument(
        "emissions.facility.energy", "J", "energy used, with PUE", "sum",
        _of_total("facility_energy_kwh", JOULES_PER_KWH),
    ),
    _Instrument("emissions.co2e", "g", "operational emissions", "sum", _of_total("emissions_g")),
    _Instrument(
        "emissions.embodied.co2e", "g", "embodied emissions", "sum", _of_total("embodied_g")
    ),
    _Instrument("emissions.water", "L", "water used", "sum", _of_total("water_l")),
    _Instrument("emissions.time", "s", "time metered", "sum", _of_total("duration_s")),
    _Instrument(
        "emissions.power", "W", "mean power of the last window, without PUE", "gauge",
        lambda window: _known(mean_power_w(window.record)),
    ),
    _Instrument(
        "emissions.carbon_intensity", "g/kW.h", "carbon intensity used in the last window", "gauge",
        _of_window("carbon_intensity_g_per_kwh"),
    ),
    _Instrument(
        "emissions.cpu.utilization", "1", "mean utilisation of the node's CPUs", "gauge",
        _of_window("cpu_utilization"),
    ),
    _Instrument(
        "emissions.gpu.utilization", "1", "mean utilisation of the observed GPUs", "gauge",
        _of_window("gpu_utilization"),
    ),
)  # fmt: skip


class OtlpTracker:
    """A receiver of OTLP."""

    def __init__(self, exporter: "OTLPMetricExporter") -> None:
        self._exporter = exporter

    def log(self, windows: Sequence[TrackedWindow]) -> None:
        """Push the last window: sums are cumulative, so that what was missed is in it."""
        from opentelemetry.sdk.metrics.export import MetricExportResult

        result = self._exporter.export(metrics_data(windows[-1]))
        if result is not MetricExportResult.SUCCESS:
            raise ConnectionError("the receiver did not take the metrics, or is not there")

    def close(self) -> None:
        """Let connections go."""
        self._exporter.shutdown()


def otlp_opener(
    environ: Mapping[str, str],  # noqa: ARG001 - as the other openers; the exporter reads its own
    *,
    owns_process: bool,  # noqa: ARG001
) -> Opener:
    """Return how to open the tracker, later and in another thread."""

    def opened() -> OtlpTracker:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        return OtlpTracker(OTLPMetricExporter())

    return Opener(opened)


def metrics_data(window: TrackedWindow) -> "MetricsData":
    """Return all metrics of a run at the end of a window."""
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    metrics = [metric for item in INSTRUMENTS if (metric := _metric(item, window)) is not None]
    scope = ScopeMetrics(InstrumentationScope(SCOPE, VERSION), metrics, "")
    return MetricsData([ResourceMetrics(_resource(window.totals), [scope], "")])


def _resource(totals: EmissionRecord) -> "Resource":
    """Return who the metrics are of; what the user's variables say goes before."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    found = {
        name: value_text(value)
        for name, field in RESOURCE.items()
        if (value := getattr(totals, field)) is not None
    }
    own = Resource({"service.name": SCOPE, "service.version": VERSION, **found})
    return own.merge(OTELResourceDetector().detect())


def _metric(item: _Instrument, window: TrackedWindow) -> "Metric | None":
    from opentelemetry.sdk.metrics.export import (
        AggregationTemporality,
        Gauge,
        Metric,
        NumberDataPoint,
        Sum,
    )

    begin_ns = _nanoseconds(window.totals.window_start)
    points = [
        NumberDataPoint(
            attributes={} if point.component is None else {COMPONENT: point.component},
            start_time_unix_nano=begin_ns,
            time_unix_nano=_nanoseconds(window.record.window_end),
            value=point.value,
        )
        for point in item.points(window)
    ]
    if not points:
        return None
    data: Sum | Gauge = Gauge(points)
    if item.kind == "sum":
        data = Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
    return Metric(item.name, item.description, item.unit, data)


def _nanoseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000) * 1_000_000
