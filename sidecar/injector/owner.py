"""Which workload a pod belongs to, as the reference to its controller says."""

from collections.abc import Mapping
from typing import Final

from sidecar.injector.pod_shape import JsonObject, objects_at

_TEMPLATE_HASH: Final = "pod-template-hash"
"""Label that a Deployment gives to its ReplicaSets and their pods."""


def workload_of(metadata: JsonObject, labels: Mapping[str, str]) -> str | None:
    """Return kind and name of what controls the pod, such as `PyTorchJob/bert`; None without it.

    A ReplicaSet of a Deployment is named by the version of its template: told is the Deployment.
    """
    owners = objects_at(metadata, "ownerReferences")
    owner = next((one for one in owners if one.get("controller") is True), {})
    kind, name = owner.get("kind"), owner.get("name")
    if not isinstance(kind, str) or not isinstance(name, str):
        return None
    version = labels.get(_TEMPLATE_HASH)
    if kind == "ReplicaSet" and version and name.endswith(f"-{version}"):
        return f"Deployment/{name.removesuffix(f'-{version}')}"
    return f"{kind}/{name}"
