"""Metrics of the webhook, in a registry of its own. No label comes from a pod."""

from typing import Final

from prometheus_client import Gauge

from sidecar.exporters.instruments import Instruments
from sidecar.exporters.prometheus import Label, Metric, counter, gauge
from sidecar.injector.inject import Reason
from sidecar.injector.review import FAILURES, outcome_of

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

_REQUESTS: Final = counter(
    "injector_requests",
    "Admission requests by what became of the pod, and why. Every pod is let through.",
    Label("outcome", "`injected`, `skipped`, `unchanged` or `failed`"),
    Label("reason", "`injected`, why it was not, or what failed"),
)
_DURATION: Final = Metric(
    "emissions_injector_request_duration_seconds",
    "histogram",
    "Time to answer an admission request.",
)
_EXPIRY: Final = gauge(
    "injector_certificate_expiry_timestamp_seconds",
    "When the certificate that is served expires.",
)

METRICS: Final = (_REQUESTS, _DURATION, _EXPIRY)


class InjectorMetrics:
    """Counts requests of the API server, which asks again about each pod that it changed.

    All outcomes begin at 0, so that the first time is seen as a rise.
    """

    def __init__(self, *, with_certificate: bool = False) -> None:
        instruments = Instruments()
        self.registry = instruments.registry
        self.requests = instruments.counter(_REQUESTS)
        self.duration = instruments.histogram(_DURATION, _SECONDS)
        self.certificate_expiry: Gauge | None = None
        if with_certificate:
            self.certificate_expiry = instruments.gauge(_EXPIRY)
        for reason in Reason:
            self.requests.labels(outcome_of(reason), reason.value)
        for failure in FAILURES:
            self.requests.labels("failed", failure)
