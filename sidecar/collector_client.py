"""The collector as a sidecar asks it: HTTP with the pod's own token, bounded in time and bytes.

Whoever answers is not trusted, and the token goes nowhere else: requests' adapter is used without
a session, so that no proxy, netrc file or CA of the environment and no redirect is ever followed.
"""

import errno
import json
import os
import re
import socket
import ssl
import stat
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

if TYPE_CHECKING:  # loaded only where a collector is asked
    from requests import Response
    from requests.adapters import HTTPAdapter

SEGMENTS_PATH: Final = "/v1/segments"
NODE_PATH: Final = "/v1/node"
HANDOVER_HEADER: Final = "Emissions-Handover"
RECEIPT_HEADER: Final = "Emissions-Receipt"

CONNECT_TIMEOUT_S: Final = 5.0
"""For each address of the host, and again for the TLS handshake."""

ANSWER_BYTES_MAX: Final = 64 * 1024
"""Of a body; the collector's have some hundred bytes. http.client bounds the headers."""

RETRY_AFTER_MAX_S: Final = 3600.0
TEXT_CHARACTERS_MAX: Final = 300
"""Of a foreign text in one of our messages."""

_TOKEN_BYTES_MAX: Final = 16 * 1024
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
"""`b64token` of RFC 6750 §2.1. Anything else would not be a header's value either."""

_RECEIPT: Final = re.compile(r"[!-~]{1,4096}")
_SECONDS: Final = re.compile(r"[0-9]+", re.ASCII)


class CollectorError(Exception):
    """The collector gave no answer. One line: what happened, with which value, what to do."""


class CollectorTokenError(CollectorError):
    """There is no usable token, so the collector was not asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the collector, or whoever is there, answered.

    `payload` is the JSON object of the body; where it is none, it is empty and `problem` says why.
    `receipt` proves later whose segments these were. `retry_after_s` is within 0 to 3600 seconds.
    """

    status: int
    payload: Mapping[str, Any]
    receipt: str | None = field(default=None, repr=False)
    retry_after_s: float | None = None
    problem: str | None = None

    @property
    def error(self) -> str | None:
        """Return the collector's short code; None where it is not the collector that answers."""
        code = self.payload.get("error")
        return one_line(code) if isinstance(code, str) and code.strip() else None

    @property
    def reason(self) -> str:
        """Return what the answer gives as its reason, in one printable line."""
        detail = self.payload.get("detail")
        told = one_line(detail) if isinstance(detail, str) else ""
        said = ": ".join(text for text in (self.error, told) if text)
        return said or self.problem or "no reason given"


