"""All pages of one report, and where they are."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidecar.report.page.citing import Sources
from sidecar.report.page.cube import MEASURES, short
from sidecar.report.page.names import page_names
from sidecar.report.page.reading import (
    NAMELESS,
    Mapped,
    child,
    key_of,
    number,
    rows,
    table,
    text,
    total,
)
from sidecar.report.page.render import Renderer

PROJECT_PAGES_MAX: Final = 1000
RUN_PAGES_MAX: Final = 500
"""The largest get a page of their own; the tables, and the CSV files, hold the others."""


@dataclass(frozen=True, slots=True)
class Site:
    """What the pages are made from. `files` are the names of the report's other files."""

    model: Mapped
    projects: Sequence[Mapped]
    runs: Sequence[Mapped]
    project_pages: Sequence[str]
    run_pages: Sequence[str]
    places: Mapping[str | None, int]
    runs_by_project: Mapping[str | None, Sequence[int]]
    sources: Sources
    files: Collection[str]
    renderer: Renderer

    @classmethod
    def of(cls, model: Mapped, files: Collection[str] = ()) -> "Site":
        """Look through the document once."""
        projects = rows(model, "projects")
        runs = sorted(rows(model, "runs"), key=lambda row: -(number(row, "emissions_g") or 0.0))
        by_project: dict[str | None, list[int]] = {}
        for place, run in enumerate(runs):
            by_project.setdefault(key_of(run, "project"), []).append(place)
        return cls(
            model,
            projects,
            runs,
            page_names(projects[:PROJECT_PAGES_MAX], ("project",)),
            page_names(runs[:RUN_PAGES_MAX], ("project", "run")),
            {key_of(row, "project"): place for place, row in enumerate(projects)},
            by_project,
            Sources.of(model),
            files,
            Renderer(),
        )

    @property
    def project_count(self) -> int:
        """How many projects there are, also those that the document has no room for."""
        return len(self.projects) + self.left_out("projects")

    @property
    def run_count(self) -> int:
        """How many runs there are."""
        return len(self.runs) + self.left_out("runs")

    def left_out(self, name: str) -> int:
        """Return how many rows of a table the document has no room for."""
        return int(number(child(self.model, "rows_left_out"), name) or 0)

    def place_of(self, row: Mapped) -> int | None:
        """Return the place of a row's project."""
        return self.places.get(key_of(row, "project"))

    def runs_of(self, project: Mapped) -> Sequence[int]:
        """Return the places of a project's runs."""
        return self.runs_by_project.get(key_of(project, "project"), ())

    def project_href(self, place: int | None, base: str = "") -> str | None:
        """Return the address of a project's page; None where it has none."""
        if place is None or place >= len(self.project_pages):
            return None
        return f"{base}projects/{self.project_pages[place]}.html"

    def run_cells(self, place: int, row: Mapped, base: str = "") -> Sequence[Any]:
        """Return name, project, address, beginning and end of a run."""
        has_page = place < len(self.run_pages)
        return (
            text(row, "run", NAMELESS),
            text(row, "project", NAMELESS),
            f"{base}runs/{self.run_pages[place]}.html" if has_page else None,
            text(row, "window_start")[:19] or None,
            text(row, "window_end")[:19] or None,
        )

    def moments(self, project: int | None) -> dict[str, Any] | None:
        """Return sums by moment, of all or of one project; None where the report is a long one."""
        moments = child(self.model, "moments")
        step_s = number(moments, "step_s")
        if not step_s:
            return None
        found: dict[str, list[Mapped]] = {}
        for row in table(self.model, "moments"):
            if project is None or row.get("project") == project:
                found.setdefault(text(row, "start"), []).append(row)
        cells = [
            [start, *(short(total([number(row, name) for row in of])) for name in MEASURES)]
            for start, of in sorted(found.items())
            if start
        ]
        return {"step_s": step_s, "columns": ["period", *MEASURES], "rows": cells}
