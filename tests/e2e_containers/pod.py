"""An injected pod as `podman kube play` 4.3 can run it: what kubelet would add is filled in.

Podman knows neither native sidecars nor probes, hooks, projected tokens and the downward API. So the
sidecar becomes an ordinary container, started first; its probe and preStop hook are dropped, and the
test makes their requests; fields of the pod become plain values; token, labels and annotations become
files of a host directory, written as kubelet writes them; an emptyDir becomes one that all may write, as
kubelet makes it (podman's belongs to whichever container starts first). All else is played as it is.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Manifest = dict[str, Any]

_KUBELETS_OWN = ("restartPolicy", "livenessProbe", "lifecycle")


@dataclass(frozen=True)
class Scheduled:
    """What a cluster decides of a pod."""

    name: str
    namespace: str
    uid: str
    node: str
    token: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def field_value(self, path: str) -> str:
        """What the downward API gives for a field; a label that is not there is empty."""
        known = {
            "metadata.name": self.name,
            "metadata.namespace": self.namespace,
            "metadata.uid": self.uid,
            "spec.nodeName": self.node,
            "status.hostIP": "127.0.0.1",
        }
        if path.startswith("metadata.labels['"):
            return self.labels.get(path.split("'")[1], "")
        return known[path]


def playable(job: Manifest, scheduled: Scheduled, directory: Path) -> Manifest:
    """The pod of a Job; files of its volumes are written into `directory`."""
    template = copy.deepcopy(job["spec"]["template"])
    spec = template["spec"]
    native, plain = _split(spec.pop("initContainers", []))
    spec["containers"] = [_as_container(item) for item in native] + spec["containers"]
    if plain:
        spec["initContainers"] = plain
    for container in spec["containers"]:
        for variable in container.get("env", []):
            if source := variable.pop("valueFrom", None):
                variable["value"] = scheduled.field_value(source["fieldRef"]["fieldPath"])
    metadata = template.setdefault("metadata", {})
    metadata["name"] = scheduled.name
    metadata["labels"] = {**metadata.get("labels", {}), **scheduled.labels}
    spec["volumes"] = [
        _filled(volume, metadata, scheduled, directory) for volume in spec["volumes"]
    ]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _split(containers: list[Manifest]) -> tuple[list[Manifest], list[Manifest]]:
    native = [item for item in containers if item.get("restartPolicy") == "Always"]
    return native, [item for item in containers if item not in native]


def _as_container(native: Manifest) -> Manifest:
    return {name: value for name, value in native.items() if name not in _KUBELETS_OWN}


def _filled(
    volume: Manifest, metadata: Manifest, scheduled: Scheduled, directory: Path
) -> Manifest:
    if "projected" in volume:
        (source,) = volume["projected"]["sources"]
        files = {source["serviceAccountToken"]["path"]: scheduled.token}
    elif "downwardAPI" in volume:
        files = {
            item["path"]: _lines(metadata[item["fieldRef"]["fieldPath"].removeprefix("metadata.")])
            for item in volume["downwardAPI"]["items"]
        }
    elif "emptyDir" in volume:
        files = {}
    else:
        return volume
    place = directory / volume["name"]
    place.mkdir(parents=True)
    place.chmod(0o755 if files else 0o777)
    for name, text in files.items():
        (place / name).write_text(text)
    return {"name": volume["name"], "hostPath": {"path": str(place), "type": "Directory"}}


def _lines(mapping: Mapping[str, str]) -> str:
    """Labels or annotations, one `key="value"` a line."""
    return "".join(f"{key}={json.dumps(text)}\n" for key, text in sorted(mapping.items()))
