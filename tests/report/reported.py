"""Records, reported: written to a directory, read and added up as the command does."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

from sidecar.report.dataset import Dataset
from sidecar.report.duckdb_engine import DuckDBEngine
from sidecar.report.engine import totals
from sidecar.report.places import DirectoryPlace
from sidecar.report.selection import Selection
from tests.report.records import write

ALL = Selection()


def reported(records, selection=ALL):
    """`projects`, each with its name and measures, the largest emissions first, and `nodes`."""
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory, "a.ndjson"), *records)
        with Dataset.open([DirectoryPlace(Path(directory))]) as dataset:
            found = totals(dataset, selection, DuckDBEngine(dataset.connection))
            rows = found.tables.first("projects")
            found.tables.close()
    projects = [
        SimpleNamespace(project=row.keys["project"], **asdict(row.measures)) for row in rows
    ]
    return SimpleNamespace(projects=projects, nodes=found.nodes)
