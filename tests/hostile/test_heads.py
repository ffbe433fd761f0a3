"""Heads of requests that no client sends, at the servers of our own: an answer or the end, no error."""

import contextlib
import logging
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.report.serve import serving
from sidecar.status import StatusServer
from tests.e2e.commands import PATIENCE_S
from tests.test_status import Meter, metrics

WORDS = st.sampled_from(
    [
        *(b"GET POST HEAD OPTIONS / /metrics /terminating /v1/run /index.html HTTP/1.1 HTTP/9".split()),
        b"Host:", b"Host: [", b"Host: a@b:c", b"Content-Length: 9", b"Content-Length: -1", b"http://[",
        b"Content-Length: 99999999999", b"Transfer-Encoding: chunked", b"Expect: 100-continue",
        b"\r\n", b"\r\n\r\n", b"\n", b" ", b"\x00", b"\x1b[31m", b"\xff\xfe", b":", b"%00", b"%ff",
        b"//", b"..",
    ]
)  # fmt: skip
LINES = st.lists(WORDS | st.binary(max_size=30), max_size=4).map(b"".join)
HEADS = st.lists(WORDS | st.binary(max_size=30), max_size=20).map(b"".join) | st.builds(
    lambda first, lines: b"\r\n".join([first, *lines, b"", b""]),
    st.sampled_from([b"GET / HTTP/1.1", b"POST /v1/run HTTP/1.1", b"HEAD //[ HTTP/1.0"]) | LINES,
    st.lists(LINES, max_size=5),
)


def answer_to(address, head: bytes) -> bytes:
    """What is answered to these bytes and the end of them."""
    with contextlib.closing(socket.create_connection(address[:2], PATIENCE_S)) as client:
        answer = b""
        with contextlib.suppress(ConnectionError):
            client.sendall(head)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65536):
                answer += piece
        return answer


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    (directory / "index.html").write_text("<title>report</title>")
    (directory.parent / "secret.html").write_text("secret")
    with serving(directory) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def sidecar():
    meter = Meter()
    server = StatusServer(("127.0.0.1", 0), meter, metrics)
    server.start()
    yield server.address
    server.close()


class Failures(logging.Handler):
    """What the servers log of requests that broke off by an error of their own."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info and record.exc_info[1]
        if error and not isinstance(error, OSError):
            self.seen.append(repr(error))


@contextlib.contextmanager
def failures(name: str):
    log, handler = logging.getLogger(name), Failures()
    before, log.level = log.level, logging.DEBUG
    log.addHandler(handler)
    try:
        yield handler.seen
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


@settings(max_examples=150)
@given(HEADS)
def test_no_head_ends_a_request_of_the_sidecars_server_by_an_error(sidecar, head):
    with failures("sidecar.status") as seen:
        answer_to(sidecar, head)
        assert answer_to(sidecar, b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"ok\n")
    assert seen == []


@settings(max_examples=150)
@given(HEADS)
def test_no_head_ends_a_request_of_the_reports_server_by_an_error_nor_gets_other_files(
    report, head
):
    with failures("sidecar.report.serve") as seen:
        assert b"secret" not in answer_to(report, head)
        served = answer_to(
            report, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        assert b"<title>report" in served
    assert seen == []


@pytest.mark.parametrize("host", ["[", "[::1", "a@b:c]", "127.0.0.1.evil.example", "\x1b"])
def test_a_host_that_is_no_name_is_misdirected(report, host):
    head = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    assert b" 421 " in answer_to(report, head).splitlines()[0]
