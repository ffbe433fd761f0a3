"""Numbers that may be unknown: None stays None, and nothing that JSON cannot hold comes out."""

import math
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, Final, get_type_hints

from sidecar.report.measures import Measures, Row

LARGEST: Final = 1e18
"""No sum of a report is near it, in any of its units: who says more says nothing."""

AMOUNTS: Final = tuple(
    item.name
    for item in fields(Measures)
    if get_type_hints(Measures)[item.name] in (float, float | None)
)
"""The fields of `Measures` that hold amounts."""


def finite(value: float | None) -> float | None:
    """Return a number that JSON can hold; None for NaN, infinities and what is not known."""
    return value if value is not None and math.isfinite(value) else None


def quotient(dividend: float | None, divisor: float | None) -> float | None:
    """Divide; None where either is not known, or the divisor is not positive."""
    if dividend is None or divisor is None or not divisor > 0:
        return None
    return finite(dividend / divisor)


def product(first: float | None, second: float | None) -> float | None:
    """Multiply; None where either is not known."""
    return None if first is None or second is None else finite(first * second)


def total(amounts: Iterable[float | None]) -> float | None:
    """Add up what is known; None where nothing is."""
    known = [amount for amount in amounts if amount is not None]
    return finite(sum(known)) if known else None


def sound(row: Row) -> Row:
    """Return a row without the amounts that cannot be: not finite, or beyond `LARGEST`."""
    measures = row.measures
    amounts = [getattr(measures, name) for name in AMOUNTS]
    if all(amount is None or abs(amount) <= LARGEST for amount in amounts):
        return row
    absent: dict[str, Any] = {
        name: getattr(_NONE, name)
        for name, amount in zip(AMOUNTS, amounts, strict=True)
        if amount is not None and not abs(amount) <= LARGEST
    }
    return Row(row.keys, replace(measures, **absent))


_NONE: Final = Measures()
