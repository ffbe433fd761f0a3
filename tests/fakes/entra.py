"""A fake Microsoft Entra token endpoint over https: takes federated tokens, gives unsigned ones.

with FakeEntra(certificate, federated_token_file) as entra:
    ... entra.environment ...  # what the workload identity webhook puts into a pod
    entra.refuse("AADSTS700024: Client assertion is not within its valid time range.")

Azurite takes its tokens: it checks audience, issuer and times, not signatures.
"""

import base64
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

from tests.fakes.azurite import Certificate

TENANT_ID = "7c6a2f0e-55d1-4c5c-9a44-0d2b6f1e8a10"
CLIENT_ID = "0f0b7c55-6a0e-4a43-8a67-4f6a2d5b9c21"
SCOPE = "https://storage.azure.com/.default"
AUDIENCE = "https://storage.azure.com"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

Answer = tuple[int, dict[str, Any]]


def unsigned_token(audience: str = AUDIENCE, lifetime_s: float = 3600) -> str:
    """A JWT as Entra makes them, without a signature."""
    now = int(time.time())
    issuer = f"https://sts.windows.net/{TENANT_ID}/"
    claims = {"aud": audience, "iss": issuer, "nbf": now - 60, "iat": now - 60, "oid": CLIENT_ID}
    parts = ({"alg": "none", "typ": "JWT"}, {**claims, "exp": now + int(lifetime_s)})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts]
    return b".".join([*encoded, b"bm9uZQ"]).decode()


class FakeEntra:
    """Serves until the end of the `with` block; `asked` counts the requests for a token."""

    def __init__(self, certificate: Certificate, federated_token_file: Path) -> None:
        self.asked = 0
        self.audience = AUDIENCE
        self._token_file = federated_token_file
        self._refusal: str | None = None
        self._server = _Server(self, certificate)
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
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def authority(self) -> str:
        """The authority host."""
        return f"https://localhost:{self._server.server_port}/"

    @property
    def environment(self) -> dict[str, str]:
        """What the workload identity webhook puts into a pod."""
        return {
            "AZURE_TENANT_ID": TENANT_ID,
            "AZURE_CLIENT_ID": CLIENT_ID,
            "AZURE_FEDERATED_TOKEN_FILE": str(self._token_file),
            "AZURE_AUTHORITY_HOST": self.authority,
        }

    def refuse(self, description: str) -> None:
        """Answer 401 invalid_client with this description from now on."""
        self._refusal = description

    def accept(self) -> None:
        """Give tokens again."""
        self._refusal = None

    def answer(self, path: str, form: dict[str, str]) -> Answer:
        """What Entra answers to a request for a token."""
        self.asked += 1
        if self._refusal is not None:
            return _refused(401, "invalid_client", self._refusal)
        if path != f"/{TENANT_ID}/oauth2/v2.0/token":
            return _refused(400, "invalid_request", f"AADSTS90002: no tenant at {path}")
        wanted = {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "scope": SCOPE,
        }
        for name, value in wanted.items():
            if form.get(name) != value:
                return _refused(400, "invalid_request", f"AADSTS900144: {name} is not {value}")
        if form.get("client_id") != CLIENT_ID:
            return _refused(400, "unauthorized_client", "AADSTS700016: Application not found.")
        if form.get("client_assertion") != self._token_file.read_text(encoding="utf-8"):
            return _refused(401, "invalid_client", "AADSTS50027: JWT token is invalid.")
        token = {"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599}
        return 200, {**token, "access_token": unsigned_token(self.audience)}


def _refused(status: int, error: str, description: str) -> Answer:
    trail = "Trace ID: 00000000-0000-0000-0000-000000000000 Correlation ID: 0 Timestamp: 0"
    return status, {"error": error, "error_description": f"{description} {trail}"}


class _Server(ThreadingHTTPServer):
    def __init__(self, entra: FakeEntra, certificate: Certificate) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.entra = entra
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate.cert_file, certificate.key_file)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the thread of the request; who breaks it off is his own affair."""
        try:
            request = self._tls.wrap_socket(request, server_side=True)
        except OSError:
            return
        with request:
            super().finish_request(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        query = parse_qs(self.rfile.read(length).decode())
        form = {name: values[0] for name, values in query.items()}
        status, content = self.server.entra.answer(self.path, form)
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass
