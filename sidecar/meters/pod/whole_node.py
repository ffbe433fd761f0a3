"""The pod is the node: a machine, or a node pool, that serves one job at a time."""

from sidecar.meters.reading import MeterStatus, PodMethod, PodReading


class WholeNodeSource:
    """Measures nothing: all of the node's energy belongs to this pod."""

    name: PodMethod = "whole-node"
    needs = ""
    is_local = True

    needs_sampling = False

    def sample(self) -> None:
        """There is nothing to sample."""

    def read(self) -> PodReading:
        """Nothing of its own; the share is the whole."""
        return PodReading(cpu_s=None, working_set_bytes=None, method=self.name)

    def status(self) -> tuple[MeterStatus, ...]:
        """Say that this is always there."""
        detail = "all energy of the node belongs to this run: nothing tells its part"
        return (MeterStatus("pod", available=True, detail=detail),)
