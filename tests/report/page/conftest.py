"""A browser that tells what a page asked for and complained of, and a report for it to show."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from sidecar.report.figures.details import project_details
from sidecar.report.figures.model import report_model
from sidecar.report.page import write_pages
from tests.report.page.realistic import Scale, realistic_inputs

AXE = Path(__file__).parents[3] / ".cache/page/node_modules/axe-core/axe.min.js"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


@dataclass
class Report:
    directory: Path
    model: dict[str, Any]

    @property
    def index(self) -> str:
        return (self.directory / "index.html").as_uri()

    def first(self, folder: str) -> str:
        rows = self.model[folder]
        return (self.directory / folder / f"{rows[0]['slug']}.html").as_uri()


def write(directory: Path, model: dict[str, Any]) -> Report:
    """Write the pages of a document, without the details of projects."""
    write_pages(model, directory)
    return Report(directory, model)


LAB = Scale()


def write_realistic(directory: Path, scale: Scale = LAB) -> Report:
    """Write the pages of a realistic report as the command does."""
    inputs = realistic_inputs(scale)
    model = report_model(inputs)
    for name in ("runs.csv", "runs.parquet", "summary.json", "boamps.ndjson"):
        (directory / name).write_text("there")
    (directory / "boamps").mkdir()
    (directory / "boamps" / f"{model['runs'][0]['slug']}.json").write_text("{}")
    projects = [row["project"] for row in model["projects"]]
    write_pages(model, directory, project_details(inputs.tables, projects))
    return Report(directory, model)


@pytest.fixture(scope="session")
def report(tmp_path_factory) -> Report:
    return write_realistic(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")  # while it is open a loop of asyncio's runs in this thread
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield chromium
        chromium.close()


@dataclass
class Visits:
    """Pages opened in one test, with what they asked for and complained of."""

    browser: Any
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)

    def __call__(self, address: str, **options: Any) -> Any:
        options.setdefault("viewport", {"width": 1280, "height": 900})
        context = self.browser.new_context(**options)
        self.contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        page.on("console", lambda message: self.complaints.append(message.text))
        self.opened.append(address)
        page.goto(address)
        if options.get("java_script_enabled", True):
            page.wait_for_function("document.readyState === 'complete'")
        return page


@pytest.fixture
def visit(browser) -> Iterator[Callable[..., Any]]:
    """Open pages; in the end none may have complained, or asked for anything but documents."""
    visits = Visits(browser)
    yield visits
    for context in visits.contexts:
        context.close()
    assert visits.complaints == []
    assert [url for url in visits.asked if not url.split("#")[0].endswith((".html", "/"))] == []


@pytest.fixture(scope="session")
def axe() -> str:
    if not AXE.is_file():
        pytest.skip("axe-core is not there: run scripts/build_page.sh")
    return AXE.read_text()


@pytest.fixture(scope="session")
def many_projects(tmp_path_factory) -> Report:
    """Ten thousand projects of ninety days, as far as a model holds them."""
    return write(tmp_path_factory.mktemp("many"), many_projects_model(10_000))


def many_projects_model(count: int) -> dict[str, Any]:
    first = date(2026, 6, 27)
    days = [(first + timedelta(days=number)).isoformat() for number in range(90)]
    amounts = {"emissions_g": 123.456, "emissions_low_g": 100.0, "emissions_high_g": 150.0}
    amounts |= {"energy_kwh": 0.5123, "cpu_energy_kwh": 0.2, "gpu_energy_kwh": 0.3123}
    names = [f"project-with-a-rather-long-name-{number:05}" for number in range(count)]
    told_apart = min(count, 400)
    columns = ["project", "day", "region", *amounts]
    cells = [
        [place, day, "westeurope", *amounts.values()] for place in range(told_apart) for day in days
    ]
    rest = count - told_apart
    if rest:
        others = [rest * each for each in amounts.values()]
        cells += [[None, day, "westeurope", *others] for day in days]
    whole = {name: amount * 90 * count for name, amount in amounts.items()}
    return {
        "total": whole,
        "projects": [
            {"project": name, "slug": name, **{key: 90 * each for key, each in amounts.items()}}
            | {"regions": [{"region": "westeurope", **amounts}]}
            for name in names
        ],
        "runs": [
            {"project": name, "run": f"{name}-1", "slug": f"{name}-1", **amounts} for name in names
        ],
        "days": [
            {"day": day, **{name: amount * count for name, amount in amounts.items()}}
            for day in days
        ],
        "regions": [{"region": "westeurope", **whole}],
        "project_day_regions": {"columns": columns, "told_apart": told_apart, "rows": cells},
    }
