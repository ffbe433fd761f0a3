"""The files of a report, for whoever wants the numbers themselves: only those that are there."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

TABLES: Final = (
    ("projects", "One row a project"),
    ("experiments", "One row an experiment"),
    ("runs", "One row a run"),
    ("phases", "Runs by phase, where a program marked any"),
    ("namespaces", "One row a namespace"),
    ("workloads", "One row a workload (Job, Deployment …)"),
    ("pools", "One row a node pool"),
    ("regions", "One row a region"),
    ("days", "One row a day (UTC)"),
    ("hours", "One row an hour of the week (UTC)"),
    ("project_regions", "Projects by region"),
    ("project_days", "Projects by day"),
    ("project_day_regions", "Projects by day and region"),
    ("project_hours", "Projects by hour of the week"),
)
"""Tables that come as CSV and as Parquet."""

OTHERS: Final = (
    ("summary.json", "The whole report as one document, with every source"),
    ("boamps.ndjson", "BoAmps records of all runs, one a line"),
)


@dataclass(frozen=True, slots=True)
class Download:
    """Files that hold the same, and what that is."""

    what: str
    names: tuple[str, ...]


def downloads(files: Collection[str]) -> list[Download]:
    """Return what can be downloaded, of these names of files beside the page."""
    found = [
        Download(what, tuple(name for name in (f"{stem}.csv", f"{stem}.parquet") if name in files))
        for stem, what in TABLES
    ]
    found += [Download(what, (name,)) for name, what in OTHERS if name in files]
    return [item for item in found if item.names]
