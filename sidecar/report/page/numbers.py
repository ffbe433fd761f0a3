"""Amounts of a page as text: in the unit that suits them. `src/numbers.js` does the same there."""

from typing import Final

from sidecar import amounts
from sidecar.amounts import amount

__all__ = ["UNKNOWN", "energy", "mass", "mass_between", "percent", "signed_percent"]

UNKNOWN: Final = "–"

_LEAST: Final = 1e-4
_ROUNDING: Final = 1e-9
"""Ratios below the first are not told apart, below the second they come from rounding."""


_NO_BREAK: Final = "\u00a0"
"""Between a number and its unit: no line breaks there."""


def mass(grams: float | None) -> str:
    """Spell a mass given in grams out: `1.84 t`."""
    return amounts.mass(grams).replace(" ", _NO_BREAK)


def energy(kwh: float | None) -> str:
    """Spell an energy given in kWh out: `12.3 MWh`."""
    return amounts.energy(kwh).replace(" ", _NO_BREAK)


def percent(ratio: float | None) -> str:
    """Spell a ratio out as percent, two figures below 10 %, else three."""
    if ratio is None:
        return UNKNOWN
    if 0 < abs(ratio) < _LEAST:
        return f"{'0' if abs(ratio) < _ROUNDING else '<0.01'}{_NO_BREAK}%"
    return f"{amount(ratio * 100, 2 if abs(ratio) < 0.1 else 3)}{_NO_BREAK}%"


def signed_percent(ratio: float | None) -> str:
    """Spell a change out with its sign: `+12 %`, `−3.4 %`."""
    if ratio is None:
        return UNKNOWN
    sign = "±" if abs(ratio) < _ROUNDING else "+" if ratio > 0 else "−"
    return f"{sign}{percent(abs(ratio))}"


def mass_between(low_g: float | None, high_g: float | None) -> str:
    """Spell bounds out: `between 1.5 t and 2.2 t`; says so where they are not known."""
    if low_g is None or high_g is None:
        return "bounds not known"
    return f"between {mass(low_g)} and {mass(high_g)}"
