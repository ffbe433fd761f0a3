"""Serving: health, TLS that follows its files, bounded connections, an end that cuts nothing."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import threading
import tracemalloc

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sidecar.serving import (
    Readiness,
    Service,
    Serving,
    TlsFiles,
    _listening_socket,
    health_routes,
)
from sidecar.settings import SettingsError
from tests.e2e.commands import PATIENCE_S, until
from tests.fakes.azurite import Certificate


class _Served:
    """An application in a thread: it echoes, refuses without reading, or waits to be let go."""

    def __init__(self, **options) -> None:
        self.readiness = Readiness()
        self.waiting = threading.Semaphore(0)
        self._release: asyncio.Event | None = None
        options = {"host": "127.0.0.1", "port": 0, "drain_s": 0.0, "finish_s": 5, **options}
        routes = [
            Route("/echo", self._echo, methods=["POST"]),
            Route("/refuse", self._refuse, methods=["POST"]),
            Route("/wait", self._wait),
            *health_routes(self.readiness),
        ]
        self.service = Service(Starlette(routes=routes), Serving(**options), self.readiness)
        self._thread = threading.Thread(target=self.service.run)
        self._thread.start()
        until(lambda: self.service.port or not self._thread.is_alive())

    @property
    def address(self):
        return ("127.0.0.1", self.service.port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service.port}"

    def connected(self):
        return socket.create_connection(self.address, PATIENCE_S)

    def release(self) -> None:
        self.service._loop.call_soon_threadsafe(self._release.set)

    def stop(self) -> None:
        self.service.stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    async def _echo(self, request: Request) -> JSONResponse:
        return JSONResponse({"bytes": len(await request.body())})

    async def _refuse(self, _: Request) -> JSONResponse:
        return JSONResponse({"error": "no"}, 403)

    async def _wait(self, _: Request) -> JSONResponse:
        self._release = asyncio.Event()
        self.waiting.release()
        await self._release.wait()
        return JSONResponse({"waited": True})


@pytest.fixture
def serve():
    services = []

    def served(**options) -> _Served:
        services.append(_Served(**options))
        return services[-1]

    yield served
    for one in services:
        one.stop()


def read_all(connection) -> bytes:
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    return answer


def read_one(connection) -> bytes:
    """One answer, of a small JSON object."""
    answer = b""
    while not answer.endswith(b"}"):
        answer += connection.recv(65536)
    return answer


def is_ended(connection) -> bool:
    """Whether the other side ends the connection; waits for that."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_it_is_healthy_at_once_and_ready_when_told(serve) -> None:
    served = serve()
    assert requests.get(f"{served.url}/healthz", timeout=9).json() == {"status": "ok"}
    answer = requests.get(f"{served.url}/readyz", timeout=9)
    assert (answer.status_code, answer.json()["detail"]) == (503, "starting")
    served.readiness.ready()
    assert requests.get(f"{served.url}/readyz", timeout=9).status_code == 200


def test_once_the_end_is_near_nothing_makes_it_ready_again() -> None:
    readiness = Readiness()
    readiness.end()
    readiness.ready()
    assert readiness.obstacle == "shutting down"


def test_a_request_in_flight_at_the_end_is_answered(serve) -> None:
    served = serve()
    with served.connected() as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        assert served.waiting.acquire(timeout=PATIENCE_S)
        served.service.stop()
        until(lambda: served.readiness.obstacle == "shutting down")
        served.release()
        assert b'{"waited":true}' in read_all(connection)


def test_an_answer_near_the_end_ends_its_connection(serve) -> None:
    served = serve(drain_s=1.0)
    with requests.Session() as session:
        before = session.get(f"{served.url}/healthz", timeout=PATIENCE_S)
        served.service.stop()
        until(lambda: served.readiness.is_ending)
        after = session.get(f"{served.url}/healthz", timeout=PATIENCE_S)
    assert (before.headers.get("connection"), after.headers.get("connection")) == (None, "close")


def test_a_request_that_does_not_end_is_given_up_after_its_time(serve) -> None:
    served = serve(finish_s=0)
    with served.connected() as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        assert served.waiting.acquire(timeout=PATIENCE_S)
        served.stop()


def test_the_reason_of_an_early_refusal_arrives_though_much_was_still_to_come(serve) -> None:
    served = serve()
    with requests.Session() as session:
        for _ in range(2):  # the connection is kept, too
            answer = session.post(f"{served.url}/refuse", b"x" * 1024**2, timeout=9)
            assert (answer.status_code, answer.json()) == (403, {"error": "no"})
            assert "connection" not in answer.headers


def test_what_is_sent_beyond_all_bounds_is_not_read_to_its_end(serve) -> None:
    served = serve(linger_bytes=100_000)
    head = b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
    with served.connected() as connection:
        connection.sendall(head + b"x" * 100_000)
        answer = read_all(connection)
    assert b" 403 " in answer.splitlines()[0]
    assert b"connection: close" in answer


def test_a_connection_that_does_not_send_a_request_is_closed(serve) -> None:
    served = serve(head_s=0.3)
    for begun in (b"", b"GET /healthz HTT"):
        with served.connected() as connection:
            connection.sendall(begun)
            assert is_ended(connection)


def test_a_second_request_must_begin_in_time_as_the_first(serve) -> None:
    served = serve(head_s=0.3)
    with served.connected() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in read_one(connection)
        connection.sendall(b"GET /hea")
        assert is_ended(connection)


