"""Decides whether a pod gets the sidecar, and how: pod in, JSON Patch out.

Pure: no clock, no file, no network; the pod is never changed. The three fronts (webhook, command and
the chart's policy) give the same pod, so a rule here must be one that CEL can express, too.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Any, Final, Self

from sidecar.identity.bounded import shown
from sidecar.identity.downward import WORKLOAD_VARIABLE, valid_annotations
from sidecar.injector.azureml import run_variables
from sidecar.injector.config import InjectConfig
from sidecar.injector.owner import workload_of
from sidecar.injector.patch import Operation, append, patched, pointer, prepend, set_member
from sidecar.injector.pod_nodes import is_for_windows, may_be_on_virtual_node
from sidecar.injector.pod_requests import exact_quantity, pod_requests
from sidecar.injector.pod_shape import (
    JsonObject,
    all_containers,
    is_native_sidecar,
    names_of,
    object_at,
    objects_at,
    texts_at,
)

TRACK: Final = "emissions/track"
STATUS: Final = "emissions/status"
INJECTOR: Final = "emissions/injector"

_MIRROR: Final = "kubernetes.io/config.mirror"
_CONFIDENTIAL: Final = (
    "io.katacontainers.config.agent.policy",
    "io.katacontainers.config.hypervisor.cc_init_data",
)
"""Annotations by which Kata's guest knows the containers that it may run, made before us."""

_IDENTITY_USED: Final = "azure.workload.identity/use"
_IDENTITY_SKIPPED: Final = "azure.workload.identity/skip-containers"

_MAX_ANNOTATIONS_BYTES: Final = 256 * 1024
"""Kubernetes refuses a pod whose annotations are longer together."""

_MOUNTED_CONTAINERS_MAX: Final = 32
"""`emissions/mount` reaches this many containers, as in policy mode; nobody has more."""

_STORAGE: Final = "ephemeral-storage"
_LOGS_BYTES: Final = 16 * 1024**2
"""Room for what the sidecar logs: at its usual level some 100,000 lines."""

_UNWRITABLE: Final = ("secret", "configMap", "downwardAPI", "projected", "image")
_MAYBE_READ_ONLY: Final = ("persistentVolumeClaim", "csi", "nfs", "azureFile", "azureDisk")
"""Kinds of volumes."""

_MAX_WARNINGS: Final = 8
_MAX_WARNING_CHARACTERS: Final = 250


class Reason(StrEnum):
    """Why a pod got what it got; few and fixed, for metrics."""

    INJECTED = "injected"
    ALREADY_INJECTED = "already_injected"
    NOT_TRACKED = "not_tracked"
    OPTED_OUT = "opted_out"
    TRACK_VALUE = "track_value"
    WINDOWS = "windows"
    VIRTUAL_NODE = "virtual_node"
    CONFIDENTIAL = "confidential"
    MIRROR_POD = "mirror_pod"
    POD_RESOURCES = "pod_resources"
    CONTAINER_NAME = "container_name"
    VOLUME_NAME = "volume_name"
    ANNOTATIONS_SIZE = "annotations_size"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a pod. `status` is what its annotation says; None where it gets none."""

    reason: Reason
    operations: tuple[Operation, ...] = ()
    status: str | None = None
    warnings: tuple[str, ...] = ()


def inject(
    pod: Mapping[str, Any], namespace_labels: Mapping[str, str], config: InjectConfig
) -> Decision:
    """Decide about a pod, given as raw JSON, with the labels of its namespace.

    Raises:
        PodShapeError: a part of the pod has a type that no API server would send.
        PatchError: the patch does not apply, which is a bug.

    """
    parts = _Parts.of(pod)
    decision = _decided(parts, namespace_labels, config)
    # A patch that does not apply makes the API server refuse the pod, whatever failurePolicy says.
    patched(pod, decision.operations)
    return decision


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a pod that are looked at."""

    metadata: JsonObject | None
    spec: JsonObject
    annotations: Mapping[str, str]
    labels: Mapping[str, str]

    @classmethod
    def of(cls, pod: JsonObject) -> Self:
        metadata = object_at(pod, "metadata")
        return cls(
            metadata=None if pod.get("metadata") is None else metadata,
            spec=object_at(pod, "spec"),
            annotations=texts_at(metadata, "annotations"),
            labels=texts_at(metadata, "labels"),
        )


