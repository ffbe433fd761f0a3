"""Our figures beside Azure's own: an export of Azure Carbon Optimization, and the factor between them.

factor = Azure's kg CO2e / ours, for the same subscription, month and scope. It is shown, never applied.

Columns are found by name, in any case and spelling: those of the REST API (`date`, `subscriptionId`,
`latestMonthEmissions`, `categoryType`, `itemName`, `dataType`; learn.microsoft.com/rest/api/carbon,
version 2025-04-01), and those that tables made of it use (`Month`, `Subscription`, `Scope`,
`Emissions (kgCO2e)`). Amounts are kg CO2e as the API gives them, unless a column's name ends in a tonne.
"""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidecar.identity.bounded import read_bounded, reason, shown
from sidecar.report.figures.daily import Daily, day_of, next_month
from sidecar.report.figures.inputs import SubscriptionMonth
from sidecar.report.figures.numbers import quotient, total

if TYPE_CHECKING:
    from sidecar.report.selection import Selection

EXPORT_BYTES_MAX: Final = 64 * 1024**2
CELL_CHARACTERS_MAX: Final = 4096
EMISSIONS_MAX_KG: Final = 1e12
"""More in a month than the world emits in a week: no row says so truly."""

GRAMS_PER_KG: Final = 1000.0

DIFFERS: Final = (
    "Azure counts every service of a subscription, we only pods that were tracked.",
    "Azure allocates what its data centres emit by usage; ours is energy · PUE · intensity of the grid.",
    "Ours are location-based. Azure's scope 2 may be market-based: renewable energy bought counts less.",
    "Scope 1 (generators, refrigerants) is in none of our figures.",
    "Scope 2 is compared with our operational emissions.",
    "Scope 3 is compared with our embodied emissions, which leave out buildings and transport.",
    "Azure publishes a month by day 19 of the next one, and restates months when its method changes.",
)

_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "month": ("date", "month", "reportmonth", "usagemonth", "period"),
    "subscription": ("subscriptionid", "subscription", "subscriptionguid"),
    "scope": ("scope", "emissionscope", "carbonscope", "carbonscopelist", "scopes"),
    "emissions": (
        "latestmonthemissions",
        "totalcarbonemission",
        "totalcarbonemissions",
        "totalemissions",
        "emissions",
        "carbonemissions",
    ),
    "category": ("categorytype", "datatype"),
    "item": ("itemname",),
}
_UNIT: Final = re.compile(r"(?P<unit>kg|mt|t|tonnes|metrictons?)(?:co2(?:e|eq)?)$")
_SCOPES: Final = re.compile(r"scope\s*([123])", re.IGNORECASE)
_GUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class ExportUnreadable(ValueError):  # noqa: N818 - a state of affairs, told in its text
    """A file that is no export of emissions: one line with what to do."""


@dataclass(frozen=True, slots=True)
class AzureMonth:
    """Azure's figure for a subscription (None: not named), a month and scopes (none: not named)."""

    subscription_id: str | None
    month: str
    scopes: tuple[int, ...]
    emissions_kg: float


@dataclass(frozen=True, slots=True)
class AzureExport:
    """The sums of an export, and how many of its rows were left out for which reason."""

    months: tuple[AzureMonth, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)


def read_export(path: Path, month: str | None = None) -> AzureExport:
    """Read an export; `month` (`YYYY-MM`) is for files without a column of months.

    Raises ExportUnreadable.
    """
    try:
        content, is_cut = read_bounded(path, EXPORT_BYTES_MAX)
    except OSError as error:
        raise ExportUnreadable(f"{path} cannot be read: {reason(error)}") from error
    if is_cut:
        raise ExportUnreadable(
            f"{path} is longer than {EXPORT_BYTES_MAX} bytes: export fewer months"
        )
    try:
        return parse_export(content.decode("utf-8-sig"), month)
    except UnicodeDecodeError as error:
        raise ExportUnreadable(f"{path} is no UTF-8 text; save it as CSV UTF-8") from error
    except ExportUnreadable as error:
        raise ExportUnreadable(f"{path}: {error}") from error


def parse_export(text: str, month: str | None = None) -> AzureExport:
    """Add an export up by subscription, month and scopes. Raises ExportUnreadable."""
    header, _, _ = text.partition("\n")
    delimiter = ";" if header.count(";") > header.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    left_out: Counter[str] = Counter()
    sums: dict[tuple[str | None, str, tuple[int, ...]], float] = {}
    categories: set[str] = set()
    try:
        columns = _Columns.of(next(reader, []), month)
        for cells in reader:
            if not any(cells):
                continue
            row = columns.row(cells)
            if isinstance(row, str):
                left_out[row] += 1
                continue
            categories.add(columns.cell(cells, "category"))
            key = (row.subscription_id, row.month, row.scopes)
            sums[key] = sums.get(key, 0.0) + row.emissions_kg
    except csv.Error as error:
        raise ExportUnreadable(f"no CSV: {error}") from error
    if len(categories) > 1:
        raise ExportUnreadable(
            f"holds several reports ({', '.join(map(shown, sorted(categories)[:5]))}), which count the "
            "same emissions; give one of them"
        )
    if not sums:
        raise ExportUnreadable(
            f"holds no row with a month and emissions; left out: {dict(left_out)}"
        )
    months = (AzureMonth(*key, emissions_kg) for key, emissions_kg in sums.items())
    return AzureExport(tuple(sorted(months, key=_order)), dict(left_out))


def _order(row: AzureMonth) -> tuple[str, str, tuple[int, ...]]:
    return row.month, row.subscription_id or "", row.scopes


