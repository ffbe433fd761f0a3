"""Tables on the terminal, made with rich."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidecar.amounts import amount, counted
from sidecar.report.aggregate import ProjectTotals
from sidecar.report.read import ReadReport


def print_projects(projects: list[ProjectTotals], seen: ReadReport) -> None:
    """Print the totals per project, and what was left out and why."""
    # Piped output is for programs and files: no wrapping at the 80 columns of no terminal.
    width = None if Console().is_terminal else 160
    console = Console(width=width)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("project")
    for heading in (
        "runs", "hours", "CPU Wh", "RAM Wh", "GPU Wh", "energy Wh", "g CO2e", "low – high",
        "embodied g", "g/kWh", "quality",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for project in projects:
        table.add_row(*_cells(project))
    console.print(table)
    console.print(
        f"{counted(seen.records, 'record')} in {counted(seen.files, 'file')}, "
        f"{counted(seen.duplicates, 'duplicate')}",
        highlight=False,
    )
    for reason, count in seen.left_out.items():
        console.print(Text(f"left out: {count} × {reason}", style="yellow"))


def _cells(project: ProjectTotals) -> tuple[Text | str, ...]:
    return (
        # A name comes from a pod: no markup, no control characters reach the terminal.
        Text("".join(c if c.isprintable() else "�" for c in project.project)),
        str(len(project.runs)),
        _number(project.duration_s, 1 / 3600),
        _number(project.cpu_energy_kwh, 1000),
        _number(project.ram_energy_kwh, 1000),
        _number(project.gpu_energy_kwh, 1000),
        _number(project.energy_kwh, 1000),
        _number(project.emissions_g),
        f"{_number(project.emissions_low_g)} – {_number(project.emissions_high_g)}",
        _number(project.embodied_g),
        _number(project.carbon_intensity_g_per_kwh),
        _quality(project),
    )


def _number(value: float | None, factor: float = 1.0) -> str:
    return amount(None if value is None else value * factor)


def _quality(project: ProjectTotals) -> str:
    total = sum(project.energy_kwh_by_quality.values())
    if total <= 0:
        return "–"
    parts = sorted(project.energy_kwh_by_quality.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {energy / total:.0%}" for name, energy in parts)
