"""Write the pages of a report: one for all, one per project, one per run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sidecar.durable_file import replace_file
from sidecar.report.page import contexts, view
from sidecar.report.page.cube import Cube, compact_cube
from sidecar.report.page.names import page_names
from sidecar.report.page.reading import NAMELESS, Mapped, child, key_of, number, rows, table, text
from sidecar.report.page.render import GENERATOR, Renderer, embedded_json

PROJECT_PAGES_MAX: Final = 1000
RUN_PAGES_MAX: Final = 500
"""The largest get a page of their own; the tables, and the CSV files, hold the others."""

_LIST_BYTES_MAX: Final = 200_000
"""JSON of the projects, and of the runs, that a page lists by name."""

_SECTIONS: Final[tuple[tuple[str, str], ...]] = (
    ("projects", "Projects"),
    ("time", "Over time"),
    ("components", "Components"),
    ("idle", "Idle"),
    ("regions", "Regions"),
    ("map", "Map"),
    ("hours", "Hours"),
    ("budgets", "Budgets"),
    ("runs", "Runs"),
    ("coverage", "Trust"),
    ("sources", "Sources"),
)


def write_pages(model: Mapping[str, Any], out_dir: Path) -> list[Path]:
    """Write `index.html`, `projects/*.html` and `runs/*.html` into a directory; returns their paths.

    `model` is what `report_model` returns; what it lacks is shown as not known. Pages of ours that an
    earlier report left and this one does not have are removed. Raises OSError.
    """
    site = _Site.of(model)
    written = []
    for name, content in site.pages():
        path = out_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content.encode("utf-8", "replace"))
        written.append(path)
    _remove_others(out_dir, set(written))
    return written


def _remove_others(out_dir: Path, written: set[Path]) -> None:
    """Remove pages of an earlier report: only what says that we made it."""
    mark = f'<meta name="generator" content="{GENERATOR}'.encode()
    for folder in ("projects", "runs"):
        for path in (out_dir / folder).glob("*.html"):
            if path in written or path.is_symlink():
                continue
            with path.open("rb") as file:
                is_ours = mark in file.read(2048)
            if is_ours:
                path.unlink()


@dataclass(frozen=True, slots=True)
class _Site:
    """All pages of one report, and where they are."""

    model: Mapped
    projects: Sequence[Mapped]
    runs: Sequence[Mapped]
    project_pages: Sequence[str]
    run_pages: Sequence[str]
    renderer: Renderer

    @classmethod
    def of(cls, model: Mapped) -> "_Site":
        projects = rows(model, "projects")
        runs = sorted(rows(model, "runs"), key=lambda row: -(number(row, "emissions_g") or 0.0))
        return cls(
            model,
            projects,
            runs,
            page_names(projects[:PROJECT_PAGES_MAX], ("project",)),
            page_names(runs[:RUN_PAGES_MAX], ("project", "run")),
            Renderer(),
        )

    def pages(self) -> Iterator[tuple[str, str]]:
        """Yield the name of each file and its content."""
        yield "index.html", self._index()
        runs_by_project: dict[str | None, list[int]] = {}
        for place, run in enumerate(self.runs):
            runs_by_project.setdefault(key_of(run, "project"), []).append(place)
        experiments, days, hours = (
            _by_project(self.model, self.projects, name)
            for name in ("experiments", "project_day_regions", "project_hours")
        )
        if not days:
            days = _by_project(self.model, self.projects, "project_days")
        for place, name in enumerate(self.project_pages):
            project = key_of(self.projects[place], "project")
            parts = _ProjectParts(
                days.get(project, []),
                hours.get(project, []),
                experiments.get(project, []),
                runs_by_project.get(project, []),
            )
            yield f"projects/{name}.html", self._project(place, parts)
        hrefs = {key_of(row, "project"): place for place, row in enumerate(self.projects)}
        for place, name in enumerate(self.run_pages):
            run = self.runs[place]
            href = self._project_href(hrefs.get(key_of(run, "project")), "../")
            shown = contexts.run_page(self.model, run, href)
            yield f"runs/{name}.html", self.renderer.page("run", "plain", shown)

    def _project_href(self, place: int | None, base: str = "") -> str | None:
        if place is None or place >= len(self.project_pages):
            return None
        return f"{base}projects/{self.project_pages[place]}.html"

    def _run_href(self, place: int, base: str = "") -> str | None:
        if place >= len(self.run_pages):
            return None
        return f"{base}runs/{self.run_pages[place]}.html"

    def _run_entries(self, places: Iterable[int], base: str = "") -> list[dict[str, Any]]:
        """Return the largest runs, as many as a page has room for."""
        entries = (
            contexts.run_entry(self.runs[place], self._run_href(place, base)) for place in places
        )
        return list(_fitting(entries))

    def _project_entries(self, cube: Cube, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if cube.named is None:
            return listed
        others = self.projects[cube.named :]
        return [*listed[: cube.named], contexts.summed(others, f"{len(others):,} other projects")]

    def _index(self) -> str:
        model = self.model
        measures, names = child(model, "total"), contexts.region_names(model)
        entries = (
            contexts.project_entry(row, self._project_href(place))
            for place, row in enumerate(self.projects)
        )
        listed = list(_fitting(entries))
        cube = compact_cube(model, self.projects, len(listed))
        runs = self._run_entries(range(min(len(self.runs), RUN_PAGES_MAX)))
        script = {
            "scope": "index",
            "total": contexts.short_measures(measures),
            "cube": cube.mapping,
            "regions": contexts.regions_of(cube, names),
            "projects": self._project_entries(cube, listed),
            "runs": runs,
            "hours": view.weekday_hour_rows(rows(model, "hours")),
            "map": contexts.map_entries(model),
            "what_if": contexts.what_if_entries(model),
        }
        shown = contexts.common(model, measures) | self._index_parts(cube, len(runs))
        embedded = {"report": embedded_json(script), "world": self.renderer.world}
        return self.renderer.page("index", "page", shown | embedded)

    def _index_parts(self, cube: Cube, runs_shown: int) -> dict[str, Any]:
        model = self.model
        budgets = [
            view.budget_bar(
                child(row, "budget"), text(row, "project", NAMELESS), self._project_href(place)
            )
            for place, row in enumerate(self.projects)
        ]
        bars = [bar for bar in budgets if bar][:100]
        savings = view.savings(model)
        elsewhere = next((item for item in savings if item.section == "regions"), None)
        static = self.projects[: contexts.PROJECTS_WITHOUT_SCRIPT]
        what_if, hours = child(model, "what_if_regions"), child(model, "what_if_hours")
        lines = view.hour_lines(hours)
        return {
            "title": "Emissions report",
            "selection": _selection(child(model, "selection")),
            "sections": [item for item in _SECTIONS if bars or item[0] != "budgets"],
            "follows": True,
            "saving": savings[0] if savings else None,
            "equivalents": view.equivalents(model),
            "cube_notes": _cube_notes(cube, len(self.projects)),
            "projects": [
                contexts.table_row(row, text(row, "project", NAMELESS), self._project_href(place))
                for place, row in enumerate(static)
            ],
            "period": cube.period,
            "unallocated": contexts.unallocated(model),
            "has_what_if": bool(view.what_if_rows(model)),
            "what_if_reason": text(what_if, "reason", "no records"),
            "elsewhere": f"{elsewhere.how}: {elsewhere.text} CO2e less." if elsewhere else "",
            "what_if_hours": {"lines": lines, "reason": text(hours, "reason", "not looked at")},
            "budgets": bars,
            "run_count": len(self.runs) + _left_out(model, "runs"),
            "runs_shown": runs_shown,
            "levels": view.levels(child(model, "total")),
            "coverage": view.coverage_lines(model),
            "reconciliation": view.reconciliation_lines(child(model, "reconciliation")),
            "factors": contexts.factor_entries(model),
        }

    def _project(self, place: int, parts: "_ProjectParts") -> str:
        row = self.projects[place]
        name, names = text(row, "project", NAMELESS), contexts.region_names(self.model)
        runs = self._run_entries(parts.runs, "../")
        cube = _cube_of_project(row, parts.days)
        hours = view.weekday_hour_rows(parts.hours)
        bar = view.budget_bar(child(row, "budget"), name, None)
        script = {
            "scope": "project",
            "total": contexts.short_measures(row),
            "cube": cube.mapping,
            "regions": contexts.regions_of(cube, names),
            "projects": [contexts.project_entry(row, None)],
            "runs": runs,
            "hours": hours,
        }
        shown = contexts.common(self.model, row) | contexts.experiments(parts.experiments)
        shown |= {
            "title": f"{name} · emissions report",
            "name": name,
            "equivalents": view.equivalents(row),
            "saving": next(iter(view.project_savings(row, names)), None),
            "budgets": [bar] if bar else [],
            "period": cube.period,
            "has_hours": bool(hours),
            "elsewhere": contexts.best_region_lines(row, names),
            "run_count": len(parts.runs),
            "runs_shown": len(runs),
            "report": embedded_json(script),
        }
        return self.renderer.page("project", "page", shown)


def _cube_of_project(project: Mapped, days: Sequence[Mapped]) -> Cube:
    placed = [{**day, "project": 0} for day in days]
    name = "project_day_regions" if placed and "region" in placed[0] else "project_days"
    return compact_cube({name: placed}, [project], 1)


@dataclass(frozen=True, slots=True)
class _ProjectParts:
    """The rows of one project; `runs` are places in the report's runs."""

    days: Sequence[Mapped]
    hours: Sequence[Mapped]
    experiments: Sequence[Mapped]
    runs: Sequence[int]


