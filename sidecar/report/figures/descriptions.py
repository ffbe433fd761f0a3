"""What the keys of the report's document mean, for the reference page."""

from typing import Final

DOCUMENT_KEYS: Final = {
    "schema": "version of this schema; 1 had `files` to `left_out`, `projects` and `balance` alone",
    "tool_version": "version of emissions-sidecar that wrote the report",
    "generated_at": "when, RFC 3339, UTC",
    "selection": "`projects`, `since` and `until` that were asked for; empty or null: all",
    "files": "files read",
    "records": "records read, each once",
    "duplicates": "records that were there more than once",
    "left_out": "lines that are no records, by reason",
    "sources": "where records were read from, the four numbers above, and how many came late",
    "total": "the measures of all records, with SCI, reserved-but-idle, months and month on month",
    "projects": "a row for each project: measures, slug, share, SCI, idle, budget, months, "
    "regions, equivalents, best region",
    "project_day_regions": "sums by project, UTC day and region, in `columns` and `rows`: `project` is "
    "a place in `projects`, the first `told_apart` of which have rows of their own; null is all others "
    "together, so that the rows sum to the total",
    "project_hours": "the same by project, weekday (0 is Monday) and hour of the day, UTC",
    "runs": "a row for each run of a project: measures, slug, SCI, idle",
    "experiments": "measures by project and experiment",
    "namespaces": "measures by namespace",
    "workloads": "measures by namespace and workload",
    "pools": "measures by AKS node pool",
    "days": "measures by day, UTC",
    "hours": "measures by weekday (0 is Monday) and hour of the day, UTC",
    "regions": "measures by Azure region",
    "rows_left_out": "rows of each table that the document has no room for; the files have all",
    "what_if_regions": "what each region of the catalogue would have come to",
    "what_if_hours": "what each hour of the day would have come to, where intensities vary",
    "map": "each region of the catalogue: place, intensity, PUE, WUE, and what was used there",
    "equivalents": "the emissions as everyday things",
    "reconciliation": "an export of Azure Carbon Optimization beside our figures",
    "balance": "energy of the nodes: of pods, untracked, unallocated; null for a selection of projects",
    "coverage": "what is missing from the figures",
    "quality": "energy and share by how it was obtained",
    "factors_used": "sources behind the records, by number, with the energy they were used for",
    "factors": "every source once: number, text, year, and the works it cites with licence and address",
}
"""Keys of `summary.json`, in its order."""
