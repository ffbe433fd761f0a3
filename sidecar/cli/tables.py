"""Reports on the terminal, made with rich: totals per project, and what `verify` found.

Totals are a table, or a list where the terminal is too narrow for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidecar.amounts import (
    ENERGIES_KWH,
    MASSES_G,
    amount,
    counted,
    energy,
    mass,
    unit_for,
)
from sidecar.report.balance import NOTEWORTHY
from sidecar.report.dataset import SAME_RUN
from sidecar.report.findings import Finding, count_of
from sidecar.report.verify import Verdict

PROJECTS_SHOWN: Final = 25
LINES_SHOWN: Final = 10
"""A terminal shows the largest; the files hold all."""

QUALITIES: Final = ("measured", "estimated", "modelled")

WIDTH_OF_FILES: Final = 180
"""Piped output is for programs and files: it is not cut at the 80 columns of no terminal."""


def print_report(model: Mapping[str, Any]) -> None:
    """Print the totals per project, what they rest on, and what was left out and why."""
    console = _console()
    projects = model["projects"]
    if projects:
        units = Units.of(projects)
        headings, rows = units.headings, [units.cells(row) for row in projects[:PROJECTS_SHOWN]]
        table = _table(headings, rows)
        unlimited = console.options.update(width=1000)
        if console.measure(table, options=unlimited).maximum <= console.width:
            console.print(table)
        else:
            console.print(_lists(headings, rows))
    for line in _notes(model):
        console.print(Text(line, style="dim"))
    for line in _gaps(model):
        console.print(Text(line, style="yellow"))


def _notes(model: Mapping[str, Any]) -> Iterator[str]:
    """Say what the table has no room for, and what it rests on."""
    projects, read = model["projects"], model["sources"]
    hidden = len(projects) - PROJECTS_SHOWN + model["rows_left_out"]["projects"]
    if hidden > 0:
        yield f"… and {hidden:,} more in projects.csv"
    yield from _capped(list(_sources(model)), "factors in summary.json")
    yield (
        f"{counted(read['records'], 'record')} in {counted(read['files'], 'file')}, "
        f"{counted(read['duplicates'], 'duplicate')}"
    )
    taken = [row for row in projects if _is_settled(row)]
    lines = [
        f"settled: {energy(row['energy_taken_off_kwh'])} taken off project "
        f"{_printable(str(row['project']))}"
        for row in taken
    ]
    yield from _capped(lines, "settled projects in projects.csv")


def _gaps(model: Mapping[str, Any]) -> Iterator[str]:
    """Say what is missing."""
    for reason, count in model["sources"]["left_out"].items():
        if reason != SAME_RUN:  # the table beside the records, which says the same
            yield f"left out: {count} × {reason}"
    coverage = model["coverage"]
    names = [_printable(name) for name in coverage["budgets_without_records"]]
    lines = [f"a budget was given to {name}, of which there are no records" for name in names]
    yield from _capped(lines, "in summary.json")
    if coverage["pods_failure"]:
        yield f"pods that asked to be tracked were not looked up: {coverage['pods_failure']}"
    for name, what in (
        ("pods_without_records", "asked to be tracked and left no records"),
        ("pods_incomplete", "ended before all records were sent"),
    ):
        count = coverage[f"{name}_count"]
        if count:
            yield f"{counted(count, 'pod')} {what}:"
            lines = [
                f"  {pod['namespace']}/{pod['pod']}: {pod['reason']}" for pod in coverage[name]
            ]
            hidden = count - len(coverage[name])
            yield from map(_printable, _capped(lines, "in summary.json", hidden))
    lost = coverage["pods_not_arrived"] or {}
    if lost.get("energy_kwh"):
        yield (
            f"not arrived, as their sidecars told at their end: {energy(lost['energy_kwh'])}, "
            f"{mass(lost['emissions_g'])} CO2e; in none of the sums"
        )


def _capped(lines: Sequence[str], where: str, hidden: int = 0) -> Iterator[str]:
    yield from lines[:LINES_SHOWN]
    hidden += max(0, len(lines) - LINES_SHOWN)
    if hidden > 0:
        yield f"… and {hidden:,} more {where}"


def _is_settled(project: Mapping[str, Any]) -> bool:
    taken_off_kwh: float = project["energy_taken_off_kwh"]
    return taken_off_kwh > NOTEWORTHY * (project["energy_kwh"] or 0.0)


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


def _table(headings: Sequence[str], rows: Sequence[tuple[Text | str, ...]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in headings:
        left = heading == "project"
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left)
    for row in rows:
        table.add_row(*row)
    return table


def _lists(headings: Sequence[str], rows: Sequence[tuple[Text | str, ...]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for row in rows:
        for heading, cell in zip(headings, row, strict=True):
            grid.add_row(heading, cell)
        grid.add_row("", "")
    return grid


def _sources(model: Mapping[str, Any]) -> Iterator[str]:
    """Name the factors used, as their licences ask for; once where only the time differs."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for project in model["projects"]:
        for factors in project["factors"]:
            key = tuple(factors[name] for name in _FACTORS)
            ends = (
                factors[f"carbon_intensity{end}_g_per_kwh"] for end in ("", "_least", "_greatest")
            )
            found.setdefault(key, []).extend(grams for grams in ends if grams is not None)
    for key, grams in found.items():
        factors = dict(zip(_FACTORS, key, strict=True))
        place = factors["region"] or "region unknown"
        yield _printable(f"{place}: {_intensity(factors, grams)}; {_pue(factors)}")


