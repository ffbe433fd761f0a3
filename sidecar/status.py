"""What the sidecar says of itself over HTTP, and the call that announces its end.

`GET /healthz`: 200 while metering goes on. `GET /metrics`: Prometheus text. `GET` or `POST
/terminating`: the preStop hook; from then on windows are short and shipped at once. Nothing here can
stop or delay the metering, and nothing secret is told: the address may be open to the whole cluster.
"""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Protocol, cast

REQUEST_S: Final = 5.0
"""A client that does not get its request out within this time is hung up on."""

CONNECTIONS_MAX: Final = 8
"""Requests served at the same time; one more ends the oldest, so that none can hold a place."""

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
    """One HTTP answer."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class StatusServer:
    """Serves in daemon threads until closed. Raises OSError where the address cannot be had."""

    def __init__(
        self, address: tuple[str, int], watched: Watched, metrics: Callable[[], tuple[bytes, str]]
    ) -> None:
        self._watched = watched
        self._metrics = metrics
        self._server = _Server(address, self.answer)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="status", daemon=True, args=(0.2,)
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port in use."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def start(self) -> None:
        """Begin to answer. Raises RuntimeError where no thread can be had."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        if self._thread.ident is not None:
            self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str) -> Answer:
        """Answer one request."""
        if path == "/terminating" and method in ("GET", "POST"):
            self._watched.hurry()
            return Answer(200, b"windows are short from now on, and shipped at once\n")
        if method != "GET":
            return Answer(405, b"GET is wanted\n")
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

    def _respond(self) -> None:
        server = cast("_Server", self.server)
        answer = server.answer(self.command, self.path.partition("?")[0])
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_POST = do_HEAD = _respond  # noqa: N815 - the names http.server calls

    def log_message(self, *_: object) -> None:
        """Log no requests: kubelet asks every few seconds."""


class _Server(ThreadingHTTPServer):
    """A thread for each request, and never many of them."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], answer: Callable[[str, str], Answer]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.answer = answer
        self._active: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Begin a request, and end the oldest where there are too many."""
        with self._lock:
            self._active[request] = None
            if len(self._active) > CONNECTIONS_MAX:
                oldest = next(iter(self._active))
                del self._active[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        """End a request."""
        with self._lock:
            self._active.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, *_: object) -> None:
        """Log a request that failed, which its client may cause at will, at debug level only."""
        _log.debug("a request failed", exc_info=True)