class CollectorClient:
    """Asks one collector; each request has a connection of its own, and may come from any thread.

    `url` without a path's last slash. The token is read from `token_file` for each request, because
    kubelet replaces it; `ca_file` is trusted instead of the well-known authorities.
    """

    def __init__(self, url: str, token_file: Path, ca_file: Path | None = None) -> None:
        self.url = url.rstrip("/")
        self.token_file = token_file
        self.ca_file = ca_file

    def post_segment(self, content: bytes, handover: str | None, timeout_s: float) -> Answer:
        """Send one compressed segment; `handover` is the receipt of the pod that left it.

        Raises CollectorError, and ValueError for a receipt that `is_receipt` denies.
        """
        headers = {"Content-Type": "application/gzip"}
        if handover is not None:
            if not is_receipt(handover):
                raise ValueError("a receipt has 1 to 4096 printable ASCII characters, no space")
            headers[HANDOVER_HEADER] = handover
        return self._ask(_Question("POST", SEGMENTS_PATH, headers, content), timeout_s)

    def node(self, timeout_s: float) -> Answer:
        """Ask what the collector knows of this pod's node. Raises CollectorError."""
        return self._ask(_Question("GET", NODE_PATH), timeout_s)

    def _ask(self, question: "_Question", timeout_s: float) -> Answer:
        """Ask within about `timeout_s` seconds; only the look-up of the host may take longer."""
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        token = read_token(self.token_file)
        if timeout_s <= 0:
            raise CollectorError(f"{self.url} was not asked: no time left")
        failure: Exception | None = None
        with _Deadline(timeout_s, self.url) as deadline:
            try:
                raw = self._exchange(question, token, deadline)
            except (OSError, HTTPError, ValueError) as error:  # requests' errors are OSErrors
                failure = error
            expired = deadline.expired
        if expired or failure is not None:
            text = self._too_slow(timeout_s) if expired else self._trouble(failure, timeout_s)
            raise CollectorError(text) from failure
        secrets = (token, question.headers.get(HANDOVER_HEADER, ""))
        return _answer(raw, [secret.encode() for secret in secrets if secret])

    def _exchange(self, question: "_Question", token: str, deadline: "_Deadline") -> "_RawAnswer":
        from requests import Request  # noqa: PLC0415

        headers = {
            **question.headers,
            "Authorization": f"Bearer {token}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "User-Agent": "emissions-sidecar",
        }
        request = Request(
            question.method, self.url + question.path, headers=headers, data=question.content
        ).prepare()
        left_s = deadline.left_s
        with (
            closing(_adapter(deadline)) as adapter,
            adapter.send(
                request,
                stream=True,
                timeout=(min(CONNECT_TIMEOUT_S, left_s), left_s),
                verify=True if self.ca_file is None else str(self.ca_file),
            ) as response,
        ):
            return _RawAnswer(response.status_code, response.headers, _body(response))

    def _too_slow(self, timeout_s: float) -> str:
        return (
            f"{self.url} did not answer completely within {round(timeout_s, 1):g} s; is it "
            "overloaded, or a NetworkPolicy in the way?"
        )

    def _trouble(self, error: Exception | None, timeout_s: float) -> str:
        """Say in one line why there is no answer, and what to do."""
        from requests import ConnectTimeout, Timeout  # noqa: PLC0415
        from urllib3.exceptions import TimeoutError as PoolTimeout  # noqa: PLC0415

        cause = _cause(error)
        if isinstance(cause, ssl.SSLError):
            return self._tls_trouble(cause)
        if isinstance(error, ConnectTimeout):
            patience_s = min(CONNECT_TIMEOUT_S, round(timeout_s, 1))
            return (
                f"{self.url} could not be reached within {patience_s:g} s; is a NetworkPolicy in the "
                "way, or EMISSIONS_COLLECTOR_URL wrong?"
            )
        if isinstance(cause, TimeoutError) or isinstance(error, Timeout | PoolTimeout):
            return self._too_slow(timeout_s)
        ca_file = self.ca_file if self.url.startswith("https:") else None
        if ca_file is not None and not os.access(ca_file, os.R_OK):
            return f"CA file {_shown(ca_file)} cannot be read; check EMISSIONS_COLLECTOR_CA_FILE"
        return f"{self.url}: {_why(cause or error)}; {_advice(cause)}"

    def _tls_trouble(self, cause: ssl.SSLError) -> str:
        trusted = "not set" if self.ca_file is None else _shown(self.ca_file)
        told = getattr(cause, "verify_message", "") or cause.reason or _why(cause)
        return (
            f"{self.url}: no TLS connection: {one_line(str(told))}; check that "
            f"EMISSIONS_COLLECTOR_CA_FILE ({trusted}) holds the authority of the collector's "
            "certificate, and the certificate's names and dates"
        )


def is_receipt(text: str) -> bool:
    """Whether this could be a receipt: one word of printable ASCII, at most 4096 characters."""
    return _RECEIPT.fullmatch(text) is not None


