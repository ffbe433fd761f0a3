"""Budgets per project and calendar month: what is used, what is left, and where it leads."""

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final, Literal

from sidecar.identity.bounded import shown
from sidecar.report.figures.daily import AsOf, Daily
from sidecar.report.figures.numbers import finite, quotient

TEXT_CHARACTERS_MAX: Final = 64

LIMIT_MAX: Final = 1e15
"""In g or kWh. A billion tonnes a month: more is a mistake."""

_UNITS: Final[Mapping[str, tuple[str, float]]] = {
    "g": ("emissions_g", 1.0),
    "kg": ("emissions_g", 1e3),
    "t": ("emissions_g", 1e6),
    "wh": ("energy_kwh", 1e-3),
    "kwh": ("energy_kwh", 1.0),
    "mwh": ("energy_kwh", 1e3),
}
_TEXT: Final = re.compile(
    r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,12})?)\s*(?P<unit>g|kg|t|wh|kwh|mwh)?"
    r"(?:\s*co2(?:e|eq)?)?(?:\s*(?:/|per)\s*month)?",
    re.ASCII | re.IGNORECASE,
)

METHOD: Final = (
    "linear: used so far + mean of the full days of this month with the project × days left (on the "
    "first day: the rate of that day so far); the bounds let every day left be like the least and the "
    "most of those days"
)

AT_RISK_SHARE: Final = 0.8
"""From this part of the budget on, used, a project is at risk whatever the forecast says."""

Status = Literal["within", "at risk", "exceeded", "unknown"]
Measured = Literal["emissions_g", "energy_kwh"]


@dataclass(frozen=True, slots=True)
class Budget:
    """So much a calendar month, in g CO2e of `emissions_g` or in kWh of `energy_kwh`."""

    limit: float
    measure: Measured = "emissions_g"
    source: str = "setting"

    @classmethod
    def parse(cls, text: str, source: str = "setting") -> "Budget":
        """Read `250kg`, `1.5 t`, `20 kWh`, `250 kg CO2e/month`; a bare number is kg CO2e.

        Raises ValueError with what to write.
        """
        match = _TEXT.fullmatch(text.strip()) if len(text) <= TEXT_CHARACTERS_MAX else None
        if match is None:
            raise ValueError(
                f"{shown(text)} is no budget; write it like '250 kg' (CO2e a month), '1.5 t' or "
                "'20 kWh', with a point for decimals"
            )
        measure, factor = _UNITS[(match["unit"] or "kg").lower()]
        limit = float(match["number"]) * factor
        if not 0 < limit <= LIMIT_MAX:
            raise ValueError(f"{shown(text)} is no budget: more than nothing is wanted")
        return cls(limit, "emissions_g" if measure == "emissions_g" else "energy_kwh", source)


def parse_budgets(texts: Iterable[str]) -> dict[str, Budget]:
    """Read settings `PROJECT=BUDGET`; the project may hold `=`. Raises ValueError."""
    budgets: dict[str, Budget] = {}
    for text in texts:
        project, separator, amount = text.rpartition("=")
        if not separator or not project:
            raise ValueError(f"{shown(text)} names no project; write it like demo=250kg")
        if project in budgets:
            raise ValueError(f"project {shown(project)} has two budgets; give one")
        budgets[project] = Budget.parse(amount)
    return budgets


def budget_row(budget: Budget, daily: Daily, as_of: AsOf) -> dict[str, Any]:
    """Return what is used of a budget in the month of `as_of`, the rate, the forecast and a status.

    Amounts carry the unit of what is budgeted: `used_g` and so on, or `used_kwh`.
    """
    sums = daily.sums(as_of.month, as_of.days_begun)
    used = sums[budget.measure]
    forecast = _forecast(budget.measure, daily, as_of) if used is not None else _UNKNOWN
    left = None if used is None else budget.limit - used
    unit = "g" if budget.measure == "emissions_g" else "kwh"
    row: dict[str, Any] = {
        "measure": budget.measure,
        "source": budget.source,
        "month": as_of.month.isoformat()[:7],
        f"budget_{unit}": budget.limit,
        f"used_{unit}": used,
        f"left_{unit}": left,
        "used_share": quotient(used, budget.limit),
        f"burn_rate_{unit}_per_day": forecast.rate,
        f"allowed_rate_{unit}_per_day": quotient(left, as_of.days_left),
        f"forecast_{unit}": forecast.value,
        f"forecast_low_{unit}": forecast.low,
        f"forecast_high_{unit}": forecast.high,
        "forecast_method": METHOD,
        "forecast_days": forecast.days,
        "days_left": as_of.days_left,
        "exhausted_on": _used_up_on(budget, daily, as_of)
        or _exhausted_on(left, forecast.rate, as_of),
        "is_whole": as_of.has_all(as_of.month),
        "status": _status(budget.limit, used, forecast.value),
    }
    if unit == "g":
        row["used_low_g"], row["used_high_g"] = sums["emissions_low_g"], sums["emissions_high_g"]
    return row


@dataclass(frozen=True, slots=True)
class _Forecast:
    rate: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    days: int = 0


_UNKNOWN: Final = _Forecast()
_FIRST_DAY_MIN: Final = 1 / 24
"""Part of the first day that must be over for a rate: of minutes no month follows."""


def _forecast(measure: Measured, daily: Daily, as_of: AsOf) -> _Forecast:
    """Extrapolate to the end of the month."""
    used = sum(daily.amounts(as_of.month, as_of.days_begun, measure))
    begun = max(as_of.month, daily.first or as_of.month)
    full = (as_of.today - begun).days
    if full > 0:
        days = daily.amounts(begun, full, measure)
        rate = sum(days) / full
        low, high = used + min(days) * as_of.days_left, used + max(days) * as_of.days_left
        return _Forecast(
            finite(rate), _between(used + rate * as_of.days_left, low, high), low, high, full
        )
    if as_of.part_of_today < _FIRST_DAY_MIN:
        return _Forecast(low=used)
    rate = used / as_of.part_of_today
    return _Forecast(finite(rate), finite(used + rate * as_of.days_left), used)


def _between(value: float, low: float, high: float) -> float:
    """Undo what rounding takes a mean beyond the least and the most."""
    return min(max(value, low), high)


def _used_up_on(budget: Budget, daily: Daily, as_of: AsOf) -> str | None:
    """Return the day on which the budget was used up; None where something is left."""
    amounts = daily.amounts(as_of.month, as_of.days_begun, budget.measure)
    for number, used in enumerate(itertools.accumulate(amounts)):
        if used >= budget.limit:
            return (as_of.month + timedelta(days=number)).isoformat()
    return None


def _exhausted_on(left: float | None, rate: float | None, as_of: AsOf) -> str | None:
    """Return the day of this month on which nothing is left at this rate; None where it lasts."""
    if left is None:
        return None
    days = quotient(max(0.0, left), rate)
    if days is None or days >= as_of.days_left:
        return None
    day: date = (as_of.moment + timedelta(days=days)).date()
    return day.isoformat()


def _status(limit: float, used: float | None, forecast: float | None) -> Status:
    if used is None:
        return "unknown"
    if used > limit:
        return "exceeded"
    if used >= AT_RISK_SHARE * limit or (forecast is not None and forecast > limit):
        return "at risk"
    return "within"
