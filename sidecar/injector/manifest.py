"""Puts the sidecar into manifests, YAML or JSON, and leaves everything else of them as it is.

A document in which nothing is injected keeps its bytes. One that changes is written by ruamel.yaml
with its comments, quotes and order; the indentation of lists is the document's own.
"""

import copy
import io
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.constructor import RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import SingleQuotedScalarString

from sidecar.injector.inject import TRACK, Decision
from sidecar.injector.patch import patch_in_place

Decide = Callable[[Mapping[str, Any]], Decision]
"""Decides about one pod, or pod template."""

_MAX_NODES: Final = 300_000
"""Aliases can make a small file endlessly large."""

_START: Final = re.compile(r"(?:^%.*\n)*^---(?=\s|\Z)", re.MULTILINE)
_END: Final = re.compile(r"^\.\.\.[ \t]*(?:#.*)?\r?(?:\n|\Z)", re.MULTILINE)
_HEAD: Final = re.compile(
    r"(?:^(?:%.*|[ \t]*#.*|[ \t\r]*)\n)*^---[ \t]*(?:#.*)?\r?\n", re.MULTILINE
)
"""What stands before the content of a document, where nothing of it stands on the line of `---`."""

_NESTED: Final = re.compile(
    r"^(?P<outer> *)[^\s#\-][^\n]*:[ \t]*(?:#[^\n]*)?\r?\n"
    r"(?=(?:[ \t]*(?:#[^\n]*)?\r?\n)*(?P<inner> *)(?P<dash>- +)?[^\s#])",
    re.MULTILINE,
)
"""A key, and the first line of the mapping or list under it."""


_YAML_1_1: Final = re.compile(r"(?i:y|n|yes|no|on|off)|[-+]?[\d_]+(?::[0-5]?\d)+(?:\.\d*)?")
"""Booleans and sexagesimal numbers of YAML 1.1; ruamel.yaml writes YAML 1.2."""

_VERBATIM_TAGS: Final = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")


class ManifestError(ValueError):
    """A manifest that cannot be read; the text names the line."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A pod or pod template of a manifest, and what was decided.

    `is_marked_outside`: `emissions/track` stands on the workload, and counts on its template only.
    """

    name: str
    decision: Decision
    is_marked_outside: bool = False


@dataclass(frozen=True, slots=True)
class Injected:
    """A manifest with the sidecar in it."""

    text: str
    workloads: tuple[Workload, ...]


def inject_manifest(text: str, decide: Decide) -> Injected:
    """Inject into all workloads of a manifest, of any kind and in any number of documents.

    Raises ManifestError, and PodShapeError where a pod is not shaped like one.
    """
    parts: list[str] = []
    workloads: list[Workload] = []
    line = 1
    for document in _documents(text):
        written = _injected(document, line, decide)
        parts.append(written.text)
        workloads += written.workloads
        line += document.count("\n")
    return Injected("".join(parts), tuple(workloads))


def _documents(text: str) -> Iterator[str]:
    """Split where documents begin: `---` in the first column never stands inside of one."""
    starts = {match.start() for match in _START.finditer(text)}
    starts |= {match.end() for match in _END.finditer(text)}
    ordered = sorted({0, *starts, len(text)})
    for start, end in itertools.pairwise(ordered):
        yield text[start:end]


def _injected(text: str, first_line: int, decide: Decide) -> Injected:
    source = _source_of(text, first_line)
    try:
        holder = [source.root]
        shared = _shared_nodes(holder, first_line)
        found = list(_pods(holder, "document", {}))
        workloads = [_workload(place, shared, decide) for place in found]
        if any(workload.decision.operations for workload in workloads):
            text = source.dumped(holder[0])
    except RecursionError:
        raise ManifestError(f"line {first_line}: it is nested too deeply") from None
    return Injected(text, tuple(workloads))


