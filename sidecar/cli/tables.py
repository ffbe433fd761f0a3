"""Reports on the terminal, made with rich: totals per project, and what `verify` found.

Totals are a table, or a list where the terminal is too narrow for it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidecar.amounts import amount, counted
from sidecar.report.dataset import SAME_RUN
from sidecar.report.findings import Finding, count_of
from sidecar.report.verify import Verdict

HEADINGS: Final = (
    "project", "runs", "hours", "CPU Wh", "RAM Wh", "GPU Wh", "energy Wh", "g CO2e",
    "low – high", "embodied g", "g/kWh", "quality",
)  # fmt: skip
QUALITIES: Final = ("measured", "estimated", "modelled")

WIDTH_OF_FILES: Final = 180
"""Piped output is for programs and files: it is not cut at the 80 columns of no terminal."""


def print_report(model: Mapping[str, Any]) -> None:
    """Print the totals per project, what they rest on, and what was left out and why."""
    console = _console()
    rows = [_cells(project) for project in model["projects"]]
    if rows:
        table = _table(rows)
        unlimited = console.options.update(width=1000)
        if console.measure(table, options=unlimited).maximum <= console.width:
            console.print(table)
        else:
            console.print(_lists(rows))
    for source in _sources(model):
        console.print(Text(source, style="dim"))
    read = model["sources"]
    console.print(
        f"{counted(read['records'], 'record')} in {counted(read['files'], 'file')}, "
        f"{counted(read['duplicates'], 'duplicate')}"
    )
    for reason, count in read["left_out"].items():
        if reason == SAME_RUN:
            continue  # the table beside the records, which says the same
        console.print(Text(f"left out: {count} × {reason}", style="yellow"))


def print_verdict(verdict: Verdict, files: int) -> None:
    """Print what was found, with examples, and one line of what was looked at."""
    console = _console()
    for title, found, style in (
        ("violation", verdict.violations, "red"),
        ("notice", verdict.notices, "yellow"),
    ):
        for item in found:
            console.print(Text(_heading(title, item), style=style))
            for example in item.examples:
                console.print(Text(f"  {_pairs(example)}"), soft_wrap=True)
            if item.count > len(item.examples) and "lines" not in item.examples[0]:
                console.print(f"  … and {item.count - len(item.examples)} more")
    console.print(Text(_summary(verdict, files)), soft_wrap=True)
    violations = counted(count_of(verdict.violations), "violation")
    console.print(f"{violations}, {counted(count_of(verdict.notices), 'notice')}")


def _heading(title: str, item: Finding) -> str:
    return _printable(f"{title}: {item.count} × {item.kind.name} ({item.kind.meaning})")


def _pairs(example: Mapping[str, Any]) -> str:
    return _printable(", ".join(f"{name} {_shown(value)}" for name, value in example.items()))


def _shown(value: object) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return "–" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)


def _summary(verdict: Verdict, files: int) -> str:
    totals = verdict.totals
    looked_at = (
        counted(files, "file"),
        counted(verdict.records, "record"),
        counted(verdict.duplicates, "duplicate"),
        counted(totals["pods"], "pod"),
        counted(totals["boots"], "boot"),
        f"{totals['window_start'] or '–'} to {totals['window_end'] or '–'}",
        f"{_number(totals['energy_kwh'], 1000)} Wh",
        f"{_number(totals['emissions_g'])} g CO2e",
    )
    return ", ".join(looked_at)


def _console() -> Console:
    return Console(width=None if Console().is_terminal else WIDTH_OF_FILES, highlight=False)


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


def _sources(model: Mapping[str, Any]) -> Iterator[str]:
    """Name the carbon intensities used, as their licences ask for."""
    used = (factors for project in model["projects"] for factors in project["factors"])
    lines = (
        f"{factors['region'] or 'region unknown'}: "
        f"{amount(factors['carbon_intensity_g_per_kwh'])} g/kWh, {factors['carbon_intensity_source']}"
        f"{_year(factors['carbon_intensity_year'])}; "
        f"PUE {amount(factors['pue'])}, {factors['pue_source']}"
        for factors in used
    )
    yield from dict.fromkeys(_printable(line) for line in lines)


def _year(year: int | None) -> str:
    return f" ({year})" if year else ""


def _cells(project: Mapping[str, Any]) -> tuple[Text | str, ...]:
    return (
        Text(_printable(str(project["project"]))),
        str(project["runs"]),
        _number(project["duration_s"], 1 / 3600),
        _number(project["cpu_energy_kwh"], 1000),
        _number(project["ram_energy_kwh"], 1000),
        _number(project["gpu_energy_kwh"], 1000),
        _number(project["energy_kwh"], 1000),
        _number(project["emissions_g"]),
        f"{_number(project['emissions_low_g'])} – {_number(project['emissions_high_g'])}",
        _number(project["embodied_g"]),
        _number(project["carbon_intensity_g_per_kwh"]),
        _quality(project),
    )


def _printable(text: str) -> str:
    """Text from a pod for a terminal: no control characters reach it."""
    return "".join(c if c.isprintable() else "�" for c in text)


def _number(value: float | None, factor: float = 1.0) -> str:
    return amount(None if value is None else value * factor)


def _quality(project: Mapping[str, Any]) -> str:
    energies = {name: project[f"energy_{name}_kwh"] for name in QUALITIES}
    total = sum(energies.values())
    if total <= 0:
        return "–"
    parts = sorted(energies.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {energy / total:.0%}" for name, energy in parts if energy > 0)
