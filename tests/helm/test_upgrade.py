"""What Helm makes once and keeps: `lookup` against an API server of loopback that holds the Secrets."""

import base64
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from tests.helm.tools import CHART, HELM, MAJORS, NAMESPACE, RELEASE, Rendering, values_file

pytestmark = pytest.mark.needs("helm")

_KINDS = {
    "v1": ("Secret", "ConfigMap", "Service", "ServiceAccount", "Pod"),
    "apps/v1": ("Deployment",),
    "batch/v1": ("CronJob",),
    "policy/v1": ("PodDisruptionBudget",),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "rbac.authorization.k8s.io/v1": ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
    "admissionregistration.k8s.io/v1": ("MutatingWebhookConfiguration",),
}
_CLUSTER_WIDE = ("ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration")


def _discovery() -> dict[str, Any]:
    """What an API server says of its kinds, by path."""
    groups = []
    answers: dict[str, Any] = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
    }
    for group_version, kinds in _KINDS.items():
        resources = [_resource(kind) for kind in kinds]
        listed = {"kind": "APIResourceList", "groupVersion": group_version, "resources": resources}
        group, _, version = group_version.rpartition("/")
        answers[f"/apis/{group_version}" if group else "/api/v1"] = listed
        if group:
            one = {"groupVersion": group_version, "version": version}
            groups.append({"name": group, "versions": [one], "preferredVersion": one})
    return answers | {"/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}}


def _resource(kind: str) -> dict[str, Any]:
    plural = re.sub("y$", "ie", kind.lower()) + "s"
    return {
        "name": plural,
        "singularName": kind.lower(),
        "namespaced": kind not in _CLUSTER_WIDE,
        "kind": kind,
        "verbs": ["get", "create", "patch"],
    }


@dataclass
class Cluster:
    """As much of an API server as `lookup` asks: discovery, and Secrets by name."""

    kubeconfig: Path
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    discovery: dict[str, Any] = field(default_factory=_discovery)

    def answer(self, path: str) -> dict[str, Any] | None:
        parent, _, name = path.rpartition("/")
        if parent == f"/api/v1/namespaces/{NAMESPACE}/secrets":
            return self.secrets.get(name)
        return self.discovery.get(path)

    def apply(self, rendering: Rendering) -> None:
        """Keep the Secrets, as an installation does."""
        for secret in rendering.of_kind("Secret"):
            owner = {
                "meta.helm.sh/release-name": RELEASE,
                "meta.helm.sh/release-namespace": NAMESPACE,
            }
            metadata = {**secret["metadata"], "annotations": owner}
            self.secrets[metadata["name"]] = {**secret, "metadata": metadata}

    def render(self, major: int, *options: str) -> Rendering:
        """What `helm upgrade` would send."""
        command = [str(HELM[major]), "template", RELEASE, str(CHART), "--dry-run=server"]
        command += ["--disable-openapi-validation", f"--namespace={NAMESPACE}"]
        command += [f"--values={values_file('blob')}", *options]
        environ = {
            "KUBECONFIG": str(self.kubeconfig),
            "HOME": str(self.kubeconfig.parent),
            "PATH": os.defpath,
        }
        run = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr
        return Rendering(run.stdout, run.stderr)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    fake = Cluster(tmp_path / "kubeconfig")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = fake.answer(self.path.partition("?")[0])
            status = 200 if found is not None else 404
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
            missing |= {"reason": "NotFound", "code": 404}
            body = json.dumps(found or missing).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    context = {"cluster": "fake", "user": "nobody", "namespace": NAMESPACE}
    configuration = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": address}}],
        "contexts": [{"name": "fake", "context": context}],
        "users": [{"name": "nobody", "user": {}}],
    }
    fake.kubeconfig.write_text(yaml.safe_dump(configuration))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("major", MAJORS)
def test_an_upgrade_keeps_certificate_and_handover_key_to_the_byte(
    cluster: Cluster, major: int
) -> None:
    installed = cluster.render(major)
    cluster.apply(installed)
    assert len(cluster.secrets) == 2
    assert cluster.render(major).text == installed.text


def test_two_installations_share_no_secret(cluster: Cluster) -> None:
    first, second = cluster.render(4), cluster.render(4)
    for suffix in ("-webhook-tls", "-handover"):
        assert first.one("Secret", suffix)["data"] != second.one("Secret", suffix)["data"]


def test_a_secret_that_lost_a_part_is_made_anew_as_a_whole(cluster: Cluster) -> None:
    installed = cluster.render(4)
    cluster.apply(installed)
    (name,) = (name for name in cluster.secrets if name.endswith("-webhook-tls"))
    del cluster.secrets[name]["data"]["ca.crt"]
    before = dict(cluster.secrets[name]["data"])
    renewed = cluster.render(4)
    after = renewed.one("Secret", "-webhook-tls")["data"]
    assert set(after) == {"ca.crt", "tls.crt", "tls.key"}
    assert after["tls.crt"] != before["tls.crt"]
    webhook, *_ = renewed.one("MutatingWebhookConfiguration")["webhooks"]
    assert webhook["clientConfig"]["caBundle"] == after["ca.crt"]


def test_the_certificate_is_of_the_service_and_signed_by_the_bundle(cluster: Cluster) -> None:
    rendering = cluster.render(4)
    content = rendering.one("Secret", "-webhook-tls")["data"]
    pem = {name: base64.b64decode(text) for name, text in content.items()}
    certificate = x509.load_pem_x509_certificate(pem["tls.crt"])
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(pem["ca.crt"]))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    service = rendering.one("Service", "-webhook")["metadata"]["name"]
    assert f"{service}.{NAMESPACE}.svc" in names.get_values_for_type(x509.DNSName)


def test_the_handover_key_is_long_enough_for_the_collector(cluster: Cluster) -> None:
    from sidecar.collector.handover import KEY_BYTES_MIN

    secret = cluster.render(4).one("Secret", "-handover")
    assert len(base64.b64decode(secret["data"]["handover.key"])) >= KEY_BYTES_MIN
