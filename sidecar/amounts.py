"""Numbers for people: a few significant figures, never in scientific notation."""

import math
from collections.abc import Sequence
from typing import Final


def amount(value: float | None, figures: int = 3) -> str:
    """Spell a number out with so many significant figures; a dash where it is not known."""
    if value is None:
        return "–"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, figures - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


MASSES_G: Final = ((1e9, "kt"), (1e6, "t"), (1e3, "kg"), (1.0, "g"), (1e-3, "mg"))
ENERGIES_KWH: Final = ((1e6, "GWh"), (1e3, "MWh"), (1.0, "kWh"), (1e-3, "Wh"))
"""Units by size, largest first. No mWh: it is one letter from a billion times more."""

_ROUNDS_UP: Final = 0.9995
"""What would round to 1,000 of a unit is said as 1 of the next."""


def mass(grams: float | None) -> str:
    """Spell a mass given in grams out in the unit that suits it: `1.84 t`."""
    return _scaled(grams, MASSES_G, "g")


def energy(kwh: float | None) -> str:
    """Spell an energy given in kWh out in the unit that suits it: `12.3 MWh`."""
    return _scaled(kwh, ENERGIES_KWH, "Wh")


def unit_for(value: float | None, steps: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """Return size and name of the unit that suits a value, of units as above."""
    size = abs(value or 0.0)
    return next((step for step in steps if size >= step[0] * _ROUNDS_UP), steps[-1])


def _scaled(value: float | None, steps: Sequence[tuple[float, str]], of_zero: str) -> str:
    if value is None:
        return amount(value)
    if value == 0:
        return f"0 {of_zero}"
    size, unit = unit_for(value, steps)
    return f"{amount(value / size)} {unit}".replace("-", "−")


def counted(count: int, noun: str) -> str:
    """Spell a count and its noun out: `1 record`, `2,000 records`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
