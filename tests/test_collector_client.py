"""Real servers on loopback, well-behaved and not: what comes back, and what never leaves."""

import gzip
import logging
import os
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.collector_client import (
    RETRY_AFTER_MAX_S,
    TEXT_CHARACTERS_MAX,
    CollectorClient,
    CollectorError,
    CollectorTokenError,
    is_receipt,
    one_line,
    parse_retry_after_s,
    read_token,
)
from sidecar.segment import compressed
from tests.fakes import collector as fake
from tests.fakes.collector import NODE, TOKEN, Caller, FakeCollector, make_certificate
from tests.fakes.full_listener import full_listener

LONG_S = 30.0
"""Longer than any of these tests takes; only a failing one waits for it."""

SHORT_S = 0.3
UID = "7d5b1f6e-0000-4000-8000-000000000001"
CONTENT = compressed(
    b'{"record_id": "%s.boot.0", "window_start": "2026-11-01T00:00:00Z"}\n' % UID.encode()
)


@pytest.fixture
def collector() -> Iterator[FakeCollector]:
    with FakeCollector() as started:
        yield started


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    return file


@pytest.fixture
def client(collector: FakeCollector, token_file: Path) -> CollectorClient:
    return CollectorClient(collector.url, token_file)


def trouble(client: CollectorClient, timeout_s: float = LONG_S) -> str:
    """The text of the error; the same for the next attempt, so that it can be told once."""
    texts = []
    for _ in range(2):
        with pytest.raises(CollectorError) as raised:
            client.post_segment(CONTENT, None, timeout_s)
        texts.append(str(raised.value))
    assert texts[0] == texts[1]
    assert texts[0].isprintable()
    assert TOKEN not in texts[0]
    return texts[0]


# -- what is asked ------------------------------------------------------------------------------


def test_a_segment_is_posted_with_token_and_type(
    collector: FakeCollector, client: CollectorClient
) -> None:
    answer = client.post_segment(CONTENT, None, LONG_S)
    (asked,) = collector.requests
    assert (answer.status, answer.payload["created"]) == (201, True)
    assert (asked.method, asked.path, asked.body) == ("POST", "/v1/segments", CONTENT)
    assert asked.headers["Authorization"] == f"Bearer {TOKEN}"
    assert asked.headers["Content-Type"] == "application/gzip"
    assert asked.headers["Accept-Encoding"] == "identity"
    assert "Emissions-Handover" not in asked.headers


def test_a_segment_of_a_pod_that_is_gone_comes_with_its_receipt(
    collector: FakeCollector, client: CollectorClient
) -> None:
    client.post_segment(CONTENT, "v1.proof", LONG_S)
    assert collector.requests[0].headers["Emissions-Handover"] == "v1.proof"


def test_the_node_is_asked_for_under_an_address_with_a_path(
    collector: FakeCollector, token_file: Path
) -> None:
    CollectorClient(collector.url + "/emissions/", token_file).node(LONG_S)
    assert collector.requests[0].path == "/emissions/v1/node"


def test_the_node_and_the_receipt_are_read_from_the_answer(client: CollectorClient) -> None:
    answer = client.node(LONG_S)
    assert (answer.status, answer.payload) == (200, NODE)
    assert answer.receipt == Caller(UID).receipt


def test_a_token_that_rotates_between_two_requests_is_read_anew(
    collector: FakeCollector, client: CollectorClient, tmp_path: Path
) -> None:
    """As kubelet does it: the file is a link to `..data/token`, and `..data` is replaced."""
    for number in (1, 2):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "token").write_text(f"token-{number}\n")
    client.token_file.unlink()
    client.token_file.symlink_to("..data/token")
    for number in (1, 2):
        (tmp_path / "..new").symlink_to(f"..{number}")
        (tmp_path / "..new").rename(tmp_path / "..data")
        client.node(LONG_S)
    sent = [asked.headers["Authorization"] for asked in collector.requests]
    assert sent == ["Bearer token-1", "Bearer token-2"]


