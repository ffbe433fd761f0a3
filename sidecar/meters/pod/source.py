"""What a source of the pod's share must do."""

from typing import Protocol

from sidecar.meters.reading import MeterStatus, PodReading


class PodSource(Protocol):
    """Tells what of the node belongs to this pod. Never raises: what it cannot tell is None."""

    @property
    def name(self) -> str:
        """As the records name the method."""

    @property
    def needs_sampling(self) -> bool:
        """Whether `sample` has anything to do between two readings."""

    def sample(self) -> None:
        """Look at what is seen only when looked at; cheap."""

    def read(self) -> PodReading:
        """Return the cumulative CPU time, and the working set now."""

    def status(self) -> tuple[MeterStatus, ...]:
        """How the last reading went."""
