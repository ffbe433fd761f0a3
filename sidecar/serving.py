"""Serves a Starlette application on uvicorn as a service of a cluster should be served.

Bounded connections, TLS whose certificate is read anew when it changes, and an end in which no
request is cut: SIGTERM turns `/readyz` to 503 while requests are still taken (the load balancer
needs some seconds to notice), then what is in flight is finished.
"""

import asyncio
import asyncio.sslproto
import contextlib
import hashlib
import json
import logging
import resource
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from sidecar.settings import SettingsError

_log = logging.getLogger(__name__)

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
_HANDSHAKE_S: Final = 5.0
_GOODBYE_S: Final = 2.0
_TLS_BUFFER_BYTES: Final = 32 * 1024
"""What a connection reads at a time, held by each as long as it is open; a TLS record has 16 KiB.
asyncio's own is 256 KiB: with some thousand idle connections a GiB."""

_OTHER_DESCRIPTORS: Final = 256
"""File descriptors kept for other things than connections of callers."""


_PROBES: Final = ("/healthz", "/readyz", "/metrics")
"""Answered however many requests there are: a busy service is not to be restarted for it."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificate chain and private key, PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Where and how to serve. Durations in seconds.

    `drain_s` passes between the signal and the end of taking requests, `finish_s` is the longest
    that requests in flight get after it: together less than a pod's 30 s of grace.
    `head_s` is the time a connection has to begin a request, `linger_s` and `linger_bytes` what is
    still read of a request that was answered before it was complete.
    """

    host: str
    port: int
    tls: TlsFiles | None = None
    drain_s: float = 5.0
    finish_s: int = 20
    head_s: float = 10.0
    keep_alive_s: int = 15
    connections: int = 4096
    requests: int = 1024
    linger_s: float = 5.0
    linger_bytes: int = 2 * 1024**2
    tls_check_s: float = 10.0

    @property
    def connections_per_address(self) -> int:
        """Connections of one address: half, so that no single pod takes them all."""
        return self.connections // 2


class Readiness:
    """Whether requests should be sent here: not before it is ready, and not once the end is near."""

    def __init__(self, reason: str = "starting") -> None:
        self._reason: str | None = reason
        self._ending = False

    @property
    def obstacle(self) -> str | None:
        """Why requests should go elsewhere; None where they should not."""
        return "shutting down" if self._ending else self._reason

    @property
    def is_ending(self) -> bool:
        """Whether the end is near."""
        return self._ending

    def ready(self) -> None:
        """Say that requests are welcome."""
        self._reason = None

    def not_ready(self, reason: str) -> None:
        """Say why requests should go elsewhere."""
        self._reason = reason

    def end(self) -> None:
        """Say that the end is near; there is no way back."""
        self._ending = True


def health_routes(readiness: Readiness) -> list[Route]:
    """Return `/healthz` (the process answers) and `/readyz` (200, or 503 and why)."""

    async def healthz(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> JSONResponse:
        obstacle = readiness.obstacle
        if obstacle is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"error": "not_ready", "detail": obstacle}, 503)

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


