"""Real servers on loopback, well-behaved and not, asked as kubelet and the Kubernetes API are."""

import json
import logging
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.kubernetes_http import KubernetesHttp, KubernetesHttpError, missing_rule
from tests.fakes import collector as fake
from tests.fakes.collector import FakeCollector, make_certificate
from tests.fakes.full_listener import full_listener
from tests.fakes.kubelet import TOKEN, FakeKubelet

LONG_S = 30.0
"""Longer than any of these tests takes; only a failing one waits for it."""

SHORT_S = 0.3
PATH = "/stats/summary"
REVIEWS_PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
DOCUMENT = {"node": {"nodeName": "n"}, "pods": []}


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    return file


@pytest.fixture
def kubelet() -> Iterator[FakeKubelet]:
    with FakeKubelet() as started:
        started.documents[PATH] = json.dumps(DOCUMENT).encode()
        yield started


@pytest.fixture
def http(kubelet: FakeKubelet, token_file: Path, tmp_path: Path) -> KubernetesHttp:
    return KubernetesHttp(kubelet.url, token_file, tmp_path / "ca.crt")


def trouble(http: KubernetesHttp, deadline_s: float = LONG_S) -> KubernetesHttpError:
    with pytest.raises(KubernetesHttpError) as raised:
        http.get_json(PATH, deadline_s, 64 * 1024)
    assert str(raised.value).isprintable()
    assert TOKEN not in str(raised.value)
    return raised.value


# -- what is asked ------------------------------------------------------------------------------


def test_a_document_is_got_with_the_token(kubelet: FakeKubelet, http: KubernetesHttp) -> None:
    assert http.get_json(PATH + "?only_cpu_and_memory=true") == DOCUMENT
    (asked,) = kubelet.requests
    assert (asked.method, asked.path) == ("GET", PATH + "?only_cpu_and_memory=true")
    assert asked.headers["Authorization"] == f"Bearer {TOKEN}"
    assert asked.headers["Accept-Encoding"] == "identity"


def test_a_document_is_posted_and_answered(kubelet: FakeKubelet, http: KubernetesHttp) -> None:
    kubelet.created[REVIEWS_PATH] = b'{"status": {"authenticated": true}}'
    review = {"kind": "TokenReview", "spec": {"token": "t"}}
    assert http.post_json(REVIEWS_PATH, review) == {"status": {"authenticated": True}}
    (asked,) = kubelet.requests
    assert (asked.method, json.loads(asked.body)) == ("POST", review)
    assert asked.headers["Content-Type"] == "application/json"


def test_a_token_that_rotates_is_read_anew(
    kubelet: FakeKubelet, http: KubernetesHttp, token_file: Path
) -> None:
    http.get_json(PATH)
    kubelet.token = "rotated"
    token_file.write_text("rotated\n")
    assert http.get_json(PATH) == DOCUMENT


@pytest.mark.parametrize("content", [None, "", "a b"])
def test_without_a_token_nobody_is_asked(
    kubelet: FakeKubelet, http: KubernetesHttp, token_file: Path, content: str | None
) -> None:
    token_file.unlink()
    if content is not None:
        token_file.write_text(content)
    error = trouble(http)
    assert error.trouble == "token"
    assert str(token_file) in str(error)
    assert "automountServiceAccountToken" in str(error)
    assert kubelet.requests == []


