"""Posts requests over kept connections, and times each answer.

Requests are made beforehand and one thread serves all connections, so that little of the machine is
taken from the server that is measured.
"""

import re
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

PATIENCE_S: Final = 30.0
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(slots=True)
class Answers:
    """Seconds from the first byte sent to the last received, one by one, and for all."""

    latencies_s: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0

    @property
    def per_s(self) -> float:
        return len(self.latencies_s) / self.elapsed_s


def request_bytes(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Return a POST as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def post_all(url: str, requests: Sequence[bytes], connections: int) -> Answers:
    """Post all, on so many connections at a time. Raises RuntimeError where one is not answered 201."""
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 80)
    answers, left = Answers(), iter(requests)
    with selectors.DefaultSelector() as selector:
        calls = [_Call(address) for _ in range(connections)]
        try:
            begun_s = time.perf_counter()
            for call in calls:
                _go_on(selector, call, left)
            while selector.get_map():
                ready = selector.select(PATIENCE_S)
                if not ready:
                    raise RuntimeError(f"{url} has not answered in {PATIENCE_S:g} s")
                for key, _ in ready:
                    if key.data.received():
                        answers.latencies_s.append(time.perf_counter() - key.data.sent_at_s)
                        selector.unregister(key.fileobj)
                        _go_on(selector, key.data, left)
            answers.elapsed_s = time.perf_counter() - begun_s
        finally:
            for call in calls:
                call.socket.close()
    return answers


def _go_on(selector: selectors.BaseSelector, call: "_Call", left: Iterator[bytes]) -> None:
    request = next(left, None)
    if request is not None:
        call.send(request)
        selector.register(call.socket, selectors.EVENT_READ, call)


class _Call:
    """One kept connection."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_at_s = 0.0
        self._answer = b""

    def send(self, request: bytes) -> None:
        self._answer = b""
        self.sent_at_s = time.perf_counter()
        self.socket.sendall(request)

    def received(self) -> bool:
        """Take what came; whether the answer is whole. Raises RuntimeError where it is not 201."""
        piece = self.socket.recv(65536)
        self._answer += piece
        head, end, body = self._answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if end else None
        if not piece or (end and (length is None or not head.startswith(b"HTTP/1.1 201"))):
            raise RuntimeError(f"not answered 201 but {self._answer[:600]!r}")
        return length is not None and len(body) >= int(length[1])
