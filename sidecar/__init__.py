"""The energy and emissions of a program, metered from within: the public Python API, nothing else."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidecar.tracker import (
        EmissionsData,
        EmissionsTracker,
        OfflineEmissionsTracker,
        OutputMethod,
        Phase,
        TaskEmissionsData,
        TaskEmissionsTracker,
        phase,
        track_emissions,
        track_task_emissions,
    )
else:

    def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever is asked for
        """Load the API where it is asked for: commands need none of it."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from sidecar import tracker  # noqa: PLC0415

        return getattr(tracker, name)


__all__ = [
    "EmissionsData",
    "EmissionsTracker",
    "OfflineEmissionsTracker",
    "OutputMethod",
    "Phase",
    "TaskEmissionsData",
    "TaskEmissionsTracker",
    "phase",
    "track_emissions",
    "track_task_emissions",
]


def __dir__() -> list[str]:
    return sorted(__all__)
