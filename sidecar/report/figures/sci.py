"""Software Carbon Intensity, ISO/IEC 21031:2024: SCI = (E · I + M) per R.

E: energy in kWh, here that of the facility (with PUE). I: location-based intensity in gCO2e/kWh. M:
embodied emissions in g. R: the functional unit, here a run, and a GPU-hour. E · I is `emissions_g`, the
sum over windows of each one's own energy times intensity.
"""

from dataclasses import dataclass
from typing import Any, Self

from sidecar.estimate.embodied import UNCERTAINTY
from sidecar.report.figures.numbers import product, quotient, total
from sidecar.report.measures import Measures


def sci(measures: Measures) -> dict[str, Any]:
    """Return the SCI in g CO2e per run and per GPU-hour, with bounds and the terms of the formula.

    M belongs to the standard's formula: where it is not known, neither is the SCI, and only its
    operational part (E · I) per R is told. The bounds take E · I at its own, M at half and double.
    A rate is of what has its R: per run of records that name one, per GPU-hour of those that had GPUs.
    `is_complete` is false where records without emissions, or without M, are behind any of it.
    """
    whole = _Terms.of(measures, "")
    row: dict[str, Any] = {
        "energy_kwh": measures.facility_energy_with_emissions_kwh,
        "carbon_intensity_g_per_kwh": quotient(
            measures.emissions_g, measures.facility_energy_with_emissions_kwh
        ),
        "embodied_g": measures.embodied_g,
        **{f"total{bound}_g": value for bound, value in whole.sums().items()},
    }
    for unit, part, number in (
        ("run", "_of_runs", float(measures.runs)),
        ("gpu_hour", "_of_gpus", measures.gpu_hours),
    ):
        terms = _Terms.of(measures, part)
        for bound, value in terms.sums().items():
            row[f"per_{unit}{bound}_g"] = quotient(value, number)
        row[f"operational_per_{unit}_g"] = quotient(terms.operational_g, number)
    missing = measures.records_without_emissions + measures.records_without_embodied
    row["is_complete"] = row["total_g"] is not None and not missing
    return row


@dataclass(frozen=True, slots=True)
class _Terms:
    """E · I with its bounds, and M, of all records or of a part of them; g."""

    operational_g: float | None
    low_g: float | None
    high_g: float | None
    embodied_g: float | None

    @classmethod
    def of(cls, measures: Measures, part: str) -> Self:
        is_bounded = measures.emissions_low_g is not None
        return cls(
            getattr(measures, f"emissions{part}_g"),
            getattr(measures, f"emissions_low{part}_g") if is_bounded else None,
            getattr(measures, f"emissions_high{part}_g") if is_bounded else None,
            getattr(measures, f"embodied{part}_g"),
        )

    def sums(self) -> dict[str, float | None]:
        """Return E · I + M, its low and its high bound; None where a term is not known."""
        embodied_g = self.embodied_g
        return {
            bound: None if operational is None or part is None else total((operational, part))
            for bound, operational, part in (
                ("", self.operational_g, embodied_g),
                ("_low", self.low_g, product(embodied_g, 1 / UNCERTAINTY)),
                ("_high", self.high_g, product(embodied_g, UNCERTAINTY)),
            )
        }
