"""Sums by second, minute or hour, for reports that are too short to go by days."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import ibis
import ibis.expr.types as ir

from sidecar.report.figures.coverage import QUALITIES
from sidecar.report.figures.inputs import Moments
from sidecar.report.measures import CELL_COLUMNS
from sidecar.report.sums import by_moment
from sidecar.windows import rfc3339

if TYPE_CHECKING:
    from sidecar.report.engine import Engine

SPAN_S: Final = 2 * 86_400.0
"""A report of less time goes by moments."""

STEPS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 900, 1800, 3600)
STEPS_MAX: Final = 60
"""Columns that can be told apart."""

PROJECTS_MAX: Final = 50
"""Of more projects only the sums of all are told by moments."""

_NEARLY: Final = 0.9
"""Of a window: a late tick makes it a little longer than its step."""


def moments_of(
    fine: ir.Table, records: Callable[[], ir.Table | None], engine: "Engine"
) -> Moments | None:
    """Return sums by project and moment; None where the report is of days, or of nothing.

    `fine` are the finest sums, by the hour; `records` makes those that they are of, settled: None where
    some are there as sums only, and hours are the finest that can be told.
    """
    metered = fine.filter(fine.records > 0)
    ends = metered.agg(
        start_us=metered.start_us.min(),
        end_us=metered.end_us.max(),
        projects=metered.project.nunique(),
    )
    found = next(_listed(engine, ends), {})
    if found.get("start_us") is None or found.get("end_us") is None:
        return None
    span_s = (found["end_us"] - found["start_us"]) / 1e6
    if span_s >= SPAN_S:
        return None
    rows = records()
    by_project = found["projects"] <= PROJECTS_MAX
    if rows is None:
        table = metered.mutate(moment_us=metered.hours * 3_600_000_000)
        return _moments(engine, 3600, _grouped(table, by_project=by_project))
    longest = next(_listed(engine, rows.agg(longest=rows.duration_s.max())), {}).get("longest")
    step_s = step_for(span_s, longest or 0.0)
    table = by_moment(rows, step_s * 1_000_000)
    return _moments(engine, step_s, _grouped(table, by_project=by_project))


def step_for(span_s: float, window_s: float) -> int:
    """Return the step, s, for a report of such a length and windows of at most such a length."""
    least = max(span_s / STEPS_MAX, window_s * _NEARLY)
    return next((step for step in STEPS_S if step >= least), STEPS_S[-1])


def _grouped(table: ir.Table, *, by_project: bool) -> ir.Table:
    named = table if by_project else table.mutate(project=ibis.null("string"))
    sums = {name: named[name].sum() for name in CELL_COLUMNS if name in named.columns}
    sums |= {
        f"energy_{quality}_kwh": named.energy_kwh.sum(where=named.quality == quality)
        for quality in QUALITIES
    }
    return named.group_by("project", "moment_us").agg(**sums).order_by("moment_us", "project")


def _moments(engine: "Engine", step_s: int, table: ir.Table) -> Moments | None:
    """Return the rows; None where a record tells no time, so that they would not sum to the total."""
    rows = list(_listed(engine, table))
    if any(row["moment_us"] is None for row in rows):
        return None
    return Moments(step_s, tuple(map(_named, rows)))


def _named(row: dict[str, Any]) -> Mapping[str, Any]:
    start = rfc3339(row.pop("moment_us") / 1e6)
    return {"project": row.pop("project"), "start": start.replace(".000Z", "Z"), **row}


def _listed(engine: "Engine", table: ir.Table) -> Iterator[dict[str, Any]]:
    for batch in engine.batches(table):
        yield from batch.to_pylist()
