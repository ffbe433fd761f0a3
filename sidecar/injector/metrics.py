"""Metrics of the webhook, in a registry of its own. No label comes from a pod."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class InjectorMetrics:
    """Counts requests of the API server, which asks again about each pod that it changed."""

    def __init__(self, *, with_certificate: bool = False) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "emissions_injector_requests",
            "Admission requests by what became of the pod (injected, skipped, unchanged, failed) and "
            "why. Every pod is let through.",
            ["outcome", "reason"],
            registry=self.registry,
        )
        self.duration = Histogram(
            "emissions_injector_request_duration_seconds",
            "Time to answer an admission request.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.certificate_expiry: Gauge | None = None
        if with_certificate:
            self.certificate_expiry = Gauge(
                "emissions_injector_certificate_expiry_timestamp_seconds",
                "When the certificate that is served expires.",
                registry=self.registry,
            )
