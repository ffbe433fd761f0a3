"""JSON Patch (RFC 6902): operations, and applying them to see that they apply."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

import jsonpatch
import jsonpointer


class Operation(TypedDict):
    """One operation; `add` on a member that exists replaces it."""

    op: Literal["add", "replace"]
    path: str
    value: Any


class PatchError(RuntimeError):
    """A patch of ours does not apply to the pod it was made for: a bug, and never sent."""


def pointer(*parts: str | int) -> str:
    """Return the JSON pointer (RFC 6901) to a place."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


def set_member(parent: Mapping[str, Any], value: object, *path: str | int) -> Operation:
    """Set a member of an object, the last part of the path; `parent` is the object as it is."""
    return Operation(
        op="replace" if path[-1] in parent else "add", path=pointer(*path), value=value
    )


def append(
    existing: Sequence[Any] | None, values: Sequence[Any], *path: str | int
) -> list[Operation]:
    """Append to a list that may be absent or null."""
    if existing is None:
        return [Operation(op="add", path=pointer(*path), value=list(values))]
    return [Operation(op="add", path=pointer(*path, "-"), value=value) for value in values]


def prepend(existing: Sequence[Any] | None, value: object, *path: str | int) -> Operation:
    """Insert in front of a list that may be absent or null."""
    if existing is None:
        return Operation(op="add", path=pointer(*path), value=[value])
    return Operation(op="add", path=pointer(*path, 0), value=value)


def patched(document: Mapping[str, Any], operations: Iterable[Operation]) -> dict[str, Any]:
    """Return a copy with the operations applied; what they leave alone is shared with the original.

    Raises PatchError. A whole copy of a pod of 3 MB takes a second, in which no other pod is answered.
    """
    operations = list(operations)
    try:
        result = jsonpatch.apply_patch(_loosened(document, operations), operations, in_place=True)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        raise PatchError(f"a patch does not apply: {type(error).__name__}") from error
    if not isinstance(result, dict):
        raise PatchError(f"a patch turned the pod into {type(result).__name__}")
    return result


def _loosened(document: Mapping[str, Any], operations: Sequence[Operation]) -> dict[str, Any]:
    """Copy every object and list that the operations change, and those above them."""
    root = dict(document)
    copied: set[tuple[str, ...]] = set()
    for operation in operations:
        holder: Any = root
        path = tuple(jsonpointer.JsonPointer(operation["path"]).parts[:-1])
        for depth, part in enumerate(path, start=1):
            key = int(part) if isinstance(holder, list) else part
            try:
                below = holder[key]
            except (KeyError, IndexError):
                break  # made by an operation before
            if path[:depth] not in copied and isinstance(below, Mapping | list):
                copied.add(path[:depth])
                below = dict(below) if isinstance(below, Mapping) else list(below)
                holder[key] = below
            holder = below
    return root


def patch_in_place(document: Mapping[str, Any], operations: Iterable[Operation]) -> None:
    """Apply to the document itself, so that what a YAML document knows of its comments stays."""
    jsonpatch.apply_patch(document, list(operations), in_place=True)
