"""Amounts of a page as text: in the unit that suits them. `src/numbers.js` does the same there."""

from collections.abc import Sequence
from typing import Final

from sidecar.amounts import amount

UNKNOWN: Final = "–"

_ROUNDS_UP: Final = 0.9995
"""What would round to 1,000 of a unit is said as 1 of the next."""

_MASSES_G: Final = ((1e9, "kt"), (1e6, "t"), (1e3, "kg"), (1.0, "g"), (1e-3, "mg"))
_ENERGIES_KWH: Final = (
    (1e6, "GWh"),
    (1e3, "MWh"),
    (1.0, "kWh"),
    (1e-3, "Wh"),
    (1e-6, "mWh"),
)


def mass(grams: float | None) -> str:
    """Spell a mass given in grams out: `1.84 t`."""
    return "0 g" if grams == 0 else _scaled(grams, _MASSES_G)


def energy(kwh: float | None) -> str:
    """Spell an energy given in kWh out: `12.3 MWh`."""
    return "0 kWh" if kwh == 0 else _scaled(kwh, _ENERGIES_KWH)


def percent(ratio: float | None) -> str:
    """Spell a ratio out as percent, two figures below 10 %, else three."""
    if ratio is None:
        return UNKNOWN
    return f"{amount(ratio * 100, 2 if abs(ratio) < 0.1 else 3)} %"


def signed_percent(ratio: float | None) -> str:
    """Spell a change out with its sign: `+12 %`, `−3.4 %`."""
    if ratio is None:
        return UNKNOWN
    return f"{'+' if ratio > 0 else '−' if ratio < 0 else '±'}{percent(abs(ratio))}"


def mass_between(low_g: float | None, high_g: float | None) -> str:
    """Spell bounds out: `between 1.5 t and 2.2 t`; says so where they are not known."""
    if low_g is None or high_g is None:
        return "bounds not known"
    return f"between {mass(low_g)} and {mass(high_g)}"


def _scaled(value: float | None, steps: Sequence[tuple[float, str]]) -> str:
    if value is None:
        return UNKNOWN
    size, unit = next((step for step in steps if abs(value) >= step[0] * _ROUNDS_UP), steps[-1])
    return f"{amount(value / size)} {unit}".replace("-", "−")
