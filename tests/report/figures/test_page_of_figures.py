"""The examples on the page about figures are what the code computes."""

import re
from pathlib import Path

import pytest

from sidecar.report.figures import boamps, budget
from sidecar.report.figures.citations import Citations
from sidecar.report.figures.daily import AsOf, Daily
from sidecar.report.figures.equivalents import equivalents
from sidecar.report.figures.sci import sci
from sidecar.report.figures.what_if_regions import Candidates, what_if_regions
from tests.report.figures.rows import CATALOGUE, NOW, day, row

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "report-figures.md"
TEXT = PAGE.read_text(encoding="utf-8")

REGION = CATALOGUE.region("westeurope")
RUN = row(
    {"region": "westeurope"},
    energy_kwh=100.0,
    facility_energy_kwh=100.0 * REGION.pue.value,
    emissions_g=100.0 * REGION.pue.value * REGION.carbon_intensity.value,
    embodied_g=2000.0,
    gpu_hours=10.0,
)


def sweden():
    regions = what_if_regions([RUN], Candidates.of(CATALOGUE.regions()))["regions"]
    return next(item for item in regions if item["region"] == "swedencentral")


def car_km():
    rows = equivalents(RUN.measures, CATALOGUE.equivalents(), Citations())
    return rows[0]["amount"]


def forecast_g():
    days = Daily.of([day(f"2026-11-{number:02}", 100.0) for number in range(1, 12)])
    return budget.budget_row(budget.Budget(1e6), days, AsOf(NOW))["forecast_g"]


@pytest.mark.parametrize(
    ("example", "value"),
    [
        (r"= (28842) g\.", lambda: RUN.measures.emissions_g),
        (r"= ([\d.]+) g per GPU-hour", lambda: sci(RUN.measures)["per_gpu_hour_g"]),
        (r"= (\d+) g in Sweden Central", lambda: sweden()["emissions_g"]),
        (r"in Sweden Central, −(\d+) g", lambda: -sweden()["difference_g"]),
        (r"= ([\d.]+) km by", car_km),
        (r"18\.5 · 100 = (\d+) g", forecast_g),
        (r"≥ (\d+) % of it", lambda: budget.AT_RISK_SHARE * 100),
        (r"within (\d+) % high", lambda: boamps._QUALITIES[0][1] * 100),
        (r"(\d+) % medium", lambda: boamps._QUALITIES[1][1] * 100),
    ],
)
def test_an_example_is_what_the_code_computes(example, value):
    (shown,) = re.findall(example, TEXT)
    assert float(shown) == pytest.approx(value(), abs=0.05)


def test_the_page_links_every_module_with_a_formula():
    for name in ("sci", "idle", "what_if_regions", "hours", "budget", "months", "equivalents"):
        assert f"figures/{name}.py" in TEXT
