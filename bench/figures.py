"""Medians with their spread, and tables of them."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of several rounds, and the lowest and highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        rounds = list(values)
        return cls(statistics.median(rounds), min(rounds), max(rounds))

    def shown(self, scale: float = 1.0) -> str:
        """Return `median (low–high)`, in three digits."""
        median, low, high = (three_digits(value * scale) for value in self.values())
        return median if low == high == median else f"{median} ({low}–{high})"

    def values(self) -> tuple[float, float, float]:
        return self.median, self.low, self.high

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def three_digits(value: float) -> str:
    """Return a number with three significant digits, never in exponents."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value that `part` (0 to 1) of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Align columns: the first to the left, the others to the right."""
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append("  ".join(cells).rstrip())
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(f"  {line}" for line in text)
