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
    """Measures by day. A day without records had no metered energy: it counts as 0 within a sum.

    `last` is the last day with records of anything: silence after it is not known to be idleness.
    """

    days: Mapping[date, Measures]
    last: date | None = None

    @classmethod
    def of(cls, rows: Iterable[Row], last: date | None = None) -> Self:
        """Take the days of rows; a row whose day is none is left out."""
        days = ((day_of(row.keys.get("day")), row.measures) for row in rows)
        return cls({day: measures for day, measures in days if day is not None}, last)

    @property
    def first(self) -> date | None:
        """The first day with records."""
        return min(self.days, default=None)

    @property
    def last_with_records(self) -> date | None:
        """The last day with records of its own."""
        return max(self.days, default=None)

    def sums(self, first: date, days: int) -> dict[str, float | None]:
        """Return the sums over so many days; None where no day before their end has records.

        And where all days are after the last with records. Bounds of a day that has none are its value.
        """
        begun = self.first
        if begun is None or begun >= first + timedelta(days=days) or not self.days_known(first):
            return dict.fromkeys(SUMMED)
        known = [self.days[day] for day in days_from(first, days) if day in self.days]
        return {name: _sum_of(known, name) for name in SUMMED}

    def days_known(self, first: date) -> int:
        """Return how many days from this one on are not after the last with records."""
        return _DAYS_MAX if self.last is None else max(0, (self.last - first).days + 1)

    def amounts(self, first: date, days: int, name: str = "emissions_g") -> list[float]:
        """Return an amount day by day, 0 where nothing was metered or it is not known."""
        found = (self.days.get(day) for day in days_from(first, days))
        return [(getattr(item, name) or 0.0) if item else 0.0 for item in found]


_DAYS_MAX: Final = date.max.toordinal()


def _sum_of(known: list[Measures], name: str) -> float | None:
    if not known:
        return 0.0
    if name in ("emissions_low_g", "emissions_high_g"):
        if all(getattr(measures, name) is None for measures in known):
            return None
        return total(_first_known(getattr(item, name), item.emissions_g) for item in known)
    return total(getattr(measures, name) for measures in known)


def _first_known(amount: float | None, otherwise: float | None) -> float | None:
    return otherwise if amount is None else amount


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

    def at_most(self, last: date | None) -> "AsOf":
        """Return it, but not after the end of this day, where that is in the same month.

        What a month comes to is not told from days whose records are still to come.
        """
        if last is None or last < self.month:
            return self
        end = datetime.combine(last + timedelta(days=1), datetime.min.time(), UTC)
        return AsOf(min(self.moment, end), self.since)

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
