"""What the callbacks have in common: a tracker, the phases that are open, and figures to log."""

import time
from typing import Any, Final, Unpack

from sidecar.tracker import EmissionsTracker, Phase, phase
from sidecar.tracking.options import TrackerOptions
from sidecar.tracking.session import Unfailing

FIGURES_PERIOD_S: Final = 1.0
"""The meters are read for a log line at most so often; steps may take milliseconds."""


class TrainingWatch:
    """Meters a training. Nothing here raises; what is copied or pickled is not under way."""

    def __init__(self, **options: Unpack[TrackerOptions]) -> None:
        self._options = options
        self._tracker: EmissionsTracker | None = None
        self._phases: list[tuple[str, Phase]] = []
        self._figures: dict[str, float] = {}
        self._read_s = -FIGURES_PERIOD_S

    def __getstate__(self) -> dict[str, Any]:
        return {"options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["options"])  # type: ignore[misc]  # as new

    def begin(self) -> None:
        """Start to meter; a training that was left open, as after an error, ends first."""
        with Unfailing("metering"):
            self.end()
            self._tracker = EmissionsTracker(**self._options)
            self._tracker.start()

    def end(self) -> dict[str, float]:
        """End all phases, stop metering, and return the final figures; nothing where there are none."""
        with Unfailing("the end of metering"):
            while self._phases:
                self._phases.pop()[1].__exit__(None, None, None)
            tracker, self._tracker = self._tracker, None
            if tracker is not None:
                tracker.stop()
                return figures_of(tracker.final_emissions_data)
        return {}

    def enter(self, name: str) -> None:
        """Mark a phase, until it is left; again does nothing."""
        with Unfailing("marking a phase"):
            if not self.is_in(name):
                self._phases.append((name, phase(name).__enter__()))

    def leave(self, name: str) -> None:
        """Leave a phase, and those that were entered in it."""
        with Unfailing("marking a phase"):
            while self.is_in(name):
                self._phases.pop()[1].__exit__(None, None, None)

    def is_in(self, name: str) -> bool:
        """Whether a phase is open."""
        return any(name == entered for entered, _ in self._phases)

    def figures(self) -> dict[str, float]:
        """Return the figures so far, at most a second old; nothing where nothing is metered here."""
        with Unfailing("the figures of a log line"):
            now_s = time.monotonic()
            if self._tracker is not None and now_s - self._read_s >= FIGURES_PERIOD_S:
                self._read_s = now_s
                self._figures = figures_of(self._tracker.emissions_data_so_far)
        return dict(self._figures) if self._tracker is not None else {}


def figures_of(data: object) -> dict[str, float]:
    """Return what a logger draws, under the names that trackers have; what is unknown is left out."""
    emissions_kg = getattr(data, "emissions", None)
    found = {
        "emissions/facility_energy_kwh": getattr(data, "energy_consumed", None),
        "emissions/emissions_g": None if emissions_kg is None else emissions_kg * 1000,
        "emissions/water_l": getattr(data, "water_consumed", None),
        "emissions/duration_s": getattr(data, "duration", None),
    }
    return {name: value for name, value in found.items() if value is not None}
