"""Metrics that a service counts itself, with prometheus-client, from the same declarations."""

from collections.abc import Iterator, Sequence

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from sidecar.exporters.prometheus import BUILD, Metric
from sidecar.version import VERSION


class Instruments:
    """Makes what counts, in a registry of its own, which tells version and own use, too."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.gauge(BUILD).labels(VERSION).set(1)

    def counter(self, metric: Metric) -> Counter:
        """Make the counter that a metric declares."""
        return Counter(metric.name, metric.help, metric.label_names, registry=self.registry)

    def gauge(self, metric: Metric) -> Gauge:
        """Make the gauge that a metric declares."""
        return Gauge(metric.name, metric.help, metric.label_names, registry=self.registry)

    def histogram(self, metric: Metric, buckets: Sequence[float]) -> Histogram:
        """Make the histogram that a metric declares."""
        return Histogram(
            metric.name, metric.help, metric.label_names, buckets=buckets, registry=self.registry
        )


def registry_text(registry: CollectorRegistry) -> tuple[bytes, str]:
    """Return a registry's metrics as text, and its content type.

    Without the `_created` series of prometheus-client: in this format they are gauges that nothing
    makes use of, one for each series of a counter.
    """

    class Told(Collector):
        def collect(self) -> Iterator[Family]:
            for family in registry.collect():
                family.samples = [
                    one for one in family.samples if not one.name.endswith("_created")
                ]
                yield family

    return generate_latest(Told()), CONTENT_TYPE_LATEST