def _decided(parts: _Parts, namespace_labels: Mapping[str, str], config: InjectConfig) -> Decision:
    wish = _wish(parts, namespace_labels)
    if wish is None:
        return Decision(Reason.NOT_TRACKED)
    if wish == "false" and not _opted_in(namespace_labels):
        return Decision(Reason.OPTED_OUT)
    if _is_injected(parts.spec, config.container_name):
        return Decision(Reason.ALREADY_INJECTED)
    valid, attempts = valid_annotations(parts.annotations)
    warnings = [attempt.detail for attempt in attempts]
    obstacle = _obstacle(parts, wish, config, valid.get("volume"))
    if obstacle is not None:
        reason, why = obstacle
        status = f"skipped: {why}"
        operations = _annotated(parts, status, config)
        if reason is Reason.TRACK_VALUE and not warnings:
            warnings = [f"{TRACK}: {why}"]
    else:
        reason, status = Reason.INJECTED, "injected"
        injection = _Injection(parts, config, valid, warnings)
        operations = [*injection.operations(), *_annotated(parts, status, config)]
    if _annotations_bytes(parts, operations) > _MAX_ANNOTATIONS_BYTES:
        return Decision(Reason.ANNOTATIONS_SIZE, warnings=("the pod's annotations are full",))
    return Decision(reason, tuple(operations), status, _bounded(warnings))


# -- whether -------------------------------------------------------------------------------------


def _wish(parts: _Parts, namespace_labels: Mapping[str, str]) -> str | None:
    """Return what is asked for: the pod's own annotation, else the label of its namespace."""
    annotations = object_at(parts.metadata or {}, "annotations")
    if TRACK in annotations:
        value = annotations[TRACK]
        return value if isinstance(value, str) else ""
    return "true" if _opted_in(namespace_labels) else None


def _opted_in(namespace_labels: Mapping[str, str]) -> bool:
    return namespace_labels.get(TRACK) == "true"


def _is_injected(spec: JsonObject, name: str) -> bool:
    """Whether a native sidecar of our name is there: by us before, or by hand.

    Not the status annotation decides: it may have been copied with the rest of a pod.
    """
    return any(
        one.get("name") == name and is_native_sidecar(one)
        for one in objects_at(spec, "initContainers")
    )


_OBSTACLES: Final[tuple[tuple[Reason, str, Callable[[_Parts], bool]], ...]] = (
    (
        Reason.WINDOWS,
        "Windows pods are not metered",
        lambda parts: is_for_windows(parts.spec),
    ),
    (
        Reason.VIRTUAL_NODE,
        "virtual nodes run no sidecars",
        lambda parts: may_be_on_virtual_node(parts.spec),
    ),
    (
        Reason.CONFIDENTIAL,
        "the policy of a confidential pod admits no other container",
        lambda parts: any(key in parts.annotations for key in _CONFIDENTIAL),
    ),
    (
        Reason.MIRROR_POD,
        "a static pod is changed on its node only",
        lambda parts: _MIRROR in parts.annotations,
    ),
    (
        Reason.POD_RESOURCES,
        "pod-level resources leave no room for another container",
        lambda parts: parts.spec.get("resources") is not None,
    ),
)
"""What stands in the pod and rules the sidecar out, in the order in which it is told."""


