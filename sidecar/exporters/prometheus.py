"""Metrics in Prometheus' text format. prometheus-client loads when they are first asked for."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from prometheus_client.core import Metric


@dataclass(frozen=True, slots=True)
class Sample:
    """One metric without labels: name with its unit (counters end in `_total`), help and value."""

    name: str
    help: str
    value: float
    kind: Literal["gauge", "counter"] = "gauge"


def prometheus_text(samples: Iterable[Sample]) -> tuple[bytes, str]:
    """Return the text and its content type."""
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest  # noqa: PLC0415
    from prometheus_client.registry import Collector  # noqa: PLC0415

    class Samples(Collector):
        def collect(self) -> Iterator["Metric"]:
            yield from map(_metric, samples)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Samples())
    return generate_latest(registry), CONTENT_TYPE_LATEST


def _metric(sample: Sample) -> "Metric":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

    family = CounterMetricFamily if sample.kind == "counter" else GaugeMetricFamily
    return family(sample.name, sample.help, value=sample.value)
