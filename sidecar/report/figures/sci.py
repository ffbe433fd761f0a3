"""Software Carbon Intensity, ISO/IEC 21031:2024: SCI = (E · I + M) per R.

E: energy in kWh, here that of the facility (with PUE). I: location-based intensity in gCO2e/kWh. M:
embodied emissions in g. R: the functional unit, here a run, and a GPU-hour. E · I is `emissions_g`, the
sum over windows of each one's own energy times intensity.
"""

from typing import Any

from sidecar.estimate.embodied import UNCERTAINTY
from sidecar.report.figures.numbers import product, quotient, total
from sidecar.report.measures import Measures


def sci(measures: Measures) -> dict[str, Any]:
    """Return the SCI in g CO2e per run and per GPU-hour, with bounds and the terms of the formula.

    M belongs to the standard's formula: where it is not known, neither is the SCI, and only its
    operational part (E · I) per R is told. The bounds take E · I at its own, M at half and double.
    """
    rates = {"run": float(measures.runs), "gpu_hour": measures.gpu_hours}
    embodied = measures.embodied_g
    value, low, high = (
        None if operational is None or embodied is None else total((operational, part))
        for operational, part in (
            (measures.emissions_g, embodied),
            (measures.emissions_low_g, product(embodied, 1 / UNCERTAINTY)),
            (measures.emissions_high_g, product(embodied, UNCERTAINTY)),
        )
    )
    row: dict[str, Any] = {
        "energy_kwh": measures.facility_energy_kwh,
        "carbon_intensity_g_per_kwh": quotient(measures.emissions_g, measures.facility_energy_kwh),
        "embodied_g": embodied,
        "total_g": value,
        "total_low_g": low,
        "total_high_g": high,
    }
    for unit, number in rates.items():
        row[f"per_{unit}_g"] = quotient(value, number)
        row[f"per_{unit}_low_g"] = quotient(low, number)
        row[f"per_{unit}_high_g"] = quotient(high, number)
        row[f"operational_per_{unit}_g"] = quotient(measures.emissions_g, number)
    row["is_complete"] = value is not None and not measures.records_without_emissions
    return row