def _obstacle(
    parts: _Parts, wish: str, config: InjectConfig, volume: str | None
) -> tuple[Reason, str] | None:
    """Return why the pod cannot have the sidecar, in words for its annotation."""
    if wish == "false":
        return Reason.OPTED_OUT, "opted out"
    if wish != "true":
        return Reason.TRACK_VALUE, f'{TRACK} is neither "true" nor "false"'
    for reason, why, applies in _OBSTACLES:
        if applies(parts):
            return reason, why
    return _name_taken(parts.spec, config, volume)


def _name_taken(
    spec: JsonObject, config: InjectConfig, volume: str | None
) -> tuple[Reason, str] | None:
    if config.container_name in names_of(all_containers(spec)):
        return Reason.CONTAINER_NAME, f"container name {config.container_name} is taken"
    present = names_of(objects_at(spec, "volumes"))
    for name in _added_volumes(config, reused=_is_usable(spec, volume, config)):
        if name in present:
            return Reason.VOLUME_NAME, f"volume name {name} is taken"
    return None


def _is_usable(spec: JsonObject, volume: str | None, config: InjectConfig) -> bool:
    """Whether the pod has a volume of this name that records can be written to."""
    devices = (
        device
        for container in all_containers(spec)
        for device in objects_at(container, "volumeDevices")
    )
    if volume in names_of(devices):
        return False
    return any(
        one.get("name") == volume and _is_writable(one, config)
        for one in objects_at(spec, "volumes")
    )


def _is_writable(volume: JsonObject, config: InjectConfig) -> bool:
    """Whether it is a file system with room: Kubernetes evicts a pod that fills an emptyDir."""
    if any(volume.get(kind) is not None for kind in _UNWRITABLE):
        return False
    if any(object_at(volume, kind).get("readOnly") is True for kind in _MAYBE_READ_ONLY):
        return False
    directory = object_at(volume, "emptyDir")
    if directory.get("medium"):
        return False  # memory, which would be the sidecar's own
    limit = directory.get("sizeLimit")
    return limit is None or _amount(limit) >= exact_quantity(config.records_limit)


def _amount(quantity: object) -> Fraction:
    """Return a quantity; what is none is the API server's to refuse, and has no room."""
    try:
        return exact_quantity(str(quantity))
    except ValueError:
        return Fraction(-1)


def _has_server(spec: JsonObject, config: InjectConfig) -> bool:
    """Whether the sidecar may listen.

    On the node's network its port belongs to all pods; a container that listens on it itself would
    find it taken.
    """
    if spec.get("hostNetwork") is True:
        return False
    taken = (
        port.get("containerPort")
        for container in all_containers(spec)
        for port in objects_at(container, "ports")
    )
    return config.port not in taken


def _better_dns_policy(spec: JsonObject) -> str | None:
    """Return the policy by which the pod would find services by name; None where it does already.

    On the node's network `ClusterFirst`, the default, means `Default`: the node's own resolver.
    """
    on_node = spec.get("hostNetwork") is True
    unresolving = ("Default", "ClusterFirst") if on_node else ("Default",)
    if (spec.get("dnsPolicy") or "ClusterFirst") not in unresolving:
        return None
    return "ClusterFirstWithHostNet" if on_node else "ClusterFirst"


def _bounds_storage(spec: JsonObject) -> bool:
    """Whether kubelet compares the pod's use of the node's disk with limits, of whichever container."""
    return any(
        object_at(object_at(one, "resources"), "limits").get(_STORAGE) is not None
        for one in all_containers(spec)
    )


def _added_volumes(config: InjectConfig, *, reused: bool) -> dict[str, JsonObject]:
    return {
        str(volume["name"]): volume
        for volume in config.volumes
        if not (reused and volume["name"] == config.records_volume)
    }


# -- how -----------------------------------------------------------------------------------------


