"""A fake Azure Instance Metadata Service: a real HTTP server, well-behaved or not, by scenario.

with FakeImds("aks-spot-gpu") as imds:
    ... imds.url ...

python -m tests.fakes.imds --port 0 --scenario aks-spot-gpu    # prints its URL and serves
"""

import argparse
import contextlib
import gzip
import json
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit

COMPUTE_PATH = "/metadata/instance/compute"
API_VERSIONS = ("2021-02-01", "2021-12-13", "2023-07-01", "2025-04-07")
FLOOD_BYTES = 100 * 1024**2
DRIP_PAUSE_S = 0.2

_SUBSCRIPTION = "0b1f6471-1bf0-4dda-aec3-111122223333"
_TAGS = {
    "aks-managed-coordination": "true",
    "aks-managed-createOperationID": "7fb4b7c1-2f4e-4f0a-93a2-8d5f3c2d1e00",
    "aks-managed-creationSource": "vmssclient-aks-agentpool-12628255-vmss",
    "aks-managed-kubeletIdentityClientID": "c5f9b6e2-2222-4444-8888-0123456789ab",
    "aks-managed-orchestrator": "Kubernetes:1.25.6",
    "aks-managed-poolName": "agentpool",
    "aks-managed-resourceNameSuffix": "12628255",
}

AKS_REGULAR: Mapping[str, Any] = {
    "azEnvironment": "AzurePublicCloud",
    "customData": "",
    "evictionPolicy": "",
    "isHostCompatibilityLayerVm": "false",
    "licenseType": "",
    "location": "eastus",
    "name": "aks-agentpool-12628255-vmss_2",
    "offer": "",
    "osProfile": {
        "adminUsername": "azureuser",
        "computerName": "aks-agentpool-12628255-vmss000002",
        "disablePasswordAuthentication": "true",
    },
    "osType": "Linux",
    "placementGroupId": "",
    "plan": {"name": "", "product": "", "publisher": ""},
    "platformFaultDomain": "0",
    "platformUpdateDomain": "0",
    "priority": "",
    "provider": "Microsoft.Compute",
    "publicKeys": [{"keyData": "ssh-rsa AAAA private detail", "path": "/home/azureuser/.ssh"}],
    "publisher": "",
    "resourceGroupName": "MC_training_ml-cluster_eastus",
    "resourceId": f"/subscriptions/{_SUBSCRIPTION}/resourceGroups/MC_training_ml-cluster_eastus"
    "/providers/Microsoft.Compute/virtualMachineScaleSets/aks-agentpool-12628255-vmss"
    "/virtualMachines/2",
    "securityProfile": {"secureBootEnabled": "false", "virtualTpmEnabled": "false"},
    "sku": "",
    "storageProfile": {},
    "subscriptionId": _SUBSCRIPTION,
    "tags": ";".join(f"{name}:{value}" for name, value in _TAGS.items()),
    "tagsList": [{"name": name, "value": value} for name, value in _TAGS.items()],
    "userData": "cHJpdmF0ZSBkZXRhaWw=",
    "version": "",
    "vmId": "220e4d30-59b9-4ff6-a25b-44d0f4bd3a77",
    "vmScaleSetName": "aks-agentpool-12628255-vmss",
    "vmSize": "Standard_DS2_v2",
    "zone": "3",
}
"""Composed after a recorded answer of an AKS node, api-version 2021-02-01."""

