"""A fake collector: a real HTTP(S) server that keeps the contract, and fails as it is told.

with FakeCollector() as collector:
    collector.callers["token"] = Caller(pod_uid="…")
    collector.faults.append(respond(503, error="draining", headers={"Retry-After": "7"}))
    ... collector.url ..., collector.blobs, collector.requests
"""

import json
import ssl
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sidecar.segment import NotASegment, SegmentName, decompressed, first_record, parcel_of
from sidecar.segment import blob_name as blob_name_of

TOKEN = "header.claims.signature"
DRIP_PAUSE_S = 0.02
FLOOD_BYTES = 50 * 1024**2

NODE = {
    "node": "aks-gpu-12345678-vmss000001",
    "vm_size": "Standard_NC24ads_A100_v4",
    "region": "westeurope",
    "zone": "westeurope-2",
    "pool": "gpu",
}


@dataclass(frozen=True)
class Caller:
    """Whose a token is; `node` is what /v1/node answers, None = the token names no node."""

    pod_uid: str
    node: Mapping[str, object] | None = field(default_factory=lambda: NODE)

    @property
    def receipt(self) -> str:
        """What proves later whose segments these were."""
        return f"v1.receipt-of-{self.pod_uid}"


@dataclass(frozen=True)
class Request:
    """What the server was asked."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Handler(BaseHTTPRequestHandler):
    """One request, read whole; a fault writes to it what it likes."""

    server: "_Server"
    protocol_version = "HTTP/1.1"
    timeout = 30
    request_read: Request

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _serve(self) -> None:
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.request_read = Request(self.command, self.path, dict(self.headers.items()), body)
        self.server.fake.take(self)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer this; `_` in a header's name stands for `-`."""
        self.begin(status, **{"Content_Length": str(len(body)), **headers})
        self.wfile.write(body)

    def answer_json(self, status: int, content: object, **headers: str) -> None:
        """Answer a JSON document."""
        self.answer(status, json.dumps(content).encode(), **headers)

    def begin(self, status: int, **headers: str) -> None:
        """Status and headers of a body that the fault then writes as it likes."""
        self.send_response(status)
        for name, value in {"Content_Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


Fault = Callable[[Handler], None]


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for the handlers, so that none outlives its test
    fake: "FakeCollector"

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # that the client hung up is expected
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class FakeCollector:
    """The server in a thread, as a context manager. `faults` are used up, one for each request.

    `always` stands for all later ones. `hands_receipts` is whether it has a handover key, `gone`
    holds the uids of pods that are no more.
    """

    def __init__(self, *, host: str = "127.0.0.1", tls: "Certificate | None" = None) -> None:
        self.callers = {TOKEN: Caller("7d5b1f6e-0000-4000-8000-000000000001")}
        self.blobs: dict[str, bytes] = {}
        self.gone: set[str] = set()
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.hands_receipts = True
        self.requests: list[Request] = []
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server((host, 0), Handler)
        self._server.fake = self
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.chain_file, tls.key_file)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self.port = self._server.server_address[1]
        self.url = f"{'http' if tls is None else 'https'}://{host}:{self.port}"

    def take(self, handler: Handler) -> None:
        """Answer one request: a fault, or what the contract says."""
        with self._lock:
            self.requests.append(handler.request_read)
            fault = self.faults.popleft() if self.faults else self.always
        (fault or self.behave)(handler)

    def behave(self, handler: Handler) -> None:
        """Answer as the contract says."""
        asked = handler.request_read
        scheme, _, token = asked.headers.get("Authorization", "").partition(" ")
        caller = self.callers.get(token) if scheme == "Bearer" else None
        if caller is None:
            _refuse(handler, 401, "not_authenticated", "the token is not valid for this audience")
        elif (asked.method, asked.path) == ("GET", "/v1/node"):
            self._tell_node(handler, caller)
        elif (asked.method, asked.path) == ("POST", "/v1/segments"):
            self._store(handler, caller)
        else:
            _refuse(handler, 404, "not_found", f"there is no {asked.path}")

    def _receipt(self, caller: Caller) -> dict[str, str]:
        return {"Emissions_Receipt": caller.receipt} if self.hands_receipts else {}

    def _tell_node(self, handler: Handler, caller: Caller) -> None:
        if caller.node is None:
            _refuse(handler, 404, "no_node", "the token names no node", **self._receipt(caller))
        else:
            handler.answer_json(200, caller.node, **self._receipt(caller))

    def _store(self, handler: Handler, caller: Caller) -> None:
        content = handler.request_read.body
        try:
            parcel = parcel_of(content)
            first = first_record(decompressed(content))
        except NotASegment as error:
            _refuse(handler, 400, "not_a_segment", str(error))
            return
        owner = SegmentName.of_record(first["record_id"]).owner
        is_foreign = owner != caller.pod_uid
        if is_foreign and not self._may_hand_over(handler, owner):
            return
        name = blob_name_of(first, handed_over=is_foreign)
        with self._lock:
            stored = self.blobs.setdefault(name, content)
            is_new = stored is content
        if not is_new and decompressed(stored) != decompressed(content):
            _refuse(handler, 409, "conflict", f"{name} holds other content")
            return
        told = {"blob": name, "created": is_new, "records": parcel.records}
        told["handed_over"] = is_foreign
        handler.answer_json(201 if is_new else 200, told, **self._receipt(caller))

    def _may_hand_over(self, handler: Handler, owner: str) -> bool:
        receipt = handler.request_read.headers.get("Emissions-Handover")
        if receipt != Caller(owner).receipt:
            _refuse(handler, 403, "other_pod", f"the token is not of pod {owner}")
        elif owner not in self.gone:
            _refuse(handler, 403, "pod_runs", f"pod {owner} still runs", Retry_After="60")
        else:
            return True
        return False

    def release(self) -> None:
        """Let handlers that hang or drip end."""
        self.released.set()

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