def test_no_proxy_of_the_environment_gets_the_token(
    kubelet: FakeKubelet, http: KubernetesHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeCollector() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        http.get_json(PATH)
    assert (len(kubelet.requests), proxy.requests) == (1, [])


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(
    kubelet: FakeKubelet, http: KubernetesHttp, status: int
) -> None:
    with FakeKubelet() as elsewhere:
        kubelet.always = fake.respond_raw(status, Location=elsewhere.url + PATH)
        error = trouble(http)
    assert (error.trouble, error.status, elsewhere.requests) == ("refused", status, [])
    assert "a redirect is never followed" in str(error)


def test_the_token_is_not_sent_unencrypted_to_another_machine(token_file: Path) -> None:
    error = trouble(KubernetesHttp("http://10.0.0.4:10255", token_file, token_file))
    assert "unencrypted; write https://" in str(error)


@pytest.mark.parametrize("url", ["https://", "https://[::1", "https://a..b", "gopher://127.0.0.1"])
def test_an_address_that_is_none_is_told(token_file: Path, url: str) -> None:
    assert trouble(KubernetesHttp(url, token_file, token_file)).trouble in ("unreachable", "tls")


def test_nothing_of_the_token_is_logged(
    kubelet: FakeKubelet, http: KubernetesHttp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    kubelet.faults.append(fake.wire(b"rubbish\r\n\r\n"))
    kubelet.faults.append(fake.respond_raw(400, f"bad: {TOKEN}".encode()))
    assert trouble(http).trouble == "unreachable"
    assert "bad: [secret]" in str(trouble(http))
    assert "stats/summary" in caplog.text
    assert TOKEN not in caplog.text


# -- refused ------------------------------------------------------------------------------------


def test_a_token_that_is_not_accepted_is_told_with_its_file(
    kubelet: FakeKubelet, http: KubernetesHttp, token_file: Path
) -> None:
    kubelet.token = "another"
    error = trouble(http)
    assert error.status == 401
    assert f"the token in {token_file} has expired, or is for another audience" in str(error)


def test_a_missing_rule_is_named(kubelet: FakeKubelet, http: KubernetesHttp) -> None:
    kubelet.allowed = False
    error = trouble(http)
    assert error.status == 403
    assert "resource=nodes, subresource=stats" in str(error)
    assert "grant the pod's service account a ClusterRole with get on nodes/stats" in str(error)


@pytest.mark.parametrize(
    ("method", "path", "rule"),
    [
        ("GET", "/stats/summary?only_cpu_and_memory=true", "a ClusterRole with get on nodes/stats"),
        ("GET", "/metrics/resource", "a ClusterRole with get on nodes/metrics"),
        ("GET", "/runningpods/", "a ClusterRole with get on nodes/proxy"),
        (
            "POST",
            REVIEWS_PATH,
            "a ClusterRole with create on tokenreviews.authentication.k8s.io",
        ),
        (
            "GET",
            "/apis/metrics.k8s.io/v1beta1/namespaces/team-a/pods/train-0",
            "a Role in namespace team-a with get on pods.metrics.k8s.io",
        ),
        ("GET", "/api/v1/namespaces/a/pods/p", "a Role in namespace a with get on pods"),
        ("GET", "/api/v1/nodes/n", "a ClusterRole with get on nodes"),
        ("GET", "/api/v1/pods?limit=200", "a ClusterRole with list on pods"),
        ("GET", "/api/v1/namespaces?limit=200", "a ClusterRole with list on namespaces"),
        ("GET", "/api/v1/namespaces/a/pods?limit=2", "a Role in namespace a with list on pods"),
    ],
)
def test_the_rule_a_request_needs_follows_from_its_path(method: str, path: str, rule: str) -> None:
    assert missing_rule(method, path) == rule


def test_the_message_of_a_status_object_is_told(kubelet: FakeKubelet, http: KubernetesHttp) -> None:
    status = {"kind": "Status", "message": "etcdserver: request\ntimed out", "code": 500}
    kubelet.always = fake.respond_raw(500, json.dumps(status).encode())
    assert "answered 500: etcdserver: request timed out; it may pass" in str(trouble(http))


def test_an_endless_refusal_is_read_to_its_first_kilobytes(
    kubelet: FakeKubelet, http: KubernetesHttp
) -> None:
    kubelet.always = fake.flood(503)
    assert "answered 503: xxx" in str(trouble(http))


# -- no answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [fake.hang, fake.drip, fake.drip_headers])
def test_a_server_that_never_ends_its_answer_is_left_in_time(
    kubelet: FakeKubelet, http: KubernetesHttp, fault: fake.Fault
) -> None:
    kubelet.always = fault
    error = trouble(http, SHORT_S)
    assert error.trouble == "slow"
    assert "did not answer completely within 0.3 s" in str(error)


def test_a_body_without_a_length_that_is_cut_by_the_deadline_is_no_answer(
    kubelet: FakeKubelet, http: KubernetesHttp
) -> None:
    def pause(handler: fake.Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n{}")
        handler.server.fake.released.wait()

    kubelet.always = pause
    assert trouble(http, SHORT_S).trouble == "slow"


def test_a_handshake_that_drips_is_left_in_time(token_file: Path, tmp_path: Path) -> None:
    """Each byte would start the socket's own timeout anew."""
    authority = make_certificate(tmp_path / "tls").authority_file
    over = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"\x16\x03\x03\x3f\xff")  # a TLS record of 16 KiB
            while not over.wait(0.05):
                try:
                    connection.sendall(b"\x02")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        error = trouble(KubernetesHttp(url, token_file, authority), SHORT_S)
        over.set()
        thread.join()
    assert error.trouble == "slow"


def test_a_look_up_that_hangs_is_left_in_time(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def hang(*args: object, **options: object) -> list[object]:
        over.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    http = KubernetesHttp("https://kubernetes.default.svc", token_file, token_file)
    try:
        error = trouble(http, SHORT_S)
    finally:
        over.set()
    assert "kubernetes.default.svc was not looked up in time; does a NetworkPolicy" in str(error)


def test_every_address_of_a_name_is_tried(
    token_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The certificate is checked for the name all the same."""
    certificate = make_certificate(tmp_path / "tls", host="kubelet.test")

    def two(host: str, port: int, *args: object, **options: object) -> list[object]:
        first = {"kubelet.test": "127.0.0.2"}.get(host, host)
        addresses = [first, "127.0.0.1"] if host == "kubelet.test" else [first]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    with FakeKubelet(tls=certificate) as kubelet:
        kubelet.documents[PATH] = b"{}"
        url = f"https://kubelet.test:{kubelet.port}"
        assert KubernetesHttp(url, token_file, certificate.authority_file).get_json(PATH) == {}
    assert kubelet.requests[0].headers["Host"] == f"kubelet.test:{kubelet.port}"


def test_nobody_there_is_told(token_file: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        error = trouble(KubernetesHttp(url, token_file, token_file))
    assert str(error).startswith(f"{url}: Connection refused; is it the right address")


def test_a_host_that_does_not_answer_is_told(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.kubernetes_http.CONNECT_TIMEOUT_S", SHORT_S)
    with full_listener() as url:
        error = trouble(KubernetesHttp(url, token_file, token_file))
    assert error.trouble == "unreachable"
    assert "could not be reached within 0.3 s; does a NetworkPolicy block" in str(error)


@pytest.mark.parametrize("failing", ["Timer", "Thread"])
def test_no_thread_left_is_told(
    token_file: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    http = KubernetesHttp("http://localhost:1", token_file, token_file)
    assert trouble(http).trouble == "unreachable"  # what is loaded once
    kept = threading.Timer.start
    monkeypatch.setattr(threading.Thread, "start", refuse)
    if failing == "Thread":
        monkeypatch.setattr(threading.Timer, "start", kept)
    assert "can't start new thread" in str(trouble(http))


# -- TLS ----------------------------------------------------------------------------------------


def test_a_certificate_of_the_given_authority_is_trusted(tmp_path: Path, token_file: Path) -> None:
    certificate = make_certificate(tmp_path / "tls")
    with FakeKubelet(tls=certificate) as kubelet:
        kubelet.documents[PATH] = b"{}"
        http = KubernetesHttp(kubelet.url, token_file, certificate.authority_file)
        assert http.get_json(PATH) == {}


def test_another_authority_is_not_trusted_and_gets_no_token(
    tmp_path: Path, token_file: Path
) -> None:
    other = make_certificate(tmp_path / "other").authority_file
    with FakeKubelet(tls=make_certificate(tmp_path / "tls")) as kubelet:
        error = trouble(KubernetesHttp(kubelet.url, token_file, other))
    assert error.trouble == "tls"
    assert f"{other} (EMISSIONS_KUBERNETES_CA_FILE)" in str(error)
    assert kubelet.requests == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"host": "kubelet.test"}, "IP address mismatch"),
        ({"valid_for": -timedelta(hours=1)}, "certificate has expired"),
    ],
)
def test_a_certificate_that_does_not_hold_is_told(
    tmp_path: Path, token_file: Path, options: dict[str, object], told: str
) -> None:
    certificate = make_certificate(tmp_path / "tls", **options)  # type: ignore[arg-type]
    with FakeKubelet(tls=certificate) as kubelet:
        error = trouble(KubernetesHttp(kubelet.url, token_file, certificate.authority_file))
    assert error.trouble == "tls"
    assert told in str(error)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_ca_file_without_certificates_is_named(
    tmp_path: Path, token_file: Path, content: bytes | None
) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_bytes(content)
    with FakeKubelet(tls=make_certificate(tmp_path / "tls")) as kubelet:
        error = trouble(KubernetesHttp(kubelet.url, token_file, ca_file))
    assert error.trouble == "tls"
    assert str(ca_file) in str(error)


def test_https_to_a_server_without_tls_is_told(
    kubelet: FakeKubelet, token_file: Path, tmp_path: Path
) -> None:
    authority = make_certificate(tmp_path / "tls").authority_file
    url = kubelet.url.replace("http:", "https:")
    assert trouble(KubernetesHttp(url, token_file, authority)).trouble == "tls"
    assert kubelet.requests == []


# -- answers that are not to be trusted ---------------------------------------------------------


def test_an_endless_body_is_not_read(kubelet: FakeKubelet, http: KubernetesHttp) -> None:
    http.get_json(PATH)  # what is loaded once
    kubelet.always = fake.flood(200)
    tracemalloc.start()
    try:
        error = trouble(http)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error.trouble == "answer"
    assert "longer than 65536 bytes" in str(error)
    assert peak_bytes < 2 * 1024**2


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "an empty answer"),
        (b"<html>\n<b>Sign in</b>", "it begins '<html> <b>Sign in</b>'"),
        (b'{"a": NaN}', "no JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 60_000, "no JSON"),
    ],
)
def test_a_body_that_is_no_json_is_described(
    kubelet: FakeKubelet, http: KubernetesHttp, body: bytes, told: str
) -> None:
    kubelet.always = fake.respond_raw(200, body)
    error = trouble(http)
    assert error.trouble == "answer"
    assert told in str(error)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 403 x\r\n\r\n"]),
)
def test_arbitrary_bytes_are_an_answer_or_an_error(
    kubelet: FakeKubelet, http: KubernetesHttp, content: bytes, begin: bytes
) -> None:
    kubelet.always = fake.wire(begin + content)
    try:
        http.get_json(PATH, LONG_S)
    except KubernetesHttpError as error:
        assert str(error).isprintable()
    else:
        assert begin.startswith(b"HTTP") or content.startswith(b"HTTP")
