"""Reads a pod's raw JSON: what is absent, null or empty is empty; what has another type is refused.

Pods are never decoded into types of ours, so that fields of a Kubernetes to come survive.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

JsonObject = Mapping[str, Any]


class PodShapeError(ValueError):
    """A part of the pod has a type that no API server would send. Names the path, not the content."""


def object_at(parent: JsonObject, key: str) -> JsonObject:
    """Return the object under a key; empty where there is none."""
    return as_object({} if parent.get(key) is None else parent[key], key)


def objects_at(parent: JsonObject, key: str) -> list[JsonObject]:
    """Return the objects of the list under a key; empty where there is none."""
    items = [] if parent.get(key) is None else parent[key]
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise PodShapeError(f"{key} is {_type_name(items)}, not a list")
    return [as_object(item, f"{key}[{index}]") for index, item in enumerate(items)]


def as_object(value: object, where: str) -> JsonObject:
    """Return a value that must be an object."""
    if not isinstance(value, Mapping):
        raise PodShapeError(f"{where} is {_type_name(value)}, not an object")
    return value


def texts_at(parent: JsonObject, key: str) -> dict[str, str]:
    """Return the pairs of text under a key, such as labels; pairs of other types are left out."""
    pairs = object_at(parent, key)
    return {str(name): text for name, text in pairs.items() if isinstance(text, str)}


def names_of(items: Iterable[JsonObject]) -> set[str]:
    """Return the names of containers, volumes or devices."""
    return {name for one in items if isinstance(name := one.get("name"), str)}


def all_containers(spec: JsonObject) -> list[JsonObject]:
    """Return containers and init containers."""
    return [*objects_at(spec, "initContainers"), *objects_at(spec, "containers")]


def is_native_sidecar(init_container: JsonObject) -> bool:
    """Whether an init container runs beside the others instead of before them."""
    return init_container.get("restartPolicy") == "Always"


def _type_name(value: object) -> str:
    return "null" if value is None else type(value).__name__
