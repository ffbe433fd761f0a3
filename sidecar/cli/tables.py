"""Totals per project on the terminal, made with rich: a table, or a list where it is too narrow."""

from collections.abc import Iterator
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidecar.amounts import amount, counted
from sidecar.report.aggregate import ProjectTotals
from sidecar.report.read import ReadReport

HEADINGS: Final = (
    "project", "runs", "hours", "CPU Wh", "RAM Wh", "GPU Wh", "energy Wh", "node Wh", "g CO2e",
    "low – high", "embodied g", "g/kWh", "quality",
)  # fmt: skip
WIDTH_OF_FILES: Final = 180
"""Piped output is for programs and files: it is not cut at the 80 columns of no terminal."""


def print_projects(projects: list[ProjectTotals], seen: ReadReport) -> None:
    """Print the totals per project, what they rest on, and what was left out and why."""
    console = Console(width=None if Console().is_terminal else WIDTH_OF_FILES, highlight=False)
    rows = [_cells(project) for project in projects]
    table = _table(rows)
    unlimited = console.options.update(width=1000)
    if console.measure(table, options=unlimited).maximum <= console.width:
        console.print(table)
    else:
        console.print(_lists(rows))
    for source in _sources(projects):
        console.print(Text(source, style="dim"))
    console.print(
        f"{counted(seen.records, 'record')} in {counted(seen.files, 'file')}, "
        f"{counted(seen.duplicates, 'duplicate')}"
    )
    for reason, count in seen.left_out.items():
        console.print(Text(f"left out: {count} × {reason}", style="yellow"))


def _table(rows: list[tuple[Text | str, ...]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in HEADINGS:
        left = heading == "project"
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left)
    for row in rows:
        table.add_row(*row)
    return table


def _lists(rows: list[tuple[Text | str, ...]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for row in rows:
        for heading, cell in zip(HEADINGS, row, strict=True):
            grid.add_row(heading, cell)
        grid.add_row("", "")
    return grid


def _sources(projects: list[ProjectTotals]) -> Iterator[str]:
    """Name the carbon intensities used, as their licences ask for."""
    used = (factors for project in projects for factors in project.energy_kwh_by_factors)
    lines = (
        f"{factors.region or 'region unknown'}: {amount(factors.carbon_intensity_g_per_kwh)} g/kWh, "
        f"{factors.carbon_intensity_source}"
        f"{f' ({factors.carbon_intensity_year})' if factors.carbon_intensity_year else ''}; "
        f"PUE {amount(factors.pue)}, {factors.pue_source}"
        for factors in used
    )
    yield from dict.fromkeys(_printable(line) for line in lines)


def _cells(project: ProjectTotals) -> tuple[Text | str, ...]:
    return (
        Text(_printable(project.project)),
        str(len(project.runs)),
        _number(project.duration_s, 1 / 3600),
        _number(project.cpu_energy_kwh, 1000),
        _number(project.ram_energy_kwh, 1000),
        _number(project.gpu_energy_kwh, 1000),
        _number(project.energy_kwh, 1000),
        _number(project.node_energy_kwh, 1000),
        _number(project.emissions_g),
        f"{_number(project.emissions_low_g)} – {_number(project.emissions_high_g)}",
        _number(project.embodied_g),
        _number(project.carbon_intensity_g_per_kwh),
        _quality(project),
    )


def _printable(text: str) -> str:
    """Text from a pod for a terminal: no control characters reach it."""
    return "".join(c if c.isprintable() else "�" for c in text)


def _number(value: float | None, factor: float = 1.0) -> str:
    return amount(None if value is None else value * factor)


def _quality(project: ProjectTotals) -> str:
    total = sum(project.energy_kwh_by_quality.values())
    if total <= 0:
        return "–"
    parts = sorted(project.energy_kwh_by_quality.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {energy / total:.0%}" for name, energy in parts)