class Service:
    """One application, served: `run` returns when a signal or `stop` has ended it."""

    def __init__(self, app: ASGIApp, serving: Serving, readiness: Readiness) -> None:
        self._app = app
        self._serving = serving
        self._readiness = readiness
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.port: int | None = None

    def run(self) -> None:
        """Serve until the end. Raises SettingsError where address or certificate cannot be used."""
        tls = _Tls(self._serving.tls) if self._serving.tls else None
        # There is no way but for all loops of the process.
        asyncio.sslproto.SSLProtocol.max_size = _TLS_BUFFER_BYTES
        with contextlib.closing(_listening_socket(self._serving)) as listening:
            try:
                with asyncio.Runner(loop_factory=_Loop) as runner:
                    runner.run(self._serve(listening, tls))
            finally:
                self._loop = None

    def stop(self) -> None:
        """Begin the end, as SIGTERM does; from any thread, once `port` is known."""
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    async def _serve(self, listening: socket.socket, tls: "_Tls | None") -> None:
        app = _Lingering(self._app, self._serving, self._readiness)
        server = _Server(_configuration(app, self._serving, tls))
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        with _signals(self._loop, self._stopper(server)):
            tasks = [asyncio.create_task(self._told(server, listening, tls))]
            tasks += [asyncio.create_task(self._drained(server))]
            if tls is not None:
                tasks += [asyncio.create_task(tls.follow(self._serving.tls_check_s))]
            try:
                await server.serve(sockets=[listening])
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _stopper(self, server: uvicorn.Server) -> Callable[[], None]:
        stop = self._stop

        def at_signal() -> None:
            if stop is None or stop.is_set():  # the second time: do not wait for anybody's notice
                server.should_exit = True
            else:
                stop.set()

        return at_signal

    async def _told(
        self, server: uvicorn.Server, listening: socket.socket, tls: "_Tls | None"
    ) -> None:
        """Say where it listens, once it does."""
        while not server.started:
            await asyncio.sleep(0.01)
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        _log.info("listening on %s://%s:%d", "https" if tls else "http", shown, port)
        self.port = port

    async def _drained(self, server: uvicorn.Server) -> None:
        if self._stop is None:
            return
        await self._stop.wait()
        self._readiness.end()
        _log.info("shutting down: requests are taken for %g s more", self._serving.drain_s)
        await asyncio.sleep(self._serving.drain_s)
        server.should_exit = True


def _configuration(app: ASGIApp, serving: Serving, tls: "_Tls | None") -> uvicorn.Config:
    context = tls.context if tls else None
    return uvicorn.Config(
        app,
        http=type("Connection", (_Connection,), {"bounds": _Bounds(serving)}),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=serving.keep_alive_s,
        timeout_graceful_shutdown=serving.finish_s,
        ssl_context_factory=(lambda _config, _default: context) if context else None,
    )


def _listening_socket(serving: Serving) -> socket.socket:
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    both = serving.host == "::" and socket.has_dualstack_ipv6()
    try:
        listening = socket.create_server(
            (serving.host, serving.port), family=family, backlog=2048, dualstack_ipv6=both
        )
        # asyncio sets it only on sockets of a stated protocol; without it the second write of an
        # answer waits for the client's delayed acknowledgement, some 40 ms.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {serving.host}:{serving.port}: {error.strerror or error}; "
            "choose another with --listen"
        ) from error


@contextlib.contextmanager
def _signals(loop: asyncio.AbstractEventLoop, at_signal: Callable[[], None]) -> Iterator[None]:
    """Let signals begin the end; a loop in another than the main thread gets none."""
    taken = []
    for number in _STOPPING:
        with contextlib.suppress(RuntimeError, ValueError):
            loop.add_signal_handler(number, at_signal)
            taken.append(number)
            # Held back since the start of the process, where its first process ignores them.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)


class _Loop(asyncio.SelectorEventLoop):
    """A loop whose TLS connections end soon, also with peers that do not answer.

    Otherwise asyncio waits 60 s for a handshake, in which a connection is not counted yet, and 30 s
    for a peer that is idle to confirm the end.
    """

    async def create_server(self, *arguments: Any, **options: Any) -> asyncio.Server:  # noqa: ANN401
        if options.get("ssl") is not None:
            options = {
                "ssl_handshake_timeout": _HANDSHAKE_S,
                "ssl_shutdown_timeout": _GOODBYE_S,
                **options,
            }
        return await super().create_server(*arguments, **options)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: it would end at once, and by the signal, not with 0."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return contextlib.nullcontext()


# -- TLS -----------------------------------------------------------------------------------------