AKS_SPOT_GPU: Mapping[str, Any] = {
    **AKS_REGULAR,
    "evictionPolicy": "Delete",
    "location": "westeurope",
    "priority": "Spot",
    "resourceGroupName": "MC_training_ml-cluster_westeurope",
    "vmSize": "Standard_NC24ads_A100_v4",
    "zone": "1",
}
MIXED_CASE: Mapping[str, Any] = {
    **{key.upper(): value for key, value in AKS_SPOT_GPU.items() if key != "osProfile"},
    "AZENVIRONMENT": "AZUREPUBLICCLOUD",
    "Priority": "spot",
    "OsProfile": {"ComputerName": "aks-agentpool-12628255-vmss000002"},
}
EMPTY_STRINGS: Mapping[str, Any] = {
    **{key: "" if isinstance(value, str) else value for key, value in AKS_REGULAR.items()},
    "osProfile": "",
    "tagsList": "",
    "vmId": AKS_REGULAR["vmId"],
}
WRONG_TYPES: Mapping[str, Any] = {
    **AKS_REGULAR,
    "location": ["eastus"],
    "name": {"a": 1},
    "osProfile": ["x"],
    "priority": True,
    "resourceGroupName": None,
    "subscriptionId": "x" * 5000,
    "tagsList": {"name": "aks-managed-poolName"},
    "vmScaleSetName": "line\nbreak",
    "vmSize": [["Standard_DS2_v2"]],
    "zone": 3,
}
SOVEREIGN: Mapping[str, tuple[str, str]] = {
    "us-government": ("AzureUSGovernmentCloud", "usgovvirginia"),
    "china": ("AzureChinaCloud", "chinaeast2"),
    "germany": ("AzureGermanCloud", "germanycentral"),
}


