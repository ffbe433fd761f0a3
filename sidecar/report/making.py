"""Makes a report: opens the places, adds up, computes the figures, writes files and pages."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from sidecar.catalogue.lookup import Catalogue
from sidecar.report.aggregate import Selection
from sidecar.report.dataset import Dataset, Resources
from sidecar.report.duckdb_engine import DuckDBEngine
from sidecar.report.engine import Engine, totals
from sidecar.report.figures.budget import Budget
from sidecar.report.figures.inputs import PodWithoutRecords, ReadFacts, ReportInputs
from sidecar.report.figures.model import report_model
from sidecar.report.figures.reconcile import AzureExport
from sidecar.report.files import write_report_files
from sidecar.report.page.write import write_pages
from sidecar.report.places import Place

EngineName = Literal["duckdb", "spark"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a report is asked to be. `now` is its moment; `catalogue` where its factors are."""

    now: datetime
    selection: Selection = field(default_factory=Selection)
    engine: EngineName = "duckdb"
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    azure: AzureExport | None = None
    pods_without_records: Sequence[PodWithoutRecords] | None = None
    resources: Resources = field(default_factory=Resources)
    catalogue: Catalogue = field(default_factory=Catalogue)


@dataclass(frozen=True, slots=True)
class Made:
    """A report: what it rests on, the document that files and pages are written from, and pods' uids."""

    inputs: ReportInputs
    model: Mapping[str, Any]
    pods: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether no record was of the selection."""
        return not self.inputs.tables.rows.get("projects") and not self.inputs.nodes

    def write(self, out: Path) -> list[Path]:
        """Write tables, summary and pages below a directory; returns the files. Raises OSError."""
        written = write_report_files(out, self.inputs, self.model)
        return [*written, *write_pages(self.model, out)]


def make_report(places: Sequence[Place], asked: Asked) -> Made:
    """Read, settle, add up and compute.

    Raises SourceUnreadable, OSError, and the engine's errors where memory or disk do not suffice.
    """
    with Dataset.open(places, asked.resources) as dataset:
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
            annotated_budgets=found.facts.budgets or {},
            factors=found.facts.factors,
            subscriptions=found.facts.subscriptions,
            azure=asked.azure,
            pods_without_records=asked.pods_without_records,
            runs=found.facts.runs or {},
        )
    return Made(inputs, report_model(inputs), found.facts.pods)


def with_pods(made: Made, pods: Sequence[PodWithoutRecords]) -> Made:
    """Return the report with the pods that asked to be tracked and have no records."""
    inputs = replace(made.inputs, pods_without_records=pods)
    return Made(inputs, report_model(inputs), made.pods)


@contextlib.contextmanager
def _engine(dataset: Dataset, asked: Asked) -> Iterator[Engine]:
    if asked.engine == "duckdb":
        yield DuckDBEngine(dataset.connection)
        return
    from sidecar.report.spark_engine import SparkEngine, local_session  # noqa: PLC0415

    session = local_session(asked.resources.memory_mib)
    directory = dataset.directory / "spark"
    directory.mkdir()
    try:
        yield SparkEngine(session, directory)
    finally:
        session.stop()
