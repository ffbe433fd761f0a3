"""Metrics of the collector, in a registry of its own. No label comes from a caller."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class CollectorMetrics:
    """Counts; `outcome` is created, existing, handed_over, or the short code of a refusal."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.segments = Counter(
            "emissions_collector_segments",
            "Segments by what became of them.",
            ["outcome"],
            registry=self.registry,
        )
        self.records = Counter(
            "emissions_collector_records",
            "Records in segments that were committed.",
            registry=self.registry,
        )
        self.content = Counter(
            "emissions_collector_bytes",
            "Compressed bytes of segments that were committed.",
            registry=self.registry,
        )
        self.duration = Histogram(
            "emissions_collector_request_duration_seconds",
            "Time to answer, by route.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "emissions_collector_in_flight_requests",
            "Requests of pods that are being answered.",
            registry=self.registry,
        )
        self.reviews = Counter(
            "emissions_collector_token_reviews",
            "Tokens that the Kubernetes API was asked about, by answer.",
            ["outcome"],
            registry=self.registry,
        )
