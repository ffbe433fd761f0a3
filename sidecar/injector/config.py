"""What is injected: the container and its volumes, as the chart renders them into `injector.json`."""

import json
import re
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Final, Self

from sidecar.identity.bounded import read_bounded, reason, shown
from sidecar.identity.downward import WORKLOAD_VARIABLE
from sidecar.injector.azureml import HANDED_ON
from sidecar.injector.pod_requests import REQUEST_VARIABLES
from sidecar.injector.pod_shape import JsonObject, as_object, object_at, objects_at
from sidecar.settings import SettingsError, load_settings

_MAX_BYTES: Final = 1024**2
_SERVICE: Final = re.compile(r"https?://[^/:]+\.svc(?:[.:/]|$)")
"""An address by the name of a Kubernetes service: `http://NAME.NAMESPACE.svc`."""

_INJECTED_VARIABLES: Final = (*REQUEST_VARIABLES, WORKLOAD_VARIABLE, *HANDED_ON)

_KEYS: Final = frozenset({"container", "volumes", "mountPath", "version"})


@dataclass(frozen=True, slots=True)
class InjectConfig:
    """The sidecar as it is put into a pod, complete but for what depends on the pod.

    `container` mounts `records_volume`, one of `volumes`, at `mount_path`; a pod may name another
    volume of its own for it. Neither is ever changed: a pod gets copies.
    """

    container: JsonObject
    volumes: tuple[JsonObject, ...]
    mount_path: str
    version: str

    @property
    def container_name(self) -> str:
        """Name of the container: a pod that has it is left alone."""
        return str(self.container["name"])

    @property
    def records_volume(self) -> str:
        """Name of the volume for records."""
        mounts = objects_at(self.container, "volumeMounts")
        return next(str(one["name"]) for one in mounts if one.get("mountPath") == self.mount_path)

    @property
    def records_limit(self) -> str:
        """Size that Kubernetes gives the volume for records; a smaller one of a pod's own is no use."""
        (volume,) = (one for one in self.volumes if one["name"] == self.records_volume)
        limit = object_at(volume, "emptyDir").get("sizeLimit")
        return "0" if limit is None else str(limit)

    @property
    def port(self) -> object:
        """Port that the sidecar listens on."""
        return object_at(object_at(self.container, "livenessProbe"), "httpGet").get("port")

    @property
    def needs_pod_identity(self) -> bool:
        """Whether the sidecar writes to Azure Blob itself, with the workload identity of the pod."""
        environment = {
            one.get("name"): one.get("value") for one in objects_at(self.container, "env")
        }
        return environment.get("EMISSIONS_TRANSPORT") == "blob"

    @property
    def needs_cluster_names(self) -> bool:
        """Whether the sidecar asks services of the cluster, by names that only the cluster resolves."""
        urls = (str(one.get("value") or "") for one in objects_at(self.container, "env"))
        return any(_SERVICE.match(url) for url in urls)

    def with_image(self, image: str) -> "InjectConfig":
        """Return the same with another image. Raises SettingsError."""
        _check_image(image)
        return replace(self, container={**self.container, "image": image})

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read `injector.json`. Raises ValueError with what is wrong, also where pods were at risk."""
        content = as_object(json.loads(text), "the file")
        if set(content) != _KEYS:
            raise ValueError(f"its keys are {sorted(content)}, and must be {sorted(_KEYS)}")
        for key in ("mountPath", "version"):
            if not isinstance(content[key], str) or not content[key]:
                raise ValueError(f"{key} must be text")
        container = object_at(content, "container")
        volumes = tuple(objects_at(content, "volumes"))
        _check_container(container)
        _check_volumes(container, volumes, content["mountPath"])
        return cls(container, volumes, content["mountPath"], content["version"])


def load_config(path: Path) -> InjectConfig:
    """Read the file that the chart renders. Raises SettingsError."""
    try:
        content, cut = read_bounded(path, _MAX_BYTES)
        if cut:
            raise ValueError(f"it is longer than {_MAX_BYTES} bytes")
        return InjectConfig.from_json(content)
    except OSError as error:
        raise SettingsError(f"--config {path}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(
            f"--config {path} is no configuration of the injector: {error}"
        ) from error


def default_config() -> InjectConfig:
    """Return what the chart renders with its default values."""
    return InjectConfig.from_json((files(__package__) / "default.json").read_bytes())


# -- what no configuration may do to a pod ---------------------------------------------------------


def _check_container(container: JsonObject) -> None:
    for key in ("name", "image"):
        if not isinstance(container.get(key), str) or not container[key]:
            raise ValueError(f"container.{key} must be text")
    _check_image(container["image"])
    if container.get("restartPolicy") != "Always":
        raise ValueError("container.restartPolicy must be Always: another one would block the pod")
    for key in ("ports", "startupProbe", "readinessProbe", "envFrom", "volumeDevices"):
        if container.get(key) is not None:
            raise ValueError(f"container.{key} could hold up the pod; remove it")
    if object_at(container, "lifecycle").get("postStart") is not None:
        raise ValueError("container.lifecycle.postStart could hold up the pod; remove it")
    if object_at(object_at(container, "livenessProbe"), "httpGet").get("port") is None:
        raise ValueError("container.livenessProbe must be an httpGet with a port")
    _check_resources(container)
    _check_security(object_at(container, "securityContext"))
    _check_environment(container)


def _check_security(security: JsonObject) -> None:
    """Check for what the level `restricted` of Pod Security asks."""
    capabilities = object_at(security, "capabilities")
    if security.get("privileged") or security.get("allowPrivilegeEscalation") is not False:
        raise ValueError("container.securityContext must not allow any privilege")
    if capabilities.get("add") or list(capabilities.get("drop") or ()) != ["ALL"]:
        raise ValueError("container.securityContext.capabilities must drop ALL and add none")
    if security.get("runAsNonRoot") is not True or security.get("runAsUser") == 0:
        raise ValueError("container.securityContext must not run as root")


def _check_environment(container: JsonObject) -> None:
    listed = [one.get("name") for one in objects_at(container, "env")]
    names = set(listed)
    if len(names) < len(listed):
        raise ValueError(f"container.env has a name twice: {sorted(map(str, listed))}")
    if not names.isdisjoint(_INJECTED_VARIABLES):
        raise ValueError(
            f"container.env must leave {', '.join(_INJECTED_VARIABLES)} to the injector"
        )
    for variable in objects_at(container, "env"):
        _check_variable(variable)
    # A sidecar with a bad setting stands by: no pod would be metered, and each says it was injected.
    texts = {str(one["name"]): str(one.get("value", "")) for one in objects_at(container, "env")}
    load_settings({}, texts)


def _check_variable(variable: JsonObject) -> None:
    """Check that a variable keeps no pod from starting, whichever namespace the pod is in."""
    name = shown(str(variable.get("name")))
    if ("value" in variable) == ("valueFrom" in variable):
        raise ValueError(f"container.env {name} must have either value or valueFrom")
    sources = object_at(variable, "valueFrom")
    for kind in ("secretKeyRef", "configMapKeyRef"):
        if kind in sources and object_at(sources, kind).get("optional") is not True:
            raise ValueError(
                f"container.env {name}: {kind} must be optional, or pods of a namespace without it "
                "would not start"
            )
    unknown = sorted(set(sources) - {"fieldRef", "secretKeyRef", "configMapKeyRef"})
    if unknown or ("valueFrom" in variable and len(sources) != 1):
        raise ValueError(
            f"container.env {name}: valueFrom must be one of fieldRef, secretKeyRef, configMapKeyRef"
        )


def _check_resources(container: JsonObject) -> None:
    resources = object_at(container, "resources")
    requests, limits = object_at(resources, "requests"), object_at(resources, "limits")
    if not requests or requests != limits or {"cpu", "memory"} != set(limits):
        raise ValueError(
            "container.resources must have CPU and memory, nothing else, with requests equal to "
            "limits: otherwise Guaranteed pods would become Burstable, or lose a GPU"
        )


def _check_volumes(container: JsonObject, volumes: tuple[JsonObject, ...], mount_path: str) -> None:
    names = [volume.get("name") for volume in volumes]
    if len(set(names)) < len(names):
        raise ValueError(f"volumes have a name twice: {names}")
    mounts = objects_at(container, "volumeMounts")
    missing = [one.get("name") for one in mounts if one.get("name") not in names]
    if missing:
        raise ValueError(f"container.volumeMounts name no volume: {missing}")
    if [one.get("mountPath") for one in mounts].count(mount_path) != 1:
        raise ValueError(f"one of container.volumeMounts must be at mountPath {shown(mount_path)}")
    for volume in volumes:
        for kind in ("secret", "configMap"):
            if kind in volume and object_at(volume, kind).get("optional") is not True:
                raise ValueError(
                    f"volume {shown(str(volume.get('name')))}: {kind} must be optional"
                )
    if any(volume.get("hostPath") is not None for volume in volumes):
        raise ValueError("volumes must not hold a hostPath: Pod Security would refuse the pod")


def _check_image(image: str) -> None:
    name = image.partition("@")[0].rpartition("/")[2]
    if "@" not in image and name.partition(":")[2] in ("", "latest"):
        raise SettingsError(
            f"image {shown(image)} has no version; name a tag other than latest, or a digest"
        )