def _workload(place: "_Place", shared: frozenset[int], decide: Decide) -> Workload:
    decision = decide(place.pod)
    if decision.operations:
        # Copied: the same object in two places of a document would be written as an alias.
        operations = [_quoted(operation) for operation in copy.deepcopy(decision.operations)]
        patch_in_place(place.unshared(shared), operations)
    return Workload(place.name, decision, TRACK in place.workload_annotations)


def _quoted(value: Any) -> Any:  # noqa: ANN401 - any node
    """Put what we add into quotes where YAML 1.1, which kubectl reads, takes text for something else."""
    if isinstance(value, str):
        return SingleQuotedScalarString(value) if _YAML_1_1.fullmatch(value) else value
    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    return [_quoted(item) for item in value] if isinstance(value, list) else value


# -- text and nodes ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Source:
    """A document that was read, and how it is written again."""

    root: Any
    dumped: Callable[[Any], str]


def _source_of(text: str, first_line: int) -> _Source:
    if text.lstrip().startswith(("{", "[")):
        try:
            return _Source(_loaded_json(text), lambda root: _dumped_json(root, text))
        except RecursionError:
            raise ManifestError(f"line {first_line}: it is nested too deeply") from None
        except json.JSONDecodeError:
            pass  # YAML in flow style, or nothing: its reader tells the line
    head = match[0] if (match := _HEAD.match(text)) else ""
    end = _END.search(text, len(head))
    body, tail = (text[len(head) : end.start()], end[0]) if end else (text[len(head) :], "")
    yaml = _yaml_like(body)
    yaml.explicit_start = not head and _START.match(body) is not None
    root = _loaded(yaml, body, first_line + head.count("\n"))
    return _Source(root, lambda changed: head + _dumped_yaml(yaml, changed, body) + tail)


