"""One HTTP request to a host that is not trusted: bounded in time and bytes, sent nowhere else.

The standard library's connection is used as it is, so that no proxy, netrc file or redirect is ever
followed. It takes a fifth of the memory and start-up time of a client library, beside each training job.
"""

import contextlib
import errno
import http.client
import ipaddress
import logging
import os
import re
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Final, Literal, Protocol, Self, TypeVar, cast
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from io import BufferedReader

TEXT_CHARACTERS_MAX: Final = 300
"""Of a foreign text in one of our messages."""

HEAD_BYTES_MAX: Final = 32 * 1024
"""Of an answer's status line and headers, with preliminary answers; whom we ask sends some hundred."""

_PIECE_BYTES: Final = 64 * 1024
_TOKEN_BYTES_MAX: Final = 16 * 1024
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
"""`b64token` of RFC 6750 §2.1. Anything else would not be a header's value either."""

_UNFINISHED_UPLOAD: Final = {errno.EPIPE, errno.ECONNRESET, errno.EPROTOTYPE}
"""Who refuses a request before all of it has come: the answer is there to be read all the same."""

_log = logging.getLogger(__name__)

T = TypeVar("T")

Fault = Literal["look-up", "connect", "refused", "tls", "ca-file", "slow", "protocol", "not-asked"]
"""Why there is no answer: the host's name is not found, it is not reached in time, nobody listens,
its certificate does not hold, the file of authorities cannot be read, the answer is not complete in
time, it is no HTTP (or another trouble of the system), and: no thread is left to watch the time."""


class NoAnswerError(Exception):
    """There is no whole answer. The text is the cause alone, in one printable line."""

    def __init__(self, fault: Fault, why: str) -> None:
        super().__init__(why)
        self.fault = fault


class TokenError(Exception):
    """There is no usable token. One line: which file, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked, with every header but those that all requests have.

    `ca_file` is trusted instead of the authorities of the system.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    content: bytes | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How long it may take in all, how long to connect to each address, and how many bytes."""

    timeout_s: float
    connect_timeout_s: float
    body_bytes_max: int


class Headers(Protocol):
    """Headers of an answer; names in any case."""

    def get(self, name: str, failobj: str, /) -> str:
        """Return the first of this name, or else the other text."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers, and the body in pieces as they come.

    One byte more than allowed tells a body that is too long. The end of the pieces is the end of the
    body: one that is cut short raises, and `exchange` tells it as NoAnswerError.
    """

    status: int
    headers: Headers
    pieces: Iterator[bytes]


def exchange(request: Request, limits: Limits, read: Callable[[Answer], T]) -> T:
    """Send a request and return what `read` makes of the answer; it may leave the rest unread.

    Raises NoAnswerError, and what `read` raises unless the time was up.
    """
    with _Deadline(limits.timeout_s) as deadline:
        try:
            made = _exchanged(request, limits, deadline, read)
        except Exception as error:
            trouble = _trouble(error, request, expired=deadline.expired)
            if trouble is None:
                raise
            raise trouble from error
        if deadline.expired:  # a body without a length ends like this one that was cut off
            raise NoAnswerError("slow", "the time was up")
        return made


def one_line(text: str) -> str:
    """Foreign text as it may stand in a message: one line, printable ASCII, shortened."""
    escaped = " ".join(text[: 4 * TEXT_CHARACTERS_MAX].split()).encode("unicode_escape").decode()
    return escaped if len(escaped) <= TEXT_CHARACTERS_MAX else escaped[:TEXT_CHARACTERS_MAX] + "..."


def shown_path(path: Path) -> str:
    """Return a path as it may stand in a message."""
    return one_line(str(path))