class _Injection:
    """Makes the operations that put container and volumes into one pod."""

    def __init__(
        self, parts: _Parts, config: InjectConfig, valid: Mapping[str, str], warnings: list[str]
    ) -> None:
        self._spec = parts.spec
        self._labels = parts.labels
        self._workload = workload_of(parts.metadata or {}, parts.labels)
        self._config = config
        self._valid = valid
        self._warnings = warnings
        named = valid.get("volume")
        self._reuses = _is_usable(self._spec, named, config)
        self._volume = named if named and self._reuses else config.records_volume
        if named is not None and not self._reuses:
            warnings.append(
                f"emissions/volume: the pod has no volume {shown(named)} that records can be written "
                "to; they go to an emptyDir"
            )
        policy = _better_dns_policy(self._spec)
        if config.needs_cluster_names and policy:
            warnings.append(
                "the pod's dnsPolicy does not resolve the names of the cluster's services, so records "
                f"would stay in the pod; set {policy}"
            )

    def operations(self) -> list[Operation]:
        spec = self._spec
        volumes = list(_added_volumes(self._config, reused=self._reuses).values())
        operations = [
            prepend(spec.get("initContainers"), self._container(), "spec", "initContainers")
        ]
        if volumes:
            operations += append(spec.get("volumes"), volumes, "spec", "volumes")
        return [*operations, *self._shared_processes(), *self._shown_to_user_containers()]

    def _shared_processes(self) -> list[Operation]:
        """Let the sidecar see the processes of the pod, where that is asked for and possible."""
        asked = self._valid.get("share-process-namespace") == "true"
        already = self._spec.get("shareProcessNamespace")
        if not asked or already is True:
            return []
        if already is not None or self._spec.get("hostPID") is True:
            self._warnings.append(
                "emissions/share-process-namespace: the pod's own hostPID or shareProcessNamespace "
                "stays as it is"
            )
            return []
        return [Operation(op="add", path=pointer("spec", "shareProcessNamespace"), value=True)]

    def _container(self) -> dict[str, Any]:
        container = dict(self._config.container)
        requests = pod_requests(self._spec)
        self._warnings += requests.problems
        env = [
            *(
                one
                for one in objects_at(container, "env")
                # A hardened node refuses a container that asks for GPUs it was not given.
                if requests.may_hold_gpus or not str(one.get("name")).startswith("NVIDIA_")
            ),
            *({"name": name, "value": value} for name, value in requests.variables().items()),
            *({"name": WORKLOAD_VARIABLE, "value": one} for one in (self._workload,) if one),
            *run_variables(self._spec, self._labels),
        ]
        if _bounds_storage(self._spec):
            container["resources"] = self._with_storage(object_at(container, "resources"))
        container["volumeMounts"] = [
            {**mount, "name": self._volume}
            if mount["mountPath"] == self._config.mount_path
            else mount
            for mount in objects_at(container, "volumeMounts")
        ]
        if not _has_server(self._spec, self._config):
            container = _without_server(container)
            env = [one for one in env if one.get("name") != "EMISSIONS_LISTEN"]
        container["env"] = env
        return container

    def _with_storage(self, resources: JsonObject) -> dict[str, JsonObject]:
        """Add what records and logs may take of the node's disk, else it would be the pod's to give.

        Kubelet adds up the limits of all containers, and evicts a pod that uses more (its
        `podEphemeralStorageLimitEviction`); so without any limit in the pod there must be none here.
        """
        size = math.ceil(exact_quantity(self._config.records_limit)) + _LOGS_BYTES
        return {
            kind: {**object_at(resources, kind), _STORAGE: str(size)}
            for kind in ("requests", "limits")
        }

    def _shown_to_user_containers(self) -> list[Operation]:
        """Mount the records read-only into the containers, where that is asked for."""
        asked = self._valid.get("mount", "false")
        if asked not in ("true", "false"):
            self._warnings.append(
                f"emissions/mount: {shown(asked)} is neither true nor false; nothing is mounted"
            )
        if asked != "true":
            return []
        path = self._config.mount_path
        mount = {"name": self._volume, "mountPath": path, "readOnly": True}
        operations: list[Operation] = []
        containers = objects_at(self._spec, "containers")[:_MOUNTED_CONTAINERS_MAX]
        for index, container in enumerate(containers):
            if _is_mounted_over(container, path):
                self._warnings.append(
                    f"emissions/mount: container {index} has its own mount at, above or below {path}"
                )
                continue
            at = ("spec", "containers", index, "volumeMounts")
            operations += append(container.get("volumeMounts"), [mount], *at)
        return operations


