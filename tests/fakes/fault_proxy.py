"""A proxy for plain HTTP/1.1 on loopback that does what networks do, as a test tells it.

with FaultProxy("127.0.0.1", port) as proxy:
    ... proxy.url ...
    proxy.drop_answer(faults=1)  # the next request is carried out, its answer lost; then all is well
    ... proxy.requests ...       # what was asked for, whether it got through or not

A fault holds for `faults` requests, or until another is set. It is chosen when the head of a request
has been read, on connections that are kept alive too. One fault at a time.
"""

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_PIECE_BYTES = 65536
_HEAD_BYTES_MAX = 65536
_STEP_S = 0.05
_SO_LONG_S = 60.0
"""No socket of the proxy waits longer, so no test hangs for ever."""


@dataclass(frozen=True)
class SeenRequest:
    """A request that reached the proxy; of a body that was cut, what had arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes = field(repr=False)


class _CutError(Exception):
    """A connection that ends here."""


class _Stream:
    """One side: reads heads, bodies and lines from a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._rest = b""

    def head(self) -> bytes:
        """All to the empty line; nothing where the far side has closed between two messages."""
        while b"\r\n\r\n" not in self._rest:
            if len(self._rest) > _HEAD_BYTES_MAX or not self._more():
                if self._rest:
                    raise _CutError("in the middle of a head")
                return b""
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def exactly(self, size: int) -> bytes:
        while len(self._rest) < size:
            if not self._more():
                raise _CutError("in the middle of a body")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def at_most(self, size: int) -> bytes:
        if not self._rest and not self._more():
            raise _CutError("in the middle of a body")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def line(self) -> bytes:
        while b"\r\n" not in self._rest:
            if not self._more():
                raise _CutError("in the middle of a line")
        line, _, self._rest = self._rest.partition(b"\r\n")
        return line + b"\r\n"

    def to_the_end(self) -> bytes:
        while self._more():
            pass
        taken, self._rest = self._rest, b""
        return taken

    def until_closed(self) -> None:
        """Wait for the far side, or the proxy, to close; what it still sends is let go."""
        while self._more():
            self._rest = b""

    def _more(self) -> bool:
        piece = self.socket.recv(_PIECE_BYTES)
        self._rest += piece
        return bool(piece)


@dataclass(frozen=True)
class _Message:
    """A head and, from it, what says how long the body is."""

    head: bytes

    @property
    def start(self) -> list[str]:
        return self.head.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        pairs = (line.partition(":") for line in lines)
        return {name.strip().lower(): value.strip() for name, _, value in pairs}

    def body_from(self, stream: _Stream, *, of_answer: bool) -> bytes:
        """The body as it was sent, chunks and all."""
        headers = self.headers
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return _chunks(stream)
        if "content-length" in headers:
            return stream.exactly(int(headers["content-length"]))
        return stream.to_the_end() if of_answer else b""


def _chunks(stream: _Stream) -> bytes:
    body = b""
    while True:
        line = stream.line()
        body += line
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        body += stream.exactly(size + 2)
    while (line := stream.line()) != b"\r\n":
        body += line
    return body + b"\r\n"


_Fault = Callable[["_Connection", _Message], None]
"""What is done with a request, instead of passing it on."""


class FaultProxy:
    """Listens on a free port of 127.0.0.1 until the end of the `with` block."""

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target = (target_host, target_port)
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._requests: list[SeenRequest] = []
        self._fault: _Fault | None = None
        self._faults_left: int | None = None
        self._connections: set[_Connection] = set()
        self._threads: list[threading.Thread] = []
        self._listener = _bound("127.0.0.1", 0)
        self.host, self.port = self._listener.getsockname()

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopped.set()
        self._stop_listening()
        self._listener.close()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(_SO_LONG_S)
            assert not thread.is_alive(), "a connection of the proxy does not end"

    @property
    def url(self) -> str:
        """Of the proxy, to give to the client."""
        return f"http://{self.host}:{self.port}"

    @property
    def requests(self) -> list[SeenRequest]:
        """What was asked for so far, in order."""
        with self._lock:
            return list(self._requests)

    @property
    def held(self) -> int:
        """How many connections are open now, those of a black hole among them."""
        with self._lock:
            return len(self._connections)

    def pass_on(self) -> None:
        """All is well."""
        self._set(None, None)

    def refuse(self) -> None:
        """Refuse connections, and end those there are; until another mode is set."""
        self._set(None, None, listening=False)

    def drop_answer(self, *, faults: int | None = None) -> None:
        """The far side carries the request out and answers; the client's connection ends without."""

        def act(connection: "_Connection", request: _Message) -> None:
            connection.forwarded(request)
            raise _CutError("the answer is dropped")

        self._set(act, faults)

    def black_hole(self, *, faults: int | None = None) -> None:
        """Read the request, pass nothing on, and never answer, until the client has had enough."""

        def act(connection: "_Connection", request: _Message) -> None:
            connection.seen(request, request.body_from(connection.client, of_answer=False))
            connection.client.until_closed()
            raise _CutError("the client gave up")

        self._set(act, faults)

    def cut_request(self, after_bytes: int, *, faults: int | None = None) -> None:
        """End both connections when so many bytes of the body have been passed on."""

        def act(connection: "_Connection", request: _Message) -> None:
            body = b""
            while len(body) < after_bytes:
                body += connection.client.at_most(after_bytes - len(body))
            connection.seen(request, body)
            connection.upstream().socket.sendall(request.head + body)
            raise _CutError("the request is cut")

        self._set(act, faults)

    def slow(self, bytes_per_s: float, *, faults: int | None = None) -> None:
        """Pass bodies of requests, and answers, on at this pace."""

        def act(connection: "_Connection", request: _Message) -> None:
            answer = connection.forwarded(request, bytes_per_s)
            connection.paced(connection.client.socket, answer, bytes_per_s)

        self._set(act, faults)

    def drip_answer(self, bytes_per_s: float, *, faults: int | None = None) -> None:
        """Pass the request on at once, and the answer at this pace."""

        def act(connection: "_Connection", request: _Message) -> None:
            answer = connection.forwarded(request)
            connection.paced(connection.client.socket, answer, bytes_per_s)

        self._set(act, faults)

    def status(
        self,
        code: int,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        faults: int | None = None,
    ) -> None:
        """Answer so oneself; the far side hears nothing of it."""
        fields = {"Content-Length": str(len(body)), **(headers or {})}
        lines = [f"HTTP/1.1 {code} Fault", *(f"{name}: {text}" for name, text in fields.items())]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")

        def act(connection: "_Connection", request: _Message) -> None:
            connection.seen(request, request.body_from(connection.client, of_answer=False))
            is_head = request.start[0] == "HEAD"
            connection.client.socket.sendall(head if is_head else head + body)

        self._set(act, faults)

    def _set(self, fault: _Fault | None, faults: int | None, *, listening: bool = True) -> None:
        with self._lock:
            self._fault, self._faults_left = fault, faults
        if listening:
            self._listen()
        else:
            self._stop_listening()

    def _take_fault(self) -> _Fault | None:
        with self._lock:
            fault = self._fault
            if fault is not None and self._faults_left is not None:
                self._faults_left -= 1
                if self._faults_left <= 0:
                    self._fault = None
            return fault

    def _note(self, request: SeenRequest) -> None:
        with self._lock:
            self._requests.append(request)

    def _listen(self) -> None:
        listener = self._listener
        if not _is_listening(listener):
            listener.listen(1024)
            self._start(lambda: self._accept(listener))

    def _stop_listening(self) -> None:
        if _is_listening(self._listener):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends the accepting thread
            self._listener.close()
            # Bound and not listening: connections are refused, and the port stays ours.
            self._listener = _bound(self.host, self.port)
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.cut()

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        with self._lock:
            self._threads = [old for old in self._threads if old.is_alive()]
            self._threads.append(thread)
            thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:  # no longer listening
                return
            connection = _Connection(self, accepted)
            with self._lock:
                self._connections.add(connection)
            if self.stopped.is_set():
                connection.cut()
            self._start(connection.serve)

    def _gone(self, connection: "_Connection") -> None:
        with self._lock:
            self._connections.discard(connection)


