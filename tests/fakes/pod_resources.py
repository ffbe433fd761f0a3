"""A fake kubelet's PodResources: a real gRPC server on a Unix socket, with real protobuf messages.

with FakePodResources(tmp_path / "kubelet.sock") as kubelet:
    kubelet.give("team-a", "train-0", "GPU-…", "GPU-…")
    kubelet.allocatable = ["GPU-…::0", "GPU-…::1"]
    ... kubelet.path, kubelet.calls ...

The messages are declared as in k8s.io/kubelet, pkg/apis/podresources/v1/api.proto, with the fields that
the code under test must pass over.
"""

import functools
from collections.abc import Iterable
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

RESOURCE = "nvidia.com/gpu"

_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "NUMANode": {"ID": (1, "int64")},
    "TopologyInfo": {"nodes": (1, "*NUMANode")},
    "ContainerDevices": {
        "resource_name": (1, "string"),
        "device_ids": (2, "*string"),
        "topology": (3, "TopologyInfo"),
    },
    "ContainerMemory": {
        "memory_type": (1, "string"),
        "size": (2, "uint64"),
        "topology": (3, "TopologyInfo"),
    },
    "CDIDevice": {"name": (1, "string")},
    "ClaimResource": {
        "cdi_devices": (1, "*CDIDevice"),
        "driver_name": (2, "string"),
        "pool_name": (3, "string"),
        "device_name": (4, "string"),
    },
    "DynamicResource": {
        "claim_name": (2, "string"),
        "claim_namespace": (3, "string"),
        "claim_resources": (4, "*ClaimResource"),
    },
    "ContainerResources": {
        "name": (1, "string"),
        "devices": (2, "*ContainerDevices"),
        "cpu_ids": (3, "*int64"),
        "memory": (4, "*ContainerMemory"),
        "dynamic_resources": (5, "*DynamicResource"),
    },
    "PodResources": {
        "name": (1, "string"),
        "namespace": (2, "string"),
        "containers": (3, "*ContainerResources"),
        "cpu_ids": (4, "*int64"),
    },
    "ListPodResourcesResponse": {"pod_resources": (1, "*PodResources")},
    "AllocatableResourcesResponse": {
        "devices": (1, "*ContainerDevices"),
        "cpu_ids": (2, "*int64"),
        "memory": (3, "*ContainerMemory"),
    },
}
"""Field numbers and types; * is repeated."""

_TYPES = {"string": 9, "int64": 3, "uint64": 4}


@functools.cache
def message(name: str) -> Any:
    """The class of a message of api.proto."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"v1.{name}"))


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="api.proto", package="v1", syntax="proto3")
    for name, fields in _MESSAGES.items():
        declared = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            bare = kind.removeprefix("*")
            added = declared.field.add(
                name=field,
                number=number,
                label=3 if kind.startswith("*") else 1,
                type=_TYPES.get(bare, 11),
            )
            if bare not in _TYPES:
                added.type_name = f".v1.{bare}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def pod(namespace: str, name: str, *containers: Iterable[str]) -> Any:
    """A PodResources whose containers have these devices, and much that is of no interest."""
    return message("PodResources")(
        name=name,
        namespace=namespace,
        cpu_ids=[0, 300],
        containers=[
            {
                "name": f"container-{number}",
                "devices": [
                    {
                        "resource_name": RESOURCE,
                        "device_ids": [device],
                        "topology": {"nodes": [{"ID": 1}]},
                    }
                    for device in devices
                ],
                "cpu_ids": [0, 1, 200],
                "memory": [{"memory_type": "hugepages-1Gi", "size": 1 << 40}],
                "dynamic_resources": [
                    {"claim_name": "c", "claim_resources": [{"cdi_devices": [{"name": "x/y=z"}]}]}
                ],
            }
            for number, devices in enumerate(containers)
        ],
    )


class FakePodResources(grpc.GenericRpcHandler):
    """The server as a context manager. `failure` is what every call answers instead."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.pods: list[Any] = []
        self.allocatable: list[str] | None = []
        self.failure: tuple[grpc.StatusCode, str] | None = None
        self.calls: list[str] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((self,))
        self._server.add_insecure_port(f"unix:{path}")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop(grace=None).wait()

    def give(self, namespace: str, name: str, *devices: str) -> None:
        """Give devices to a pod of one container; none takes them away, and the pod is gone."""
        self.pods = [one for one in self.pods if (one.namespace, one.name) != (namespace, name)]
        if devices:
            self.pods.append(pod(namespace, name, devices))

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        if method == "/v1.PodResourcesLister/GetAllocatableResources" and self.allocatable is None:
            return None  # gRPC answers UNIMPLEMENTED
        return grpc.unary_unary_rpc_method_handler(lambda _, context: self._answer(method, context))

    def _answer(self, method: str, context: grpc.ServicerContext) -> bytes:
        self.calls.append(method.rpartition("/")[2])
        if self.failure is not None:
            context.abort(*self.failure)
        if method == "/v1.PodResourcesLister/List":
            answer = message("ListPodResourcesResponse")(pod_resources=self.pods)
        else:
            listed = [{"resource_name": RESOURCE, "device_ids": self.allocatable}]
            answer = message("AllocatableResourcesResponse")(devices=listed, cpu_ids=[0, 1])
        return bytes(answer.SerializeToString())