def test_more_connections_than_allowed_are_not_kept_and_places_are_given_back(serve) -> None:
    served = serve(connections=4)  # two for each address

    def is_served(source: str) -> bool:
        with socket.create_connection(served.address, PATIENCE_S, (source, 0)) as connection:
            try:
                connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                return b" 200 " in read_all(connection)
            except ConnectionError:
                return False

    kept = [served.connected() for _ in range(2)]
    until(lambda: not is_served("127.0.0.1"))
    assert is_served("127.0.0.2")
    kept.pop().close()
    until(lambda: is_served("127.0.0.1"))
    kept.pop().close()


def test_more_requests_at_a_time_than_allowed_are_told_to_come_again(serve) -> None:
    served = serve(requests=1)
    with served.connected() as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        assert served.waiting.acquire(timeout=PATIENCE_S)
        answer = requests.post(f"{served.url}/echo", b"x" * 100_000, timeout=9)
        assert (answer.status_code, answer.json()["error"]) == (503, "busy")
        assert int(answer.headers["Retry-After"]) > 0
        assert requests.get(f"{served.url}/healthz", timeout=9).status_code == 200
        served.release()
        assert b" 200 " in read_one(connection)
    assert requests.post(f"{served.url}/echo", b"xyz", timeout=9).json() == {"bytes": 3}


def test_what_is_no_http_is_answered_in_json(serve) -> None:
    with serve().connected() as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = read_all(connection)
    assert b" 400 " in answer.splitlines()[0]
    assert b'"error": "bad_request"' in answer


def test_answers_on_a_kept_connection_do_not_wait_for_acknowledgements() -> None:
    """asyncio sets TCP_NODELAY only on sockets of a stated protocol: ours are told themselves."""
    listening = _listening_socket(Serving(host="127.0.0.1", port=0))
    with listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_address_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = Service(Starlette(), Serving(host="127.0.0.1", port=port), Readiness())
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port}: Address already in use"):
            service.run()


@pytest.mark.parametrize("host", ["::1", "::"])
def test_it_listens_on_ipv6_too(serve, host, caplog) -> None:
    caplog.set_level("INFO")
    served = serve(host=host)
    answer = requests.get(f"http://[::1]:{served.service.port}/healthz", timeout=9)
    assert answer.status_code == 200
    assert f"listening on http://[{host}]:{served.service.port}" in caplog.text


# -- TLS -----------------------------------------------------------------------------------------


@pytest.fixture
def certificates(tmp_path):
    """Two of them, each in a directory of its own."""
    made = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        made.append(Certificate.made_in(tmp_path / name))
    return made


@pytest.fixture
def files(certificates, tmp_path):
    """The files that are served, the first pair at first."""
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    _copy(certificates[0], files)
    return files


def _copy(pair, files, *, key=None) -> None:
    shutil.copy((key or pair).key_file, files.key)
    shutil.copy(pair.cert_file, files.certificate)


def shown_by(served) -> str:
    return ssl.get_server_certificate(served.address, timeout=PATIENCE_S)


def test_new_handshakes_get_a_new_certificate_and_open_connections_stay(
    serve, certificates, files
) -> None:
    first, second = certificates
    served = serve(tls=files, tls_check_s=0.02)
    context = ssl.create_default_context(cafile=str(first.cert_file))
    with (
        served.connected() as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in read_one(connection)
        _copy(second, files)
        until(lambda: shown_by(served) == second.cert_file.read_text())
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in read_one(connection)


def test_an_idle_connection_over_tls_holds_little_memory(serve, certificates, files) -> None:
    served = serve(tls=files)
    context = ssl.create_default_context(cafile=str(certificates[0].cert_file))
    with contextlib.ExitStack() as stack:

        def connect() -> None:
            plain = stack.enter_context(served.connected())
            secure = context.wrap_socket(plain, server_hostname="localhost")
            connection = stack.enter_context(secure)
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in read_one(connection)

        connect()  # what is loaded once
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for _ in range(20):
            connect()
        held_bytes, _ = tracemalloc.get_traced_memory()
    assert held_bytes < 20 * 100 * 1024  # by either side of each


def test_a_new_certificate_that_does_not_fit_its_key_is_told_once_and_not_used(
    serve, certificates, files, caplog
) -> None:
    first, second = certificates
    served = serve(tls=files, tls_check_s=0.02)
    _copy(second, files, key=first)
    until(lambda: "KEY_VALUES_MISMATCH" in caplog.text)
    assert shown_by(served) == first.cert_file.read_text()
    _copy(second, files)
    until(lambda: shown_by(served) == second.cert_file.read_text())
    assert caplog.text.count("KEY_VALUES_MISMATCH") == 1


@pytest.mark.parametrize("broken", ["absent", "empty", "other key"])
def test_a_certificate_that_cannot_be_served_is_one_line(certificates, files, broken) -> None:
    if broken == "absent":
        files.key.unlink()
    elif broken == "empty":
        files.certificate.write_bytes(b"")
    else:
        _copy(certificates[0], files, key=certificates[1])
    service = Service(Starlette(), Serving(host="127.0.0.1", port=0, tls=files), Readiness())
    with pytest.raises(SettingsError, match="cannot serve https") as refusal:
        service.run()
    assert "\n" not in str(refusal.value)
