"""What the reference page says of a report."""

from dataclasses import fields

from sidecar.report.figures.descriptions import MEASURES
from sidecar.report.measures import PARTS_OF_RATES, Measures


def test_every_measure_is_described():
    told = [item.name for item in fields(Measures) if item.name not in PARTS_OF_RATES]
    assert list(MEASURES) == told
