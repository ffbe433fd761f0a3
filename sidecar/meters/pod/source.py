"""What a source of the pod's share must do, and which one is taken."""

from pathlib import Path
from typing import Protocol

from sidecar.meters.pod.process_tree import ProcessTreeSource
from sidecar.meters.pod.requests import RequestsSource, Reservation
from sidecar.meters.pod.whole_node import WholeNodeSource
from sidecar.meters.reading import MeterStatus, PodReading


class PodSource(Protocol):
    """Tells what of the node belongs to this pod. Never raises: what it cannot tell is None."""

    @property
    def name(self) -> str:
        """As the records name the method."""

    def read(self) -> PodReading:
        """Return the cumulative CPU time, and the working set now."""

    def status(self) -> tuple[MeterStatus, ...]:
        """How the last reading went."""


def choose_pod_source(
    reservation: Reservation, process_root: int | None = None, proc_root: Path = Path("/proc")
) -> PodSource:
    """Take the best source there is: the processes we started, what the pod reserved, all of it.

    `process_root` is the process whose descendants are the job (our own, when we started it).
    """
    if process_root is not None:
        return ProcessTreeSource(process_root, proc_root)
    if reservation.is_known:
        return RequestsSource(reservation)
    return WholeNodeSource()