def _bound(host: str, port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    return bound


def _is_readable(connection: socket.socket) -> bool:
    """Whether it was closed, or something comes that nobody asked for."""
    poll = select.poll()  # select() knows no descriptor beyond 1023
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _is_listening(listener: socket.socket) -> bool:
    return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


class _Connection:
    """A connection of a client, and the one to the far side that goes with it."""

    def __init__(self, proxy: FaultProxy, accepted: socket.socket) -> None:
        self._proxy = proxy
        accepted.settimeout(_SO_LONG_S)
        self.client = _Stream(accepted)
        self._upstream: _Stream | None = None
        self._closes = False

    def serve(self) -> None:
        """Request by request, until one side ends it or a fault does."""
        try:
            while head := self.client.head():
                request = _Message(head)
                fault = self._proxy._take_fault()
                if fault is None:
                    self.client.socket.sendall(self.forwarded(request))
                else:
                    fault(self, request)
                if self._closes:
                    break
        except (_CutError, OSError):
            pass  # the end of a connection, as it may end
        finally:
            self._proxy._gone(self)
            self.client.socket.close()
            if self._upstream is not None:
                self._upstream.socket.close()

    def cut(self) -> None:
        """End it from another thread."""
        with contextlib.suppress(OSError):
            self.client.socket.shutdown(socket.SHUT_RDWR)

    def upstream(self) -> _Stream:
        """The connection to the far side, made when needed: it may have closed an idle one."""
        if self._upstream is not None and _is_readable(self._upstream.socket):
            self._upstream.socket.close()
            self._upstream = None
        if self._upstream is None:
            self._upstream = _Stream(socket.create_connection(self._proxy.target, _SO_LONG_S))
        return self._upstream

    def seen(self, request: _Message, body: bytes) -> None:
        """Record a request."""
        method, path, _ = request.start
        self._proxy._note(SeenRequest(method, path, request.headers, body))

    def forwarded(self, request: _Message, bytes_per_s: float | None = None) -> bytes:
        """Pass a request on, at this pace; return the whole answer, as it was sent."""
        body = request.body_from(self.client, of_answer=False)
        self.seen(request, body)
        far = self.upstream()
        far.socket.sendall(request.head)
        self.paced(far.socket, body, bytes_per_s)
        while True:
            head = far.head()
            if not head:
                raise _CutError("the far side closed without an answer")
            answer = _Message(head)
            status = answer.start[1]
            if not status.startswith("1"):
                break  # 100 Continue and the like are for us alone
        if request.start[0] == "HEAD" or status in ("204", "304"):
            return head
        headers = answer.headers
        self._closes = headers.get("connection", "").lower() == "close" or not (
            {"content-length", "transfer-encoding"} & headers.keys()
        )
        return head + answer.body_from(far, of_answer=True)

    def paced(self, to: socket.socket, content: bytes, bytes_per_s: float | None) -> None:
        """Send at this pace, a piece every so often; the end of the proxy ends it."""
        if bytes_per_s is None:
            to.sendall(content)
            return
        size = max(1, int(bytes_per_s * _STEP_S))
        for start in range(0, len(content), size):
            to.sendall(content[start : start + size])
            if self._proxy.stopped.wait(_STEP_S):
                raise _CutError("the proxy stops")
