"""The columns of tables as files: keys, measures, and what programs look for beside them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, get_type_hints

from sidecar.report.figures.sci import sci
from sidecar.report.figures.slugs import project_slug, run_slug
from sidecar.report.measures import GROUPINGS, Dimension, Measures, Row

Kind = Literal["text", "number", "count"]
Cell = str | int | float | None

_HINTS: Final = get_type_hints(Measures)
_NUMBERED: Final = ("weekday", "hour")
_SCI: Final = ("per_run_g", "per_gpu_hour_g")
_MIXES: Final = ("energy_kwh_by_quality", "energy_kwh_by_carbon_intensity_level")
_JOINED: Final = ("region", "carbon_intensity_source", "pue_source")

_FIRST: Final = (
    *("project", "window_start", "window_end", "records", "records_without_emissions", "runs"),
    *("pods", "duration_s", "gap_s", "cpu_energy_kwh", "ram_energy_kwh", "gpu_energy_kwh"),
    *("energy_kwh", "facility_energy_kwh", "water_l", "emissions_g", "emissions_low_g"),
    *("emissions_high_g", "embodied_g", "node_energy_kwh", "cpu_reserved_idle_energy_kwh"),
    *("gpu_reserved_idle_energy_kwh", "energy_taken_off_kwh", "carbon_intensity_g_per_kwh"),
)
"""What the table of projects begins with: as it did before there were other tables."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, the type of its cells, and its cell of a row."""

    name: str
    kind: Kind
    cell: Callable[[Row], Cell]


def table_columns(table: str, projects: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns of a table of `GROUPINGS`; `projects` are those of the report's document."""
    columns = [_key_column(name) for name in GROUPINGS[table]]
    columns += [_measure_column(item.name) for item in fields(Measures)]
    if table == "runs":
        columns += [Column("slug", "text", slug_of_run), *map(_sci_column, _SCI)]
    if table == "projects":
        columns += [Column("slug", "text", slug_of_project), *map(_sci_column, _SCI)]
        columns += _project_columns(projects)
        columns.sort(key=_place)
    return columns


def name_of(row: Row, dimension: Dimension) -> str | None:
    """Return a key that is a text; None for any other."""
    key = row.keys.get(dimension)
    return key if isinstance(key, str) else None


def slug_of_run(row: Row) -> str:
    """Return the file name of a run's row."""
    return run_slug(name_of(row, "project"), name_of(row, "run"))


def slug_of_project(row: Row) -> str:
    """Return the file name of a project's row."""
    return project_slug(name_of(row, "project"))


def _place(column: Column) -> int:
    return _FIRST.index(column.name) if column.name in _FIRST else len(_FIRST)


def _key_column(name: Dimension) -> Column:
    return Column(name, "count" if name in _NUMBERED else "text", lambda row: row.keys.get(name))


def _measure_column(name: str) -> Column:
    hint = _HINTS[name]
    kind: Kind = "count" if hint is int else "text" if hint == str | None else "number"

    def cell(row: Row) -> Cell:
        value: Cell = getattr(row.measures, name)
        return value

    return Column(name, kind, cell)


def _sci_column(name: str) -> Column:
    def cell(row: Row) -> Cell:
        value: float | None = sci(row.measures)[name]
        return value

    return Column(f"sci_{name}", "number", cell)


def _project_columns(projects: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the mixes of a project and the regions and sources of its factors, a column each."""
    by_name = {project["project"]: project for project in projects}
    columns = [
        _mix_column(mix, name, by_name)
        for mix in _MIXES
        for name in sorted({name for project in projects for name in project[mix]})
    ]
    return columns + [_joined_column(name, by_name) for name in _JOINED]


def _mix_column(mix: str, name: str, projects: Mapping[Any, Mapping[str, Any]]) -> Column:
    def cell(row: Row) -> Cell:
        project = projects.get(row.keys.get("project"), {})
        energy_kwh: float | None = project.get(mix, {}).get(name)
        return energy_kwh

    return Column(f"{mix}.{name}", "number", cell)


def _joined_column(name: str, projects: Mapping[Any, Mapping[str, Any]]) -> Column:
    def cell(row: Row) -> Cell:
        factors = projects.get(row.keys.get("project"), {}).get("factors", ())
        return "; ".join(dict.fromkeys(item[name] for item in factors if item[name])) or None

    return Column(name, "text", cell)