@dataclass(frozen=True, slots=True)
class _Columns:
    places: Mapping[str, int]
    kg_per_unit: float
    month: str | None

    @classmethod
    def of(cls, header: Sequence[str], month: str | None) -> "_Columns":
        names = [re.sub(r"[^a-z0-9]", "", name.casefold()) for name in header]
        bare = [_UNIT.sub("", name) for name in names]
        places = {
            column: next((bare.index(name) for name in known if name in bare), -1)
            for column, known in _COLUMNS.items()
        }
        if places["emissions"] < 0:
            raise ExportUnreadable(
                f"has no column of emissions, such as latestMonthEmissions; it has "
                f"{', '.join(map(shown, header[:12])) or 'none'}"
            )
        if places["month"] < 0 and month is None:
            raise ExportUnreadable("has no column of months; say which month it is, like 2026-10")
        unit = _UNIT.search(names[places["emissions"]])
        is_kg = unit is None or unit["unit"] == "kg"
        return cls(places, 1.0 if is_kg else 1000.0, month)

    def cell(self, cells: Sequence[str], column: str) -> str:
        place = self.places[column]
        return cells[place].strip()[:CELL_CHARACTERS_MAX] if 0 <= place < len(cells) else ""

    def row(self, cells: Sequence[str]) -> AzureMonth | str:
        """Return the row, or why it is left out."""
        day = day_of(_first_of_month(self.cell(cells, "month") or self.month or ""))
        if day is None:
            return "no month"
        amount_kg = _number(self.cell(cells, "emissions")) * self.kg_per_unit
        if not 0 <= amount_kg <= EMISSIONS_MAX_KG:
            return "no amount of emissions"
        subscription = self._subscription(cells)
        scopes = tuple(sorted({int(n) for n in _SCOPES.findall(self.cell(cells, "scope"))}))
        return AzureMonth(subscription, day.isoformat()[:7], scopes, amount_kg)

    def _subscription(self, cells: Sequence[str]) -> str | None:
        """Return the subscription; a report by subscription names it as its item."""
        named = self.cell(cells, "subscription") or self.cell(cells, "item")
        found = _GUID.search(named.casefold())
        return found[0] if found else None


def _first_of_month(text: str) -> str:
    return f"{text}-01" if re.fullmatch(r"\d{4}-\d{2}", text, re.ASCII) else text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def reconciliation(
    azure: AzureExport | None,
    ours: Sequence[SubscriptionMonth] | None,
    days: Daily,
    selection: "Selection | None" = None,
) -> dict[str, Any]:
    """Return Azure's and our figures side by side, with their factor; known only where an export is.

    A row of the export that names no subscription is compared with all our records of its month. Without
    our sums per subscription all are, the export's subscriptions together: `is_by_subscription`. Where
    `is_whole` is false our records are of a part of the month, or of some projects: Azure's are of all.
    """
    if azure is None:
        return {"known": False, "reason": "no export of Azure Carbon Optimization was given"}
    theirs: Sequence[AzureMonth] = azure.months if ours else _without_subscriptions(azure.months)
    sums = {(_guid(row.subscription_id), row.month): row for row in ours or ()}
    sums |= {(None, row.month): _of_month(days, row.month) for row in theirs}
    return {
        "known": True,
        "reason": None,
        "is_applied": False,
        "is_by_subscription": any(row.subscription_id for row in theirs),
        "rows": [
            _compared(row, sums.get((row.subscription_id, row.month)))
            | {"is_whole": _is_whole(row.month, days, selection)}
            for row in theirs
        ],
        "left_out": dict(azure.left_out),
        "differs": list(DIFFERS),
    }


def _guid(subscription_id: str | None) -> str | None:
    return subscription_id.casefold() if subscription_id else None


def _without_subscriptions(rows: Iterable[AzureMonth]) -> list[AzureMonth]:
    sums: dict[tuple[str, tuple[int, ...]], float] = {}
    for row in rows:
        key = (row.month, row.scopes)
        sums[key] = sums.get(key, 0.0) + row.emissions_kg
    return [AzureMonth(None, *key, emissions_kg) for key, emissions_kg in sums.items()]


def _of_month(days: Daily, month: str) -> SubscriptionMonth:
    first = day_of(f"{month}-01")
    if first is None:
        return SubscriptionMonth(None, month, None, None)
    last = next_month(first)
    known = [measures for day, measures in days.days.items() if first <= day < last]
    return SubscriptionMonth(
        None,
        month,
        total(measures.emissions_g for measures in known),
        total(measures.embodied_g for measures in known),
    )


def _is_whole(month: str, days: Daily, selection: "Selection | None") -> bool:
    """Tell whether our records may be of all of a month: none begin within it or are cut off."""
    first, begun = day_of(f"{month}-01"), days.first
    if first is None or begun is None or begun > first:
        return False
    until = selection.until[:10] if selection else ""
    return not (selection and selection.projects) and not ("" < until < str(next_month(first)))


def _compared(theirs: AzureMonth, ours: SubscriptionMonth | None) -> dict[str, Any]:
    """Compare one row; our part is what its scopes cover: 2 operational, 3 embodied, none named both."""
    parts: list[float | None] = []
    if ours is not None:
        if not theirs.scopes or 2 in theirs.scopes:
            parts.append(ours.emissions_g)
        if not theirs.scopes or 3 in theirs.scopes:
            parts.append(ours.embodied_g)
    grams = total(parts)
    ours_kg = None if grams is None else grams / GRAMS_PER_KG
    subscription = theirs.subscription_id
    return {
        "subscription": None if subscription is None else subscription[:8],
        "month": theirs.month,
        "scopes": list(theirs.scopes),
        "azure_kg": theirs.emissions_kg,
        "ours_kg": ours_kg,
        "factor": quotient(theirs.emissions_kg, ours_kg),
    }
