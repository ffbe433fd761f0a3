"""One gRPC call without a stream, over a Unix socket: what is asked of kubelet, and no more.

HTTP/2 is h2's work (a library without input and output of its own); gRPC over it is a path, five bytes
before each message, and a status after it (grpc, doc/PROTOCOL-HTTP2.md). Beside what metering loads
anyway that takes 2 MiB; grpcio takes 17 MiB, and grpclib 4 MiB and an event loop (measured, with h2
4.4, grpcio 1.85, grpclib 0.4.9).
"""

import socket
import struct
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sidecar.bounded_http import one_line

if TYPE_CHECKING:  # an extra, loaded where there is something to ask
    from h2.connection import H2Connection

ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
"""What gRPC clients take by default; a node with 100 pods has some 100 KiB."""

_CHUNK_BYTES: Final = 64 * 1024
_PREFIX: Final = struct.Struct(">BI")
"""Compressed-Flag and Message-Length."""

_UNIMPLEMENTED: Final = "12"


class GrpcError(Exception):
    """There is no answer. One line: what happened, and what to do. `missing`: no such method there."""

    def __init__(self, text: str, *, missing: bool = False) -> None:
        super().__init__(text)
        self.missing = missing


@dataclass(slots=True)
class _Reply:
    """What has come so far."""

    body: bytearray = field(default_factory=bytearray)
    headers: dict[str, str] = field(default_factory=dict)
    ended: bool = False


def unary_call(socket_path: str, method: str, message: bytes, timeout_s: float) -> bytes:
    """Send one message to `/package.Service/Method` and return the one that answers.

    Takes at most `timeout_s`. Raises GrpcError.
    """
    import h2.exceptions  # noqa: PLC0415

    ends_s = time.monotonic() + timeout_s
    try:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connected:
            connected.settimeout(timeout_s)
            connected.connect(socket_path)
            reply = _exchanged(connected, method, message, ends_s)
    except TimeoutError as error:
        raise GrpcError(f"{socket_path} did not answer within {timeout_s:g} s") from error
    except OSError as error:
        raise GrpcError(f"{socket_path}: {error.strerror or error}{_advice(error)}") from error
    except h2.exceptions.H2Error as error:
        raise GrpcError(f"{socket_path} speaks no HTTP/2: {one_line(str(error))}") from error
    return _message(reply, f"{socket_path} {method}")


def _advice(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "; mount the node's /var/lib/kubelet/pod-resources (hostPath)"
    if isinstance(error, PermissionError):
        return "; the socket is root's: run as user 0"
    return ""


def _exchanged(connected: socket.socket, method: str, message: bytes, ends_s: float) -> _Reply:
    from h2.config import H2Configuration  # noqa: PLC0415
    from h2.connection import H2Connection  # noqa: PLC0415

    connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    head = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "emissions-sidecar",
    }
    connection.send_headers(1, list(head.items()))
    connection.send_data(1, _PREFIX.pack(0, len(message)) + message, end_stream=True)
    reply = _Reply()
    while not reply.ended:
        _send(connected, connection, ends_s)
        connected.settimeout(_left_s(ends_s))
        received = connected.recv(_CHUNK_BYTES)
        if not received:
            raise ConnectionResetError("hung up before it had answered")
        _take(connection, connection.receive_data(received), reply)
    return reply


def _send(connected: socket.socket, connection: "H2Connection", ends_s: float) -> None:
    connected.settimeout(_left_s(ends_s))
    connected.sendall(connection.data_to_send())


def _take(connection: "H2Connection", events: Iterable[Any], reply: _Reply) -> None:
    import h2.events  # noqa: PLC0415

    for event in events:
        if isinstance(event, h2.events.DataReceived):
            reply.body += event.data or b""
            if len(reply.body) > ANSWER_BYTES_MAX + _PREFIX.size:
                raise GrpcError(f"an answer of more than {ANSWER_BYTES_MAX} bytes is not read")
            connection.acknowledge_received_data(event.flow_controlled_length or 0, 1)
        elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            reply.headers |= {str(name): str(value) for name, value in event.headers or ()}
        elif isinstance(event, h2.events.StreamEnded):
            reply.ended = True
        elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
            raise GrpcError(f"kubelet ended the call (HTTP/2 error {event.error_code})")


def _left_s(ends_s: float) -> float:
    left_s = ends_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _message(reply: _Reply, asked: str) -> bytes:
    status, code = reply.headers.get("grpc-status"), reply.headers.get(":status")
    if status != "0":
        told = one_line(reply.headers.get("grpc-message", ""))
        what = (
            f"gRPC status {one_line(status)}" if status else f"HTTP status {one_line(code or '')}"
        )
        raise GrpcError(f"{asked}: {what}: {told}", missing=status == _UNIMPLEMENTED)
    body = bytes(reply.body)
    if len(body) < _PREFIX.size:
        raise GrpcError(f"{asked}: an answer without a message")
    compressed, size = _PREFIX.unpack_from(body)
    if compressed or _PREFIX.size + size != len(body):
        raise GrpcError(f"{asked}: {len(body)} bytes that are not one plain message")
    return body[_PREFIX.size :]
