"""What the page of a project shows and the document has no room for: all its own rows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidecar.report.figures.cells import CELL_COLUMNS
from sidecar.report.figures.numbers import sound
from sidecar.report.measures import Row, Tables

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


def project_details(tables: Tables, projects: Sequence[str | None]) -> Iterator[ProjectDetails]:
    """Yield the details of these projects, in this order."""
    names = ("project_day_regions", "project_hours", "experiments")
    for project, *found in zip(
        projects, *(_by_project(tables.rows.get(name, ()), projects) for name in names), strict=True
    ):
        days, hours, experiments = found
        yield ProjectDetails(
            project=project,
            days=sorted(days, key=lambda row: (row["day"] is None, row["day"] or "")),
            hours=hours,
            experiments=experiments[:EXPERIMENTS_MAX],
            experiments_left_out=max(0, len(experiments) - EXPERIMENTS_MAX),
        )


def _by_project(
    rows: Iterable[Row], projects: Sequence[str | None]
) -> Iterator[list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = {}
    for row in map(sound, rows):
        found.setdefault(row.keys.get("project"), []).append(_mapping(row))
    return (found.get(project, []) for project in projects)


def _mapping(row: Row) -> dict[str, Any]:
    keys = {str(name): key for name, key in row.keys.items()}
    return keys | {name: getattr(row.measures, name) for name in CELL_COLUMNS}
