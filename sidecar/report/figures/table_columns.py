"""The columns of tables as files: keys, measures, and what programs look for beside them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final, Literal

from sidecar.report.figures.coverage import LEVELS, QUALITIES
from sidecar.report.figures.inputs import FactorUse
from sidecar.report.figures.sci import sci
from sidecar.report.figures.slugs import project_slug, run_slug
from sidecar.report.measures import GROUPINGS, PARTS_OF_RATES, Dimension, Measures, Row

Kind = Literal["text", "number"]
Cell = str | float | None

_SCI: Final = ("per_run_g", "per_gpu_hour_g")
_MIXES: Final = (
    ("energy_kwh_by_quality", QUALITIES),
    ("energy_kwh_by_carbon_intensity_level", LEVELS),
)
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
class Computed:
    """A column beside keys and measures: its name, the type of its cells, and its cell of a row."""

    name: str
    kind: Kind
    cell: Callable[[Row], Cell]


def computed_columns(
    table: str, total: Measures, factors: Iterable[FactorUse] | None
) -> list[Computed]:
    """Return the columns that a table has beside its keys and measures.

    Of the mixes there are those that have any energy in `total`.
    """
    if table == "runs":
        return [Computed("slug", "text", slug_of_run), *map(_sci_column, _SCI)]
    if table == "projects":
        return [
            *(Computed("slug", "text", slug_of_project), *map(_sci_column, _SCI)),
            *_mix_columns(total),
            *_joined_columns(factors or ()),
        ]
    return []


def column_names(table: str, computed: Sequence[Computed]) -> list[str]:
    """Return the columns of a table in their order."""
    measures = (item.name for item in fields(Measures) if item.name not in PARTS_OF_RATES)
    names = [*map(str, GROUPINGS[table]), *measures, *(column.name for column in computed)]
    return sorted(names, key=_place) if table == "projects" else names


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


def _place(name: str) -> int:
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)


def _sci_column(name: str) -> Computed:
    def cell(row: Row) -> Cell:
        value: float | None = sci(row.measures)[name]
        return value

    return Computed(f"sci_{name}", "number", cell)


def _mix_columns(total: Measures) -> Iterable[Computed]:
    for mix, names in _MIXES:
        for name in sorted(names):
            if getattr(total, f"energy_{name}_kwh"):
                yield _mix_column(f"{mix}.{name}", f"energy_{name}_kwh")


def _mix_column(name: str, measure: str) -> Computed:
    def cell(row: Row) -> Cell:
        energy_kwh: float = getattr(row.measures, measure)
        return energy_kwh or None

    return Computed(name, "number", cell)


def _joined_columns(factors: Iterable[FactorUse]) -> Iterable[Computed]:
    """Return the regions and sources of the factors of a project, joined."""
    of_project: dict[str, list[FactorUse]] = {}
    for item in factors:
        of_project.setdefault(item.project, []).append(item)
    return [_joined_column(name, of_project) for name in _JOINED]


def _joined_column(name: str, factors: Mapping[str, Sequence[FactorUse]]) -> Computed:
    def cell(row: Row) -> Cell:
        found = factors.get(name_of(row, "project") or "", ())
        texts = (getattr(item, name) for item in found)
        return "; ".join(dict.fromkeys(text for text in texts if text)) or None

    return Computed(name, "text", cell)
