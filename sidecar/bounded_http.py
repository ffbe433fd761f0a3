"""One HTTP request to a host that is not trusted: bounded in time and bytes, sent nowhere else.

requests' adapter is used without a session, so that no proxy, netrc file or CA of the environment
and no redirect is ever followed.
"""

import errno
import ipaddress
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
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, cast

if TYPE_CHECKING:  # loaded only where something is asked
    from requests import Response
    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection

TEXT_CHARACTERS_MAX: Final = 300
"""Of a foreign text in one of our messages."""

_PIECE_BYTES: Final = 64 * 1024
_TOKEN_BYTES_MAX: Final = 16 * 1024
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
"""`b64token` of RFC 6750 §2.1. Anything else would not be a header's value either."""

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

    `ca_file` is trusted instead of the well-known authorities.
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


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers, and the body in pieces as they come.

    One byte more than allowed tells a body that is too long. The end of the pieces is the end of the
    body: one that is cut short raises, and `exchange` tells it as NoAnswerError.
    """

    status: int
    headers: Mapping[str, str]
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


def _connected(
    connection: "HTTPConnection", deadline: _Deadline, connect: Callable[[], socket.socket]
) -> socket.socket:
    """Connect to the first address that answers, and watch over it before TLS begins."""
    name, patience_s = connection.host, connection.timeout
    failure: Exception = OSError(errno.EADDRNOTAVAIL, f"{name} has no address")
    try:
        for address in _addresses(name, connection.port, deadline.left_s):
            connection.host = address
            if isinstance(patience_s, int | float):
                connection.timeout = min(patience_s, deadline.left_s)
            try:
                connected = connect()
            except Exception as error:  # noqa: BLE001 - that of the last address is raised
                failure = error
            else:
                deadline.watch(connected)
                return connected
    finally:
        connection.host, connection.timeout = name, patience_s
    raise failure


def _adapter(deadline: _Deadline) -> "HTTPAdapter":
    """Return requests' way to send one request, its connections watched over by the deadline."""
    from requests.adapters import HTTPAdapter  # noqa: PLC0415
    from urllib3.connection import HTTPConnection, HTTPSConnection  # noqa: PLC0415
    from urllib3.connectionpool import HTTPConnectionPool  # noqa: PLC0415

    # `_new_conn` is where urllib3's own SOCKS support comes in, too: it opens the socket.
    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connected(self, deadline, super()._new_conn)

        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(deadline.left_s)  # sending has all of the time

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connected(self, deadline, super()._new_conn)

        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(deadline.left_s)

    class Watched(HTTPAdapter):
        def get_connection_with_tls_context(
            self,
            *args: Any,  # noqa: ANN401 - handed on as they are
            **options: Any,  # noqa: ANN401
        ) -> HTTPConnectionPool:
            pool = super().get_connection_with_tls_context(*args, **options)
            watched = cast("HTTPConnectionPool", pool)
            watched.ConnectionCls = Secure if watched.scheme == "https" else Plain
            return watched

    return Watched(max_retries=0)


def _exchanged(
    request: Request, limits: Limits, deadline: _Deadline, read: Callable[[Answer], T]
) -> T:
    import requests  # noqa: PLC0415

    headers = {
        **request.headers,
        "Accept-Encoding": "identity",
        "Connection": "close",
        "User-Agent": "emissions-sidecar",
    }
    prepared = requests.Request(
        request.method, request.url, headers=headers, data=request.content
    ).prepare()
    left_s = deadline.left_s
    with (
        closing(_adapter(deadline)) as adapter,
        adapter.send(
            prepared,
            stream=True,
            timeout=(min(limits.connect_timeout_s, left_s), left_s),
            verify=True if request.ca_file is None else str(request.ca_file),
        ) as response,
    ):
        pieces = _pieces(response, limits.body_bytes_max)
        return read(Answer(response.status_code, response.headers, pieces))


def _pieces(response: "Response", bytes_max: int) -> Iterator[bytes]:
    """Read a little more than is allowed at most; raises where the body is cut short.

    To the end: that a byte is missing is told by the read that finds nothing more.
    """
    left = bytes_max + 1
    while left:
        piece = response.raw.read(min(left, _PIECE_BYTES), decode_content=False)
        if not piece:
            return
        left -= len(piece)
        yield piece


def _trouble(error: Exception, request: Request, *, expired: bool) -> NoAnswerError | None:
    """Return why there is no answer; None for an error that has nothing to do with it."""
    from requests import ConnectTimeout, Timeout  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415
    from urllib3.exceptions import TimeoutError as PoolTimeout  # noqa: PLC0415

    is_exchange = isinstance(error, OSError | HTTPError | ValueError)  # requests' are OSErrors
    cause = _cause(error) if is_exchange else None
    fault: Fault | None = _system_fault(cause)
    if fault == "look-up":
        pass
    elif expired:
        fault = "slow"
    elif not is_exchange:
        return None
    elif fault is None and isinstance(error, ConnectTimeout):
        fault = "connect"
    elif fault is None and (
        isinstance(cause, TimeoutError) or isinstance(error, Timeout | PoolTimeout)
    ):
        fault = "slow"
    elif fault != "tls" and _lacks_authorities(request):
        fault = "ca-file"
    return NoAnswerError(fault or "protocol", _why(cause or error))


def _system_fault(cause: OSError | None) -> Fault | None:
    if isinstance(cause, socket.gaierror | _LookUpSlowError):
        return "look-up"
    if isinstance(cause, ssl.SSLError):
        return "tls"
    if isinstance(cause, ConnectionRefusedError):
        return "refused"
    return None


def _lacks_authorities(request: Request) -> bool:
    ca_file = request.ca_file if request.url.startswith("https:") else None
    return ca_file is not None and not os.access(ca_file, os.R_OK)


def _cause(error: BaseException | None) -> OSError | None:
    """Return the system's own error below those of requests and urllib3; None where there is none."""
    from requests import RequestException  # noqa: PLC0415

    for _ in range(20):
        if isinstance(error, OSError) and not isinstance(error, RequestException):
            return error
        if error is None:
            return None
        error = error.__cause__ or error.__context__
    return None


def _why(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        told = getattr(error, "verify_message", "") or error.reason or error.strerror
    else:
        told = isinstance(error, OSError) and error.strerror
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
