"""CodeCarbon's file of tasks: one row each, `emissions_<experiment>_<run>.csv`."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from sidecar.durable_file import replace_file
from sidecar.exporters.spreadsheet import safe_cell
from sidecar.tracking.results import TaskEmissionsData


def write_tasks(directory: Path, experiment: str, tasks: Sequence[TaskEmissionsData]) -> None:
    """Replace the file of a run's tasks. Raises OSError."""
    if not tasks:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(tasks[0].values)
    for task in tasks:
        cells = task.values.values()
        writer.writerow([safe_cell(cell) if isinstance(cell, str) else cell for cell in cells])
    name = re.sub(r"[^\w.-]", "-", f"emissions_{experiment}_{tasks[0].run_id}")[:200]
    directory.mkdir(parents=True, exist_ok=True)
    replace_file(directory / f"{name}.csv", text.getvalue().encode(errors="replace"))
