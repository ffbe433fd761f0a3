"""The script of `helm test`, run against an API server of loopback that injects, or does not."""

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sidecar.injector.config import default_config
from sidecar.injector.inject import inject
from sidecar.injector.patch import patched
from tests.fakes.azurite import Certificate
from tests.helm.tools import CHART

SCRIPT = CHART / "files/test_injection.py"


@dataclass
class ApiServer:
    """Takes dry runs of pods; what it was asked is kept."""

    directory: Path
    injects: bool = True
    environment: tuple[dict[str, str], ...] = ()
    asked: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0

    def admitted(self, pod: dict[str, Any]) -> dict[str, Any]:
        if not self.injects:
            return pod
        result = patched(pod, inject(pod, {}, default_config()).operations)
        result["spec"]["initContainers"][0]["env"] += self.environment
        return result

    def run_script(self) -> subprocess.CompletedProcess[str]:
        environ = {
            **os.environ,
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.port),
            "NAMESPACE": "emissions",
            "IMAGE": "emissions-sidecar:0.1.0",
            "ACCOUNT": str(self.directory),
            "TRIES": "1",
        }
        return subprocess.run(
            [sys.executable, "-c", SCRIPT.read_text()],
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def api_server(tmp_path: Path) -> Iterator[ApiServer]:
    certificate = Certificate.made_in(tmp_path)
    (tmp_path / "ca.crt").write_bytes(certificate.cert_file.read_bytes())
    (tmp_path / "token").write_text("token-of-the-test")
    fake = ApiServer(tmp_path)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            pod = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.asked.append((self.path, self.headers["Authorization"]))
            body = json.dumps(fake.admitted(pod)).encode()
            self.send_response(201)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    fake.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_passes_where_the_annotated_pod_gets_the_sidecar(api_server: ApiServer) -> None:
    run = api_server.run_script()
    assert run.returncode == 0, run.stderr
    assert "the annotated pod has the sidecar: emissions-sidecar:0.1.0" in run.stdout
    assert api_server.asked == [
        ("/api/v1/namespaces/emissions/pods?dryRun=All", "Bearer token-of-the-test")
    ]


def test_it_fails_and_says_what_to_look_at_where_nothing_injects(api_server: ApiServer) -> None:
    api_server.injects = False
    run = api_server.run_script()
    assert run.returncode == 1
    assert "no sidecar in the annotated pod; status: none. Is the injector ready?" in run.stderr


def test_it_fails_where_the_sidecar_would_stand_by_for_a_bad_setting(api_server: ApiServer) -> None:
    """Policy mode has no process that could refuse the value before the first pod has it."""
    api_server.environment = ({"name": "EMISSIONS_PUE", "value": "twelve"},)
    run = api_server.run_script()
    assert run.returncode == 1
    assert "the sidecar would meter nothing: environment EMISSIONS_PUE: " in run.stderr
    assert "Traceback" not in run.stderr
