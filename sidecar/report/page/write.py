"""Write the pages of a report: one for all, one per project, one per run."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sidecar.durable_file import replace_file
from sidecar.report.figures.details import ProjectDetails
from sidecar.report.page.index_page import index_page
from sidecar.report.page.project_page import project_page
from sidecar.report.page.render import GENERATOR
from sidecar.report.page.run_page import run_page
from sidecar.report.page.site import Site


def write_pages(
    model: Mapping[str, Any], out_dir: Path, details: Iterable[ProjectDetails] = ()
) -> list[Path]:
    """Write `index.html`, `projects/*.html` and `runs/*.html` into a directory; returns their paths.

    `model` is what `report_model` returns; what it lacks is shown as not known. `details` are those of
    its first projects, in their order. Pages link to the report's other files that are there. Pages of
    ours that an earlier report left and this one does not have are removed. Raises OSError.
    """
    site = Site.of(model, _files(out_dir))
    written = []
    for name, content in _pages(site, details):
        path = out_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content.encode("utf-8", "replace"))
        written.append(path)
    _remove_others(out_dir, set(written))
    return written


def _pages(site: Site, details: Iterable[ProjectDetails]) -> Iterator[tuple[str, str]]:
    """Yield the name of each file and its content."""
    yield "index.html", index_page(site)
    of_projects = iter(details)
    for place, name in enumerate(site.project_pages):
        known = next(of_projects, None) or ProjectDetails(None, (), (), ())
        yield f"projects/{name}.html", project_page(site, place, known)
    for place, name in enumerate(site.run_pages):
        yield f"runs/{name}.html", run_page(site, place)


def _files(directory: Path) -> frozenset[str]:
    """Return the report's other files: those beside the page, and a BoAmps record for each run."""
    found = {path.name for path in directory.glob("*.*") if path.is_file()}
    return frozenset(found | {f"boamps/{path.name}" for path in directory.glob("boamps/*.json")})


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
