"""kubelet's `/stats/summary`, of which one pod is taken while the rest passes by.

The document (k8s.io/kubelet/pkg/apis/stats/v1alpha1, type Summary) of a node with 250 pods has about
1 MB; parsed whole it would take ten times that, which a sidecar does not have.
"""

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NoReturn

from sidecar.identity.bounded import shown
from sidecar.meters.pod.sampled_counter import Sample

VALUE_CHARACTERS_MAX: Final = 1024 * 1024
"""Of one pod, or of the node's part; a container has about 1 KB."""

CONTAINERS_MAX: Final = 256
NAME_CHARACTERS_MAX: Final = 253

_COUNTER_MAX: Final = 2**63
_NS_PER_S: Final = 1e9
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_NUMBER_REST: Final = re.compile(r"[0-9.eE+-]*")


@dataclass(frozen=True, slots=True)
class ContainerStats:
    """One run of a container: CPU seconds since it started, and its working set. None = not told."""

    name: str
    started: str
    started_s: float | None
    cpu: Sample | None
    working_set_bytes: int | None


@dataclass(frozen=True, slots=True)
class PodStats:
    """A pod: `cpu` is its cgroup's, with ended containers and the pause process; None = not told."""

    containers: tuple[ContainerStats, ...]
    cpu: Sample | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The pod that was looked for, None where it is not among the `pods` listed."""

    pod: PodStats | None
    pods: int


def pod_in_summary(pieces: Iterator[bytes], pod_uid: str) -> Summary:
    """Look for a pod in a summary that comes in pieces; stops reading when it is found.

    Raises ValueError for what is no summary, and for values that no kubelet gives.
    """
    document = _Document(pieces)
    pods: int | None = None
    for name in document.members():
        if name != "pods":
            document.value()
            continue
        pods = 0
        for pod in document.items():
            pods += 1
            if _object(_object(pod).get("podRef")).get("uid") == pod_uid:
                return Summary(_pod_stats(_object(pod)), pods)
    if pods is None:
        raise ValueError("the answer is no summary: it has no pods")
    return Summary(None, pods)


def moment_of(text: object) -> float | None:
    """Return the seconds since the epoch of an RFC 3339 time; None for what is none."""
    if not isinstance(text, str) or len(text) > 64:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return None if moment.tzinfo is None else moment.timestamp()
    except (ValueError, OverflowError):
        return None


class _Document:
    """A JSON document read from the front; only the value at hand is in memory."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder(parse_constant=_refuse)
        self._text = ""
        self._at = 0

    def members(self) -> Iterator[str]:
        """Yield each name of an object; the caller takes its value before the next."""
        self._take("{")
        while self._peek() != "}":
            name = self.value()
            if not isinstance(name, str):
                raise self._unlike("a name")
            self._take(":")
            yield name
            if self._peek() != "}":
                self._take(",")

    def items(self) -> Iterator[object]:
        """Yield each item of an array; null is an empty one, as in Go."""
        if self._peek() != "[":
            if self.value() is not None:
                raise self._unlike("an array")
            return
        self._take("[")
        while self._peek() != "]":
            yield self.value()
            if self._peek() != "]":
                self._take(",")
        self._take("]")

    def value(self) -> Any:  # noqa: ANN401 - JSON of someone else
        """Take the next value, whatever it is."""
        self._peek()
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except RecursionError as error:
                raise self._unlike("a value") from error
            except ValueError as error:
                if self._more():
                    continue
                raise self._unlike("a value") from error
            if _NUMBER_REST.fullmatch(self._text, end) and self._more():
                continue  # a number may go on, also after the first letters of its exponent
            self._at = end
            return value

    def _take(self, character: str) -> None:
        if self._peek() != character:
            raise self._unlike(f"'{character}'")
        self._at += 1

    def _peek(self) -> str:
        """Return the next character that is no space; empty at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Read on: as much again as is pending, so that a long value is tried only a few times."""
        pending = self._text[self._at :]
        if len(pending) > VALUE_CHARACTERS_MAX:
            raise ValueError(f"a value in the answer has over {VALUE_CHARACTERS_MAX} characters")
        fresh: list[str] = []
        characters = 0
        for piece in self._pieces:
            fresh.append(self._decoder.decode(piece))
            characters += len(fresh[-1])
            if characters > len(pending):
                break
        self._text, self._at = pending + "".join(fresh), 0
        return characters > 0

    def _unlike(self, wanted: str) -> ValueError:
        found = self._text[self._at : self._at + 60]
        where = f"there is {shown(found)}" if found else "the answer ends"
        return ValueError(f"the answer is no summary: where {wanted} should be, {where}")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _pod_stats(pod: Mapping[str, Any]) -> PodStats:
    listed = pod.get("containers")
    containers = listed if isinstance(listed, list) else []
    if len(containers) > CONTAINERS_MAX:
        raise ValueError(f"{len(containers)} containers in one pod")
    return PodStats(
        containers=tuple(_container_stats(_object(container)) for container in containers),
        cpu=_cpu(pod),
    )


def _container_stats(container: Mapping[str, Any]) -> ContainerStats:
    name, started = container.get("name"), container.get("startTime")
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARACTERS_MAX:
        raise ValueError("a container without a name")
    started_s = moment_of(started)
    return ContainerStats(
        name=name,
        started="" if started_s is None else str(started),
        started_s=started_s,
        cpu=_cpu(container),
        working_set_bytes=_counter(_object(container.get("memory")), "workingSetBytes"),
    )


def _cpu(owner: Mapping[str, Any]) -> Sample | None:
    """Return usageCoreNanoSeconds in seconds, at its own moment; None where either is missing."""
    cpu = _object(owner.get("cpu"))
    usage_ns = _counter(cpu, "usageCoreNanoSeconds")
    moment_s = moment_of(cpu.get("time"))
    if usage_ns is None or moment_s is None:
        return None
    return Sample(moment_s, usage_ns / _NS_PER_S)


def _counter(owner: Mapping[str, Any], name: str) -> int | None:
    value = owner.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _COUNTER_MAX:
        raise ValueError(f"{name} is {shown(str(value)[:100])}, no count")
    return value