_FACTORS: Final = (
    "region",
    "carbon_intensity_source",
    "carbon_intensity_year",
    "pue",
    "pue_source",
)


def _intensity(factors: Mapping[str, Any], grams: Sequence[float]) -> str:
    source, year = factors["carbon_intensity_source"], factors["carbon_intensity_year"]
    if not grams:
        return "carbon intensity not known"
    named = f"{source}{f' ({year})' if year else ''}" if source else "source not named"
    least, greatest = amount(min(grams)), amount(max(grams))
    value = least if least == greatest else f"{least} to {greatest}"
    return f"{value} g/kWh, {named}"


def _pue(factors: Mapping[str, Any]) -> str:
    if factors["pue"] is None:
        return "no PUE applied"
    return f"PUE {amount(factors['pue'])}, {factors['pue_source'] or 'source not named'}"


_THOUSANDS: Final = 10.0
"""Up to so many thousands stay in the smaller unit, or small projects would be rows of zeros."""


@dataclass(frozen=True, slots=True)
class Units:
    """One unit for the energies of a table, and one for its masses: those of the largest project."""

    energy: tuple[float, str]
    mass: tuple[float, str]

    @classmethod
    def of(cls, projects: Sequence[Mapping[str, Any]]) -> Self:
        """Return the units that suit these projects."""
        largest_kwh = max((row["energy_kwh"] or 0.0 for row in projects), default=0.0)
        largest_g = max((row["emissions_g"] or 0.0 for row in projects), default=0.0)
        return cls(
            unit_for(largest_kwh / _THOUSANDS, ENERGIES_KWH),
            unit_for(max(largest_g / _THOUSANDS, 1.0), MASSES_G),
        )

    @property
    def headings(self) -> tuple[str, ...]:
        """What the columns are called."""
        energies = (f"{name} {self.energy[1]}" for name in ("CPU", "RAM", "GPU", "energy"))
        masses = (f"{self.mass[1]} CO2e", "low – high", f"embodied {self.mass[1]}")
        return ("project", "runs", "hours", *energies, *masses, "g/kWh", "quality")

    def cells(self, project: Mapping[str, Any]) -> tuple[Text | str, ...]:
        """Return the row of a project."""
        energies = ("cpu_energy_kwh", "ram_energy_kwh", "gpu_energy_kwh", "energy_kwh")
        low, high = (self._grams(project[f"emissions_{end}_g"]) for end in ("low", "high"))
        return (
            Text(_printable(str(project["project"]))),
            f"{project['runs']:,}",
            _number(project["duration_s"], 1 / 3600),
            *(_number(project[name], 1 / self.energy[0]) for name in energies),
            self._grams(project["emissions_g"]),
            f"{low} – {high}" if low != high else low,
            self._grams(project["embodied_g"]),
            _number(project["carbon_intensity_g_per_kwh"]),
            _quality(project),
        )

    def _grams(self, grams: float | None) -> str:
        return _number(grams, 1 / self.mass[0])


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
    return ", ".join(f"{name} {kwh / total:.0%}" for name, kwh in parts if kwh > 0)
