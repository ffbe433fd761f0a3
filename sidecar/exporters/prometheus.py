"""Metrics in Prometheus' text format. prometheus-client loads when they are first asked for.

A metric is declared once, as a `Metric`; the reference page is written from the declarations. Values of
labels may come from pods: they are cut and made printable here, and escaped by prometheus-client.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from sidecar.version import VERSION

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

LABEL_CHARACTERS_MAX: Final = 128
"""Longer values of labels are cut: they are held in memory by every Prometheus that scrapes them."""

Kind = Literal["gauge", "counter", "histogram", "info"]


@dataclass(frozen=True, slots=True)
class Label:
    """A label, and what its values are; they must be few."""

    name: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as it is exposed: base units in the name, counters end in `_total`, infos in `_info`.

    Source: Prometheus documentation, "Metric and label naming".
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[Label, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of its labels, in their order."""
        return tuple(label.name for label in self.labels)


def counter(name: str, text: str, *labels: Label) -> Metric:
    """Declare a counter; the name without what is common to all."""
    return Metric(f"emissions_{name}_total", "counter", text, labels)


def gauge(name: str, text: str, *labels: Label) -> Metric:
    """Declare a gauge; the name without what is common to all."""
    return Metric(f"emissions_{name}", "gauge", text, labels)


@dataclass(frozen=True, slots=True)
class Sample:
    """A value of a metric; `labels` are the values of its labels, in their order."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()


BUILD: Final = Metric(
    "emissions_build_info",
    "info",
    "The version that runs.",
    (Label("version", "version of emissions-sidecar"),),
)
"""Part of every endpoint, as are the `process_…` metrics of prometheus-client."""


def prometheus_text(samples: Iterable[Sample]) -> tuple[bytes, str]:
    """Return the samples, the version and this process's own use as text, and its content type."""
    from prometheus_client import (  # noqa: PLC0415
        CONTENT_TYPE_LATEST,
        ProcessCollector,
        generate_latest,
    )
    from prometheus_client.registry import Collector  # noqa: PLC0415

    class Told(Collector):
        def collect(self) -> Iterator["Family"]:
            yield from _families((Sample(BUILD, 1.0, (VERSION,)), *samples))
            yield from ProcessCollector(registry=None).collect()

    return generate_latest(Told()), CONTENT_TYPE_LATEST


def label_text(text: str | None) -> str:
    """Return a text as the value of a label: printable, not too long; unknown is empty."""
    cut = (text or "")[:LABEL_CHARACTERS_MAX]
    return "".join(letter if letter.isprintable() else "?" for letter in cut)


def _families(samples: Iterable[Sample]) -> Iterable["Family"]:
    """Group the samples by metric, in the order in which metrics come first."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

    found: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for sample in samples:
        metric = sample.metric
        if metric.name not in found:
            make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            found[metric.name] = make(metric.name, metric.help, labels=metric.label_names)
        labels = [label_text(value) for value in sample.labels]
        found[metric.name].add_metric(labels, sample.value)
    return found.values()
