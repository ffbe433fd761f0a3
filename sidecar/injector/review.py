"""AdmissionReview in, AdmissionReview out: a pod is let through whatever happens.

`failurePolicy: Ignore` does not cover an answer that says no, or a patch that does not apply: both
make the API server refuse the pod. So nothing here ever answers anything but `allowed: true`.
"""

import base64
import json
import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from sidecar.identity.bounded import shown
from sidecar.injector.config import InjectConfig
from sidecar.injector.inject import Decision, Reason, inject
from sidecar.injector.patch import PatchError
from sidecar.injector.pod_shape import JsonObject, PodShapeError, object_at

_log = logging.getLogger(__name__)

API_VERSION: Final = "admission.k8s.io/v1"
_MAX_UID_CHARACTERS: Final = 256

Outcome = Literal["injected", "skipped", "unchanged", "failed"]

FAILURES: Final = (
    "not_json",
    "not_a_review",
    "not_a_pod_created",
    "malformed_pod",
    "patch",
    "internal",
    "body",
)
"""Reasons of the outcome `failed`; those of the others are `Reason`."""

_UNCHANGED: Final = (Reason.ALREADY_INJECTED, Reason.NOT_TRACKED)


class ReviewError(ValueError):
    """A request that cannot be answered with a patch. `reason` is one of `FAILURES`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets, and what is counted. `content` is None where no uid could be read."""

    content: bytes | None
    outcome: Outcome
    reason: str


def answer(body: bytes, namespace_labels: Mapping[str, str], config: InjectConfig) -> Answer:
    """Answer the body of a request; never raises."""
    uid = None
    try:
        review = _review(body)
        uid = _uid(review)
        request = _request(review)
        decision = inject(object_at(request, "object"), namespace_labels, config)
        _tell(request, decision)
        return Answer(_encoded(uid, decision), outcome_of(decision.reason), decision.reason.value)
    except ReviewError as error:
        reason, detail = error.reason, str(error)
    except PodShapeError as error:
        reason, detail = "malformed_pod", str(error)
    except PatchError as error:
        reason, detail = "patch", str(error)
    except Exception as error:  # noqa: BLE001 - no pod is to be held up by a bug of ours
        reason, detail = "internal", _place(error)
    _log.error("request let through without a patch (%s): %s", reason, detail)
    content = None if uid is None else _encoded(uid, Decision(Reason.NOT_TRACKED))
    return Answer(content, "failed", reason)


def _review(body: bytes) -> JsonObject:
    try:
        review = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ReviewError("not_json", f"{len(body)} bytes are no JSON") from error
    if not isinstance(review, Mapping):
        raise ReviewError("not_a_review", f"a {type(review).__name__} is no AdmissionReview")
    return review


def _uid(review: JsonObject) -> str:
    request = review.get("request")
    uid = request.get("uid") if isinstance(request, Mapping) else None
    if not isinstance(uid, str) or not 0 < len(uid) <= _MAX_UID_CHARACTERS:
        raise ReviewError("not_a_review", "there is no request.uid")
    return uid


def _request(review: JsonObject) -> JsonObject:
    """Return the request. Raises ReviewError where it is not about a pod that is created."""
    if review.get("apiVersion") != API_VERSION or review.get("kind") != "AdmissionReview":
        raise ReviewError("not_a_review", f"its apiVersion and kind are not {API_VERSION}'s")
    request = object_at(review, "request")
    kind = object_at(request, "kind")
    is_pod = (kind.get("group", ""), kind.get("version"), kind.get("kind")) == ("", "v1", "Pod")
    # Nothing of a pod that exists may be changed the way we do: the API server would refuse it.
    if not is_pod or request.get("operation") != "CREATE" or request.get("subResource"):
        raise ReviewError("not_a_pod_created", "the request is not about a pod that is created")
    return request


def outcome_of(reason: Reason) -> Outcome:
    """Return what became of a pod that this is the reason of."""
    if reason is Reason.INJECTED:
        return "injected"
    return "unchanged" if reason in _UNCHANGED else "skipped"


def _encoded(uid: str, decision: Decision) -> bytes:
    response: dict[str, Any] = {"uid": uid, "allowed": True}
    if decision.operations:
        patch = json.dumps(decision.operations).encode()
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}
    if decision.warnings:
        response["warnings"] = decision.warnings
    review = {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}
    return json.dumps(review).encode()  # escaped to ASCII: a pod may hold lone surrogates


def _tell(request: JsonObject, decision: Decision) -> None:
    metadata = object_at(object_at(request, "object"), "metadata")
    # A pod of a Job has no name yet.
    name = metadata.get("name") or metadata.get("generateName")
    level = logging.DEBUG if decision.reason in _UNCHANGED else logging.INFO
    namespace = request.get("namespace")
    _log.log(
        level, "pod %s/%s: %s", _word(namespace), _word(name), decision.status or decision.reason
    )


def _word(value: object) -> str:
    """Return a name as it may stand in a log."""
    text = str(value)
    return text if text.isascii() and text.isprintable() and len(text) <= 253 else shown(text)


def _place(error: Exception) -> str:
    """Return kind and place of an error; its text may hold what stands in the pod."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {frame.filename}:{frame.lineno}"
