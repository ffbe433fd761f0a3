"""Pods that asked to be tracked, as the Kubernetes API lists them, and the last words of their sidecars.

What a sidecar could not ship stands in its termination message, as long as Kubernetes keeps the pod.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from urllib.parse import quote

from sidecar.amounts import counted
from sidecar.identity.bounded import shown
from sidecar.kubernetes_http import KubernetesHttp
from sidecar.report.figures.inputs import Amounts, PodKind

CONTAINER: Final = "emissions-sidecar"
STATUS: Final = "emissions/status"
TRACK: Final = "emissions/track"
AZUREML_RUN: Final = "ml.azure.com/run-id"

OptIn = Literal["all", "azureml", "none"]
"""Which pods the label of a namespace takes in, as in the chart's `injection.namespaceOptIn`."""

ITEMS_PER_PAGE: Final = 200
PAGES_MAX: Final = 1000
PAGE_BYTES_MAX: Final = 64 * 1024**2
"""A pod's document is at most 1.5 MiB, usually some 10 KiB."""

PAGE_S: Final = 30.0

STARTING: Final = timedelta(minutes=15)
"""Three times the usual interval of shipping: until then records may be on their way."""

_MESSAGE_BYTES_MAX: Final = 4096
_TEXT_CHARACTERS_MAX: Final = 253
_NEVER: Final = (
    "never injected: made before injection was on, while the injector did not answer, or out of its "
    "reach"
)


@dataclass(frozen=True, slots=True)
class LastWords:
    """What a termination message tells (`exporters.termination`): totals of the container's life."""

    amounts: Amounts = field(default_factory=Amounts)
    unshipped_records: int | None = None
    refused_segments: int | None = None
    project: str | None = None
    window_start: str | None = None


@dataclass(frozen=True, slots=True)
class TrackedPod:
    """A pod that asked. `kind` and `reason` hold where it turns out to have no records."""

    namespace: str
    pod: str
    uid: str
    kind: PodKind
    reason: str
    words: LastWords | None = None


def tracked_pods(api: KubernetesHttp, now: datetime, opt_in: OptIn = "all") -> list[TrackedPod]:
    """List the pods that asked by annotation, namespace, or a sidecar. Raises KubernetesHttpError."""
    labelled = frozenset() if opt_in == "none" else frozenset(_labelled(api))
    pods = _items(api, "/api/v1/pods", "")
    return [_tracked(pod, now) for pod in pods if _asked(pod, labelled, opt_in)]


def _labelled(api: KubernetesHttp) -> Iterator[str]:
    selector = quote(f"{TRACK}=true", safe="")
    for namespace in _items(api, "/api/v1/namespaces", f"&labelSelector={selector}"):
        yield _text(_mapping(namespace, "metadata"), "name")


def _items(api: KubernetesHttp, path: str, query: str) -> Iterator[Mapping[str, Any]]:
    """Yield all of a list, page by page. What comes or goes meanwhile may be missed."""
    following = ""
    for _ in range(PAGES_MAX):
        asked = f"{path}?limit={ITEMS_PER_PAGE}{query}"
        if following:
            asked += f"&continue={quote(following, safe='')}"
        page = api.get_json(asked, PAGE_S, PAGE_BYTES_MAX)
        listed = page.get("items") if isinstance(page, dict) else None
        yield from (item for item in listed or () if isinstance(item, dict))
        following = _text(_mapping(page, "metadata"), "continue", characters=100_000)
        if not following:
            return


def _asked(pod: Mapping[str, Any], labelled: frozenset[str], opt_in: OptIn) -> bool:
    """Whether it wants to be tracked; a pod's annotation comes before its namespace's label."""
    metadata = _mapping(pod, "metadata")
    annotations = _mapping(metadata, "annotations")
    if STATUS in annotations or _has_sidecar(pod):
        return True
    if TRACK in annotations:
        return bool(annotations[TRACK] == "true")
    if _text(metadata, "namespace") not in labelled:
        return False
    return opt_in != "azureml" or AZUREML_RUN in _mapping(metadata, "labels")