def _loaded(yaml: YAML, body: str, first_line: int) -> Any:  # noqa: ANN401 - any document
    try:
        return yaml.load(body)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = first_line + (mark.line if mark else 0)
        raise ManifestError(f"line {line}: {error.problem or error.context}") from error
    except (YAMLError, ValueError, RecursionError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise ManifestError(f"in the document of line {first_line}: {what}") from error


def _dumped_yaml(yaml: YAML, root: object, before: str) -> str:
    written = io.StringIO()
    yaml.dump(root, written)
    text = written.getvalue()
    return text.replace("\n", "\r\n") if "\r\n" in before else text


def _loaded_json(text: str) -> Any:  # noqa: ANN401 - any document
    """Read JSON. Raises JSONDecodeError, and ManifestError for what could not be written again."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if twice:
            raise ManifestError(f"the key {twice[0][:100]!a} stands twice in one object")
        return dict(pairs)

    def number(digits: str) -> float:
        if not math.isfinite(value := float(digits)):
            raise ManifestError(f"{digits[:100]} is no number that JSON can hold")
        return value

    return json.loads(text, object_pairs_hook=members, parse_float=number, parse_constant=number)


def _dumped_json(root: object, before: str) -> str:
    indent = 2 if "\n" in before.strip() else None
    tail = before[len(before.rstrip()) :]
    written = json.dumps(root, indent=indent, ensure_ascii=False, allow_nan=False)
    # A lone surrogate has no UTF-8 form; escaped it has one.
    return written.encode(errors="backslashreplace").decode() + tail


def _yaml_like(text: str) -> YAML:
    """Return a reader and writer that indents as the text does."""
    mapping, dash = 2, 0
    nested = [match for match in _NESTED.finditer(text) if match["inner"] >= match["outer"]]
    depths = [(len(one["inner"]) - len(one["outer"]), one["dash"]) for one in nested]
    mapping = next((depth for depth, is_item in depths if depth and not is_item), mapping)
    dash = next((depth for depth, is_item in depths if is_item), dash)
    yaml = YAML()
    yaml.Constructor, yaml.Representer = _Constructor, _Representer
    yaml.preserve_quotes = True
    yaml.width = 2**16  # no line is folded
    yaml.indent(mapping=mapping, sequence=dash + 2, offset=dash)
    return yaml


class _Verbatim(str):
    """A scalar kept as it is written: as a number or a time it would be written otherwise."""

    __slots__ = ("tag",)
    tag: str


class _Constructor(RoundTripConstructor):
    """Reads what YAML may spell in several ways as text."""

    def verbatim(self, node: ScalarNode) -> _Verbatim:
        text = _Verbatim(node.value)
        text.tag = str(node.tag)
        return text


class _Representer(RoundTripRepresenter):
    """Writes it as it was."""

    def verbatim(self, text: _Verbatim) -> ScalarNode:
        node: ScalarNode = self.represent_scalar(text.tag, str(text))
        return node


for _tag in _VERBATIM_TAGS:
    _Constructor.add_constructor(_tag, _Constructor.verbatim)
_Representer.add_representer(_Verbatim, _Representer.verbatim)


# -- pods of a document --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """A pod or pod template in the object or list that holds it."""

    name: str
    holder: Any
    key: Any
    workload_annotations: Mapping[str, Any]

    @property
    def pod(self) -> Mapping[str, Any]:
        pod: Mapping[str, Any] = self.holder[self.key]
        return pod

    def unshared(self, shared: frozenset[int]) -> Mapping[str, Any]:
        """Return the pod; cut loose where anchors share parts of it, which would change elsewhere."""
        if any(id(node) in shared for node in _nodes(self.pod)):
            self.holder[self.key] = _plain(self.pod)
        return self.pod


def _pods(holder: Any, name: str, annotations: Mapping[str, Any]) -> Iterator[_Place]:  # noqa: ANN401
    """Find pods, and templates of pods in workloads of whatever kind."""
    for key, node in _members(holder):
        if isinstance(node, dict) and isinstance(node.get("kind"), str):
            below, outside = _name_of(node), _annotations_of(node)
        else:
            below, outside = _replica_name(name, key, node), annotations
        if _is_pod(node) and (key == "template" or node.get("kind") == "Pod"):
            is_template = node.get("kind") != "Pod"
            yield _Place(below, holder, key, outside if is_template else {})
        else:
            yield from _pods(node, below, outside)


def _is_pod(node: object) -> bool:
    spec = node.get("spec") if isinstance(node, dict) else None
    return isinstance(spec, dict) and isinstance(spec.get("containers"), list)


def _name_of(workload: Mapping[str, Any]) -> str:
    metadata = workload.get("metadata")
    named = metadata if isinstance(metadata, dict) else {}
    name = named.get("name") or named.get("generateName")
    return f"{workload['kind']}/{name}" if name else str(workload["kind"])


def _annotations_of(workload: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = workload.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    return annotations if isinstance(annotations, dict) else {}


def _replica_name(name: str, key: object, node: object) -> str:
    """Name the replicas of a distributed job: each kind of them, such as `Worker`, has a template."""
    if isinstance(node, dict) and "template" in node and key not in ("spec", "jobTemplate"):
        return f"{name} ({node.get('name', key)})"
    return name


def _members(node: object) -> list[tuple[Any, Any]]:
    if isinstance(node, dict):
        return list(node.items())
    return list(enumerate(node)) if isinstance(node, list) else []


def _nodes(root: object) -> Iterator[object]:
    """Return all objects and lists, each as often as it stands in the document."""
    left = [root]
    while left:
        node = left.pop()
        yield node
        left += [value for _, value in _members(node) if isinstance(value, dict | list)]


def _shared_nodes(root: object, first_line: int) -> frozenset[int]:
    """Return the ids of what stands in the document more than once. Raises ManifestError."""
    counts: Counter[int] = Counter()
    for number, node in enumerate(_nodes(root)):
        if number > _MAX_NODES:
            raise ManifestError(f"line {first_line}: aliases make it endless, or much too large")
        counts[id(node)] += 1
    return frozenset(node for node, count in counts.items() if count > 1)


def _plain(node: Any) -> Any:  # noqa: ANN401 - any node
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    return [_plain(value) for value in node] if isinstance(node, list) else node
