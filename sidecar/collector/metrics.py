"""Metrics of the collector, in a registry of its own. No label comes from a caller."""

from typing import Final

from sidecar.exporters.instruments import Instruments
from sidecar.exporters.prometheus import Label, Metric, counter, gauge

STORED: Final = ("created", "existing", "handed_over")
"""Outcomes of a segment that is stored."""

FAULTS: Final = ("internal", "kubernetes_api", "storage")
"""Outcomes that are no fault of the caller: of the collector, or of what it depends on."""

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

_SEGMENTS: Final = counter(
    "collector_segments",
    "Segments by what became of them.",
    Label("outcome", f"{', '.join(f'`{one}`' for one in STORED)}, or the code of the refusal"),
)
_RECORDS: Final = counter("collector_records", "Records in segments that were committed.")
_BYTES: Final = counter("collector_bytes", "Compressed bytes of segments that were committed.")
_DURATION: Final = Metric(
    "emissions_collector_request_duration_seconds",
    "histogram",
    "Time to answer, by route.",
    (Label("route", "`segments`, `node` or `intensity`"),),
)
_IN_FLIGHT: Final = gauge(
    "collector_in_flight_requests", "Requests of pods that are being answered."
)
_REVIEWS: Final = counter(
    "collector_token_reviews",
    "Tokens that the Kubernetes API was asked about, by answer.",
    Label("outcome", "`accepted`, `refused` or `unanswered`"),
)

_INTENSITY_CALLS: Final = counter(
    "collector_intensity_calls",
    "Calls to the service that knows carbon intensity over time, by how they went.",
    Label("outcome", "`answered` or `failed`"),
)

METRICS: Final = (
    _SEGMENTS, _RECORDS, _BYTES, _DURATION, _IN_FLIGHT, _REVIEWS, _INTENSITY_CALLS,
)  # fmt: skip


class CollectorMetrics:
    """Counts; what may go wrong begins at 0, so that the first time is seen as a rise."""

    def __init__(self) -> None:
        instruments = Instruments()
        self.registry = instruments.registry
        self.segments = instruments.counter(_SEGMENTS)
        self.records = instruments.counter(_RECORDS)
        self.content = instruments.counter(_BYTES)
        self.duration = instruments.histogram(_DURATION, _SECONDS)
        self.in_flight = instruments.gauge(_IN_FLIGHT)
        self.reviews = instruments.counter(_REVIEWS)
        self.intensity_calls = instruments.counter(_INTENSITY_CALLS)
        for outcome in (*STORED, *FAULTS):
            self.segments.labels(outcome)
        for outcome in ("answered", "failed"):
            self.intensity_calls.labels(outcome)
