"""What the sidecar says of itself over HTTP, and the call that announces its end.

`GET /healthz`: 200 while metering goes on. `GET /metrics`: Prometheus text. `GET` or `POST
/terminating`: the preStop hook; from then on windows are short and shipped at once. Nothing here can
stop or delay the metering, and nothing secret is told: the address may be open to the whole cluster.
What programs of the pod ask is answered by `sidecar.program_calls`.
`HttpServer` below it, which bounds what clients can take, serves the node meter too.

A page in a browser on the same machine can ask loopback, too. It can neither announce the end (its
browser says that a page asks) nor read anything (it asks by its own name, turned to this machine).
"""

import contextlib
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from socketserver import TCPServer
from typing import Any, Final, Protocol, cast
from urllib.parse import urlsplit

from sidecar.bounded_http import one_line

REQUEST_S: Final = 5.0
"""A client that has not sent its request and read the answer within this time is hung up on."""

CONNECTIONS_MAX: Final = 8
"""Requests served at the same time; one more ends the oldest, so that none can hold a place."""

BODY_BYTES_MAX: Final = 64 * 1024
"""So much of a request's body is read."""

HEAD_BYTES_MAX: Final = 32 * 1024
"""So much of a request's head is read; http.server itself would take 6 MB."""

LOOK_S: Final = 0.2
"""So often it is looked whether a request takes too long, while there is one."""

END_S: Final = 1.0
"""A request that was hung up on ends at once; this long is waited for it at most."""

_log = logging.getLogger(__name__)


class Watched(Protocol):
    """What the server needs of what it speaks for."""

    @property
    def is_over(self) -> bool:
        """Whether metering ended."""
        ...

    def hurry(self) -> None:
        """Take note that the end is near. Returns at once."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; `allow` are the methods that would be right."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    allow: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One HTTP request: its path without the query, and who it says to come from.

    `peer` is the address that it comes from; of the body there is what is within bounds. `headers` by
    their names in lower case.
    """

    method: str
    path: str
    authorization: str | None = None
    peer: str = ""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_of_a_page(self) -> bool:
        """Whether a browser says that a page of some site asks, and not a person or a program."""
        return self.headers.get("sec-fetch-site", "none") != "none" or "origin" in self.headers

    @property
    def names_loopback(self) -> bool:
        """Whether it is asked for by a name of this machine; who gives none is no browser."""
        host = self.headers.get("host")
        return host is None or is_loopback(host_name(host))


