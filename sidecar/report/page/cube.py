"""The compact cube that the page filters: sums by project, period and region, column by column.

It is made of the document's cells (`sidecar.report.figures.cells`), which sum to the total; and so do
the sums of the cube, however few projects it names and however long its periods are.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidecar.report.page.reading import Mapped, key_of, number, table, text, total

CUBE_BYTES_MAX: Final = 450_000

MEASURES: Final = (
    "emissions_g",
    "emissions_low_g",
    "emissions_high_g",
    "energy_kwh",
    "facility_energy_kwh",
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

_DETAILS: Final = (
    *((400, "day"), (100, "day"), (25, "day")),
    *((100, "month"), (30, "month"), (10, "month"), (0, "month")),
)
"""How many projects by name and how long a period, from fine to coarse; the first that fits."""

_BYTES_OF_A_ROW: Final = 40
"""Less than any row takes: a cube of more rows need not be made to see that it is too large."""

_OTHERS: Final = 10**9
"""The place of all projects that have none of their own."""

Key = tuple[int, str, str]
Amounts = tuple[float | None, ...]

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cube:
    """The cube as JSON types, and how coarse it had to be.

    `named` projects stand for themselves, the index `named` for all others together; None where all
    are named.
    """

    mapping: Mapping[str, Any]
    regions: tuple[str, ...]
    named: int | None

    @property
    def period(self) -> str:
        """Return `day` or `month`."""
        return str(self.mapping["kind"])


def compact_cube(model: Mapped, projects: Sequence[Mapped], most: int) -> Cube:
    """Return the finest cube within `CUBE_BYTES_MAX`; at most so many projects, in order, by name."""
    found = list(_cells(model, projects))
    told_apart = _told_apart(model, projects)
    is_large = len(found) * _BYTES_OF_A_ROW > CUBE_BYTES_MAX
    cells: Iterable[tuple[Key, Amounts]] = found
    for count, period in _DETAILS[1:] if is_large else _DETAILS:
        named = min(count, most, told_apart)
        sums = _sums(cells, named, 7 if period == "month" else 10)
        has_others = named < len(projects) or any(place >= named for place, _, _ in sums)
        cube = _cube(sums, period, named if has_others else None)
        if len(json.dumps(cube.mapping, separators=(",", ":"))) <= CUBE_BYTES_MAX:
            break
        cells = sums.items()  # coarser sums are made of these
    return cube


def _told_apart(model: Mapped, projects: Sequence[Mapped]) -> int:
    """Return how many projects have cells of their own."""
    cells = model.get("project_day_regions")
    told = number(cells, "told_apart") if isinstance(cells, Mapping) else None
    return len(projects) if told is None else min(len(projects), max(0, int(told)))


def _cells(model: Mapped, projects: Sequence[Mapped]) -> Iterator[tuple[Key, Amounts]]:
    """Yield the key (project, day, region) and the amounts of every cell; no day is the empty text."""
    places = {key_of(row, "project"): place for place, row in enumerate(projects)}
    for row in table(model, "project_day_regions"):
        key = (_place(row, places), _day(row), text(row, "region"))
        yield key, tuple(number(row, name) for name in MEASURES)


def _place(row: Mapped, places: Mapping[str | None, int]) -> int:
    """Return the place of a row's project, which is named by it or by its place; else of all others."""
    project = row.get("project")
    if isinstance(project, int) and not isinstance(project, bool):
        return project if 0 <= project < len(places) else _OTHERS
    return places.get(key_of(row, "project"), _OTHERS) if isinstance(project, str) else _OTHERS


def _day(row: Mapped) -> str:
    day = text(row, "day")
    return day if _DAY.fullmatch(day) else ""


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
    return Cube(columns, regions, named)


def short(value: float | None) -> float | int | None:
    """Round to five significant figures: two more than the page shows."""
    if value is None:
        return None
    rounded = float(f"{value:.5g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e9 else rounded
