"""Which kinds of nodes a pod asks for, as far as the pod itself says it."""

from collections.abc import Sequence
from typing import Final

from sidecar.injector.pod_shape import (
    JsonObject,
    all_containers,
    object_at,
    objects_at,
    texts_at,
)

Label = tuple[str, str]

_WINDOWS: Final[Sequence[Label]] = (
    ("kubernetes.io/os", "windows"),
    ("beta.kubernetes.io/os", "windows"),
)
_VIRTUAL: Final[Sequence[Label]] = (
    ("type", "virtual-kubelet"),
    ("virtualization", "virtualnode2"),
)
"""Labels of AKS virtual nodes: of the add-on, and of virtual nodes on Azure Container Instances."""

_VIRTUAL_TAINTS: Final = ("virtual-kubelet.io/provider", "azure.com/aci")
"""A pod that tolerates one of these may be put on a virtual node."""


def is_for_windows(spec: JsonObject) -> bool:
    """Whether the pod is for Windows, wherever it says so."""
    if object_at(spec, "os").get("name") == "windows":
        return True
    contexts = [object_at(one, "securityContext") for one in (spec, *all_containers(spec))]
    return any(one.get("windowsOptions") is not None for one in contexts) or _asks_for(
        spec, _WINDOWS
    )


def may_be_on_virtual_node(spec: JsonObject) -> bool:
    """Whether the pod asks for an AKS virtual node, or tolerates one.

    Virtual kubelet's provider for Azure Container Instances (`getInitContainers`) takes no init
    container with resources, probes or hooks: a pod with the sidecar would not start there.
    """
    tolerated = (one.get("key") for one in objects_at(spec, "tolerations"))
    return any(key in _VIRTUAL_TAINTS for key in tolerated) or _asks_for(spec, _VIRTUAL)


def _asks_for(spec: JsonObject, labels: Sequence[Label]) -> bool:
    """Whether node selector or affinity want one of the labels; one of several terms is enough."""
    selector = texts_at(spec, "nodeSelector")
    if any(selector.get(key) == value for key, value in labels):
        return True
    affinity = object_at(object_at(spec, "affinity"), "nodeAffinity")
    required = object_at(affinity, "requiredDuringSchedulingIgnoredDuringExecution")
    return any(
        one.get("operator") == "In" and one.get("key") == key and value in (one.get("values") or ())
        for term in objects_at(required, "nodeSelectorTerms")
        for one in objects_at(term, "matchExpressions")
        for key, value in labels
    )
