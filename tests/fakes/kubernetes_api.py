"""A fake Kubernetes API: token reviews, pods and nodes, over real HTTP, well-behaved or not.

with FakeKubernetesApi() as api:
    token = api.token(pod="train-0", pod_uid="uid-0", node="node-1")
    ... api.kubeconfig(tmp_path / "kubeconfig") ...

Objects, kinds and refusals are as a kube-apiserver 1.36 gives them.
"""

import base64
import itertools
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

AUDIENCE = "emissions-collector"
OWN_TOKEN = "the-token-of-the-collector"
REVIEWS_PATH = "/apis/authentication.k8s.io/v1/tokenreviews"

AKS_LABELS: Mapping[str, str] = {
    "agentpool": "gpupool",
    "kubernetes.azure.com/agentpool": "gpupool",
    "kubernetes.io/hostname": "aks-gpupool-12345678-vmss000001",
    "node.kubernetes.io/instance-type": "Standard_NC24ads_A100_v4",
    "topology.kubernetes.io/region": "westeurope",
    "topology.kubernetes.io/zone": "westeurope-2",
}


@dataclass(frozen=True)
class Known:
    """What the API server knows of a token."""

    namespace: str = "team-a"
    service_account: str = "default"
    pod: str | None = "train-0"
    pod_uid: str | None = "11111111-0000-4000-8000-000000000001"
    node: str | None = "aks-gpupool-12345678-vmss000001"
    audience: str = AUDIENCE
    expired: bool = False
    username: str | None = None


class FakeKubernetesApi:
    """The server as a context manager. `mode`: well, error, forbidden, hang, garbage, no-status."""

    def __init__(self) -> None:
        self.mode = "well"
        self.requests: list[str] = []
        self.reviewed: list[str] = []
        self._known: dict[str, Known] = {}
        self._pods: dict[tuple[str, str], dict[str, Any]] = {}
        self._nodes: dict[str, dict[str, Any]] = {}
        self._serials = itertools.count(1)
        self._released = threading.Event()
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.refuse()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def refuse(self) -> None:
        """Stop listening: connections are refused from now on."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def release(self) -> None:
        """Let requests that hang be answered."""
        self.mode = "well"
        self._released.set()

    def token(self, **about: Any) -> str:
        """Issue a token, in the form of a JWT; `about` are fields of Known."""
        known = Known(**about)
        claims = {"aud": [known.audience], "jti": next(self._serials), "exp": 4102444800}
        parts = ({"alg": "RS256", "kid": "k"}, claims)
        head, body = (_base64url(json.dumps(part).encode()) for part in parts)
        token = f"{head}.{body}.{_base64url(b'signed')}"
        self._known[token] = known
        return token

    def revoke(self, token: str) -> None:
        """Forget a token, as when its pod is deleted."""
        del self._known[token]

    def add_pod(self, namespace: str, name: str, uid: str, phase: str = "Running") -> None:
        self._pods[namespace, name] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "spec": {"containers": [{"name": "train", "image": "train"}]},
            "status": {"phase": phase},
        }

    def add_node(self, name: str, labels: Mapping[str, str] = AKS_LABELS) -> None:
        self._nodes[name] = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "uid": f"uid-of-{name}", "labels": dict(labels)},
            "spec": {},
            "status": {},
        }

    def kubeconfig(self, path: Path) -> Path:
        """Write a file for KUBECONFIG."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "collector", "user": {"token": OWN_TOKEN}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "collector"}}],
            "current-context": "fake",
        }
        path.write_text(json.dumps(config))
        return path

    def _review(self, body: Mapping[str, Any]) -> dict[str, Any]:
        spec = body["spec"]
        self.reviewed.append(spec["token"])
        known = self._known.get(spec["token"])
        audiences = spec.get("audiences") or ["https://kubernetes.default.svc"]
        if known is None or known.expired:
            status = {"user": {}, "error": "[invalid bearer token, token has expired]"}
        elif known.audience not in audiences:
            status = {
                "user": {},
                "error": f'token audiences ["{known.audience}"] is invalid for the target audiences '
                f"{json.dumps(audiences)}",
            }
        else:
            status = {
                "authenticated": True,
                "user": _user(known),
                "audiences": [known.audience],
            }
        return {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "metadata": {},
            "spec": spec,
            "status": status,
        }

    def _object(self, path: str) -> dict[str, Any] | None:
        match path.strip("/").split("/"):
            case ["api", "v1", "namespaces", namespace, "pods", name]:
                return self._pods.get((namespace, name))
            case ["api", "v1", "nodes", name]:
                return self._nodes.get(name)
        return None


def _user(known: Known) -> dict[str, Any]:
    account = f"system:serviceaccount:{known.namespace}:{known.service_account}"
    extra = {
        "authentication.kubernetes.io/credential-id": ["JTI=0"],
        "authentication.kubernetes.io/pod-name": [known.pod],
        "authentication.kubernetes.io/pod-uid": [known.pod_uid],
        "authentication.kubernetes.io/node-name": [known.node],
    }
    return {
        "username": known.username or account,
        "uid": "uid-of-the-account",
        "groups": ["system:serviceaccounts", "system:authenticated"],
        "extra": {name: values for name, values in extra.items() if values != [None]},
    }


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    api: ClassVar[FakeKubernetesApi]
    timeout = 30

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, content: bytes) -> None:
        path = urlsplit(self.path).path
        self.api.requests.append(f"{self.command} {path}")
        if self.api.mode == "hang":
            self.api._released.wait()
        code, answer = self._answered(path, content)
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        try:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # who hung up in the meantime
            self.close_connection = True

    def _answered(self, path: str, content: bytes) -> tuple[int, Any]:
        if self.headers["Authorization"].split()[-1] != OWN_TOKEN:
            return 401, _status(401, "Unauthorized", "Unauthorized")
        if self.api.mode in _BAD_ANSWERS:
            return _BAD_ANSWERS[self.api.mode]
        if path == REVIEWS_PATH and self.command == "POST":
            return 201, self.api._review(json.loads(content))
        found = self.api._object(path)
        name = path.rpartition("/")[2]
        return (200, found) if found else (404, _status(404, "NotFound", f'"{name}" not found'))


_BAD_ANSWERS: Mapping[str, tuple[int, Any]] = {
    "error": (500, _status(500, "InternalError", "etcdserver: request timed out")),
    "forbidden": (403, _status(403, "Forbidden", "User cannot do that")),
    "garbage": (200, b'["the answer of a proxy"]'),
    "no-status": (200, {"kind": "TokenReview", "spec": {"token": "t"}}),
}
"""By mode."""