def _by_project(
    model: Mapped, projects: Sequence[Mapped], name: str
) -> dict[str | None, list[Mapped]]:
    """Return the rows of a table by project, which they name by its name or its place."""
    found: dict[str | None, list[Mapped]] = {}
    for row in table(model, name):
        place = row.get("project")
        if not isinstance(place, int):
            found.setdefault(key_of(row, "project"), []).append(row)
        elif 0 <= place < len(projects):
            found.setdefault(key_of(projects[place], "project"), []).append(row)
    return found


def _fitting(entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield entries as long as their JSON is within `_LIST_BYTES_MAX`."""
    room = _LIST_BYTES_MAX
    for entry in entries:
        room -= len(embedded_json(entry).encode())
        if room < 0:
            return
        yield entry


def _left_out(model: Mapped, name: str) -> int:
    return int(number(child(model, "rows_left_out"), name) or 0)


def _selection(asked: Mapped) -> str:
    """Return what the report was asked for, in words."""
    projects = asked.get("projects")
    since, until = text(asked, "since"), text(asked, "until")
    words = []
    if isinstance(projects, list) and projects:
        words.append(f"only {len(projects):,} projects asked for")
    words += [f"since {since}"] if since else []
    words += [f"until {until}"] if until else []
    return ", ".join(words)


def _cube_notes(cube: Cube, projects: int) -> list[str]:
    """Return what of the data the page had to coarsen."""
    notes = []
    if cube.named is not None:
        notes.append(
            f"The {cube.named:,} largest of {projects:,} projects are told apart here, the others are "
            "summed up; projects.csv has all."
        )
    if cube.period == "month":
        notes.append("Time goes by month here to keep the page small; days.csv has the days.")
    if cube.is_shared_out:
        notes.append(
            "Days of projects that ran in several regions are shared out to these in proportion to the "
            "project’s energy there: with a region chosen, their figures are estimates."
        )
    return notes
