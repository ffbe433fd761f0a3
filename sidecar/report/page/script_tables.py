"""What the page's script reads: tables as columns and rows as long as there is room, and sums."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidecar.report.page.cube import MEASURES, short
from sidecar.report.page.reading import Mapped, number, total
from sidecar.report.page.render import embedded_json

DESCRIBED: Final = (
    *MEASURES,
    "carbon_intensity_g_per_kwh",
    "embodied_g",
    "runs",
    "gap_s",
)
"""The measures of a row that can be unfolded."""

Cells = Callable[[int, Mapped], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Listed:
    """A table for the script, and how many of how many rows had room."""

    table: Mapping[str, Any]
    shown: int
    of: int

    @property
    def hidden(self) -> int:
        """How many had none."""
        return self.of - self.shown


def listed(
    found: Sequence[Mapped],
    names: Sequence[str],
    cells: Cells,
    bytes_max: int,
    measures: Sequence[str] = DESCRIBED,
) -> Listed:
    """Return rows of these cells and measures, from the first on, within so many bytes of JSON."""
    table: list[list[Any]] = []
    room = bytes_max
    for place, row in enumerate(found):
        entry = [*cells(place, row), *(short(number(row, name)) for name in measures)]
        room -= len(embedded_json(entry).encode())
        if room < 0:
            break
        table.append(entry)
    return Listed({"columns": [*names, *measures], "rows": table}, len(table), len(found))


def short_measures(row: Mapped, measures: Sequence[str] = DESCRIBED) -> dict[str, float | int]:
    """Return the measures that are known, rounded for the script."""
    found = ((name, short(number(row, name))) for name in measures)
    return {name: value for name, value in found if value is not None}


def rest(whole: Mapped, parts: Iterable[Mapped]) -> dict[str, float | int]:
    """Return what is left of a sum beside these parts; what any of them does not know is left out."""
    sums: dict[str, float | int] = {}
    rows = list(parts)
    for name in MEASURES:
        known, taken = number(whole, name), total([number(row, name) for row in rows])
        if known is not None:
            left = short(max(0.0, known - (taken or 0.0)))
            if left is not None:
                sums[name] = left
    return sums
