"""Budgets as bars: pure functions from the report model to words and positions."""

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.report.page.numbers import energy, mass
from sidecar.report.page.reading import Mapped, child, number, prose, text
from sidecar.report.page.view import Fact


@dataclass(frozen=True, slots=True)
class BudgetBar:
    """One budget as a bar; positions in percent of its length."""

    project: str
    href: str | None
    used_percent: float
    forecast_percent: float
    limit_percent: float
    status: str
    is_bad: bool
    summary: str
    facts: tuple[Fact, ...]


def budget_bar(budget: Mapped, project: str, href: str | None) -> BudgetBar | None:
    """Return a budget as a bar; None where there is no limit."""
    unit, spell = ("kwh", energy) if text(budget, "measure") == "energy_kwh" else ("g", mass)
    limit = number(budget, f"budget_{unit}")
    if not limit:
        return None
    used = number(budget, f"used_{unit}")
    forecast = number(budget, f"forecast_{unit}")
    length = max(limit, used or 0.0, forecast or 0.0) * 1.04
    status = text(budget, "status", "unknown")
    low, high = number(budget, f"forecast_low_{unit}"), number(budget, f"forecast_high_{unit}")
    between = (
        f", between {spell(low)} and {spell(high)}" if low is not None and high is not None else ""
    )
    facts = (
        Fact("Used", spell(used)),
        Fact("Left", spell(number(budget, f"left_{unit}"))),
        Fact("Forecast for the month", f"{spell(forecast)}{between}"),
        Fact("Rate", f"{spell(number(budget, f'burn_rate_{unit}_per_day'))} a day"),
        Fact("Used up on", text(budget, "exhausted_on", "not this month at this rate")),
    )
    return BudgetBar(
        project=project,
        href=href,
        used_percent=100 * (used or 0.0) / length,
        forecast_percent=100 * max(forecast or 0.0, used or 0.0) / length,
        limit_percent=100 * limit / length,
        status=status,
        is_bad=status in {"exceeded", "at risk"},
        summary=f"{spell(used)} of {spell(limit)} in {text(budget, 'month', 'the month')}, "
        f"forecast {spell(forecast)}",
        facts=facts,
    )


def budget_method(projects: Sequence[Mapped]) -> str:
    """Return how forecasts are made; it is the same for all budgets."""
    found = (prose(child(row, "budget"), "forecast_method") for row in projects)
    return next((said for said in found if said), "")
