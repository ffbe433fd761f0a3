"""Kubelet and Kubernetes API over plain HTTPS, with the pod's service account: no client library.

The token is read anew for each request (kubelet replaces it) and goes to this one host, whose
certificate is verified with the given authorities; nothing is ever asked unverified.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

from sidecar import bounded_http
from sidecar.bounded_http import (
    Answer,
    Limits,
    NoAnswerError,
    Request,
    TokenError,
    one_line,
    shown_path,
)

CONNECT_TIMEOUT_S: Final = 1.0
"""For each address of the host; within a cluster it takes milliseconds."""

DEADLINE_S: Final = 1.0
ANSWER_BYTES_MAX: Final = 1024 * 1024
"""Of a body, where the caller says nothing else; one object has some kilobytes."""

REFUSAL_BYTES_MAX: Final = 16 * 1024
"""Of the body of any other status than 2xx: a Status object has some hundred bytes."""

T = TypeVar("T")

Trouble = Literal["token", "unreachable", "tls", "slow", "refused", "answer"]
"""No usable token, nobody reached, a certificate that does not hold, no whole answer in time, a status
that is no success, an answer that is not what was asked for."""

_MOUNT_ADVICE: Final = (
    "mount the service account's token (automountServiceAccountToken), or set "
    "EMISSIONS_KUBERNETES_TOKEN_FILE"
)
_ADVICE: Final[Mapping[str, str]] = {
    "look-up": "does a NetworkPolicy allow the cluster's DNS, and is the host right?",
    "refused": "is it the right address, and does anybody listen there?",
}
_ADVICE_ELSE: Final = "is a kubelet or a Kubernetes API at this address?"

_KUBELET_RESOURCES: Final = {"stats": "stats", "metrics": "metrics", "logs": "log", "pods": "pods"}
"""kubelet authorises by the first part of the path (Kubernetes documentation, "Kubelet
authentication/authorization"; KEP-2862): subresources of nodes. All else is nodes/proxy."""

_API_PATH: Final = re.compile(
    r"/api(?:s/(?P<group>[^/]+))?/v[^/]+(?:/namespaces/(?P<namespace>[^/?]+)(?=/))?"
    r"/(?P<resource>[^/?]+)(?P<name>/[^/?]+)?"
)


class KubernetesHttpError(Exception):
    """There is no answer to use. One line: what happened, with which value, and what to do.

    `status` is that of an answer that refused, with trouble `refused`.
    """

    def __init__(self, trouble: Trouble, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.trouble = trouble
        self.status = status


@dataclass(frozen=True, slots=True)
class _Asked:
    method: str
    path: str
    limits: Limits
    content: bytes | None = None


class KubernetesHttp:
    """Asks one kubelet or API server; each request has a connection of its own, from any thread.

    `url` is https://HOST[:PORT]; unencrypted only to this machine (`kubectl proxy`), for the token
    would be seen.
    """

    def __init__(self, url: str, token_file: Path, ca_file: Path) -> None:
        self.url = url.rstrip("/")
        self.token_file = token_file
        self.ca_file = ca_file

    def get_json(
        self, path: str, deadline_s: float = DEADLINE_S, max_bytes: int = ANSWER_BYTES_MAX
    ) -> Any:  # noqa: ANN401 - JSON of someone else
        """Return the JSON document at this path (with its query). Raises KubernetesHttpError."""
        return self.get(path, parse_json, deadline_s, max_bytes)

    def get(
        self,
        path: str,
        read: Callable[[Iterator[bytes]], T],
        deadline_s: float = DEADLINE_S,
        max_bytes: int = ANSWER_BYTES_MAX,
    ) -> T:
        """Return what `read` makes of the pieces of a body; it raises ValueError for a bad one.

        Raises KubernetesHttpError. `read` may leave the rest of the body where it is.
        """
        limits = Limits(deadline_s, CONNECT_TIMEOUT_S, max_bytes)
        return self._ask(_Asked("GET", path, limits), read)

    def post_json(
        self,
        path: str,
        document: Mapping[str, Any],
        deadline_s: float = DEADLINE_S,
        max_bytes: int = ANSWER_BYTES_MAX,
    ) -> Any:  # noqa: ANN401
        """Send a JSON document and return the one that answers it. Raises KubernetesHttpError."""
        limits = Limits(deadline_s, CONNECT_TIMEOUT_S, max_bytes)
        content = json.dumps(document, allow_nan=False).encode()
        return self._ask(_Asked("POST", path, limits, content), parse_json)

    def _ask(self, asked: _Asked, read: Callable[[Iterator[bytes]], T]) -> T:
        self._require_secrecy()
        try:
            token = bounded_http.read_token(self.token_file)
        except TokenError as error:
            raise KubernetesHttpError("token", f"{error}; {_MOUNT_ADVICE}") from error
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        if asked.content is not None:
            headers["Content-Type"] = "application/json"
        url = self.url + asked.path
        request = Request(asked.method, url, headers, asked.content, self.ca_file)
        try:
            return bounded_http.exchange(
                request, asked.limits, lambda answer: self._taken(asked, answer, read, token)
            )
        except NoAnswerError as error:
            raise self._unanswered(error, asked.limits) from error

    def _require_secrecy(self) -> None:
        try:
            parts = urlsplit(self.url)
            is_secret = parts.scheme == "https" or _is_this_machine(parts.hostname or "")
        except ValueError:
            is_secret = False
        if not is_secret:
            raise KubernetesHttpError(
                "unreachable",
                f"{one_line(self.url)} is not asked: the service account's token would go there "
                "unencrypted; write https://HOST:PORT",
            )

    def _taken(
        self, asked: _Asked, answer: Answer, read: Callable[[Iterator[bytes]], T], token: str
    ) -> T:
        if not 200 <= answer.status <= 299:
            raise self._refused(asked, answer, token)
        counted = _Counted(answer.pieces, asked.limits.body_bytes_max)
        try:
            return read(counted.pieces())
        except ValueError as error:
            told = one_line(str(error).replace(token, "[secret]"))
            raise KubernetesHttpError(
                "answer", f"{self.url}{_bare(asked.path)}: {told}; {_ADVICE_ELSE}"
            ) from error

    def _refused(self, asked: _Asked, answer: Answer, token: str) -> KubernetesHttpError:
        body = b""
        for piece in answer.pieces:
            body += piece
            if len(body) > REFUSAL_BYTES_MAX:
                break
        told = _reason(body[:REFUSAL_BYTES_MAX].replace(token.encode(), b"[secret]"))
        text = f"{self.url}{_bare(asked.path)} answered {answer.status}"
        text = f"{text}: {told}" if told else text
        advice = self._advice(asked, answer.status)
        return KubernetesHttpError("refused", f"{text}; {advice}", answer.status)

    def _advice(self, asked: _Asked, status: int) -> str:
        if status == HTTPStatus.UNAUTHORIZED:
            return (
                f"the token in {shown_path(self.token_file)} has expired, or is for another audience "
                "than the Kubernetes API's; it is read anew for the next attempt"
            )
        if status == HTTPStatus.FORBIDDEN:
            return f"grant the pod's service account {missing_rule(asked.method, asked.path)}"
        if 300 <= status <= 399:
            return f"a redirect is never followed; {_ADVICE_ELSE}"
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
            return "it may pass, and is asked again"
        return _ADVICE_ELSE

    def _unanswered(self, error: NoAnswerError, limits: Limits) -> KubernetesHttpError:
        if error.fault == "slow":
            return KubernetesHttpError(
                "slow",
                f"{self.url} did not answer completely within {limits.timeout_s:g} s; is it "
                "overloaded, or a NetworkPolicy in the way?",
            )
        if error.fault == "connect":
            patience_s = min(limits.connect_timeout_s, limits.timeout_s)
            return KubernetesHttpError(
                "unreachable",
                f"{self.url} could not be reached within {patience_s:g} s; does a NetworkPolicy "
                "block the pod's way to it?",
            )
        ca_file = shown_path(self.ca_file)
        if error.fault == "ca-file":
            return KubernetesHttpError(
                "tls", f"CA file {ca_file} cannot be read; check EMISSIONS_KUBERNETES_CA_FILE"
            )
        if error.fault == "tls":
            return KubernetesHttpError(
                "tls",
                f"{self.url}: no TLS connection: {error}; its certificate must be signed by an "
                f"authority in {ca_file} (EMISSIONS_KUBERNETES_CA_FILE), for this host, and it is "
                "never asked unverified",
            )
        if error.fault == "not-asked":
            return KubernetesHttpError("unreachable", f"{self.url} was not asked: {error}")
        advice = _ADVICE.get(error.fault, _ADVICE_ELSE)
        return KubernetesHttpError("unreachable", f"{self.url}: {error}; {advice}")


def missing_rule(method: str, path: str) -> str:
    """Say which rule of a Role or ClusterRole this request needs."""
    found = _API_PATH.match(path)
    verb = "create" if method == "POST" else "get" if found is None or found["name"] else "list"
    if found is None:
        part = re.split(r"[/?]", path.lstrip("/"))[0]
        return f"a ClusterRole with {verb} on nodes/{_KUBELET_RESOURCES.get(part, 'proxy')}"
    resource = ".".join(name for name in (found["resource"], found["group"]) if name)
    if found["namespace"]:
        return f"a Role in namespace {one_line(found['namespace'])} with {verb} on {resource}"
    return f"a ClusterRole with {verb} on {resource}"


def parse_json(pieces: Iterator[bytes]) -> Any:  # noqa: ANN401
    """Return the JSON document that these bytes are. Raises ValueError."""
    body = b"".join(pieces)
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        begin = one_line(body[:60].decode(errors="replace"))
        told = f"the answer is no JSON; it begins '{begin}'" if body else "an empty answer"
        raise ValueError(told) from error


class _Counted:
    def __init__(self, pieces: Iterator[bytes], bytes_max: int) -> None:
        self._pieces = pieces
        self._bytes_max = bytes_max

    def pieces(self) -> Iterator[bytes]:
        """Hand on the pieces; raises ValueError where they are more than is allowed."""
        taken = 0
        for piece in self._pieces:
            taken += len(piece)
            if taken > self._bytes_max:
                raise ValueError(f"the answer is longer than {self._bytes_max} bytes")
            yield piece


def _refuse_constant(name: str) -> Any:  # noqa: ANN401 - as json wants it
    raise ValueError(f"{name} is no JSON")


def _reason(body: bytes) -> str:
    """Return the message of a Status object, or else the text itself (kubelet's, a proxy's)."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        message = content.get("message")
        return one_line(message) if isinstance(message, str) else ""
    return one_line(body[:1000].decode(errors="replace").strip())


def _bare(path: str) -> str:
    return one_line(path.partition("?")[0])


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
