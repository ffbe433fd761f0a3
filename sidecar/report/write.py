"""Write the totals per project as JSON and CSV."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from sidecar.durable_file import replace_file
from sidecar.exporters.spreadsheet import safe_cell
from sidecar.report.aggregate import ProjectTotals, Report, to_row
from sidecar.report.balance import balance_mapping
from sidecar.report.read import ReadReport
from sidecar.version import VERSION


def report_mapping(report: Report, seen: ReadReport) -> dict[str, Any]:
    """Return `summary.json` as a mapping; `balance` is null where only some projects were asked for."""
    return {
        "tool_version": VERSION,
        "files": seen.files,
        "records": seen.records,
        "duplicates": seen.duplicates,
        "left_out": dict(seen.left_out),
        "projects": [to_row(project) for project in report.projects],
        "balance": None if report.nodes is None else balance_mapping(report.nodes),
    }


def write_report(directory: Path, report: Report, seen: ReadReport) -> list[Path]:
    """Write `summary.json` and `projects.csv`; returns their paths. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    summary, table = directory / "summary.json", directory / "projects.csv"
    text = json.dumps(report_mapping(report, seen), indent=2, ensure_ascii=False, allow_nan=False)
    replace_file(summary, text.encode() + b"\n")
    replace_file(table, _csv(report.projects).encode())
    return [summary, table]


def _csv(projects: list[ProjectTotals]) -> str:
    rows = [_flat(to_row(project)) for project in projects]
    columns = list(_flat(to_row(ProjectTotals(""))))
    columns += sorted({name for row in rows for name in row} - set(columns))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = (row.get(name) for name in columns)
        writer.writerow([safe_cell(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Give each entry of a nested mapping a column: `energy_kwh_by_quality.measured`.

    Of the factors the regions and the sources of the intensity are kept, joined by `; `.
    """
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{key}": amount for key, amount in value.items()})
        elif isinstance(value, list):
            for column in ("region", "carbon_intensity_source", "pue_source"):
                texts = dict.fromkeys(item[column] for item in value if item[column])
                flat[column] = "; ".join(texts)
        else:
            flat[name] = value
    return flat