def read_token(path: Path) -> str:
    """Return the token in this file. Raises CollectorTokenError, never with the content in it."""
    what_to_do = (
        "mount a projected service account token there, or set EMISSIONS_COLLECTOR_TOKEN_FILE"
    )
    try:
        content = _read_regular(path, _TOKEN_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise CollectorTokenError(
            f"token file {_shown(path)} cannot be read: {_why(error)}; {what_to_do}"
        ) from error
    token = content.strip()
    fault = ""
    if not token:
        fault = "is empty"
    elif len(content) > _TOKEN_BYTES_MAX:
        fault = f"is longer than {_TOKEN_BYTES_MAX} bytes"
    elif not _TOKEN.fullmatch(token):
        fault = "holds characters that no token has"
    if fault:
        raise CollectorTokenError(f"token file {_shown(path)} {fault}; {what_to_do}")
    return token.decode()


def parse_retry_after_s(text: str, now: datetime) -> float | None:
    """Return the seconds of a `Retry-After` (RFC 9110 §10.2.3: seconds or a date), within 0 to 3600.

    None for what is neither.
    """
    value = text.strip()
    if _SECONDS.fullmatch(value):
        return min(float(value), RETRY_AFTER_MAX_S)
    moment = _http_date(value)
    if moment is None:
        return None
    return min(max((moment - now).total_seconds(), 0.0), RETRY_AFTER_MAX_S)


def one_line(text: str) -> str:
    """Foreign text as it may stand in a message: one line, printable ASCII, shortened."""
    escaped = ascii(" ".join(text[: 4 * TEXT_CHARACTERS_MAX].split()))[1:-1]
    return escaped if len(escaped) <= TEXT_CHARACTERS_MAX else escaped[:TEXT_CHARACTERS_MAX] + "..."


@dataclass(frozen=True, slots=True)
class _Question:
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class _RawAnswer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class _Deadline:
    """Ends a connection when its time is up, whatever it is doing.

    A socket's timeout alone starts anew with every byte: a server that drips would be read for
    ever. A duplicate of the descriptor is shut down, because TLS takes over the socket itself.
    """

    def __init__(self, timeout_s: float, url: str) -> None:
        self._ends_s = time.monotonic() + timeout_s
        self._url = url
        self._lock = threading.Lock()
        self._duplicates: list[socket.socket] = []
        self._timer = threading.Timer(timeout_s, self._expire)
        self._timer.daemon = True
        self.expired = False

    @property
    def left_s(self) -> float:
        return max(0.001, self._ends_s - time.monotonic())

    def watch(self, connected: socket.socket) -> None:
        """Watch over a connection from now on; sending is bounded as well."""
        connected.settimeout(self.left_s)
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
            raise CollectorError(f"{self._url} was not asked: {_why(error)}") from error
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


def _shut_down(connected: socket.socket) -> None:
    with suppress(OSError):  # the other side was quicker
        connected.shutdown(socket.SHUT_RDWR)


def _adapter(deadline: _Deadline) -> "HTTPAdapter":
    """Return requests' way to send one request, its connections watched over by the deadline."""
    from requests.adapters import HTTPAdapter  # noqa: PLC0415
    from urllib3.connection import HTTPConnection, HTTPSConnection  # noqa: PLC0415
    from urllib3.connectionpool import HTTPConnectionPool  # noqa: PLC0415

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            deadline.watch(self.sock)

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            deadline.watch(self.sock)

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


def _body(response: "Response") -> bytes:
    """Read a little more than is allowed at most; raises where the body is cut short.

    To the end: that one is missing is told by the read that finds nothing more.
    """
    body = b""
    while left := ANSWER_BYTES_MAX + 1 - len(body):
        piece = response.raw.read(left, decode_content=False)
        if not piece:
            break
        body += piece
    return body


def _answer(raw: _RawAnswer, secrets: list[bytes]) -> Answer:
    """Take from an answer what is ours to take; a secret that comes back is not repeated."""
    body = raw.body
    for secret in secrets:
        body = body.replace(secret, b"[secret]")
    payload, problem = _json_object(body)
    receipt = raw.headers.get(RECEIPT_HEADER, "").strip()
    now = _http_date(raw.headers.get("Date", "")) or datetime.now(UTC)
    return Answer(
        status=raw.status,
        payload=payload,
        receipt=receipt if is_receipt(receipt) else None,
        retry_after_s=parse_retry_after_s(raw.headers.get("Retry-After", ""), now),
        problem=problem,
    )


def _json_object(body: bytes) -> tuple[Mapping[str, Any], str | None]:
    if len(body) > ANSWER_BYTES_MAX:
        return {}, f"the answer is longer than {ANSWER_BYTES_MAX} bytes"
    try:
        content = json.loads(body.decode())
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        return content, None
    begin = one_line(body[:60].decode(errors="replace"))
    return {}, f"the answer is no JSON object; it begins '{begin}'" if body else "an empty answer"


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text[:64])
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _read_regular(path: Path, limit_bytes: int) -> bytes:
    """Read a file, but no pipe or device: those may never end, or never begin."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return os.read(descriptor, limit_bytes)
    finally:
        os.close(descriptor)


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


def _advice(cause: OSError | None) -> str:
    if isinstance(cause, socket.gaierror):
        return "is the host in EMISSIONS_COLLECTOR_URL right?"
    if isinstance(cause, ConnectionRefusedError):
        return "is the collector running and ready?"
    return "is the collector running, and EMISSIONS_COLLECTOR_URL right (https:// or http://)?"


def _why(error: BaseException | None) -> str:
    told = (isinstance(error, OSError) and error.strerror) or str(error)
    return one_line(told) or type(error).__name__


def _shown(path: Path) -> str:
    return one_line(str(path))
