"""Makes a report: opens the places, adds up, computes the figures, writes files and pages."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from sidecar.catalogue.lookup import Catalogue
from sidecar.report.arrivals import looked_up
from sidecar.report.dataset import Dataset, Resources
from sidecar.report.duckdb_engine import DuckDBEngine
from sidecar.report.engine import Engine, totals
from sidecar.report.figures.budget import Budget
from sidecar.report.figures.details import ProjectDetails, project_details
from sidecar.report.figures.inputs import PodsLookedUp, ReadFacts, ReportInputs
from sidecar.report.figures.model import report_model
from sidecar.report.figures.reconcile import AzureExport
from sidecar.report.files import write_report_files
from sidecar.report.page.site import PROJECT_PAGES_MAX
from sidecar.report.page.write import write_pages
from sidecar.report.places import Place
from sidecar.report.selection import Selection
from sidecar.report.tracked_pods import TrackedPod

EngineName = Literal["duckdb", "spark"]
LOCAL_MASTER: Final = "local[*]"
"""Spark on this machine."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a report is asked to be. `now` is its moment; `catalogue` where its factors are.

    `tracked` are the pods that asked to be tracked, None where Kubernetes was not asked, or did not
    answer: `tracked_failure` says why. `title` is the report's name, `note` stands at its top.
    """

    now: datetime
    selection: Selection = field(default_factory=Selection)
    engine: EngineName = "duckdb"
    spark_master: str = LOCAL_MASTER
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    azure: AzureExport | None = None
    tracked: Sequence[TrackedPod] | None = None
    tracked_failure: str | None = None
    title: str | None = None
    note: str | None = None
    resources: Resources = field(default_factory=Resources)
    catalogue: Catalogue = field(default_factory=Catalogue)


@dataclass(frozen=True, slots=True)
class Made:
    """A report: what it rests on, and the document that files and pages are written from."""

    inputs: ReportInputs
    model: Mapping[str, Any]

    @property
    def is_empty(self) -> bool:
        """Whether no record was of the selection."""
        return not self.inputs.tables.count("projects") and not self.inputs.nodes

    def details(self, projects: Sequence[str | None]) -> Iterator[ProjectDetails]:
        """Yield what the pages of these projects show beside the document, in this order."""
        return project_details(self.inputs.tables, projects)

    def write(self, out: Path) -> list[Path]:
        """Write tables, summary and pages below a directory; returns the files. Raises OSError."""
        written = write_report_files(out, self.inputs, self.model)
        projects = [row["project"] for row in self.model["projects"][:PROJECT_PAGES_MAX]]
        details = project_details(self.inputs.tables, projects)
        return [*written, *write_pages(self.model, out, details)]


def make_report(places: Sequence[Place], asked: Asked) -> Made:
    """Read, settle, add up and compute.

    Raises SourceUnreadable, OSError, and the engine's errors where memory or disk do not suffice.
    """
    with Dataset.open(places, asked.resources) as dataset:
        pods = _pods(dataset, asked)
        with _engine(dataset, asked) as engine:
            found = totals(dataset, asked.selection, engine, asked.resources.progress)
        inputs = ReportInputs(
            tables=found.tables,
            catalogue=asked.catalogue,
            now=asked.now,
            read=ReadFacts.of(dataset.seen, ", ".join(map(str, places))),
            selection=asked.selection,
            nodes=found.nodes,
            budgets=asked.budgets,
            annotated_budgets=found.facts.budgets,
            factors=found.facts.factors,
            hours=found.facts.hours,
            subscriptions=found.facts.subscriptions,
            azure=asked.azure,
            pods=pods,
            moments=found.moments,
            title=asked.title,
            note=asked.note,
        )
    return Made(inputs, report_model(inputs))


def _pods(dataset: Dataset, asked: Asked) -> PodsLookedUp | None:
    """Compare the pods that asked with all records there are, whatever is selected."""
    if asked.tracked_failure is not None:
        return PodsLookedUp(failure=asked.tracked_failure)
    if asked.tracked is None:
        return None
    return looked_up(asked.tracked, dataset, DuckDBEngine(dataset.connection))


@contextlib.contextmanager
def _engine(dataset: Dataset, asked: Asked) -> Iterator[Engine]:
    if asked.engine == "duckdb":
        yield DuckDBEngine(dataset.connection)
        return
    from sidecar.report.spark_engine import SparkEngine, spark_session  # noqa: PLC0415

    session = spark_session(asked.resources.memory_mib, asked.spark_master)
    directory = dataset.directory / "spark"
    directory.mkdir()
    try:
        yield SparkEngine(session, directory)
    finally:
        session.stop()