def _refuse(handler: Handler, status: int, code: str, detail: str, **headers: str) -> None:
    handler.answer_json(status, {"error": code, "detail": detail}, **headers)


def respond(
    status: int, *, error: str = "told_to", detail: str = "as the test wants", **headers: str
) -> Fault:
    """Refuse as a collector does, with this status and code; `Retry_After="7"` adds a header."""
    return lambda handler: _refuse(handler, status, error, detail, **headers)


def respond_raw(status: int, body: bytes = b"", **headers: str) -> Fault:
    """Answer exactly this."""
    return lambda handler: handler.answer(status, body, **headers)


def wire(content: bytes) -> Fault:
    """Write these bytes in place of any HTTP answer, and hang up."""
    return lambda handler: handler.wfile.write(content) and None


def drop_answer(handler: Handler) -> None:
    """Do all that is asked, and hang up without an answer."""
    kept, handler.wfile = handler.wfile, _Nowhere()  # type: ignore[assignment]
    handler.server.fake.behave(handler)
    handler.wfile = kept


class _Nowhere:
    def write(self, content: bytes) -> int:
        return len(content)

    def flush(self) -> None:
        pass


def hang(handler: Handler) -> None:
    """Never answer."""
    handler.server.fake.released.wait()


def drip(handler: Handler) -> None:
    """Send the body byte by byte, for ever."""
    handler.begin(201, Content_Length="100000")
    _drip(handler, b" ")


def drip_headers(handler: Handler) -> None:
    """Send the headers byte by byte, for ever."""
    handler.wfile.write(b"HTTP/1.1 201 Created\r\nX-Endless: ")
    _drip(handler, b"x")


def _drip(handler: Handler, piece: bytes) -> None:
    while not handler.server.fake.released.wait(DRIP_PAUSE_S):
        handler.wfile.write(piece)


def flood(status: int, **headers: str) -> Fault:
    """Answer with a body that does not end before 50 MiB."""

    def pour(handler: Handler) -> None:
        handler.begin(status, **{"Content_Length": str(FLOOD_BYTES), **headers})
        for _ in range(FLOOD_BYTES // 65_536):
            handler.wfile.write(b"x" * 65_536)

    return pour


@dataclass(frozen=True)
class Certificate:
    """A certificate, its key, and the authority that signed it, as PEM files."""

    authority_file: Path
    chain_file: Path
    key_file: Path


def make_certificate(
    directory: Path, *, host: str = "127.0.0.1", valid_for: timedelta = timedelta(hours=1)
) -> Certificate:
    """Make an authority of our own and a certificate for this address or name."""
    directory.mkdir(parents=True, exist_ok=True)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _signed("a test's authority", authority_key, None, valid_for=timedelta(hours=1))
    try:
        name: x509.GeneralName = x509.IPAddress(ip_address(host))
    except ValueError:
        name = x509.DNSName(host)
    leaf = _signed(host, key, (authority, authority_key, name), valid_for=valid_for)
    made = Certificate(directory / "ca.pem", directory / "tls.pem", directory / "tls.key")
    made.authority_file.write_bytes(authority.public_bytes(Encoding.PEM))
    made.chain_file.write_bytes(leaf.public_bytes(Encoding.PEM))
    made.key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def _signed(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: Any, *, valid_for: timedelta
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + valid_for)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if issuer is None:
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
             "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
            False,
        )  # fmt: skip
        builder = builder.add_extension(
            x509.KeyUsage(**{**usage, "key_cert_sign": True}), critical=True
        )
        return builder.sign(key, SHA256())
    builder = builder.add_extension(x509.SubjectAlternativeName([issuer[2]]), critical=False)
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer[1].public_key())
    return builder.add_extension(issuer_key, critical=False).sign(issuer[1], SHA256())