def test_no_proxy_of_the_environment_gets_the_token(
    collector: FakeCollector, client: CollectorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeCollector() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert client.node(LONG_S).status == 200
    assert (len(collector.requests), proxy.requests) == (1, [])


def test_no_netrc_of_the_home_replaces_the_token(
    collector: FakeCollector,
    client: CollectorClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    client.node(LONG_S)
    assert collector.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(
    collector: FakeCollector, client: CollectorClient, status: int
) -> None:
    with FakeCollector() as elsewhere:
        collector.always = fake.respond_raw(status, Location=elsewhere.url + "/v1/segments")
        assert client.post_segment(CONTENT, None, LONG_S).status == status
    assert (len(collector.requests), elsewhere.requests) == (1, [])


def test_nothing_of_the_token_is_logged(
    collector: FakeCollector, client: CollectorClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    collector.faults.append(fake.wire(b"rubbish\r\n\r\n"))
    with pytest.raises(CollectorError):
        client.node(LONG_S)
    answer = client.post_segment(CONTENT, "v1.proof", LONG_S)
    shown = caplog.text + repr(answer) + repr(client)
    assert "v1/segments" in shown
    assert TOKEN not in shown
    assert "v1.proof" not in shown
    assert "receipt-of" not in shown


def test_secrets_that_a_server_sends_back_are_not_repeated(
    collector: FakeCollector, client: CollectorClient
) -> None:
    collector.always = fake.respond(400, detail=f"bad header: Bearer {TOKEN} and v1.proof")
    answer = client.post_segment(CONTENT, "v1.proof", LONG_S)
    assert answer.reason == "told_to: bad header: Bearer [secret] and [secret]"


# -- the token's file ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"a b", "holds characters"),
        (b"a\r\nX-Injected: b", "holds characters"),
        ("tokén".encode(), "holds characters"),
        (b"\xff\x00", "holds characters"),
        (b"a" * 20_000, "is longer than 16384 bytes"),
    ],
)
def test_a_file_without_a_token_is_named_with_what_is_wrong(
    collector: FakeCollector, client: CollectorClient, content: bytes, fault: str
) -> None:
    client.token_file.write_bytes(content)
    with pytest.raises(CollectorTokenError) as raised:
        client.node(LONG_S)
    text = str(raised.value)
    assert f"{client.token_file} {fault}" in text
    assert "EMISSIONS_COLLECTOR_TOKEN_FILE" in text
    assert text.isprintable()
    assert collector.requests == []


def test_a_token_file_that_is_not_there_is_named(client: CollectorClient) -> None:
    client.token_file.unlink()
    with pytest.raises(CollectorTokenError, match="cannot be read: No such file or directory"):
        client.node(LONG_S)


def test_a_token_file_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    open_before = set(Path("/proc/self/fd").iterdir())
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(CollectorTokenError, match="not a regular file"):
            read_token(path)
    assert set(Path("/proc/self/fd").iterdir()) == open_before


@given(st.binary(max_size=60))
def test_a_token_is_a_word_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    file = tmp_path_factory.getbasetemp() / "a-token"
    file.write_bytes(content)
    try:
        token = read_token(file)
    except CollectorTokenError as error:
        assert str(error).isprintable()
    else:
        assert token == content.strip().decode("ascii")
        assert token.isprintable()
        assert " " not in token


# -- no answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [fake.hang, fake.drip, fake.drip_headers])
def test_a_server_that_never_ends_its_answer_is_left_in_time(
    collector: FakeCollector, client: CollectorClient, fault: fake.Fault
) -> None:
    collector.always = fault
    assert "did not answer completely within 0.3 s" in trouble(client, SHORT_S)


def test_a_body_that_nobody_reads_is_given_up_in_time(token_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = CollectorClient(f"http://127.0.0.1:{listener.getsockname()[1]}", token_file)
        with pytest.raises(CollectorError, match="did not answer completely"):
            client.post_segment(b"x" * (64 * 1024**2), None, SHORT_S)


def test_a_slow_but_steady_upload_is_not_cut_by_the_timeout_of_connecting(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.collector_client.CONNECT_TIMEOUT_S", SHORT_S)
    content = b"x" * (8 * 1024**2)  # more than the buffers of both sockets

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            taken, begun = 0, threading.Event()
            begun.wait(3 * SHORT_S)  # the network is slow
            while taken < len(content):
                taken += len(connection.recv(1 << 20))
            connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        client = CollectorClient(f"http://127.0.0.1:{listener.getsockname()[1]}", token_file)
        status = client.post_segment(content, None, LONG_S).status
        thread.join()
    assert status == 201


def test_an_upload_refused_before_its_end_is_told_by_its_status(
    collector: FakeCollector, client: CollectorClient
) -> None:
    collector.always = fake.respond(413, error="too_large", detail="1 MiB at most")
    answer = client.post_segment(b"x" * 100_000, None, LONG_S)
    assert (answer.status, answer.reason) == (413, "too_large: 1 MiB at most")


def test_nobody_there_is_told_with_what_to_look_at(token_file: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = CollectorClient(f"http://127.0.0.1:{unused.getsockname()[1]}", token_file)
        text = trouble(client)
    assert text == f"{client.url}: Connection refused; is the collector running and ready?"


def test_a_host_that_is_not_known_is_told(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*args: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    text = trouble(CollectorClient("http://collector.nowhere:80", token_file))
    assert "http://collector.nowhere:80: Name or service not known" in text
    assert "EMISSIONS_COLLECTOR_URL" in text


def test_a_host_that_does_not_answer_is_told(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.collector_client.CONNECT_TIMEOUT_S", SHORT_S)
    with full_listener() as url:
        text = trouble(CollectorClient(url, token_file))
    assert "could not be reached within 0.3 s" in text
    assert "NetworkPolicy" in text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"220 mail.example ESMTP\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 999999 What\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 " + b"x" * 70_000,
    ],
)
def test_what_is_no_whole_http_answer_is_told(
    collector: FakeCollector, client: CollectorClient, content: bytes
) -> None:
    collector.always = fake.wire(content)
    text = trouble(client)
    assert text.startswith(f"{client.url}: ")
    assert "is the collector running" in text
    assert len(text) < 2 * TEXT_CHARACTERS_MAX


def test_no_time_left_is_no_request(collector: FakeCollector, client: CollectorClient) -> None:
    assert "no time left" in trouble(client, 0.0)
    assert collector.requests == []


def test_no_thread_left_is_told(client: CollectorClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", refuse)
    assert "can't start new thread" in trouble(client)


@pytest.mark.parametrize("url", ["http://", "http://a..b", "http://[::1", "gopher://127.0.0.1"])
def test_an_address_that_is_none_is_told(token_file: Path, url: str) -> None:
    assert url in trouble(CollectorClient(url, token_file))


# -- TLS ----------------------------------------------------------------------------------------


def test_a_collector_of_an_own_authority_is_trusted_through_its_file(
    tmp_path: Path, token_file: Path
) -> None:
    certificate = make_certificate(tmp_path / "tls")
    with FakeCollector(tls=certificate) as collector:
        client = CollectorClient(collector.url, token_file, certificate.authority_file)
        assert client.post_segment(CONTENT, None, LONG_S).status == 201


def test_a_drip_through_tls_is_left_in_time(tmp_path: Path, token_file: Path) -> None:
    certificate = make_certificate(tmp_path / "tls")
    with FakeCollector(tls=certificate) as collector:
        collector.always = fake.drip
        client = CollectorClient(collector.url, token_file, certificate.authority_file)
        assert "did not answer completely within 0.5 s" in trouble(client, 0.5)


def test_an_unknown_authority_is_told_with_the_setting(tmp_path: Path, token_file: Path) -> None:
    with FakeCollector(tls=make_certificate(tmp_path / "tls")) as collector:
        text = trouble(CollectorClient(collector.url, token_file))
    assert "unable to get local issuer certificate" in text
    assert "EMISSIONS_COLLECTOR_CA_FILE (not set)" in text
    assert collector.requests == []


def test_another_authority_is_told_with_the_file(tmp_path: Path, token_file: Path) -> None:
    other = make_certificate(tmp_path / "other").authority_file
    with FakeCollector(tls=make_certificate(tmp_path / "tls")) as collector:
        text = trouble(CollectorClient(collector.url, token_file, other))
    assert f"EMISSIONS_COLLECTOR_CA_FILE ({other})" in text


def test_the_environment_does_not_add_an_authority(
    tmp_path: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path / "tls")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(certificate.authority_file))
    with FakeCollector(tls=certificate) as collector:
        assert "no TLS connection" in trouble(CollectorClient(collector.url, token_file))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"host": "collector.example"}, "IP address mismatch"),
        ({"valid_for": -timedelta(hours=1)}, "certificate has expired"),
    ],
)
def test_a_certificate_that_does_not_hold_is_told(
    tmp_path: Path, token_file: Path, options: dict[str, object], told: str
) -> None:
    certificate = make_certificate(tmp_path / "tls", **options)  # type: ignore[arg-type]
    with FakeCollector(tls=certificate) as collector:
        client = CollectorClient(collector.url, token_file, certificate.authority_file)
        assert told in trouble(client)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_ca_file_without_certificates_is_named(
    tmp_path: Path, token_file: Path, content: bytes | None
) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_bytes(content)
    with FakeCollector(tls=make_certificate(tmp_path / "tls")) as collector:
        text = trouble(CollectorClient(collector.url, token_file, ca_file))
    assert str(ca_file) in text
    assert "EMISSIONS_COLLECTOR_CA_FILE" in text


