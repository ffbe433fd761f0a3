"""What the page of a project shows and the document has no room for: all its own rows."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sidecar.report.figures.cells import cell_amounts
from sidecar.report.measures import CELL_COLUMNS, Row

if TYPE_CHECKING:
    from sidecar.report.tables import ReportTables

EXPERIMENTS_MAX: Final = 1000
"""Experiments of a project, those with most emissions; `experiments.csv` has all."""


@dataclass(frozen=True, slots=True)
class ProjectDetails:
    """The rows of one project: keys and the measures of a cell (`CELL_COLUMNS`).

    `days` are by day and region, in the order of days; `hours` by weekday and hour of the day (UTC);
    `experiments` the largest first, `experiments_left_out` says how many more there are.
    """

    project: str | None
    days: Sequence[Mapping[str, Any]]
    hours: Sequence[Mapping[str, Any]]
    experiments: Sequence[Mapping[str, Any]]
    experiments_left_out: int = 0


def project_details(
    tables: "ReportTables", projects: Sequence[str | None]
) -> Iterator[ProjectDetails]:
    """Yield the details of these projects, in this order; one project's rows are held at a time."""
    days, hours, experiments = (
        _by_place(tables, name, projects)
        for name in ("project_day_regions", "project_hours", "experiments")
    )
    for place, project in enumerate(projects):
        found = experiments(place)
        yield ProjectDetails(
            project=project,
            days=sorted(days(place), key=lambda row: (row["day"] is None, row["day"] or "")),
            hours=hours(place),
            experiments=found[:EXPERIMENTS_MAX],
            experiments_left_out=max(0, len(found) - EXPERIMENTS_MAX),
        )


def _by_place(
    tables: "ReportTables", table: str, projects: Sequence[Any]
) -> Callable[[int], list[dict[str, Any]]]:
    """Return what gives the rows of a project by its place; asked for one place after the other."""
    groups = itertools.groupby(tables.of(table, projects), key=lambda item: item[0])
    held = next(groups, None)

    def rows(place: int) -> list[dict[str, Any]]:
        nonlocal held
        if held is None or held[0] != place:
            return []
        found = [_mapping(row) for _, row in held[1]]
        held = next(groups, None)
        return found

    return rows


def _mapping(row: Row) -> dict[str, Any]:
    keys = {str(name): key for name, key in row.keys.items()}
    return keys | dict(zip(CELL_COLUMNS, cell_amounts(row), strict=True))
