"""Sums by project, day and region, and by project and hour of the week, as far as there is room.

Each is a table of `columns` and `rows`. `project` is the place of a project in the document's
`projects`. The first `told_apart` of these have rows of their own; null is all other projects together,
also those the document does not list. So the rows sum to the total: nothing is left out. A day is null
where records have no time, a region where they name none.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sidecar.report.figures.numbers import total
from sidecar.report.measures import Dimension, Row

CELL_COLUMNS: Final = (
    "cpu_energy_kwh",
    "ram_energy_kwh",
    "gpu_energy_kwh",
    "energy_kwh",
    "facility_energy_kwh",
    "emissions_g",
    "emissions_low_g",
    "emissions_high_g",
    "embodied_g",
    "water_l",
    "cpu_reserved_idle_energy_kwh",
    "gpu_reserved_idle_energy_kwh",
    "gpu_hours",
    "energy_measured_kwh",
    "energy_estimated_kwh",
    "energy_modelled_kwh",
)
"""The measures of a cell; all are sums."""

CELLS_MAX: Final = 40_000
"""Rows of the projects that are told apart: a hundred projects for a year."""

Cell = list[Any]


def cells(
    rows: Iterable[Row], keys: Sequence[Dimension], projects: Sequence[Any], most: int = CELLS_MAX
) -> dict[str, Any]:
    """Return the table of rows that have the key `project` and these others.

    `projects` are those of the document, the largest first.
    """
    of_project: dict[Any, list[Row]] = {}
    for row in rows:
        of_project.setdefault(row.keys.get("project"), []).append(row)
    table: list[Cell] = []
    told_apart = 0
    for place, project in enumerate(projects):
        found = [_cell(place, row, keys) for row in of_project.get(project, ())]
        if len(table) + len(found) > most:
            break
        table += sorted(found, key=lambda cell: _order(cell[1 : len(keys) + 1]))
        told_apart += 1
        of_project.pop(project, None)
    others = (_cell(None, row, keys) for found in of_project.values() for row in found)
    return {
        "columns": ["project", *keys, *CELL_COLUMNS],
        "told_apart": told_apart,
        "rows": table + _summed(others, len(keys)),
    }


def _cell(place: int | None, row: Row, keys: Sequence[Dimension]) -> Cell:
    amounts = (getattr(row.measures, name) for name in CELL_COLUMNS)
    return [place, *(row.keys.get(key) for key in keys), *amounts]


def _summed(cells_of_others: Iterable[Cell], keys: int) -> list[Cell]:
    """Add up the cells of equal keys."""
    sums: dict[tuple[Any, ...], Cell] = {}
    for cell in cells_of_others:
        names, amounts = tuple(cell[: keys + 1]), cell[keys + 1 :]
        known = sums.get(names)
        sums[names] = (
            amounts if known is None else list(map(total, zip(known, amounts, strict=True)))
        )
    ordered = sorted(sums.items(), key=lambda entry: _order(entry[0]))
    return [[*names, *amounts] for names, amounts in ordered]


def _order(names: Iterable[Any]) -> list[tuple[bool, Any]]:
    return [(name is None, 0 if name is None else name) for name in names]