def test_https_to_a_server_without_tls_is_told(collector: FakeCollector, token_file: Path) -> None:
    client = CollectorClient(collector.url.replace("http:", "https:"), token_file)
    assert "no TLS connection" in trouble(client)


# -- answers that are not to be trusted ---------------------------------------------------------


@pytest.mark.parametrize("status", [201, 302, 503])
def test_an_endless_body_is_read_to_64_kib_only(
    collector: FakeCollector, client: CollectorClient, status: int
) -> None:
    client.node(LONG_S)  # what is loaded once
    collector.always = fake.flood(status, Location="/elsewhere")
    tracemalloc.start()
    try:
        answer = client.post_segment(CONTENT, None, LONG_S)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status == status
    assert answer.payload == {}
    assert answer.reason == "the answer is longer than 65536 bytes"
    assert peak_bytes < 2 * 1024**2


def test_a_gzip_bomb_is_not_inflated(collector: FakeCollector, client: CollectorClient) -> None:
    bomb = gzip.compress(b" " * (16 * 1024**2))
    collector.always = fake.respond_raw(200, bomb, Content_Encoding="gzip")
    answer = client.node(LONG_S)
    assert (answer.payload, answer.error) == ({}, None)
    assert "no JSON object" in answer.reason


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "an empty answer"),
        (b"<html>\n<b>Sign in</b>", "it begins '<html> <b>Sign in</b>'"),
        (b'["a"]', "no JSON object"),
        (b"\xff\xfe", "no JSON object"),
        (b"[" * 60_000, "no JSON object"),
        (b"9" * 10_000, "no JSON object"),
    ],
)
def test_a_body_that_is_no_json_object_is_described(
    collector: FakeCollector, client: CollectorClient, body: bytes, told: str
) -> None:
    collector.always = fake.respond_raw(200, body)
    answer = client.node(LONG_S)
    assert answer.payload == {}
    assert told in answer.reason


