"""Sums over days of the calendar (UTC)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Self

from sidecar.report.figures.numbers import total
from sidecar.report.measures import Measures, Row

SECONDS_PER_DAY: Final = 86_400

SUMMED: Final = ("emissions_g", "emissions_low_g", "emissions_high_g", "energy_kwh")


@dataclass(frozen=True, slots=True)
class Daily:
    """Measures by day. A day without records had no metered energy: it counts as 0 within a sum."""

    days: Mapping[date, Measures]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Self:
        """Take the days of rows; a row whose day is none is left out."""
        days = ((day_of(row.keys.get("day")), row.measures) for row in rows)
        return cls({day: measures for day, measures in days if day is not None})

    @property
    def first(self) -> date | None:
        """The first day with records."""
        return min(self.days, default=None)

    def sums(self, first: date, days: int) -> dict[str, float | None]:
        """Return the sums over so many days; None where no day before their end has records."""
        begun = self.first
        if begun is None or begun >= first + timedelta(days=days):
            return dict.fromkeys(SUMMED)
        known = [self.days[day] for day in days_from(first, days) if day in self.days]
        return {name: _sum_of(known, name) for name in SUMMED}

    def amounts(self, first: date, days: int, name: str = "emissions_g") -> list[float]:
        """Return an amount day by day, 0 where nothing was metered or it is not known."""
        found = (self.days.get(day) for day in days_from(first, days))
        return [(getattr(item, name) or 0.0) if item else 0.0 for item in found]


def _sum_of(known: list[Measures], name: str) -> float | None:
    if not known:
        return 0.0
    return total(getattr(measures, name) for measures in known)


def days_from(first: date, days: int) -> Iterator[date]:
    """Yield so many days from the first on."""
    return (first + timedelta(days=number) for number in range(days))


def day_of(text: object) -> date | None:
    """Return the day that an ISO date or the beginning of a time in UTC names; None where none."""
    if not isinstance(text, str):
        return None
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class AsOf:
    """The moment up to which records are looked at, in UTC, and where the selection begins.

    At midnight the day before is over, and the month is still its month.
    """

    moment: datetime
    since: date | None = None

    @property
    def month(self) -> date:
        """The first day of its month."""
        return (self.moment - timedelta(microseconds=1)).date().replace(day=1)

    @property
    def days_in_month(self) -> int:
        """Days of its month."""
        return (next_month(self.month) - self.month).days

    @property
    def full_days(self) -> int:
        """Days of its month that are over."""
        return int(self._elapsed_s // SECONDS_PER_DAY)

    @property
    def days_begun(self) -> int:
        """Days of its month that are over, and today."""
        return min(self.full_days + 1, self.days_in_month)

    @property
    def today(self) -> date:
        """The day that is not over."""
        return self.month + timedelta(days=self.full_days)

    @property
    def part_of_today(self) -> float:
        """The part of today that is over, 0 to 1."""
        return self._elapsed_s % SECONDS_PER_DAY / SECONDS_PER_DAY

    @property
    def days_left(self) -> float:
        """Days until the month ends, with the rest of today."""
        return self.days_in_month - self._elapsed_s / SECONDS_PER_DAY

    @property
    def _elapsed_s(self) -> float:
        begin = datetime.combine(self.month, datetime.min.time(), UTC)
        return (self.moment - begin).total_seconds()

    def has_all(self, first: date) -> bool:
        """Whether the selection takes records from a day on."""
        return self.since is None or self.since <= first


def next_month(month: date) -> date:
    """Return the first day of the month after."""
    return (month.replace(day=28) + timedelta(days=4)).replace(day=1)


def previous_month(month: date) -> date:
    """Return the first day of the month before."""
    return (month.replace(day=1) - timedelta(days=1)).replace(day=1)