def _without_server(container: JsonObject) -> dict[str, Any]:
    """Return the container without what asks the sidecar over the network."""
    hooks = {
        name: hook for name, hook in object_at(container, "lifecycle").items() if name != "preStop"
    }
    kept = {
        key: value for key, value in container.items() if key not in ("livenessProbe", "lifecycle")
    }
    return {**kept, "lifecycle": hooks} if hooks else kept


def _is_mounted_over(container: JsonObject, path: str) -> bool:
    """Whether something is mounted at, above or below the path.

    A mount inside of a read-only one has no directory to be mounted on: the container would not start.
    """
    mounts = [one.get("mountPath") for one in objects_at(container, "volumeMounts")]
    devices = [one.get("devicePath") for one in objects_at(container, "volumeDevices")]
    ours = _directory(path)
    others = [_directory(str(one)) for one in (*mounts, *devices)]
    return any(ours.startswith(one) or one.startswith(ours) for one in others)


def _directory(path: str) -> str:
    """Spell a path in one way, with a slash at its end; images link /var/run to /run."""
    path = f"/{path}/"
    for _ in range(3):
        path = path.replace("//", "/")
    return f"/var{path}" if path.startswith("/run/") else path


# -- annotations ---------------------------------------------------------------------------------


def _annotated(parts: _Parts, status: str, config: InjectConfig) -> list[Operation]:
    """Set the annotations that differ: none on a pod that has them all."""
    wanted = {STATUS: status, INJECTOR: config.version}
    if status == "injected" and not config.needs_pod_identity:
        wanted |= _identity_kept_away(parts, config.container_name)
    metadata = parts.metadata
    if metadata is None:
        return [Operation(op="add", path=pointer("metadata"), value={"annotations": wanted})]
    existing = metadata.get("annotations")
    if existing is None:
        return [Operation(op="add", path=pointer("metadata", "annotations"), value=wanted)]
    return [
        set_member(existing, text, "metadata", "annotations", key)
        for key, text in wanted.items()
        if existing.get(key) != text
    ]


def _identity_kept_away(parts: _Parts, name: str) -> dict[str, str]:
    """Keep Azure's webhook from giving the identity of the pod's owner to the sidecar, too."""
    if parts.labels.get(_IDENTITY_USED) != "true":
        return {}
    before = parts.annotations.get(_IDENTITY_SKIPPED, "")
    if name in (part.strip() for part in before.split(";")):
        return {}
    return {_IDENTITY_SKIPPED: f"{before};{name}" if before else name}


def _annotations_bytes(parts: _Parts, operations: list[Operation]) -> int:
    """Return an upper bound of the bytes that all annotations have with those that are set."""
    existing = (f"{key}{text}" for key, text in parts.annotations.items())
    added = (
        f"{operation['path']}{operation['value']}"
        for operation in operations
        if operation["path"].startswith("/metadata")
    )
    return sum(len(text.encode(errors="surrogatepass")) for text in (*existing, *added))


def _bounded(warnings: list[str]) -> tuple[str, ...]:
    kept = [text[:_MAX_WARNING_CHARACTERS] for text in warnings[:_MAX_WARNINGS]]
    if len(warnings) > len(kept):
        kept.append(f"{len(warnings) - len(kept)} more warnings of this kind")
    return tuple(kept)
