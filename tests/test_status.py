"""The status server over real sockets: it answers whatever its other clients do."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from sidecar import status
from sidecar.status import CONNECTIONS_MAX, StatusServer
from tests.e2e.commands import PATIENCE_S, until

TEXT = "text/plain; version=1.0.0; charset=utf-8"


class Meter:
    """Something watched."""

    def __init__(self) -> None:
        self.is_over = False
        self.hurries = 0

    def hurry(self) -> None:
        self.hurries += 1


def metrics() -> tuple[bytes, str]:
    return b"emissions_x 1\n", TEXT


@contextlib.contextmanager
def serving(
    meter: Meter | None = None,
    told: Callable[[], tuple[bytes, str]] = metrics,
    host: str = "127.0.0.1",
) -> Iterator[StatusServer]:
    server = StatusServer((host, 0), meter or Meter(), told)
    server.start()
    try:
        yield server
    finally:
        server.close()


def ask(
    server: StatusServer, path: str, method: str = "GET", body: bytes | None = None
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read(), dict(response.headers)


def connected(server: StatusServer, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(server.address, timeout=PATIENCE_S)
    client.sendall(sent)
    return client


def is_hung_up(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


@pytest.fixture
def request_threads() -> Callable[[], int]:
    """Counts the threads that serve requests, without what another test may have left."""
    before = {*threading.enumerate()}

    def count() -> int:
        since = {*threading.enumerate()} - before
        return sum("process_request_thread" in thread.name for thread in since)

    return count


# -- what is answered ------------------------------------------------------------------------------


def test_health_is_200_while_metering_goes_on_and_503_after():
    meter = Meter()
    with serving(meter) as server:
        assert ask(server, "/healthz")[:2] == (200, b"ok\n")
        meter.is_over = True
        assert ask(server, "/healthz")[:2] == (503, b"metering ended\n")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_end_can_be_announced_again_and_again(method):
    meter = Meter()
    with serving(meter) as server:
        assert [ask(server, "/terminating", method)[0] for _ in range(3)] == [200] * 3
    assert meter.hurries == 3


def test_an_announcement_with_a_body_is_answered_too():
    """Even one longer than is read: whoever sends it may not listen before it is sent."""
    meter = Meter()
    with serving(meter) as server:
        assert ask(server, "/terminating", "POST", b"x" * 60_000)[0] == 200
    assert meter.hurries == 1


@pytest.mark.parametrize("length", ["-1", "x", "", "9" * 30, "²"])
def test_an_absurd_length_of_the_body_costs_nothing(length):
    with serving() as server:
        head = f"POST /terminating HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"
        with connected(server, head.encode("latin-1")) as client:
            assert client.recv(100).startswith(b"HTTP/1.0 200 ")


def test_metrics_are_what_is_told_with_its_content_type():
    with serving() as server:
        code, body, headers = ask(server, "/metrics")
    assert (code, body, headers["Content-Type"]) == (200, *metrics())


def test_a_query_changes_nothing():
    with serving() as server:
        assert ask(server, "/healthz?verbose=1")[0] == 200


@pytest.mark.parametrize("path", ["/", "/healthz/", "/healthzz", "/../healthz", "//", "/%00"])
def test_other_paths_are_404_and_say_what_there_is(path):
    with serving() as server:
        code, body, _ = ask(server, path)
    assert code == 404
    assert b"/terminating" in body


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/metrics", "GET, HEAD"),
        ("PUT", "/terminating", "GET, POST"),
        ("HEAD", "/terminating", "GET, POST"),
        ("OPTIONS", "/healthz", "GET, HEAD"),
    ],
)
def test_another_method_is_405_and_has_no_effect(method, path, allow):
    meter = Meter()
    with serving(meter) as server:
        code, _, headers = ask(server, path, method)
    assert (code, headers["Allow"]) == (405, allow)
    assert meter.hurries == 0


def test_a_head_request_gets_the_headers_alone():
    with serving() as server, connected(server, b"HEAD /healthz HTTP/1.1\r\n\r\n") as client:
        answer = b"".join(iter(lambda: client.recv(1000), b""))
    assert answer.startswith(b"HTTP/1.0 200 ")
    assert b"Content-Length: 3\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_what_cannot_be_told_is_500_and_in_the_log(caplog):
    def broken() -> tuple[bytes, str]:
        raise LookupError("secret detail")

    with serving(told=broken) as server:
        code, body, _ = ask(server, "/metrics")
        assert ask(server, "/healthz")[0] == 200
    assert code == 500
    assert b"secret" not in body
    assert any("/metrics could not be answered" in text for text in caplog.messages)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS client hello
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"BREW /healthz HTTP/1.1\r\n\r\n",
        b"\r\n",
    ],
)
def test_nonsense_gets_an_error_or_nothing_and_the_next_client_its_answer(sent):
    with serving() as server:
        with connected(server, sent) as client, contextlib.suppress(OSError):  # it may have hung up
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(200)
            assert b" 200 " not in answer
        assert ask(server, "/healthz")[0] == 200


# -- who holds it up -------------------------------------------------------------------------------


def test_a_client_that_drips_its_request_is_hung_up_on(monkeypatch):
    """Each byte comes in time; all of them do not."""
    monkeypatch.setattr(status, "REQUEST_S", 0.5)

    def drip() -> bool:
        try:
            client.sendall(b"x")
            return is_hung_up(client)
        except TimeoutError:
            return False
        except OSError:
            return True

    with serving() as server, connected(server, b"GET /healthz HTTP/1.1\r\nX: ") as client:
        client.settimeout(0.05)
        until(drip)
        assert ask(server, "/healthz")[0] == 200


def test_a_client_that_reads_nothing_is_hung_up_on(monkeypatch, request_threads):
    monkeypatch.setattr(status, "REQUEST_S", 0.5)

    def endless() -> tuple[bytes, str]:
        return b"x" * 50_000_000, TEXT

    with serving(told=endless) as server, connected(server, b"GET /metrics HTTP/1.1\r\n\r\n"):
        until(request_threads)
        until(lambda: not request_threads())


def test_many_idle_clients_do_not_keep_others_from_their_answer():
    with serving() as server, contextlib.ExitStack() as clients:
        for number in range(8 * CONNECTIONS_MAX):
            sent = b"" if number % 2 else b"GET /healthz HTTP/1.1\r\nX: "
            clients.enter_context(connected(server, sent))
        assert ask(server, "/healthz")[0] == 200


def test_a_flood_of_clients_is_served_by_few_threads(request_threads):
    seen = []
    with serving() as server, contextlib.ExitStack() as clients:
        for _ in range(8 * CONNECTIONS_MAX):
            clients.enter_context(connected(server))
            seen.append(request_threads())
        until(lambda: request_threads() == CONNECTIONS_MAX)
    assert max(seen) <= CONNECTIONS_MAX


def test_requests_at_the_same_time_are_all_answered():
    codes = []
    with serving() as server:
        threads = [
            threading.Thread(target=lambda: codes.append(ask(server, "/metrics")[0]))
            for _ in range(CONNECTIONS_MAX)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert codes == [200] * CONNECTIONS_MAX


# -- begin and end ---------------------------------------------------------------------------------


def test_an_address_in_use_is_an_error():
    with serving() as server, pytest.raises(OSError, match="in use"):
        StatusServer(server.address, Meter(), metrics)


def test_an_ipv6_address_can_be_listened_on():
    with serving(host="::1") as server:
        assert server.address[0] == "::1"
        assert ask(server, "/healthz")[0] == 200


def test_no_name_is_looked_up_to_begin(monkeypatch):
    """Where DNS is blocked a look-up takes many seconds, and metering would begin after it."""

    def refuse(*_: object) -> None:
        raise AssertionError("a name was looked up")

    monkeypatch.setattr(socket, "getfqdn", refuse)
    monkeypatch.setattr(socket, "gethostbyaddr", refuse)
    with serving() as server:
        assert ask(server, "/healthz")[0] == 200


def test_the_address_is_free_again_after_the_end():
    with serving() as server:
        address = server.address
        ask(server, "/healthz")
    again = StatusServer(address, Meter(), metrics)
    again.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=PATIENCE_S)


def test_the_end_hangs_up_on_who_is_still_there(request_threads):
    """Sockets left open would be warned of, and warnings are errors here."""
    with contextlib.ExitStack() as clients:
        with serving() as server:
            waiting = [clients.enter_context(connected(server, b"GET /hea")) for _ in range(3)]
            until(lambda: request_threads() == 3)
        until(lambda: not request_threads())
        assert all(is_hung_up(client) for client in waiting)


def test_it_can_be_closed_before_it_was_started():
    StatusServer(("127.0.0.1", 0), Meter(), metrics).close()


def test_where_no_thread_can_be_had_nothing_stays_open(monkeypatch):
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    server = StatusServer(("127.0.0.1", 0), Meter(), metrics)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError):
        server.start()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.address, timeout=PATIENCE_S)


def test_clients_that_were_served_leave_no_thread_behind(request_threads):
    with serving() as server:
        assert [ask(server, "/healthz")[0] for _ in range(20)] == [200] * 20
        until(lambda: not request_threads())


# -- pages in a browser on this machine --------------------------------------------------------------


def asked_with(server: StatusServer, path: str, method: str = "GET", **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.address[1], timeout=PATIENCE_S)
    with contextlib.closing(connection):
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        connection.request(method, path, headers=named)
        return connection.getresponse().status


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}]
)
def test_a_page_cannot_announce_the_end(method: str, headers: dict[str, str]) -> None:
    meter = Meter()
    with serving(meter) as server:
        assert asked_with(server, "/terminating", method, **headers) == 403
        assert meter.hurries == 0
        assert asked_with(server, "/terminating", method) == 200


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/terminating", "/v1/run"])
@pytest.mark.parametrize("host", ["evil.example:9877", "10.0.0.7", "["])
def test_on_loopback_a_page_that_rebinds_its_name_to_this_machine_is_told_nothing(
    path: str, host: str
) -> None:
    meter = Meter()
    with serving(meter) as server:
        assert asked_with(server, path, Host=host) == 421
        assert meter.hurries == 0


@pytest.mark.parametrize("host", ["localhost:9877", "127.0.0.1", "[::1]:80"])
def test_on_loopback_this_machine_may_be_called_by_its_names(host: str) -> None:
    with serving() as server:
        assert asked_with(server, "/metrics", Host=host) == 200


def test_in_a_pod_probes_and_scrapers_call_it_by_whatever_name() -> None:
    with serving(host="0.0.0.0") as server:
        assert asked_with(server, "/healthz", Host="10.244.0.7:9877") == 200
        assert asked_with(server, "/metrics", Host="pod.namespace.svc") == 200