def _tracked(pod: Mapping[str, Any], now: datetime) -> TrackedPod:
    metadata = _mapping(pod, "metadata")
    status = _text(_mapping(metadata, "annotations"), STATUS)
    kind: PodKind = "silent"
    words = None
    if _has_sidecar(pod):
        reason, words = _state(pod)
        kind = "starting" if words is None and _is_starting(pod, now) else "silent"
    elif status.startswith("skipped"):
        kind, reason = "skipped", _one_line(status)
    else:  # a status may have come with the rest of a copied pod
        kind, reason = "never injected", _NEVER
    namespace, name, uid = (_text(metadata, key) for key in ("namespace", "name", "uid"))
    return TrackedPod(namespace, name, uid, kind, reason, words)


def _one_line(text: str) -> str:
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


def _has_sidecar(pod: Mapping[str, Any]) -> bool:
    spec = _mapping(pod, "spec")
    containers = (*_list(spec, "initContainers"), *_list(spec, "containers"))
    return any(one.get("name") == CONTAINER for one in containers)


def _sidecar_status(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    status = _mapping(pod, "status")
    found = (*_list(status, "initContainerStatuses"), *_list(status, "containerStatuses"))
    return next((one for one in found if one.get("name") == CONTAINER), {})


def _is_starting(pod: Mapping[str, Any], now: datetime) -> bool:
    """Whether its first records cannot be expected yet."""
    running = _mapping(_mapping(_sidecar_status(pod), "state"), "running")
    if running:
        began = _moment(_text(running, "startedAt"))
        return began is not None and now - began < STARTING
    is_seen = bool(_sidecar_status(pod))
    return not is_seen and _text(_mapping(pod, "status"), "phase") == "Pending"


def _state(pod: Mapping[str, Any]) -> tuple[str, LastWords | None]:
    """Say why there may be no records: what its sidecar said at its end, or how it is."""
    entry = _sidecar_status(pod)
    state = _mapping(entry, "state")
    ended = _mapping(state, "terminated") or _mapping(_mapping(entry, "lastState"), "terminated")
    if ended:
        return _end(ended)
    waiting, running = _mapping(state, "waiting"), _mapping(state, "running")
    if waiting:
        return f"its sidecar waits: {shown(_text(waiting, 'reason') or 'unknown')}", None
    if running:
        since = _text(running, "startedAt")
        long = f" since {since}" if _moment(since) else ""
        return f"its sidecar runs{long} and has sent nothing yet", None
    phase = _text(_mapping(pod, "status"), "phase")
    said = f"the pod is {shown(phase)}" if phase else "nothing is known of its sidecar"
    return said, None


def _end(ended: Mapping[str, Any]) -> tuple[str, LastWords | None]:
    """Read a termination message."""
    text = _text(ended, "message", characters=_MESSAGE_BYTES_MAX)
    try:
        said = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        said = {}
    error = said.get("error") if isinstance(said, dict) else None
    if isinstance(error, str) and error:
        return f"its sidecar metered nothing: {shown(error)}", None
    words = _words(said) if isinstance(said, dict) else LastWords()
    if words == LastWords():
        code = ended.get("exitCode")
        return f"its sidecar ended{f' with code {code}' if isinstance(code, int) else ''}", None
    if words.unshipped_records:
        records = counted(words.unshipped_records, "record")
        return f"its sidecar ended with {records} that were not shipped", words
    if words.refused_segments:
        segments = counted(words.refused_segments, "segment")
        return f"its sidecar ended; {segments} of records were refused", words
    return "its sidecar ended and left nothing behind; its records went elsewhere", words


def _words(said: Mapping[str, Any]) -> LastWords:
    amounts = Amounts(
        *(
            _amount(said, key)
            for key in ("energy_kwh", "emissions_g", "emissions_low_g", "emissions_high_g")
        )
    )
    return LastWords(
        amounts,
        _count(said, "unshipped_records"),
        _count(said, "refused_segments"),
        _text(said, "project") or None,
        _text(said, "window_start") or None,
    )


def _amount(said: Mapping[str, Any], key: str) -> float | None:
    value = said.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < 1e15 and math.isfinite(value) else None


def _count(said: Mapping[str, Any], key: str) -> int | None:
    value = said.get(key)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12
    return value if is_count else None


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _mapping(parent: object, key: str) -> Mapping[str, Any]:
    value = parent.get(key) if isinstance(parent, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _list(parent: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = parent.get(key)
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _text(parent: Mapping[str, Any], key: str, characters: int = _TEXT_CHARACTERS_MAX) -> str:
    value = parent.get(key)
    return value[:characters] if isinstance(value, str) else ""