@dataclass(frozen=True, slots=True)
class Bounds:
    """What clients may take: requests served at a time, and seconds for each.

    One more request ends the oldest that is older than `spared_s`, or waits until there is one.
    """

    connections: int
    request_s: float
    spared_s: float = 0.0


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own: also an IPv4 one as IPv6 spells it."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def host_name(header: str) -> str:
    """Return the name or address in a header `Host`; empty where there is none."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


class HttpServer:
    """Serves in daemon threads until closed. Raises OSError where the address cannot be had."""

    def __init__(
        self,
        address: tuple[str, int],
        answer: Callable[[Asked], Answer],
        bounds: Bounds,
        name: str = "status",
    ) -> None:
        self._server = _Server(address, answer, bounds)
        self._thread = threading.Thread(target=self._server.serve, name=name, daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port in use."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def start(self) -> None:
        """Begin to answer. Raises RuntimeError, and is closed, where no thread can be had."""
        try:
            self._thread.start()
        except RuntimeError:
            self._server.server_close()
            raise

    def close(self) -> None:
        """Stop answering."""
        if self._thread.ident is not None:
            self._server.end()
            self._thread.join()
        self._server.server_close()


class StatusServer(HttpServer):
    """Speaks for what is watched; `others` answers first, what it does not know with None."""

    def __init__(
        self,
        address: tuple[str, int],
        watched: Watched,
        metrics: Callable[[], tuple[bytes, str]],
        others: Callable[[Asked], Answer | None] = lambda _: None,
    ) -> None:
        self._watched = watched
        self._metrics = metrics
        self._others = others
        super().__init__(address, self.answer, Bounds(CONNECTIONS_MAX, REQUEST_S))
        self._is_local = is_loopback(self.address[0])

    def answer(self, asked: Asked) -> Answer:
        """Answer one request."""
        if self._is_local and not asked.names_loopback:
            return Answer(421, b"ask for it by a name of this machine, such as localhost\n")
        return self._others(asked) or self._told(asked)

    def _told(self, asked: Asked) -> Answer:
        method, path = asked.method, asked.path
        if path == "/terminating" and method in ("GET", "POST"):
            if asked.is_of_a_page:
                return Answer(403, b"no page may announce the end\n")
            self._watched.hurry()
            return Answer(200, b"windows are short from now on, and shipped at once\n")
        if method not in ("GET", "HEAD") or path == "/terminating":
            allow = "GET, POST" if path == "/terminating" else "GET, HEAD"
            return Answer(405, b"GET is wanted\n", allow=allow)
        if path == "/healthz":
            return (
                Answer(503, b"metering ended\n") if self._watched.is_over else Answer(200, b"ok\n")
            )
        if path == "/metrics":
            return Answer(200, *self._metrics())
        return Answer(404, b"there are /healthz, /metrics and /terminating\n")


class _Handler(BaseHTTPRequestHandler):
    """One request; `server` is a `_Server`."""

    timeout = REQUEST_S
    server_version = "emissions-sidecar"
    sys_version = ""
    disable_nagle_algorithm = True  # or the body waits for the head to be acknowledged, some 40 ms

    def setup(self) -> None:
        """Begin; no head is read that is longer than any of ours."""
        super().setup()
        self.rfile = cast("BufferedIOBase", _BoundedInput(self.rfile))

    def _respond(self) -> None:
        answer = self._answer(self._body())
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if answer.allow is not None:
            self.send_header("Allow", answer.allow)
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    # The names http.server calls; to any other method it answers 501.
    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _respond  # noqa: N815

    def _answer(self, body: bytes) -> Answer:
        server = cast("_Server", self.server)
        path = self.path.partition("?")[0]
        try:
            return server.answer(
                Asked(
                    self.command, path, self.headers.get("Authorization"),
                    str(self.client_address[0]), body,
                    {name.lower(): text for name, text in self.headers.items()},
                )
            )  # fmt: skip
        except Exception:  # noqa: BLE001 - what is told of the metering must not end with it
            _log.exception("%s could not be answered, which is a bug", one_line(path[:80]))
            return Answer(500, b"this could not be answered; see the log\n")

    def _body(self) -> bytes:
        """Read a small body: closing with bytes unread resets the connection and loses the answer."""
        length = self.headers.get("Content-Length", "")
        if length.isascii() and length.isdigit() and len(length) < 9:
            return self.rfile.read(min(int(length), BODY_BYTES_MAX))
        return b""

    def log_message(self, *_: object) -> None:
        """Log no requests: kubelet asks every few seconds."""


class _BoundedInput:
    """What a client sends, up to the bytes that a head and a body may have."""

    def __init__(self, stream: Any) -> None:  # noqa: ANN401 - as http.server makes it
        self._stream = stream
        self._left = HEAD_BYTES_MAX + BODY_BYTES_MAX
        self.close = stream.close

    def readline(self, size: int) -> bytes:
        return self._counted(self._stream.readline(min(size, max(0, self._left - BODY_BYTES_MAX))))

    def read(self, size: int) -> bytes:
        return self._counted(self._stream.read(min(size, self._left)))

    def _counted(self, content: bytes) -> bytes:
        self._left -= len(content)
        return content


class _Server(ThreadingHTTPServer):
    """A thread for each request, and never many of them."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_port = False
    request_queue_size = 256

    def __init__(
        self, address: tuple[str, int], answer: Callable[[Asked], Answer], bounds: Bounds
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.answer = answer
        self._bounds = bounds
        self._begun_s: dict[socket.socket, float] = {}
        self._ended = threading.Condition()
        self._is_over = False
        super().__init__(address, _Handler)

    def serve(self) -> None:
        """Take requests until the end. Between them nothing is looked at: each look wakes a core."""
        while not self._is_over:
            self.timeout = LOOK_S if self._begun_s else None
            self.handle_request()
            self.service_actions()

    def end(self) -> None:
        """Let `serve` return."""
        self._is_over = True
        _hang_up(self.socket)

    def server_bind(self) -> None:
        """Bind, and look no name up: where DNS is blocked, that takes many seconds."""
        TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Begin a request; where there are too many, hang up on the oldest and wait for their end."""
        with self._ended:
            self._begun_s[request] = time.monotonic()
            self._make_room()
        super().process_request(request, client_address)

    def _make_room(self) -> None:
        """Hang up on the oldest, but for those that are spared, until there are not too many."""
        spared_s, most = self._bounds.spared_s, self._bounds.connections
        ends_s = time.monotonic() + spared_s + END_S
        while len(self._begun_s) > most and time.monotonic() < ends_s:
            for oldest in list(self._begun_s)[:-most]:
                if time.monotonic() - self._begun_s[oldest] >= spared_s:
                    _hang_up(oldest)
            self._ended.wait(spared_s or END_S)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        """End a request."""
        super().shutdown_request(request)
        with self._ended:
            self._begun_s.pop(request, None)
            self._ended.notify_all()

    def service_actions(self) -> None:
        """Hang up on who takes too long; a byte now and then does not count."""
        with self._ended:
            for request, begun_s in self._begun_s.items():
                if time.monotonic() - begun_s > self._bounds.request_s:
                    _hang_up(request)

    def server_close(self) -> None:
        """Stop listening, and hang up on whoever is still there."""
        super().server_close()
        with self._ended:
            for request in self._begun_s:
                _hang_up(request)
            self._ended.wait_for(lambda: not self._begun_s, END_S)

    def handle_error(self, *_: object) -> None:
        """Log a request that failed, which its client may cause at will, at debug level only."""
        _log.debug("a request failed", exc_info=True)


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # its client was faster
        connection.shutdown(socket.SHUT_RDWR)
