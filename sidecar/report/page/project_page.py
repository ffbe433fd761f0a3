"""The page of one project: all its own rows, so that its charts need no sharing out."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sidecar.report.figures.details import ProjectDetails
from sidecar.report.page import contexts, view
from sidecar.report.page.budget_bars import budget_bar
from sidecar.report.page.comparisons import hour_lines, move_lines, region_names, weekday_hour_rows
from sidecar.report.page.cube import MEASURES
from sidecar.report.page.reading import NAMELESS, Mapped, child, number, prose, rows, text, total
from sidecar.report.page.render import embedded_json
from sidecar.report.page.savings import project_savings
from sidecar.report.page.script_tables import listed, short_measures
from sidecar.report.page.site import Site

_LIST_BYTES: Final = 200_000

_SECTIONS: Final = (
    ("headline", "Emissions"),
    ("budgets", "Budget"),
    ("time", "Over time"),
    ("components", "Components"),
    ("idle", "Idle"),
    ("hours", "Hours"),
    ("regions", "Regions"),
    ("experiments", "Experiments"),
    ("runs", "Runs"),
    ("coverage", "Trust"),
    ("sources", "Sources"),
)


def project_page(site: Site, place: int, details: ProjectDetails) -> str:
    """Return the page of the project at a place, as HTML."""
    row, model = site.projects[place], site.model
    name, names = text(row, "project", NAMELESS), region_names(model)
    cited = site.sources.of_project(row)
    runs = listed(
        [site.runs[number_] for number_ in site.runs_of(row)],
        ("name", "project", "href", "start", "end"),
        lambda number_, run: site.run_cells(site.runs_of(row)[number_], run, "../"),
        _LIST_BYTES,
    )
    experiments = listed(details.experiments, ("name",), _experiment, _LIST_BYTES)
    hours = weekday_hour_rows(details.hours)
    bar = budget_bar(child(row, "budget"), name, None)
    days = by_day(details.days)
    script = {
        "scope": "project",
        "total": short_measures(row),
        "days": listed(
            days, ("period",), lambda _, day: [text(day, "day")], _LIST_BYTES, MEASURES
        ).table,
        "moments": site.moments(place),
        "regions_used": _regions_used(row, names),
        "runs": runs.table,
        "experiments": experiments.table,
        "hours": hours,
    }
    equivalents = view.equivalents(row, model)
    shown = contexts.common(model, row, cited)
    shown |= {
        "title": f"{name} · {contexts.report_name(model)}",
        "name": name,
        "sections": contexts.navigation(
            _SECTIONS,
            [
                *([] if bar else ["budgets"]),
                *([] if hours else ["hours"]),
                *([] if experiments.shown else ["experiments"]),
            ],
        ),
        "equivalents": equivalents,
        "saving": next(iter(project_savings(row, names)), None),
        "budgets": [bar] if bar else [],
        "budget_method": prose(child(row, "budget"), "forecast_method"),
        "period": "day",
        "has_hours": bool(hours),
        "best_hours": hour_lines(rows(row, "best_hours"), names),
        "elsewhere": move_lines(child(child(row, "best_region"), "within_geographies"), names),
        "experiments_shown": experiments.shown,
        "experiments_more": experiments.hidden + details.experiments_left_out,
        "run_count": runs.of,
        "runs_shown": runs.shown,
        "factors": site.sources.entries(contexts.cited_numbers(cited, equivalents)),
        "report": embedded_json(script),
    }
    return site.renderer.page("project", "page", shown)


def by_day(days: Sequence[Mapped]) -> list[dict[str, Any]]:
    """Add the rows of a project by day and region up by day, in their order."""
    found: dict[str, list[Mapped]] = {}
    for row in days:
        found.setdefault(text(row, "day"), []).append(row)
    return [
        {"day": day, **{name: total([number(row, name) for row in of]) for name in MEASURES}}
        for day, of in found.items()
        if day
    ]


def _experiment(_: int, row: Mapped) -> Sequence[Any]:
    return [text(row, "experiment", NAMELESS)]


def _regions_used(project: Mapped, names: Mapping[str, str]) -> Mapping[str, Any]:
    def cells(_: int, row: Mapped) -> Sequence[Any]:
        region = text(row, "region")
        return [names.get(region) or region or "not known"]

    return listed(rows(project, "regions"), ("name",), cells, _LIST_BYTES).table
