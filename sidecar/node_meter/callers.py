"""Which pod calls: the Kubernetes API reviews its service account token and names pod and node.

TokenReview (authentication.k8s.io/v1) answers for tokens that kubelet projects into pods with extra
fields authentication.kubernetes.io/pod-name, pod-uid and, from Kubernetes 1.30 on, node-name.
"""

import functools
import hashlib
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass
from typing import Any, Final

from sidecar.bearer_token import NoBearerTokenError, bearer_token
from sidecar.identity.bounded import shown
from sidecar.kubernetes_http import KubernetesHttp, KubernetesHttpError
from sidecar.node_meter.refusal import Refusal

REVIEWS_PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"

REVIEW_S: Final = 0.8
"""A sidecar waits one second in all."""

ACCEPTED_S: Final = 300.0
"""How long a review holds, at most: what a token gets here is its own pod's numbers, while that pod
runs. With 100 sidecars on a node, a review for each in 30 s would take more CPU time than all else
together."""

SPREAD: Final = 0.25
"""Part of that by which tokens differ: windows of all pods end at the same moments, and tokens that came
together would all have to be reviewed together."""

REFUSED_S: Final = 30.0

UNANSWERED_S: Final = 3600.0
"""How long an accepted one holds while the Kubernetes API does not answer, or has not answered yet."""

TOKENS_MAX: Final = 1024
REVIEWS_MAX: Final = 8
"""Tokens remembered, so many of those accepted (a node has 250 pods at most) and of those refused; and
reviewed at the same time, others wait."""

_ACCOUNT: Final = re.compile(
    r"system:serviceaccount:(?P<namespace>[a-z0-9-]{1,63}):[a-z0-9.-]{1,253}"
)
_EXTRA: Final = "authentication.kubernetes.io/"
_TEXT_CHARACTERS_MAX: Final = 253


@dataclass(frozen=True, slots=True)
class Caller:
    """The pod that calls, as the API server vouches for it; `node` only where the token names it."""

    namespace: str
    pod: str
    pod_uid: str
    node: str | None


@dataclass(frozen=True, slots=True)
class _Known:
    found: Caller | Refusal
    since_s: float
    holds_s: float


def in_a_thread(work: Callable[[], object]) -> None:
    """Do it beside. Raises RuntimeError where no thread can be had."""
    threading.Thread(target=work, name="review", daemon=True).start()


