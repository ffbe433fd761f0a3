"""Whoever answers may send what he likes: what asks beside a training job stays small and in time."""

import socket
import threading
from collections.abc import Iterable, Iterator

import pytest

from sidecar.bounded_http import Limits, NoAnswerError, Request, exchange
from tests.hostile.budget import memory_budget

LIMITS = Limits(timeout_s=20, connect_timeout_s=5, body_bytes_max=64 * 1024)


def address_of(pieces: Iterable[bytes]) -> str:
    """Answer one connection with these bytes, whatever is asked; returns the address."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with listening, listening.accept()[0] as client:
            client.recv(64 * 1024)
            try:
                for piece in pieces:
                    client.sendall(piece)
            except OSError:  # it has heard enough
                return

    threading.Thread(target=answer, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/"


def many_headers() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    for number in range(99):
        yield b"x%d: %s\r\n" % (number, b"a" * 65_000)
    yield b"\r\n"


def endless_preliminaries() -> Iterator[bytes]:
    while True:
        yield b"HTTP/1.1 100 Continue\r\n" + b"a: b\r\n" * 50 + b"\r\n"


@pytest.mark.parametrize("head", [many_headers, endless_preliminaries])
def test_an_answer_whose_head_does_not_end_takes_little_memory_and_is_given_up(head):
    """Six megabytes of headers, which are allowed, took 50 MiB: more than a sidecar has."""
    url = address_of(head())
    with memory_budget(2 * 1024**2), pytest.raises(NoAnswerError) as refused:
        exchange(Request("GET", url), LIMITS, lambda answer: list(answer.pieces))
    assert refused.value.fault == "protocol"
    assert "head" in str(refused.value)
