"""What a tracker (MLflow, Comet, …) shows of a run: figures of each window, totals, and words on them.

Names have units. What is unknown has no figure, rather than 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sidecar.exporters.spreadsheet import one_line
from sidecar.record import EmissionRecord
from sidecar.units import JOULES_PER_KWH

TEXT_CHARACTERS_MAX: Final = 250
"""The shortest limit among trackers for the value of a tag."""

TOTALS: Final = (
    "energy_kwh", "facility_energy_kwh", "cpu_energy_kwh", "ram_energy_kwh", "gpu_energy_kwh",
    "emissions_g", "emissions_low_g", "emissions_high_g", "embodied_g", "water_l", "duration_s",
)  # fmt: skip
"""Fields of the record that are summed over the windows of a run."""

WINDOW: Final = (
    "energy_kwh", "facility_energy_kwh", "emissions_g", "carbon_intensity_g_per_kwh",
    "cpu_utilization", "gpu_utilization",
)  # fmt: skip
"""Fields of the record that are shown window by window."""

WORDS: Final = (
    "project", "experiment", "run_id", "region", "vm_size", "country_iso3", "node", "pod", "quality",
    "cpu_power_method", "gpu_method", "pod_method", "carbon_intensity_source",
    "carbon_intensity_year", "carbon_intensity_level", "tool_version",
)  # fmt: skip
"""Fields of the record that say what the figures rest on, and how to find the records."""


@dataclass(frozen=True, slots=True)
class TrackedWindow:
    """One window of a run and the totals with it; `number` counts the windows from 1."""

    number: int
    record: EmissionRecord
    totals: EmissionRecord

    @property
    def end_s(self) -> float:
        """End of the window, seconds since 1970."""
        return datetime.fromisoformat(self.record.window_end).timestamp()


def mean_power_w(record: EmissionRecord) -> float | None:
    """Return the mean power of the pod in W, without PUE: energy over the time metered."""
    if record.energy_kwh is None or record.duration_s <= 0:
        return None
    return record.energy_kwh * JOULES_PER_KWH / record.duration_s


def figures(window: TrackedWindow) -> dict[str, float]:
    """Return the figures to draw: `emissions/<name>` so far, `emissions/window/<name>` of the window."""
    so_far = {f"emissions/{name}": getattr(window.totals, name) for name in TOTALS}
    of_window = {f"emissions/window/{name}": getattr(window.record, name) for name in WINDOW}
    of_window["emissions/window/power_w"] = mean_power_w(window.record)
    return {name: value for name, value in (so_far | of_window).items() if value is not None}


def words(totals: EmissionRecord) -> dict[str, str]:
    """Return totals and what they rest on as texts: `emissions.<name>`.

    Numbers are spelled so that reading them back gives the same number. Names come from pods: they
    are put on one line and cut.
    """
    named: Mapping[str, object] = {
        **{name: getattr(totals, name) for name in TOTALS},
        **{name: getattr(totals, name) for name in WORDS},
    }
    return {
        f"emissions.{name}": value_text(value) for name, value in named.items() if value is not None
    }


def value_text(value: object) -> str:
    """Spell a value on one line, at most `TEXT_CHARACTERS_MAX` characters."""
    text = repr(value) if isinstance(value, float) else one_line(str(value))
    return text if len(text) <= TEXT_CHARACTERS_MAX else f"{text[: TEXT_CHARACTERS_MAX - 1]}…"