def read_token(path: Path) -> str:
    """Return the token in this file. Raises TokenError, never with the content in it."""
    try:
        content = _read_regular(path, _TOKEN_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise TokenError(f"token file {shown_path(path)} cannot be read: {_why(error)}") from error
    token = content.strip()
    fault = ""
    if not token:
        fault = "is empty"
    elif len(content) > _TOKEN_BYTES_MAX:
        fault = f"is longer than {_TOKEN_BYTES_MAX} bytes"
    elif not _TOKEN.fullmatch(token):
        fault = "holds characters that no token has"
    if fault:
        raise TokenError(f"token file {shown_path(path)} {fault}")
    return token.decode()


class _LookUpSlowError(OSError):
    """The host's name was not found in time."""


class _ConnectSlowError(OSError):
    """The host was not reached in time."""


class _Deadline:
    """Ends a connection when its time is up, whatever it is doing.

    A socket's timeout alone starts anew with every byte: a server that drips would be read for
    ever. A duplicate of the descriptor is shut down, because TLS takes over the socket itself.
    """

    def __init__(self, timeout_s: float) -> None:
        self._ends_s = time.monotonic() + timeout_s
        self._lock = threading.Lock()
        self._duplicates: list[socket.socket] = []
        self._timer = threading.Timer(timeout_s, self._expire)
        self._timer.daemon = True
        self.expired = False

    @property
    def left_s(self) -> float:
        return max(0.001, self._ends_s - time.monotonic())

    def watch(self, connected: socket.socket) -> None:
        """Watch over a connection from now on."""
        duplicate = socket.fromfd(connected.fileno(), connected.family, connected.type)
        with self._lock:
            self._duplicates.append(duplicate)
            if self.expired:
                _shut_down(duplicate)

    def _expire(self) -> None:
        with self._lock:
            self.expired = True
            for duplicate in self._duplicates:
                _shut_down(duplicate)

    def __enter__(self) -> Self:
        try:
            self._timer.start()
        except RuntimeError as error:  # no more threads allowed here
            raise NoAnswerError("not-asked", _why(error)) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            for duplicate in self._duplicates:
                duplicate.close()
            self._duplicates.clear()


class _LookUp(threading.Thread):
    """Looks a host up in a thread of its own: the system's look-up cannot be ended.

    One that is late is left behind, and ends when the resolver gives up.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(name="look-up", daemon=True)
        self._asked = (host, port)
        self.addresses: tuple[str, ...] = ()
        self.error: Exception | None = None

    def run(self) -> None:
        host, port = self._asked
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            self.error = error
        else:
            self.addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def _addresses(host: str, port: int, left_s: float) -> tuple[str, ...]:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    else:
        return (host,)
    host.encode("idna")  # what cannot be a name is not looked up
    look_up = _LookUp(host, port)
    try:
        look_up.start()
    except RuntimeError as error:  # no more threads allowed here
        raise OSError(errno.EAGAIN, str(error)) from error
    look_up.join(left_s)
    if look_up.is_alive():
        raise _LookUpSlowError(errno.ETIMEDOUT, f"{host} was not looked up in time")
    if look_up.error is not None:
        raise look_up.error
    return look_up.addresses


@dataclass(frozen=True, slots=True)
class _Watch:
    """What bounds a connection in time."""

    deadline: _Deadline
    connect_timeout_s: float


class _Head:
    """The stream of an answer up to its body, of bounded length."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = HEAD_BYTES_MAX
        self.close = stream.close

    def readline(self, size: int) -> bytes:
        line = self._stream.readline(min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise http.client.HTTPException(f"its head has more than {HEAD_BYTES_MAX} bytes")
        return line


class _Response(http.client.HTTPResponse):
    """An answer whose head is bounded: http.client takes 6 MB of it, which need 50 to be read."""

    def begin(self) -> None:
        stream = self.fp
        self.fp = cast("BufferedReader", _Head(stream))
        try:
            super().begin()
        finally:
            if not self.isclosed():  # as it is where there is no body
                self.fp = stream


class _Connection(http.client.HTTPConnection):
    """A connection to the first address that answers, watched over from before TLS begins."""

    response_class = _Response

    def __init__(self, target: SplitResult, request: Request, watch: _Watch) -> None:
        is_secure = target.scheme == "https"
        if not target.hostname or target.scheme not in ("http", "https"):
            raise ValueError(
                f"{target.scheme or 'it'} is no http:// or https:// address with a host"
            )
        default = http.client.HTTPS_PORT if is_secure else http.client.HTTP_PORT
        super().__init__(target.hostname, target.port or default)
        self.default_port = default  # which the header Host leaves out
        self._is_secure = is_secure
        self._ca_file = request.ca_file
        self._watch = watch

    def connect(self) -> None:
        deadline = self._watch.deadline
        self.sock = self._first_that_answers()
        deadline.watch(self.sock)
        # Head and body are two writes: the second would wait for the first to be acknowledged.
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(self._patience_s())
        if self._is_secure:
            context = ssl.create_default_context(cafile=self._ca_file)
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host)
        self.sock.settimeout(deadline.left_s)  # sending has all of the time

    def _patience_s(self) -> float:
        return min(self._watch.connect_timeout_s, self._watch.deadline.left_s)

    def _first_that_answers(self) -> socket.socket:
        failure = OSError(errno.EADDRNOTAVAIL, f"{self.host} has no address")
        for address in _addresses(self.host, self.port, self._watch.deadline.left_s):
            try:
                return socket.create_connection((address, self.port), self._patience_s())
            except TimeoutError as error:
                failure = _ConnectSlowError(errno.ETIMEDOUT, str(error))
            except OSError as error:
                failure = error
        raise failure


def _exchanged(
    request: Request, limits: Limits, deadline: _Deadline, read: Callable[[Answer], T]
) -> T:
    headers = {
        **request.headers,
        "Accept-Encoding": "identity",
        "Connection": "close",
        "User-Agent": "emissions-sidecar",
    }
    target = urlsplit(request.url)
    path = f"{target.path or '/'}{f'?{target.query}' if target.query else ''}"
    watch = _Watch(deadline, limits.connect_timeout_s)
    with closing(_Connection(target, request, watch)) as connection:
        connection.connect()
        with _unfinished_uploads_ignored():
            connection.request(request.method, path, request.content, headers)
        with closing(connection.getresponse()) as response:
            _log.debug("%s %s%s: %d", request.method, connection.host, path, response.status)
            pieces = _pieces(response, limits.body_bytes_max)
            return read(Answer(response.status, response.headers, pieces))


@contextlib.contextmanager
def _unfinished_uploads_ignored() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _UNFINISHED_UPLOAD:
            raise


def _pieces(response: http.client.HTTPResponse, bytes_max: int) -> Iterator[bytes]:
    """Read a little more than is allowed at most; raises where the body is cut short.

    To the end: that a byte is missing is told by the read that finds nothing more.
    """
    left = bytes_max + 1
    while left:
        piece = response.read(min(left, _PIECE_BYTES))
        if not piece:
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
            return
        left -= len(piece)
        yield piece


def _trouble(error: Exception, request: Request, *, expired: bool) -> NoAnswerError | None:
    """Return why there is no answer; None for an error that has nothing to do with it."""
    is_exchange = isinstance(error, OSError | http.client.HTTPException | ValueError)
    fault = _fault(error)
    if fault != "look-up" and expired:
        fault = "slow"
    elif not is_exchange:
        return None
    elif fault in ("protocol", "refused") and _lacks_authorities(request):
        fault = "ca-file"
    return NoAnswerError(fault, _why(error))


def _fault(error: Exception) -> Fault:
    kinds: tuple[tuple[type[Exception] | tuple[type[Exception], ...], Fault], ...] = (
        ((socket.gaierror, _LookUpSlowError), "look-up"),
        (_ConnectSlowError, "connect"),
        (TimeoutError, "slow"),
        (ssl.SSLError, "tls"),
        (ConnectionRefusedError, "refused"),
    )
    return next((fault for kind, fault in kinds if isinstance(error, kind)), "protocol")


def _lacks_authorities(request: Request) -> bool:
    ca_file = request.ca_file if request.url.startswith("https:") else None
    return ca_file is not None and not os.access(ca_file, os.R_OK)


def _why(error: BaseException) -> str:
    told: str | None = None
    if isinstance(error, ssl.SSLError):
        told = getattr(error, "verify_message", "") or error.reason or error.strerror
    elif isinstance(error, OSError):
        told = error.strerror
    elif isinstance(error, http.client.HTTPException):
        told = repr(error)  # its kind says more than its text
    return one_line(str(told or error)) or type(error).__name__


def _shut_down(connected: socket.socket) -> None:
    with suppress(OSError):  # the other side was quicker
        connected.shutdown(socket.SHUT_RDWR)


def _read_regular(path: Path, limit_bytes: int) -> bytes:
    """Read a file, but no pipe or device: those may never end, or never begin."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return os.read(descriptor, limit_bytes)
    finally:
        os.close(descriptor)