class Callers:
    """Finds the caller of a request; each token is reviewed once in some minutes, by one thread.

    One that was accepted before is answered at once, and reviewed `behind`: a sidecar waits for a second
    only, and at the end of each window all of a node ask together.
    """

    def __init__(
        self,
        http: KubernetesHttp,
        audience: str,
        clock: Callable[[], float] = time.monotonic,
        behind: Callable[[Callable[[], object]], None] = in_a_thread,
    ) -> None:
        self._http = http
        self._audience = audience
        self._clock = clock
        self._behind = behind
        self._lock = threading.Lock()
        # Apart: tokens that somebody invents push none out that was accepted.
        self._accepted: OrderedDict[bytes, _Known] = OrderedDict()
        self._refused: OrderedDict[bytes, _Known] = OrderedDict()
        self._slots = threading.BoundedSemaphore(REVIEWS_MAX)
        self._under_review: dict[bytes, Future[Caller | Refusal]] = {}

    def __len__(self) -> int:
        return len(self._accepted) + len(self._refused)

    def caller(self, authorization: str | None) -> Caller:
        """Return who calls. Raises Refusal: 401 no valid token, 403 not a pod's, 503 no answer."""
        try:
            token = bearer_token(authorization)
        except NoBearerTokenError as error:
            raise Refusal(401, "no_token", str(error)) from error
        # By digest: what is remembered is of no use to who reads this process's memory or a dump.
        digest = hashlib.sha256(token.encode()).digest()
        found = self._found(digest, token)
        if isinstance(found, Refusal):
            raise Refusal(found.status, found.code, found.detail)
        return found

    def _found(self, digest: bytes, token: str) -> Caller | Refusal:
        with self._lock:
            known = self._recalled(digest)
            age_s = math.inf if known is None else self._clock() - known.since_s
            if known is not None and age_s < known.holds_s:
                return known.found
            review = self._under_review.get(digest)
            if review is None:
                mine = self._under_review[digest] = Future()
        if known is not None and _still_counts(known, age_s):
            if review is None:
                self._review_behind(digest, token, mine)
            return known.found
        if review is None:
            return self._reviewed(digest, token, mine)
        try:
            return review.result(2 * REVIEW_S)
        except LateError:
            return Refusal(503, "kubernetes_api", "the token's review takes too long; come again")

    def _review_behind(self, digest: bytes, token: str, review: "Future[Caller | Refusal]") -> None:
        """Review a token that has its answer already; where that cannot be, its next request does."""
        try:
            self._behind(functools.partial(self._reviewed, digest, token, review))
        except RuntimeError:
            with self._lock:
                del self._under_review[digest]
            review.set_result(Refusal(503, "busy", "no thread to review the token; come again"))

    def _reviewed(
        self, digest: bytes, token: str, review: "Future[Caller | Refusal]"
    ) -> Caller | Refusal:
        """Have the token reviewed; whoever else waits for it gets the same answer."""
        found: Caller | Refusal = Refusal(
            503, "busy", "too many tokens are under review; come again"
        )
        try:
            if self._slots.acquire(timeout=REVIEW_S):
                try:
                    found = self._asked(token)
                finally:
                    self._slots.release()
        finally:
            with self._lock:
                del self._under_review[digest]
                found = self._remembered(digest, found)
            review.set_result(found)
        return found

    def _remembered(self, digest: bytes, found: Caller | Refusal) -> Caller | Refusal:
        now_s = self._clock()
        if isinstance(found, Refusal) and found.status == 503:
            known = self._recalled(digest)
            if known is not None and _still_counts(known, now_s - known.since_s):
                return known.found
            return found
        holds_s = REFUSED_S
        if isinstance(found, Caller):
            holds_s = ACCEPTED_S * (1.0 - SPREAD * digest[0] / 256)
        for kept in (self._accepted, self._refused):
            kept.pop(digest, None)
        kept = self._accepted if isinstance(found, Caller) else self._refused
        kept[digest] = _Known(found, now_s, holds_s)
        while len(kept) > TOKENS_MAX:
            kept.popitem(last=False)
        return found

    def _recalled(self, digest: bytes) -> _Known | None:
        for kept in (self._accepted, self._refused):
            if digest in kept:
                kept.move_to_end(digest)
                return kept[digest]
        return None

    def _asked(self, token: str) -> Caller | Refusal:
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        try:
            answer = self._http.post_json(REVIEWS_PATH, review, REVIEW_S)
        except KubernetesHttpError as error:
            told = str(error).replace(token, "[secret]")
            return Refusal(503, "kubernetes_api", f"the token could not be reviewed: {told}")
        return caller_in(answer, self._audience)


def _still_counts(known: _Known, age_s: float) -> bool:
    """Whether a token is taken without a new review, where that is not to be had at once."""
    return isinstance(known.found, Caller) and age_s < UNANSWERED_S


def caller_in(review: object, audience: str) -> Caller | Refusal:
    """Return the pod that a reviewed token is bound to, or why it is not taken (401, 403, 503)."""
    status = _mapping(_mapping(review).get("status"))
    user = _mapping(status.get("user"))
    if not status:
        return Refusal(503, "kubernetes_api", "the Kubernetes API answers no TokenReview")
    audiences = status.get("audiences")
    is_meant = isinstance(audiences, list) and audience in audiences
    if status.get("authenticated") is not True or not is_meant:
        return Refusal(
            401,
            "token_refused",
            f"the Kubernetes API does not accept this token for the audience {shown(audience)}: "
            "expired, of a deleted pod, or of another audience; read the projected token anew",
        )
    username = user.get("username")
    account = _ACCOUNT.fullmatch(username) if isinstance(username, str) else None
    pod, uid = (_extra(user, name) for name in ("pod-name", "pod-uid"))
    if account is None or pod is None or uid is None:
        return Refusal(403, "not_a_pod", "the token is not bound to a pod; use a projected one")
    return Caller(account["namespace"], pod, uid, _extra(user, "node-name"))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _extra(user: Mapping[str, Any], name: str) -> str | None:
    values = _mapping(user.get("extra")).get(_EXTRA + name)
    if not isinstance(values, list) or len(values) != 1:
        return None
    value = values[0]
    is_text = isinstance(value, str) and 0 < len(value) <= _TEXT_CHARACTERS_MAX
    return value if is_text else None
