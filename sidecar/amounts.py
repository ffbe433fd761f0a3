"""Numbers for people: a few significant figures, never in scientific notation."""

import math


def amount(value: float | None, figures: int = 3) -> str:
    """Spell a number out with so many significant figures; a dash where it is not known."""
    if value is None:
        return "–"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, figures - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def counted(count: int, noun: str) -> str:
    """Spell a count and its noun out: `1 record`, `2 records`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
