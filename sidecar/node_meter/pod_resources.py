"""Which devices kubelet gave to which pod: its PodResources service, asked over its Unix socket.

k8s.io/kubelet, pkg/apis/podresources/v1/api.proto: `List` names every pod with its containers' devices,
`GetAllocatableResources` all devices there are. Pods are named, not by uid. A container that runs
before others of its pod has the same devices as they. Devices of ResourceClaims (DRA, listed from
Kubernetes 1.34 on) have names that their drivers choose: which GPU one is cannot be told, only that a
pod has some.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from sidecar.node_meter.grpc_unary import GrpcError, unary_call
from sidecar.node_meter.protobuf_wire import NotProtobufError, delimited, text, texts

SOCKET: Final = "/var/lib/kubelet/pod-resources/kubelet.sock"
TIMEOUT_S: Final = 0.5

_LIST: Final = "/v1.PodResourcesLister/List"
_ALLOCATABLE: Final = "/v1.PodResourcesLister/GetAllocatableResources"


class PodName(NamedTuple):
    """A pod as kubelet lists it."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class PodDevices:
    """The ids of a pod's devices, each once, of whatever kind.

    `claims_gpus`: it may have GPUs besides, by a ResourceClaim.
    """

    pod: PodName
    device_ids: tuple[str, ...]
    claims_gpus: bool = False


class DeviceHolders(Protocol):
    """Who tells which devices are whose."""

    def pods(self) -> tuple[PodDevices, ...]:
        """List every pod of the node with its devices. Raises GrpcError."""
        ...

    def allocatable(self) -> tuple[str, ...]:
        """List the ids of all devices there are. Raises GrpcError."""
        ...


class PodResources:
    """Asks the kubelet of this node; each call has a connection of its own."""

    def __init__(self, socket_path: str = SOCKET) -> None:
        self._socket_path = socket_path

    def pods(self) -> tuple[PodDevices, ...]:
        """List every pod of the node with its devices. Raises GrpcError."""
        answer = unary_call(self._socket_path, _LIST, b"", TIMEOUT_S)
        try:
            return decode_pods(answer)
        except NotProtobufError as error:
            raise self._unreadable(error) from error

    def allocatable(self) -> tuple[str, ...]:
        """List the ids of all devices there are; none where this kubelet cannot tell.

        Raises GrpcError.
        """
        try:
            answer = unary_call(self._socket_path, _ALLOCATABLE, b"", TIMEOUT_S)
            return decode_allocatable(answer)
        except GrpcError as error:
            if error.missing:
                return ()
            raise
        except NotProtobufError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: NotProtobufError) -> GrpcError:
        return GrpcError(f"{self._socket_path}: no PodResources v1: {error}")


def decode_pods(response: bytes) -> tuple[PodDevices, ...]:
    """Read a ListPodResourcesResponse. Raises NotProtobufError."""
    found: list[PodDevices] = []
    for pod in delimited(response, 1):
        ids: dict[str, None] = {}
        claims_gpus = False
        for container in delimited(pod, 3):
            for devices in delimited(container, 2):
                ids |= dict.fromkeys(texts(devices, 2))
            claims_gpus |= any(map(_may_be_gpus, delimited(container, 5)))
        found.append(PodDevices(PodName(text(pod, 2), text(pod, 1)), tuple(ids), claims_gpus))
    return tuple(found)


def _may_be_gpus(claim: bytes) -> bool:
    """Whether a DynamicResource names a driver of GPUs (gpu.nvidia.com), or no driver at all."""
    names: list[str] = []
    for resource in delimited(claim, 4):
        names += texts(resource, 2)  # driver_name
        names += (text(device, 1) for device in delimited(resource, 1))  # k8s.DRIVER/claim=…
    return not any(names) or any("gpu" in name.partition("/")[0] for name in names)


def decode_allocatable(response: bytes) -> tuple[str, ...]:
    """Read an AllocatableResourcesResponse. Raises NotProtobufError."""
    return tuple(name for devices in delimited(response, 1) for name in texts(devices, 2))
