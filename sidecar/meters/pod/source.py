"""What a source of the pod's share must do."""

from typing import Protocol

from sidecar.meters.reading import MeterStatus, PodMethod, PodReading


class PodSource(Protocol):
    """Tells what of the node belongs to this pod. Never raises: what it cannot tell is None."""

    @property
    def name(self) -> PodMethod:
        """As the records name the method."""
        ...

    @property
    def needs(self) -> str:
        """What the platform's owner must grant for it, in words; empty = nothing."""
        ...

    @property
    def is_local(self) -> bool:
        """Whether a reading asks nobody else and so costs no time: such a source is kept warm."""
        ...

    @property
    def needs_sampling(self) -> bool:
        """Whether `sample` has anything to do between two readings."""
        ...

    def sample(self) -> None:
        """Look at what is seen only when looked at; cheap."""

    def read(self) -> PodReading:
        """Return the cumulative CPU time, and the working set now, both without our own."""
        ...

    def status(self) -> tuple[MeterStatus, ...]:
        """How the last reading went."""
        ...
