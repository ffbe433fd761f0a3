"""What a meter of GPUs must do, whichever vendor or service it asks."""

from typing import Protocol

from sidecar.meters.reading import GpuReading, MeterStatus


class GpuMeter(Protocol):
    """Meters GPUs since it was opened. Never raises: what fails is in the readings and the status."""

    @property
    def needs_sampling(self) -> bool:
        """Whether `sample` should be called each second."""
        ...

    def sample(self, monotonic_s: float) -> None:
        """Take the samples of this second."""

    def read(self, monotonic_s: float) -> tuple[GpuReading, ...]:
        """Return every GPU seen so far with its totals."""
        ...

    def status(self) -> tuple[MeterStatus, ...]:
        """How the library or service does, and each GPU that is lost."""
        ...

    def close(self) -> None:
        """Let go; later readings repeat the last totals."""
