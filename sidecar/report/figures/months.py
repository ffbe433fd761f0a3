"""Month on month: what a month is compared with, and what it comes to."""

from datetime import date
from typing import Any

from sidecar.report.figures.daily import AsOf, Daily, next_month, previous_month
from sidecar.report.figures.numbers import quotient, total


def month_on_month(daily: Daily, as_of: AsOf) -> dict[str, Any]:
    """Compare this month's full days with the same days of the month before, and full months.

    `to_date` takes the days of this month that are over, at most as many as the month before has;
    today is left out of both, and so are days after the last with records of anything: there records
    are missing, nothing was saved. `full` takes the last month that is over and the one before it; it
    is not known where records end before that month does. change = (this − previous) / previous.
    """
    this, before = as_of.month, previous_month(as_of.month)
    days = min(as_of.full_days, (this - before).days, daily.days_known(this))
    older = previous_month(before)
    lengths = ((this - before).days, (before - older).days)
    return {
        "to_date": _compared(daily, as_of, (this, days), (before, days)),
        "full": _compared(daily, as_of, (before, lengths[0]), (older, lengths[1])),
    }


def monthly(daily: Daily) -> list[dict[str, Any]]:
    """Return the sums of each calendar month that has records, the oldest first."""
    months = sorted({day.replace(day=1) for day in daily.days})
    return [
        {
            "month": month.isoformat()[:7],
            **daily.sums(month, (next_month(month) - month).days),
        }
        for month in months
    ]


def _compared(
    daily: Daily, as_of: AsOf, this: tuple[date, int], previous: tuple[date, int]
) -> dict[str, Any]:
    """Compare two stretches of days: each its first day and its number of days."""
    now, then = (
        daily.sums(*stretch)
        if 0 < stretch[1] <= daily.days_known(stretch[0])
        else dict.fromkeys(("emissions_g", "energy_kwh"))
        for stretch in (this, previous)
    )
    begun = daily.first
    difference_g = None
    if now["emissions_g"] is not None and then["emissions_g"] is not None:
        difference_g = total((now["emissions_g"], -then["emissions_g"]))
    return {
        "month": this[0].isoformat()[:7],
        "previous_month": previous[0].isoformat()[:7],
        "days": this[1],
        "previous_days": previous[1],
        "emissions_g": now["emissions_g"],
        "previous_emissions_g": then["emissions_g"],
        "energy_kwh": now["energy_kwh"],
        "previous_energy_kwh": then["energy_kwh"],
        "difference_g": difference_g,
        "change": quotient(difference_g, then["emissions_g"]),
        "previous_is_whole": bool(
            previous[1] and begun and begun <= previous[0] and as_of.has_all(previous[0])
        ),
    }
