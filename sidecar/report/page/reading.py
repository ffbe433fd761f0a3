"""Reading the report model without trusting it: a missing or odd value is not known, never an error."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

TEXT_CHARACTERS_MAX: Final = 160
"""Longer names are cut: a page of thousands of projects must stay small."""

PROSE_CHARACTERS_MAX: Final = 1000
"""What explains a figure may be longer."""

NAMELESS: Final = "(none)"

Mapped = Mapping[str, Any]

_NOT_SHOWN: Final = dict.fromkeys(
    [
        *range(0x20),
        *range(0x7F, 0xA0),
        0x61C,
        0x200E,
        0x200F,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    ],
    "\ufffd",
)
"""Control characters, and those that turn the direction of text (Unicode TR 9): a name that holds them
could pose as another."""

_LARGEST: Final = 1e24
"""In any unit of a report; more would be a line of zeros."""


def number(row: Mapped, key: str) -> float | None:
    """Return a finite number of sane size; None for anything else."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= _LARGEST and math.isfinite(value) else None


def text(row: Mapped, key: str, otherwise: str = "", *, at_most: int = TEXT_CHARACTERS_MAX) -> str:
    """Return a text that UTF-8 can hold, cut where it is too long; numbers as they are spelled."""
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        return otherwise
    cut = value if len(value) <= at_most else f"{value[: at_most - 1]}…"
    return cut.encode("utf-8", "replace").decode("utf-8").translate(_NOT_SHOWN)


def prose(row: Mapped, key: str, otherwise: str = "") -> str:
    """Return a text that explains a figure: it may be longer than a name."""
    return text(row, key, otherwise, at_most=PROSE_CHARACTERS_MAX)


def key_of(row: Mapped, key: str) -> str | None:
    """Return a name by which rows are brought together: a whole text, None for anything else."""
    value = row.get(key)
    return value if isinstance(value, str) else None


def child(row: Mapped, key: str) -> Mapped:
    """Return a nested mapping; an empty one for anything else."""
    value = row.get(key)
    return value if isinstance(value, Mapping) else {}


def rows(row: Mapped, key: str) -> list[Mapped]:
    """Return the mappings of a nested list; an empty list for anything else."""
    value = row.get(key)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return []
    return [item for item in value if isinstance(item, Mapping)]


def table(row: Mapped, key: str) -> list[Mapped]:
    """Return the rows of a nested table, be it a list of mappings or `columns` and lists in `rows`."""
    value = row.get(key)
    if not isinstance(value, Mapping):
        return rows(row, key)
    columns, found = value.get("columns"), value.get("rows")
    if not isinstance(columns, list) or not isinstance(found, list):
        return []
    names = [str(name) for name in columns]
    return [dict(zip(names, item, strict=False)) for item in found if isinstance(item, list)]


def total(amounts: Sequence[float | None]) -> float | None:
    """Add up what is known; None where nothing is."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if known else None


def ratio(part: float | None, whole: float | None) -> float | None:
    """Divide; None where either is not known or the whole is not positive."""
    if part is None or whole is None or whole <= 0:
        return None
    return part / whole