@pytest.mark.parametrize("receipt", ["", "two words", "x" * 5000, "a, b"])
def test_a_receipt_that_could_not_be_sent_again_is_none(
    collector: FakeCollector, client: CollectorClient, receipt: str
) -> None:
    collector.always = fake.respond_raw(200, b"{}", Emissions_Receipt=receipt)
    assert client.node(LONG_S).receipt is None


@pytest.mark.parametrize("receipt", ["", "a b", "a\r\nX-Injected: b", "é", "x" * 5000])
def test_a_receipt_that_would_be_more_than_a_header_is_not_sent(
    collector: FakeCollector, client: CollectorClient, receipt: str
) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        client.post_segment(CONTENT, receipt, LONG_S)
    assert collector.requests == []


def test_retry_after_is_taken_from_the_answer(
    collector: FakeCollector, client: CollectorClient
) -> None:
    collector.always = fake.respond(503, Retry_After="7")
    assert client.node(LONG_S).retry_after_s == 7


def test_a_date_to_retry_after_is_measured_with_the_clock_of_who_says_it(
    collector: FakeCollector, client: CollectorClient
) -> None:
    """A sidecar whose clock is an hour off would come at once, or an hour late."""

    def other_clock(handler: fake.Handler) -> None:
        moment = datetime(2020, 1, 1, tzinfo=UTC)
        soon = format_datetime(moment + timedelta(seconds=90), usegmt=True)
        now = format_datetime(moment, usegmt=True)
        handler.wfile.write(
            f"HTTP/1.1 503 Busy\r\nDate: {now}\r\nRetry-After: {soon}\r\n"
            "Content-Length: 0\r\n\r\n".encode()
        )

    collector.always = other_clock
    assert client.node(LONG_S).retry_after_s == 90


NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("0" * 5000 + "7", 7),
        ("9" * 5000, RETRY_AFTER_MAX_S),
        ("Sun, 01 Nov 2026 12:00:30 GMT", 30),
        ("Sunday, 01-Nov-26 12:00:30 GMT", 30),
        ("Sun, 01 Nov 2026 12:00:30 -0000", 30),
        ("Sun, 01 Nov 2026 11:00:00 GMT", 0),
        ("Mon, 01 Nov 2027 12:00:00 GMT", RETRY_AFTER_MAX_S),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("nan", None),
        ("soon", None),
        ("Sun, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    assert parse_retry_after_s(text, NOW) == seconds


_dates = st.datetimes().map(lambda moment: format_datetime(moment.replace(tzinfo=UTC), usegmt=True))


@given(st.text() | st.integers().map(str) | _dates | st.from_regex(r"\A\w{3}, [\d :+GMT-]+\Z"))
def test_retry_after_is_within_an_hour_or_none(text: str) -> None:
    seconds = parse_retry_after_s(text, NOW)
    assert seconds is None or 0 <= seconds <= RETRY_AFTER_MAX_S


@given(st.text())
def test_foreign_text_becomes_one_printable_line(text: str) -> None:
    shown = one_line(text)
    assert shown.isascii()
    assert shown == "" or shown.isprintable()
    assert len(shown) <= TEXT_CHARACTERS_MAX + 3


@given(st.text())
def test_a_receipt_can_stand_in_a_header(text: str) -> None:
    assert not is_receipt(text) or (text.isascii() and text.isprintable() and " " not in text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 503 x\r\n\r\n"]),
)
def test_arbitrary_bytes_are_an_answer_or_a_collector_error(
    collector: FakeCollector, client: CollectorClient, content: bytes, begin: bytes
) -> None:
    collector.always = fake.wire(begin + content)
    try:
        answer = client.node(LONG_S)
    except CollectorError as error:
        assert str(error).isprintable()
    else:
        assert answer.reason.isprintable()
