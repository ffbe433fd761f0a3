"""A quantity with its low and high bound, and the little arithmetic estimates need."""

from dataclasses import dataclass
from typing import Self

from sidecar.units import Figure


@dataclass(frozen=True, slots=True)
class Bounded:
    """`low <= value <= high`, all non-negative and in one unit (the name of the variable says which)."""

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Self:
        """Return a quantity without spread, as a counter gives it."""
        return cls(value, value, value)

    @classmethod
    def of(cls, figure: Figure) -> Self:
        """Return the value and the spread of a factor."""
        return cls(figure.value, figure.low, figure.high)

    def __add__(self, other: "Bounded") -> "Bounded":
        return Bounded(self.value + other.value, self.low + other.low, self.high + other.high)

    def __mul__(self, other: "Bounded") -> "Bounded":
        """Multiply two non-negative quantities; bounds multiply with bounds."""
        return Bounded(self.value * other.value, self.low * other.low, self.high * other.high)

    def scaled(self, factor: float) -> "Bounded":
        """Multiply with a non-negative number that has no spread."""
        return Bounded(self.value * factor, self.low * factor, self.high * factor)


NOTHING = Bounded(0.0, 0.0, 0.0)
