"""The Kubernetes API, as far as the collector asks it: token reviews, one pod, one node's labels.

Rights it needs: `create` on `tokenreviews` (the role system:auth-delegator), `get` on `nodes`, and
`get` on `pods` where segments are handed over.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import urllib3
from kubernetes.client import (
    ApiClient,
    Configuration,
    CoreV1Api,
)
from kubernetes.client.exceptions import ApiException
from kubernetes.config import load_incluster_config, load_kube_config
from kubernetes.config.config_exception import ConfigException

from sidecar.collector.limits import retry_after_s
from sidecar.collector.refusal import Refusal
from sidecar.settings import SettingsError

TIMEOUT_S: Final = (2.0, 5.0)
"""To connect, and to read; the client has none of its own."""

CALLS_MAX: Final = 8
"""Calls at a time."""

REVIEWS_PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"

_ENDED: Final = ("Succeeded", "Failed")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReviewedToken:
    """What the API server says of a token; `extra` is what it knows beside the user's name."""

    is_authenticated: bool
    username: str
    audiences: tuple[str, ...]
    extra: Mapping[str, tuple[str, ...]]
    error: str


class Cluster:
    """Asks the Kubernetes API. Calls block, some seconds at most; any thread may make them.

    Each raises Refusal (503) where there is no usable answer.
    """

    def __init__(self, api: ApiClient, timeout_s: tuple[float, float]) -> None:
        self._api = api
        self._core = CoreV1Api(api)
        self._timeout_s = timeout_s

    def review(self, token: str, audience: str) -> ReviewedToken:
        """Return what the API server says of a token, asked about this audience."""
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        what = "create tokenreviews"
        status = _answered(what, lambda: _status_in(self._posted(REVIEWS_PATH, asked)))
        if status is None:
            raise _unusable(what, "an answer without status")
        return status

    def _posted(self, path: str, document: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """Post over the client's connections, without its models: they take most of a review's time."""
        configuration = self._api.configuration
        headers = {
            **self._api.default_headers,
            "Accept": "application/json",
            "Content-Type": "application/json",
        }
        authorization = configuration.get_api_key_with_prefix("BearerToken", "authorization")
        if authorization:
            headers["authorization"] = authorization
        answer = self._api.rest_client.pool_manager.request(
            "POST",
            f"{configuration.host}{path}",
            body=json.dumps(document).encode(),
            headers=headers,
            timeout=urllib3.Timeout(connect=self._timeout_s[0], read=self._timeout_s[1]),
        )
        if not 200 <= answer.status <= 299:
            raise ApiException(status=answer.status, reason=answer.reason)
        return json.loads(answer.data)

    def is_gone(self, namespace: str, pod: str, pod_uid: str) -> bool:
        """Whether a pod's containers run no more: it is deleted, replaced, Succeeded or Failed.

        A finished pod stays as an object, for days where a Job keeps it; its containers have ended,
        and so nothing more comes from it.
        """
        try:
            found = _answered(
                "get pods",
                lambda: self._core.read_namespaced_pod(
                    pod, namespace, _request_timeout=self._timeout_s
                ),
            )
        except _Absent:
            return True
        if found.metadata is None or not found.metadata.uid:
            raise _unusable("get pods", "a pod without uid")
        phase = found.status.phase if found.status else None
        return found.metadata.uid != pod_uid or phase in _ENDED

    def node_labels(self, node: str) -> Mapping[str, str] | None:
        """Return the labels of a node; None where there is no such node."""
        try:
            found = _answered(
                "get nodes",
                lambda: self._core.read_node(node, _request_timeout=self._timeout_s),
            )
        except _Absent:
            return None
        labels = found.metadata.labels if found.metadata else None
        return labels or {}


def open_cluster(environ: Mapping[str, str], timeout_s: tuple[float, float] = TIMEOUT_S) -> Cluster:
    """Connect as the pod's service account, or else as KUBECONFIG says. Raises SettingsError."""
    configuration = Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in environ:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            load_kube_config(  # type: ignore[no-untyped-call]
                environ.get("KUBECONFIG"), client_configuration=configuration
            )
    except (ConfigException, OSError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise SettingsError(
            f"no access to a Kubernetes API: {line}; run in a pod with a service account, or set "
            "KUBECONFIG"
        ) from error
    # One more try, for a kept connection that the API server has closed.
    configuration.retries = urllib3.Retry(
        total=1, redirect=0, status=0, other=0, allowed_methods=None
    )
    configuration.connection_pool_maxsize = CALLS_MAX
    return Cluster(ApiClient(configuration), timeout_s)


def _status_in(review: Any) -> ReviewedToken | None:  # noqa: ANN401 - JSON of someone else
    """Return what a TokenReview says; None where nothing. Any error of Python: it is none."""
    status = review.get("status")
    if not status:
        return None
    user = status.get("user") or {}
    extra = (user.get("extra") or {}).items()
    return ReviewedToken(
        is_authenticated=status.get("authenticated") is True,
        username=_text(user.get("username")),
        audiences=tuple(map(_text, status.get("audiences") or ())),
        extra={name: tuple(map(_text, values or ())) for name, values in extra},
        error=_text(status.get("error")),
    )


def _text(value: object) -> str:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} where a text is expected")
    return value or ""


class _Absent(Exception):  # noqa: N818 - an answer: there is no such object
    """The API server says 404."""


def _answered(what: str, call: Callable[[], T]) -> T:
    """Return an answer. Raises _Absent, or Refusal (503); texts of the API server are not shown."""
    try:
        return call()
    except ApiException as error:
        if error.status == 404:
            raise _Absent from error
        if error.status in (401, 403):
            raise _unusable(
                what, f"HTTP {error.status}: the collector's service account may not {what}"
            ) from error
        raise _unusable(what, f"HTTP {error.status} {error.reason or ''}".rstrip()) from error
    except urllib3.exceptions.HTTPError as error:
        raise _unusable(what, f"no answer ({type(error).__name__})") from error
    except (ValueError, TypeError, AttributeError) as error:  # the client's, on what is no object
        raise _unusable(what, "an answer that is no Kubernetes object") from error


def _unusable(what: str, reason: str) -> Refusal:
    return Refusal(
        503,
        "kubernetes_api",
        f"asked the Kubernetes API to {what}: {reason}; come again",
        retry_after_s=retry_after_s(2),
    )
