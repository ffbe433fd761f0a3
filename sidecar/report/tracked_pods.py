"""Pods that asked to be tracked, as the Kubernetes API lists them, against the pods that have records.

What a sidecar could not ship stands in its termination message, as long as Kubernetes keeps the pod.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from sidecar.amounts import amount
from sidecar.identity.bounded import shown
from sidecar.kubernetes_http import KubernetesHttp
from sidecar.report.figures.inputs import PodWithoutRecords

CONTAINER: Final = "emissions-sidecar"
STATUS: Final = "emissions/status"

PODS_PER_PAGE: Final = 200
PAGES_MAX: Final = 1000
PAGE_BYTES_MAX: Final = 64 * 1024**2
"""A pod's document is at most 1.5 MiB, usually some 10 KiB."""

PAGE_S: Final = 30.0
_MESSAGE_BYTES_MAX: Final = 4096
_TEXT_CHARACTERS_MAX: Final = 253


def pods_without_records(
    api: KubernetesHttp, with_records: Collection[str]
) -> list[PodWithoutRecords]:
    """List the injected pods whose uid has no record. Raises KubernetesHttpError."""
    return [
        PodWithoutRecords(_text(metadata, "namespace"), _text(metadata, "name"), _reason(pod))
        for pod in _pods(api)
        if (metadata := _mapping(pod, "metadata"))
        and _mapping(metadata, "annotations").get(STATUS) == "injected"
        and _text(metadata, "uid") not in with_records
    ]


def _pods(api: KubernetesHttp) -> Iterator[Mapping[str, Any]]:
    """Yield all pods, page by page. A pod that comes or goes meanwhile may be missed."""
    following = ""
    for _ in range(PAGES_MAX):
        path = f"/api/v1/pods?limit={PODS_PER_PAGE}"
        if following:
            path += f"&continue={quote(following, safe='')}"
        page = api.get_json(path, PAGE_S, PAGE_BYTES_MAX)
        listed = page.get("items") if isinstance(page, dict) else None
        yield from (pod for pod in listed or () if isinstance(pod, dict))
        following = _text(_mapping(page, "metadata"), "continue", characters=100_000)
        if not following:
            return


def _reason(pod: Mapping[str, Any]) -> str:
    """Say why there may be none: what its sidecar said at its end, or how it is."""
    status = _mapping(pod, "status")
    for entry in _list(status, "initContainerStatuses"):
        if entry.get("name") != CONTAINER:
            continue
        state = _mapping(entry, "state")
        ended = _mapping(state, "terminated") or _mapping(
            _mapping(entry, "lastState"), "terminated"
        )
        if ended:
            return _last_words(ended)
        waiting = _mapping(state, "waiting")
        if waiting:
            return f"its sidecar waits: {shown(_text(waiting, 'reason') or 'unknown')}"
        return "its sidecar runs; its first records are still to come"
    phase = _text(status, "phase")
    return f"the pod is {shown(phase)}" if phase else "nothing is known of its sidecar"


def _last_words(ended: Mapping[str, Any]) -> str:
    """Read a termination message: totals, and what was not shipped (`exporters.termination`)."""
    text = _text(ended, "message", characters=_MESSAGE_BYTES_MAX)
    try:
        said = json.loads(text) if text else {}
    except ValueError:
        said = {}
    if not isinstance(said, dict):
        said = {}
    error = said.get("error")
    if isinstance(error, str) and error:
        return f"its sidecar metered nothing: {shown(error)}"
    energy, grams = said.get("energy_kwh"), said.get("emissions_g")
    if isinstance(energy, int | float) and not isinstance(energy, bool):
        grams = grams if isinstance(grams, int | float) and not isinstance(grams, bool) else None
        return f"its sidecar ended with {amount(energy)} kWh, {amount(grams)} g CO2e that did not arrive"
    code = ended.get("exitCode")
    return f"its sidecar ended with code {code}" if isinstance(code, int) else "its sidecar ended"


def _mapping(parent: object, key: str) -> Mapping[str, Any]:
    value = parent.get(key) if isinstance(parent, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _list(parent: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = parent.get(key)
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _text(parent: Mapping[str, Any], key: str, characters: int = _TEXT_CHARACTERS_MAX) -> str:
    value = parent.get(key)
    return value[:characters] if isinstance(value, str) else ""
