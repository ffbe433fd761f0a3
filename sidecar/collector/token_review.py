"""Who calls: a service account's token, reviewed by the Kubernetes API, names pod and node."""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from sidecar.bearer_token import NoBearerTokenError, bearer_token
from sidecar.collector.cluster import ReviewedToken
from sidecar.collector.refusal import Refusal, shown
from sidecar.collector.remembered import Remembered

REMEMBERED_S: Final = 10.0
"""A deleted pod's token is taken this long still; a minute would be too long."""

TOKENS_MAX: Final = 4096
REVIEWS_MAX: Final = 256
"""Tokens under review or waiting for it."""

_ACCOUNT: Final = re.compile(
    r"system:serviceaccount:(?P<namespace>[a-z0-9-]{1,63}):(?P<account>[a-z0-9.-]{1,253})"
)
_EXTRA: Final = "authentication.kubernetes.io/"

ReviewOutcome = Literal["accepted", "refused", "unanswered"]


@dataclass(frozen=True, slots=True)
class Caller:
    """The pod that calls, as the API server vouches for it; `node` only where the token names it."""

    namespace: str
    service_account: str
    pod: str
    pod_uid: str
    node: str | None


class Reviews(Protocol):
    """Who reviews tokens."""

    def review(self, token: str, audience: str) -> ReviewedToken:
        """Return what is known of a token. Raises Refusal (503)."""
        ...


Threaded = Callable[[Callable[[], ReviewedToken]], Awaitable[ReviewedToken]]
"""Runs a blocking call in a thread."""


class TokenReviewer:
    """Finds the caller of a request; each token is reviewed once in some seconds."""

    def __init__(
        self,
        reviews: Reviews,
        audience: str,
        threaded: Threaded,
        *,
        remembered: Remembered[bytes, Caller | Refusal] | None = None,
        told: Callable[[ReviewOutcome], None] = lambda _: None,
    ) -> None:
        self._reviews = reviews
        self._audience = audience
        self._threaded = threaded
        self._remembered = remembered or Remembered(
            REMEMBERED_S, size=TOKENS_MAX, asking=REVIEWS_MAX
        )
        self._told = told

    async def caller(self, authorization: str | None) -> Caller:
        """Return who calls. Raises Refusal: 401 no valid token, 403 not a pod's, 503 no answer."""
        try:
            token = bearer_token(authorization)
        except NoBearerTokenError as error:
            raise Refusal(401, "no_token", str(error)) from error
        # By digest: what is remembered is of no use to who reads this process's memory or a dump.
        digest = hashlib.sha256(token.encode()).digest()
        found = await self._remembered.get(digest, lambda: self._reviewed(token))
        if isinstance(found, Refusal):
            raise Refusal(found.status, found.code, found.detail)
        return found

    async def _reviewed(self, token: str) -> Caller | Refusal:
        try:
            reviewed = await self._threaded(lambda: self._reviews.review(token, self._audience))
        except Refusal:
            self._told("unanswered")
            raise
        try:
            caller = caller_of(reviewed, self._audience)
        except Refusal as refusal:
            self._told("refused")
            return refusal
        self._told("accepted")
        return caller


def caller_of(reviewed: ReviewedToken, audience: str) -> Caller:
    """Return the pod that a reviewed token is bound to. Raises Refusal (401, 403)."""
    if not reviewed.is_authenticated or audience not in reviewed.audiences:
        raise Refusal(
            401,
            "token_refused",
            "the Kubernetes API does not accept this token for the audience "
            f"{shown(audience)}: expired, of a deleted pod, or of another audience; read the "
            "projected token anew",
        )
    account = _ACCOUNT.fullmatch(reviewed.username)
    if account is None:
        raise Refusal(
            403, "not_a_pod", f"{shown(reviewed.username)} is no service account; pods only"
        )
    pod, pod_uid, node = (_extra(reviewed, name) for name in ("pod-name", "pod-uid", "node-name"))
    if pod is None or pod_uid is None:
        raise Refusal(
            403,
            "not_a_pod",
            f"the token of {shown(reviewed.username)} is not bound to a pod; use a projected one",
        )
    return Caller(account["namespace"], account["account"], pod, pod_uid, node)


def _extra(reviewed: ReviewedToken, name: str) -> str | None:
    values = reviewed.extra.get(_EXTRA + name, ())
    return values[0] if len(values) == 1 and values[0] else None
