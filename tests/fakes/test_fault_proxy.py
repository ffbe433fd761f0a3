"""The proxy that everybody's fault tests stand on does what it says."""

import contextlib
import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.e2e.commands import until
from tests.fakes.fault_proxy import FaultProxy


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.carried_out.append((self.command, self.path, body))
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    do_HEAD = do_PUT = do_POST = _answer  # noqa: N815 - as the server looks them up

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as made:
        made.carried_out = []
        made.daemon_threads = False
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def proxy(server):
    with FaultProxy("127.0.0.1", server.server_port) as made:
        yield made


@pytest.fixture
def client(proxy):
    with contextlib.closing(http.client.HTTPConnection(proxy.host, proxy.port, timeout=10)) as made:
        yield made


def ask(client, method="PUT", path="/x", body=b"hello"):
    client.request(method, path, body)
    with client.getresponse() as answer:
        return answer.status, answer.read()


def fails(client, method="PUT", path="/x", body=b"hello"):
    with pytest.raises((http.client.HTTPException, OSError)):
        ask(client, method, path, body)
    client.close()


def test_requests_on_one_connection_pass(client, proxy):
    assert [ask(client, body=text) for text in (b"a", b"", b"c" * 100_000)] == [
        (200, b"a"),
        (200, b""),
        (200, b"c" * 100_000),
    ]
    assert proxy.held == 1
    assert [(seen.method, seen.path, len(seen.body)) for seen in proxy.requests] == [
        ("PUT", "/x", 1),
        ("PUT", "/x", 0),
        ("PUT", "/x", 100_000),
    ]


def test_an_answer_without_a_body_passes(client):
    assert ask(client, "HEAD") == (200, b"")
    assert ask(client) == (200, b"hello")


def test_chunks_pass_both_ways(client, proxy, server):
    client.request("POST", "/chunked", iter([b"ab", b"c"]), encode_chunked=True)
    with client.getresponse() as answer:
        assert answer.read() == b"abcde"
    assert proxy.requests[0].body == b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"


def test_refused_ends_what_is_open_and_comes_back_on_the_same_port(client, proxy):
    ask(client)
    proxy.refuse()
    fails(client)
    with pytest.raises(ConnectionRefusedError):
        ask(client)
    client.close()
    proxy.pass_on()
    assert ask(client) == (200, b"hello")


def test_a_dropped_answer_was_given(client, proxy, server):
    proxy.drop_answer(faults=1)
    fails(client)
    assert server.carried_out == [("PUT", "/x", b"hello")]
    assert ask(client) == (200, b"hello")


def test_a_black_hole_reads_and_passes_nothing_on(client, proxy, server):
    proxy.black_hole()
    client.request("PUT", "/x", b"hello")
    assert until(lambda: proxy.requests)[0].body == b"hello"
    assert proxy.held == 1
    client.close()
    until(lambda: proxy.held == 0)
    assert server.carried_out == []


def test_a_request_is_cut_in_its_body(client, proxy, server):
    proxy.cut_request(3, faults=1)
    fails(client)
    assert proxy.requests[0].body == b"hel"
    assert ask(client) == (200, b"hello")
    assert ("PUT", "/x", b"hello") not in server.carried_out[:-1]


def test_a_status_is_answered_without_the_far_side(client, proxy, server):
    proxy.status(503, {"Retry-After": "3"}, b"busy", faults=2)
    assert ask(client) == (503, b"busy")
    assert ask(client, "HEAD") == (503, b"")
    assert ask(client) == (200, b"hello")
    assert len(server.carried_out) == 1


def test_slow_comes_whole(client, proxy):
    proxy.slow(2_000)
    assert ask(client, body=b"x" * 300) == (200, b"x" * 300)


def test_a_dripping_answer_comes_whole(client, proxy):
    proxy.drip_answer(2_000)
    assert ask(client) == (200, b"hello")


def test_a_fault_holds_for_as_many_requests_as_told(client, proxy):
    proxy.status(500, faults=3)
    assert [ask(client)[0] for _ in range(5)] == [500, 500, 500, 200, 200]
