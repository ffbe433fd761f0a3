"""Units and their conversions, and `Figure`: a factor that carries its spread and its origin.

Names carry units (`energy_kwh`, `power_w`); conversions live here and nowhere else.
"""

from dataclasses import dataclass
from typing import NewType

KilowattHours = NewType("KilowattHours", float)

JOULES_PER_KWH = 3_600_000
MILLIJOULES_PER_KWH = JOULES_PER_KWH * 1_000
MICROJOULES_PER_KWH = JOULES_PER_KWH * 1_000_000
SECONDS_PER_HOUR = 3_600
BYTES_PER_GIB = 1024**3
GB_PER_GIB = 1.073741824
"""1 GiB = 1024³ bytes = 1.073741824 GB; published RAM powers are per GB of 10⁹ bytes."""


def kwh_from_millijoules(energy_mj: int) -> KilowattHours:
    """Convert millijoules, as NVML counts them, to kilowatt-hours."""
    return KilowattHours(energy_mj / MILLIJOULES_PER_KWH)


def kwh_from_microjoules(energy_uj: int) -> KilowattHours:
    """Convert microjoules, as RAPL counts them, to kilowatt-hours."""
    return KilowattHours(energy_uj / MICROJOULES_PER_KWH)


def kwh_from_power(power_w: float, duration_s: float) -> KilowattHours:
    """Energy of a constant power over a time: W · s / 3.6e6 = kWh."""
    return KilowattHours(power_w * duration_s / JOULES_PER_KWH)


@dataclass(frozen=True, slots=True)
class Figure:
    """A factor as a source states it, the spread of the other sources, and where it comes from.

    `low <= value <= high`, all in `unit`. `year` is the year the figure describes
    (None only where the source names none).
    """

    value: float
    unit: str
    low: float
    high: float
    source: str
    year: int | None

    @property
    def cited(self) -> str:
        """Source and year as one text."""
        return self.source if self.year is None else f"{self.source} ({self.year})"

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise ValueError(
                f"figure {self.value} {self.unit} from {self.source!r} lies outside its own "
                f"bounds {self.low}..{self.high}"
            )
