"""A webhook in a thread, and admission reviews to send to it."""

import base64
import json
import shutil
import threading

import psutil
import requests

from sidecar.injector.certificate import Certificate as Served
from sidecar.injector.metrics import InjectorMetrics
from sidecar.injector.patch import patched
from sidecar.injector.webhook import Parts, webhook_app
from sidecar.serving import Service, Serving, TlsFiles
from tests.e2e.commands import PATIENCE_S, until
from tests.injector.goldens import CONFIG

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"


def review(pod, **request):
    """A review as an API server 1.36 sends it for a pod of a Job: without a name."""
    return {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": UID,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "vision",
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:job-controller"},
            "object": pod,
            "oldObject": None,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
            **request,
        },
    }


def response_of(content):
    """The response of a review that was answered; it lets the pod through, always."""
    answered = json.loads(content)
    assert (answered["apiVersion"], answered["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert answered["response"]["allowed"] is True
    return answered["response"]


def changed(pod, response):
    """The pod with the patch of the response, as the API server applies it."""
    if "patch" not in response:
        return pod
    assert response["patchType"] == "JSONPatch"
    return patched(pod, json.loads(base64.b64decode(response["patch"], validate=True)))


class RunningWebhook:
    """A webhook in a thread of this process, at https with files that can be exchanged."""

    def __init__(self, pair, directory, **parts) -> None:
        self.tls = TlsFiles(directory / "tls.crt", directory / "tls.key")
        self.use(pair)
        metrics = InjectorMetrics(with_certificate=True)
        given = {
            "config": CONFIG,
            "certificate": Served(self.tls.certificate, self.tls.key),
            "metrics": metrics,
        }
        self.parts = Parts(**{**given, **parts})
        serving = Serving(
            host="127.0.0.1", port=0, tls=self.tls, drain_s=0, finish_s=5, tls_check_s=0.02
        )
        self.service = Service(webhook_app(self.parts), serving, self.parts.readiness)
        self._thread = threading.Thread(target=self.service.run)
        self.session = requests.Session()

    def use(self, pair) -> None:
        """Serve another certificate, as when a Secret changes."""
        self.authority = str(pair.cert_file)
        for source, target in (
            (pair.cert_file, self.tls.certificate),
            (pair.key_file, self.tls.key),
        ):
            fresh = target.with_suffix(".new")
            shutil.copy(source, fresh)
            fresh.rename(target)

    def start(self) -> None:
        self._thread.start()
        until(lambda: self.service.port)

    def stop(self) -> None:
        self.session.close()
        until(lambda: not self._is_connected())  # TLS says goodbye before it is over
        self.service.stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _is_connected(self) -> bool:
        connections = psutil.Process().net_connections("tcp")
        return any(
            one.laddr.port == self.service.port and one.status != psutil.CONN_LISTEN
            for one in connections
        )

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.service.port}"

    def get(self, path):
        return requests.get(self.url + path, verify=self.authority, timeout=PATIENCE_S)

    def post(self, body, path="/mutate?timeout=3s"):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.session.post(
            self.url + path, data=content, verify=self.authority, timeout=PATIENCE_S,
            headers={"Content-Type": "application/json"},
        )  # fmt: skip

    def metric(self, outcome, reason) -> float:
        labels = {"outcome": outcome, "reason": reason}
        name = "emissions_injector_requests_total"
        return self.parts.metrics.registry.get_sample_value(name, labels) or 0.0
