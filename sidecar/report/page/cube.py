"""The compact cube that the page filters: sums by project, period and region, column by column."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sidecar.report.page.reading import Mapped, key_of, number, rows, table, text, total

CUBE_BYTES_MAX: Final = 600_000

MEASURES: Final = (
    "emissions_g",
    "emissions_low_g",
    "emissions_high_g",
    "energy_kwh",
    "cpu_energy_kwh",
    "ram_energy_kwh",
    "gpu_energy_kwh",
    "cpu_reserved_idle_energy_kwh",
    "gpu_reserved_idle_energy_kwh",
    "gpu_hours",
    "energy_measured_kwh",
    "energy_estimated_kwh",
    "energy_modelled_kwh",
)
"""What the page shows of a selection; `src/cube.js` names the same."""

_DETAILS: Final = ((400, "day"), (100, "day"), (100, "month"), (30, "month"), (10, "month"))
"""How many projects by name and how long a period, from fine to coarse; the first that fits."""

_BYTES_OF_A_ROW: Final = 40
"""Less than any row takes: a cube of more rows need not be made to see that it is too large."""

Key = tuple[int, str, str]
Shares = tuple[tuple[str, float], ...]
Amounts = tuple[float | None, ...]

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Day:
    """A row of one project and day, and the regions it is shared out to."""

    project: int
    day: str
    regions: Shares
    row: Mapped


@dataclass(frozen=True, slots=True)
class Cube:
    """The cube as JSON types, and how coarse it had to be.

    `named` projects stand for themselves, the index `named` for all others together (None: all are
    named). `is_shared_out` tells that days were split over regions by each project's totals.
    """

    mapping: Mapping[str, Any]
    regions: tuple[str, ...]
    named: int | None
    is_shared_out: bool

    @property
    def period(self) -> str:
        """Return `day` or `month`."""
        return str(self.mapping["kind"])


def compact_cube(model: Mapped, projects: Sequence[Mapped], most: int) -> Cube:
    """Return the finest cube within `CUBE_BYTES_MAX`; at most so many projects, in order, by name."""
    days, is_shared_out = _days(model, projects)
    is_large = len(days) * _BYTES_OF_A_ROW > CUBE_BYTES_MAX
    cells: Iterable[tuple[Key, Amounts]] = _cells(days)
    for count, period in _DETAILS[1:] if is_large else _DETAILS:
        named = min(count, most)
        sums = _sums(cells, named, 7 if period == "month" else 10)
        cube = _cube(sums, period, named if named < len(projects) else None)
        if len(json.dumps(cube.mapping, separators=(",", ":"))) <= CUBE_BYTES_MAX:
            break
        cells = sums.items()  # coarser sums are made of these
    return replace(cube, is_shared_out=is_shared_out)


def _days(model: Mapped, projects: Sequence[Mapped]) -> tuple[list[_Day], bool]:
    """Return rows by project and day, each with its regions, and whether days had to be shared out."""
    places = {key_of(row, "project"): place for place, row in enumerate(projects)}
    exact = table(model, "project_day_regions")
    if exact:
        return [
            _Day(place, day, ((text(row, "region"), 1.0),), row)
            for row in exact
            if (place := _place(row, places)) is not None and (day := _day(row))
        ], False
    shares = [_region_shares(row) for row in projects]
    days = [
        _Day(place, day, shares[place], row)
        for row in table(model, "project_days")
        if (place := _place(row, places)) is not None and (day := _day(row))
    ]
    return days, any(len(parts) > 1 for parts in shares)


def _place(row: Mapped, places: Mapping[str | None, int]) -> int | None:
    """Return the place of a row's project, which is named by it or by its place; None for others."""
    project = row.get("project")
    if isinstance(project, int):
        return project if 0 <= project < len(places) else None
    return places.get(key_of(row, "project"))


def _day(row: Mapped) -> str:
    day = text(row, "day")
    return day if _DAY.fullmatch(day) else ""


def _region_shares(project: Mapped) -> Shares:
    """Return a project's regions and their part of its energy."""
    parts: dict[str, float] = {}
    for row in rows(project, "regions"):
        region = text(row, "region")
        parts[region] = parts.get(region, 0.0) + max(0.0, number(row, "energy_kwh") or 0.0)
    whole = sum(parts.values())
    shares = ((region, part / whole if whole else 1 / len(parts)) for region, part in parts.items())
    return tuple(shares) or (("", 1.0),)


def _cells(days: Iterable[_Day]) -> Iterator[tuple[Key, Amounts]]:
    """Yield the key (project, day, region) and the amounts of every row and region."""
    for day in days:
        amounts = tuple(number(day.row, name) for name in MEASURES)
        for region, share in day.regions:
            parts = (None if amount is None else amount * share for amount in amounts)
            yield (day.project, day.day, region), tuple(parts)


def _sums(
    cells: Iterable[tuple[Key, Amounts]], named: int, period_length: int
) -> dict[Key, Amounts]:
    sums: dict[Key, Amounts] = {}
    for (project, day, region), amounts in cells:
        key = (min(project, named), day[:period_length], region)
        known = sums.get(key)
        sums[key] = amounts if known is None else _added(known, amounts)
    return sums


def _added(known: Amounts, more: Amounts) -> Amounts:
    return tuple(total(pair) for pair in zip(known, more, strict=True))


def _cube(sums: Mapping[Key, Amounts], kind: str, named: int | None) -> Cube:
    keys = sorted(sums)
    periods = sorted({period for _, period, _ in keys})
    regions = tuple(sorted({region for _, _, region in keys}))
    period_index = {period: index for index, period in enumerate(periods)}
    region_index = {region: index for index, region in enumerate(regions)}
    columns: dict[str, Any] = {
        "kind": kind,
        "periods": periods,
        "project": [project for project, _, _ in keys],
        "period": [period_index[period] for _, period, _ in keys],
        "region": [region_index[region] for _, _, region in keys],
    }
    for position, name in enumerate(MEASURES):
        columns[name] = [short(sums[key][position]) for key in keys]
    return Cube(columns, regions, named, is_shared_out=False)


def short(value: float | None) -> float | int | None:
    """Round to five significant figures: two more than the page shows."""
    if value is None:
        return None
    rounded = float(f"{value:.5g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e9 else rounded
