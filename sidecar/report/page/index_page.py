"""The page of a whole report."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sidecar.amounts import counted
from sidecar.report.page import contexts, trust, view
from sidecar.report.page.budget_bars import budget_bar, budget_method
from sidecar.report.page.comparisons import (
    hour_entries,
    hour_lines,
    map_entries,
    move_lines,
    region_names,
    weekday_hour_rows,
    what_if_entries,
    what_if_rows,
)
from sidecar.report.page.cube import MEASURES, Cube, compact_cube
from sidecar.report.page.downloads import downloads
from sidecar.report.page.numbers import energy, mass, percent
from sidecar.report.page.reading import NAMELESS, Mapped, child, number, ratio, rows, text
from sidecar.report.page.render import embedded_json
from sidecar.report.page.savings import savings
from sidecar.report.page.script_tables import Listed, listed, rest, short_measures
from sidecar.report.page.site import Site

PROJECTS_WITHOUT_SCRIPT: Final = 25
"""Rows of the table that is there without JavaScript."""

_PROJECTS_BYTES: Final = 160_000
_RUNS_BYTES: Final = 140_000
_GROUP_BYTES: Final = 40_000
_DAYS_BYTES: Final = 120_000
"""JSON of the lists by name; what has no room is in the CSV files, and the page says so."""

_GROUPS: Final = (
    ("namespaces", "Namespace", ("namespace",)),
    ("workloads", "Workload", ("workload", "namespace")),
    ("pools", "Node pool", ("pool",)),
    ("experiments", "Experiment", ("experiment", "project")),
)
"""A line along which nothing has a name is not shown."""

_SECTIONS: Final = (
    ("projects", "Projects"),
    ("time", "Over time"),
    ("groups", "Groups"),
    ("components", "Components"),
    ("idle", "Idle"),
    ("regions", "Regions"),
    ("map", "Map"),
    ("hours", "Hours"),
    ("budgets", "Budgets"),
    ("runs", "Runs"),
    ("coverage", "Trust"),
    ("data", "Data"),
    ("sources", "Sources"),
)


def index_page(site: Site) -> str:
    """Return the page as HTML."""
    model = site.model
    measures, names = child(model, "total"), region_names(model)
    projects = _projects(site)
    runs = listed(
        site.runs, ("name", "project", "href", "start", "end"), site.run_cells, _RUNS_BYTES
    )
    cube = compact_cube(model, site.projects, projects.shown)
    groups = {name: _group(site, name, keys) for name, _, keys in _GROUPS}
    what_if_hours = child(model, "what_if_hours")
    script = {
        "scope": "index",
        "total": short_measures(measures),
        "days": _days(model).table,
        "moments": site.moments(None),
        "cube": cube.mapping,
        "named": cube.named,
        "regions": [_region(name, names) for name in cube.regions],
        "regions_used": _regions_used(model).table,
        "projects": projects.table,
        "others": _others(site, projects),
        "runs": runs.table,
        "groups": {name: table.table for name, table in groups.items()},
        "hours": weekday_hour_rows(rows(model, "hours")),
        "hour_intensity": hour_entries(what_if_hours, names),
        "map": map_entries(model),
        "what_if": what_if_entries(model),
    }
    shown = contexts.common(model, measures, site.sources.used) | _parts(site, cube, names)
    shown |= {
        "run_count": site.run_count,
        "runs_shown": runs.shown,
        "projects_listed": projects.shown,
        "groups": [
            {"id": name, "name": title, "hidden": groups[name].hidden + site.left_out(name)}
            for name, title, _ in _GROUPS
            if _has_names(model, name)
        ],
        "report": embedded_json(script),
        "world": site.renderer.world,
    }
    return site.renderer.page("index", "page", shown)


def _projects(site: Site) -> Listed:
    def cells(place: int, row: Mapped) -> Sequence[Any]:
        change = view.month_change(child(row, "month_on_month"))
        said = f"{change.text}; {change.detail}" if change else None
        return text(row, "project", NAMELESS), site.project_href(place), said

    return listed(site.projects, ("name", "href", "change"), cells, _PROJECTS_BYTES)


def _others(site: Site, projects: Listed) -> dict[str, Any] | None:
    """Return what the projects come to that the page does not list: the total less those it does."""
    count = site.project_count - projects.shown
    if count <= 0:
        return None
    sums = rest(child(site.model, "total"), site.projects[: projects.shown])
    return {"name": f"{count:,} other projects", "count": count, **sums}


def _days(model: Mapped) -> Listed:
    found = sorted(rows(model, "days"), key=lambda row: text(row, "day"))
    return listed(found, ("period",), lambda _, row: [text(row, "day")], _DAYS_BYTES, MEASURES)


def _regions_used(model: Mapped) -> Listed:
    def cells(_: int, row: Mapped) -> Sequence[Any]:
        return [text(row, "display_name") or text(row, "region", "not known")]

    return listed(rows(model, "regions"), ("name",), cells, _GROUP_BYTES)


def _group(site: Site, name: str, keys: Sequence[str]) -> Listed:
    hrefs = {text(row, "project"): place for place, row in enumerate(site.projects)}

    def cells(_: int, row: Mapped) -> Sequence[Any]:
        of = text(row, keys[1], NAMELESS) if len(keys) > 1 else None
        href = None
        if name == "experiments":
            href = site.project_href(hrefs.get(text(row, "project")))
        return text(row, keys[0], NAMELESS), of, href

    return listed(rows(site.model, name), ("name", "of", "of_href"), cells, _GROUP_BYTES)


def _has_names(model: Mapped, group: str) -> bool:
    """Whether any row of a group has a name."""
    (key,) = (keys[0] for name, _, keys in _GROUPS if name == group)
    return any(text(row, key) for row in rows(model, group))


def _region(name: str, names: Mapping[str, str]) -> dict[str, str]:
    return {"key": name, "name": names.get(name) or name or "not known"}


def _parts(site: Site, cube: Cube, names: Mapping[str, str]) -> dict[str, Any]:
    model = site.model
    bars = [
        budget_bar(child(row, "budget"), text(row, "project", NAMELESS), site.project_href(place))
        for place, row in enumerate(site.projects)
    ]
    known = [bar for bar in bars if bar][:100]
    found = savings(model)
    what_if, hours = child(model, "what_if_regions"), child(model, "what_if_hours")
    within = child(what_if, "within_geographies")
    lines = hour_lines(rows(hours, "regions"), names)
    tables = downloads(site.files)
    absent = [] if known else ["budgets"]
    absent += [] if tables else ["data"]
    absent += [] if any(_has_names(model, name) for name, _, _ in _GROUPS) else ["groups"]
    static = site.projects[:PROJECTS_WITHOUT_SCRIPT]
    total = child(model, "total")
    equivalents = view.equivalents({**total, "equivalents": model.get("equivalents")}, model)
    used = contexts.cited_numbers(site.sources.used, equivalents)
    return {
        "title": contexts.report_name(model),
        "selection": _selection(child(model, "selection")),
        "sections": contexts.navigation(_SECTIONS, absent),
        "follows": True,
        "has_filters": _has_filters(cube),
        "saving": found[0] if found else None,
        "equivalents": equivalents,
        "project_count": site.project_count,
        "project_pages": len(site.project_pages),
        "run_pages": len(site.run_pages),
        "cube_notes": _cube_notes(cube, site.project_count),
        "projects": [
            contexts.table_row(row, text(row, "project", NAMELESS), site.project_href(place))
            for place, row in enumerate(static)
        ],
        "period": cube.period,
        "unallocated": _unallocated(model),
        "has_what_if": bool(what_if_rows(model)),
        "what_if_reason": text(what_if, "reason", "no records"),
        "elsewhere": move_lines(within, names),
        "unknown_region": _unknown_region(within),
        "what_if_hours": {"lines": lines, "reason": text(hours, "reason", "not looked at")},
        "budgets": known,
        "budget_method": budget_method(site.projects),
        "levels": view.levels(total),
        "coverage": trust.coverage_lines(model),
        "pods": trust.tracked_pods(model),
        "reconciliation": trust.reconciliation_lines(child(model, "reconciliation")),
        "downloads": tables,
        "factors": site.sources.entries(used),
        "other_factors": site.sources.entries(site.sources.rows.keys() - used),
    }


def _has_filters(cube: Cube) -> bool:
    """Whether there is anything to choose from."""
    mapping = cube.mapping
    return max(map(len, (set(mapping["project"]), cube.regions, mapping["periods"]))) > 1


def _unknown_region(within: Mapped) -> str:
    """Return how much ran nobody knows where, which no advice moves."""
    kwh = number(within, "energy_of_unknown_region_kwh")
    return energy(kwh) if kwh else ""


def _unallocated(model: Mapped) -> dict[str, Any] | None:
    """Return what no pod used; None where nodes were not looked at."""
    balance = child(model, "balance")
    kwh, whole = number(balance, "unallocated_energy_kwh"), number(balance, "node_energy_kwh")
    if kwh is None or not whole:
        return None
    names = (
        ("Energy of the nodes", "node_energy_kwh"),
        ("Pods with records", "pods_energy_kwh"),
        ("Pods without records", "untracked_energy_kwh"),
        ("Unallocated GPU", "unallocated_gpu_energy_kwh"),
        ("Unallocated CPU", "unallocated_cpu_energy_kwh"),
        ("Unallocated RAM", "unallocated_ram_energy_kwh"),
    )
    facts = [view.Fact(name, energy(number(balance, key))) for name, key in names]
    how = (
        "What the nodes’ own meters or models say, less what their pods keep; grams at the mean factors "
        "of the records of the same node and time. Their bounds are not known."
    )
    return {
        "energy": energy(kwh),
        "node_energy": energy(whole),
        "share": percent(ratio(kwh, whole)),
        "emissions": mass(number(balance, "unallocated_emissions_g")),
        "facts": [*facts, view.Fact("How it was obtained", how)],
    }


def _selection(asked: Mapped) -> str:
    """Return what the report was asked for, in words."""
    projects = asked.get("projects")
    since, until = text(asked, "since"), text(asked, "until")
    words = []
    if isinstance(projects, list) and projects:
        words.append(f"only {counted(len(projects), 'project')} asked for")
    words += [f"since {since}"] if since else []
    words += [f"until {until}"] if until else []
    return ", ".join(words)


def _cube_notes(cube: Cube, projects: int) -> list[str]:
    """Return what of the data the filters had to coarsen."""
    notes = []
    if cube.named is not None:
        notes.append(
            f"Filters tell the {cube.named:,} largest of {projects:,} projects apart; the others are "
            "chosen together."
        )
    if cube.period == "month":
        notes.append("Filtered, time goes by month, to keep the page small; days.csv has the days.")
    return notes
