"""What no pod used, as the meters of the node's own records tell it."""

from sidecar.meters.reading import GpuReading, MeterStatus, PodMethod, PodReading
from sidecar.node_meter.gpus import NodeGpus
from sidecar.node_meter.pods import NodePods


class UnallocatedSource:
    """Tells what all pods together used; the estimate takes the rest (`estimate.attribution`)."""

    name: PodMethod = "unallocated"
    needs = ""
    is_local = True
    needs_sampling = False

    def __init__(self, pods: NodePods) -> None:
        self._pods = pods

    def sample(self) -> None:
        """Do nothing: the pods are looked at anyway."""

    def read(self) -> PodReading:
        """Look at all pods now."""
        self._pods.look()
        total = self._pods.total()
        if total is None:
            return PodReading(cpu_s=None, working_set_bytes=None, method=self.name)
        return PodReading(
            cpu_s=total.cpu_s,
            working_set_bytes=total.working_set_bytes,
            memory_byte_s=total.memory_byte_s,
            method=self.name,
            reserved_cpu_s=total.reserved_cpu_s,
        )

    def status(self) -> tuple[MeterStatus, ...]:
        """How the last look went."""
        return (self._pods.status(),)


class UnallocatedGpus:
    """A meter of the node's GPUs whose part is what no pod had of them."""

    needs_sampling = False

    def __init__(self, gpus: NodeGpus) -> None:
        self._gpus = gpus

    def sample(self, monotonic_s: float) -> None:
        """Do nothing: the GPUs are sampled anyway."""

    def read(self, monotonic_s: float) -> tuple[GpuReading, ...]:  # noqa: ARG002 - its own clock
        """Return every GPU of the node with the part of it that no pod had."""
        return self._gpus.unallocated()

    def status(self) -> tuple[MeterStatus, ...]:
        """How the GPUs do, and kubelet."""
        return self._gpus.status()

    def close(self) -> None:
        """Let the GPUs go."""
        self._gpus.close()
