"""Sums by project, day and region, and by project and hour of the week, as far as there is room.

Each is a table of `columns` and `rows`. `project` is the place of a project in the document's
`projects`. The first `told_apart` of these have rows of their own; null is all other projects together,
also those the document does not list. So the rows sum to the total: nothing is left out. A day is null
where records have no time, a region where they name none; bounds that are not known are the value.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from sidecar.report.measures import CELL_COLUMNS, Dimension, Row

if TYPE_CHECKING:
    from sidecar.report.tables import ReportTables

CELLS_MAX: Final = 40_000
"""Rows of the projects that are told apart: a hundred projects for a year."""

Cell = list[Any]


def cells(
    tables: "ReportTables",
    table: str,
    keys: Sequence[Dimension],
    projects: Sequence[Any],
    most: int = CELLS_MAX,
) -> dict[str, Any]:
    """Return a table that has the key `project` and these others.

    `projects` are those of the document, the largest first.
    """
    rows: list[Cell] = []
    told_apart = len(projects)
    for place, found in itertools.groupby(tables.of(table, projects), key=lambda item: item[0]):
        own = [_cell(place, row, keys) for _, row in found]
        if len(rows) + len(own) > most:
            told_apart = place
            break
        rows += sorted(own, key=lambda cell: in_order(cell[1 : len(keys) + 1]))
    others = tables.others(table, keys, projects[:told_apart])
    return {
        "columns": ["project", *keys, *CELL_COLUMNS],
        "told_apart": told_apart,
        "rows": [*rows, *([None, *names, *amounts] for names, amounts in others)],
    }


def _cell(place: int, row: Row, keys: Sequence[Dimension]) -> Cell:
    return [place, *(row.keys.get(key) for key in keys), *cell_amounts(row)]


def cell_amounts(row: Row) -> tuple[float | None, ...]:
    """Return the measures of a cell; bounds that are not known are the value."""
    measures = row.measures
    return tuple(
        measures.emissions_g
        if name in ("emissions_low_g", "emissions_high_g") and getattr(measures, name) is None
        else getattr(measures, name)
        for name in CELL_COLUMNS
    )


def in_order(names: Iterable[Any]) -> list[tuple[bool, Any]]:
    """Return what sorts keys, those that are not known last."""
    return [(name is None, 0 if name is None else name) for name in names]