class _Tls:
    """A context that follows its files: new handshakes get the new certificate."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        try:
            self._digest = self._read_digest()
            self.context = self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"cannot serve https with {files.certificate} and {files.key}: {_reason(error)}"
            ) from error

    async def follow(self, every_s: float) -> None:
        """Look at the files again and again; what cannot be used is told once and left."""
        refused = b""
        while True:
            await asyncio.sleep(every_s)
            digest = refused
            try:
                digest = self._read_digest()
                if digest in (self._digest, refused):
                    continue
                # The trial keeps a pair that does not fit out of the context in use.
                self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
                self._load(self.context)
            except (OSError, ssl.SSLError) as error:
                refused = digest
                self._tell(error)
            else:
                self._digest, refused = digest, b""
                _log.info("certificate %s has changed and is in use", self._files.certificate)

    def _tell(self, error: OSError) -> None:
        _log.warning(
            "new certificate %s cannot be used, the one before stays: %s",
            self._files.certificate,
            _reason(error),
        )

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        # An encrypted key has no password here: an empty one fails instead of asking a terminal.
        context.load_cert_chain(self._files.certificate, self._files.key, password=b"")
        return context

    def _read_digest(self) -> bytes:
        content = (self._files.certificate.read_bytes(), self._files.key.read_bytes())
        return b"".join(hashlib.sha256(part).digest() for part in content)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not a PEM certificate and its key"
    return error.strerror or type(error).__name__


# -- bounds --------------------------------------------------------------------------------------


class _Bounds:
    """Counts connections; says which are too many."""

    def __init__(self, serving: Serving) -> None:
        self.head_s = serving.head_s
        self._per_address_max = serving.connections_per_address
        self._max = min(serving.connections, _descriptors_for(serving.connections))
        self._of_address: Counter[str] = Counter()

    def taken(self, address: str) -> bool:
        """Count a connection in, unless it is one too many."""
        if self._of_address.total() >= self._max:
            return False
        if self._of_address[address] >= self._per_address_max:
            return False
        self._of_address[address] += 1
        return True

    def released(self, address: str) -> None:
        """Count a connection out."""
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]


def _descriptors_for(connections: int) -> int:
    """Return how many connections the process may have, after asking for as many as needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == resource.RLIM_INFINITY else soft - _OTHER_DESCRIPTORS


class _Connection(H11Protocol):
    """uvicorn's connection, bounded in number and in the time for a request's head.

    uvicorn itself waits for a head for ever.
    """

    bounds: _Bounds
    _address: str | None = None
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if not self.bounds.taken(address):
            transport.abort()
            return
        self._address = address
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and not cycle.response_complete:
            self._stop_waiting()
        elif self._head_timer is None:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._address is not None:
            self.bounds.released(self._address)
            self._address = None
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        body = json.dumps({"error": "bad_request", "detail": msg}).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self.bounds.head_s, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _Lingering:
    """Reads the rest of a request that is answered early, so that the answer arrives.

    Closing a connection with unread bytes resets it, and the caller never sees why it was refused.
    What is still to come after that, or takes too long, is not read: the connection is closed.
    More requests at a time than are allowed are answered here, too. Once the end is near, every answer
    ends its connection, so that the caller's next request goes elsewhere and is not cut.
    """

    def __init__(self, app: ASGIApp, serving: Serving, readiness: Readiness) -> None:
        self._app = app
        self._serving = serving
        self._readiness = readiness
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Incoming(scope, receive)
        is_probe = scope["path"] in _PROBES
        app = self._app if is_probe or self._under_way < self._serving.requests else _too_many
        self._under_way += 1
        try:
            await app(scope, body.receive, self._sender(body, send))
        finally:
            self._under_way -= 1

    def _sender(self, body: "_Incoming", send: Send) -> Send:
        async def send_after_reading(message: Message) -> None:
            if message["type"] == "http.response.start":
                if not body.complete:
                    await self._read_rest(body)
                if not body.complete or self._readiness.is_ending:
                    headers = [*message.get("headers", ()), (b"connection", b"close")]
                    message = {**message, "headers": headers}
            await send(message)

        return send_after_reading

    async def _read_rest(self, body: "_Incoming") -> None:
        left = self._serving.linger_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._serving.linger_s):
                while not body.complete and left > 0:
                    left -= len((await body.receive()).get("body", b""))


class _Incoming:
    """The body of a request, and whether all of it has been read."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        self.complete = length == b"0" and b"transfer-encoding" not in headers

    async def receive(self) -> MutableMapping[str, Any]:
        """Pass a message on."""
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.complete = True
        return message


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:
    answer = JSONResponse(
        {"error": "busy", "detail": "too many requests at a time; come again"},
        503,
        headers={"Retry-After": "2"},
    )
    await answer(scope, receive, send)