class _Handler(BaseHTTPRequestHandler):
    """One request; `number` counts them from 0."""

    server: "_Server"
    timeout = 30

    def do_GET(self) -> None:
        self.number = self.server.count(Request(self.path, dict(self.headers.items())))
        self.server.behave(self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin(self, length_bytes: int) -> None:
        """Status and headers of a body that the scenario then writes as it likes."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length_bytes))
        self.end_headers()

    def document(self, content: object) -> None:
        """Answer as IMDS does, which also means to refuse what IMDS refuses."""
        parts = urlsplit(self.path)
        version = parse_qs(parts.query).get("api-version", [""])[0]
        if self.headers.get("Metadata", "").lower() != "true" or "X-Forwarded-For" in self.headers:
            self.answer(400, b'{"error":"Bad request. Required metadata header not specified"}')
        elif version not in API_VERSIONS:
            error = {"error": "Bad request", "newest-versions": list(API_VERSIONS)}
            self.answer(400, json.dumps(error).encode())
        elif parts.path != COMPUTE_PATH:
            self.answer(404, b'{"error":"Not found"}')
        else:
            self.answer(200, json.dumps(content).encode())


Behaviour = Callable[[_Handler], None]


@dataclass(frozen=True)
class Request:
    """What the server was asked."""

    path: str
    headers: Mapping[str, str]


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for the handlers, so that none outlives its test

    def __init__(self, address: tuple[str, int], behave: Behaviour) -> None:
        super().__init__(address, _Handler)
        self.behave = behave
        self.requests: list[Request] = []
        self.sent_bytes = 0
        self.released = threading.Event()
        self._counting = threading.Lock()

    def count(self, request: Request) -> int:
        with self._counting:
            self.requests.append(request)
            return len(self.requests) - 1

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # that the client hung up is expected
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def serve(content: object) -> Behaviour:
    """Answer every proper request with this document."""
    return lambda handler: handler.document(content)


def serve_raw(status: int, body: bytes, **headers: str) -> Behaviour:
    """Answer every request with exactly this."""
    return lambda handler: handler.answer(status, body, **headers)


def serve_wire(wire: bytes) -> Behaviour:
    """Write these bytes in place of any HTTP answer."""
    return lambda handler: handler.wfile.write(wire) and None


def first(times: int, status: int, then: object) -> Behaviour:
    """Answer the first `times` requests with a status, later ones with the document."""

    def behave(handler: _Handler) -> None:
        if handler.number < times:
            handler.answer(status, b"{}")
        else:
            handler.document(then)

    return behave


def _hang(handler: _Handler) -> None:
    handler.server.released.wait()


def _hang_in_body(handler: _Handler) -> None:
    handler.begin(1000)
    handler.wfile.write(b'{"vmSize": "Standard_')
    handler.server.released.wait()


def _drip(handler: _Handler) -> None:
    handler.begin(100_000)
    while not handler.server.released.wait(DRIP_PAUSE_S):
        handler.wfile.write(b" ")


def _drip_headers(handler: _Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Endless: ")
    while not handler.server.released.wait(DRIP_PAUSE_S):
        handler.wfile.write(b"x")


def _flood(handler: _Handler) -> None:
    handler.begin(FLOOD_BYTES)
    _pour(handler, b'["' + b"x" * 65_534)


def _flood_headers(handler: _Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    _pour(handler, b"X: " + b"x" * 60_000 + b"\r\n")


def _flood_continue(handler: _Handler) -> None:
    _pour(handler, b"HTTP/1.1 100 Continue\r\n\r\n" * 2000)


def _pour(handler: _Handler, block: bytes) -> None:
    while handler.server.sent_bytes < FLOOD_BYTES:
        handler.wfile.write(block)
        handler.server.sent_bytes += len(block)


_BOMB = gzip.compress(b" " * (8 * 1024**2))

SCENARIOS: Mapping[str, Behaviour] = {
    "aks-regular": serve(AKS_REGULAR),
    "aks-spot-gpu": serve(AKS_SPOT_GPU),
    "mixed-case": serve(MIXED_CASE),
    "empty-strings": serve(EMPTY_STRINGS),
    "wrong-types": serve(WRONG_TYPES),
    **{
        name: serve({**AKS_REGULAR, "azEnvironment": cloud, "location": location})
        for name, (cloud, location) in SOVEREIGN.items()
    },
    "busy-then-ok": first(2, 429, AKS_REGULAR),
    "busy": serve_raw(429, b"{}"),
    "failing": serve_raw(500, b"oops"),
    "gone": serve_raw(410, b"{}"),
    "gone-then-ok": first(3, 410, AKS_REGULAR),
    "not-azure": serve_raw(404, b"<html>not found</html>"),
    "old-version": serve_raw(400, b'{"error":"Bad request","newest-versions":["2017-03-01"]}'),
    "redirect": serve_raw(302, b"", Location="/elsewhere"),
    "html": serve_raw(200, b"<!DOCTYPE html><title>Log in</title>", Content_Type="text/html"),
    "json-list": serve([AKS_REGULAR]),
    "json-deep": serve_raw(200, b"[" * 100_000),
    "json-empty": serve({}),
    "invalid-utf8": serve_raw(200, b'{"vmSize": "\xff\xfe"}'),
    "gzip-bomb": serve_raw(200, _BOMB, Content_Encoding="gzip"),
    "gzip-bomb-undeclared": serve_raw(200, _BOMB),
    "flood": _flood,
    "flood-headers": _flood_headers,
    "flood-continue": _flood_continue,
    "hang": _hang,
    "hang-in-body": _hang_in_body,
    "drip": _drip,
    "drip-headers": _drip_headers,
}


class FakeImds:
    """The server in a thread, as a context manager; `scenario`: one of `SCENARIOS`, or its name."""

    HOST: ClassVar[str] = "127.0.0.1"

    def __init__(
        self, scenario: str | Behaviour = "aks-regular", *, host: str = HOST, port: int = 0
    ) -> None:
        behave = SCENARIOS[scenario] if isinstance(scenario, str) else scenario
        self._server = _Server((host, port), behave)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        address, bound_port = self._server.server_address[:2]
        self.url = f"http://{address!s}:{bound_port}"

    @property
    def requests(self) -> list[Request]:
        return self._server.requests

    @property
    def sent_bytes(self) -> int:
        """Bytes of a flood that the kernel took, its buffers included."""
        return self._server.sent_bytes

    def release(self) -> None:
        """Let handlers that hang or drip end."""
        self._server.released.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def main() -> None:
    """Serve one scenario until killed."""
    parser = argparse.ArgumentParser(description="A fake Azure Instance Metadata Service.")
    parser.add_argument("--host", default=FakeImds.HOST)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), default="aks-regular")
    arguments = parser.parse_args()
    with FakeImds(arguments.scenario, host=arguments.host, port=arguments.port) as imds:
        sys.stdout.write(imds.url + "\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
