"""The collector as a service: ready or not, its metrics, its process, its end, and floods."""

import asyncio
import contextlib
import resource
import signal
import socket
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests

from sidecar.transport.delivery import Undelivered
from sidecar.transport.directory import DirectoryTransport
from tests.collector.running import POD, CollectorProcess, post, record, segment, stored_files
from tests.collector.test_segments import refused
from tests.e2e.commands import PATIENCE_S, sidecar, until
from tests.fakes.azurite import Certificate

FLOOD = 1500
ROUNDS = 2


def directory(root):
    return ("--backend", "directory", "--transport-directory", root, "--log-format", "json")


# -- ready, metrics ------------------------------------------------------------------------------


def test_it_is_ready_once_storage_can_be_reached_and_stays_so(start, root) -> None:
    class Late(DirectoryTransport):
        reason = Undelivered("the share is not mounted; mount it")

        def check(self):
            if self.reason is not None:
                raise self.reason

    backend = Late(root)
    collector = start(backend=backend, check_again_s=0.01)
    until(lambda: "mounted" in collector.get("/readyz").text)
    assert "mounted" in refused(collector.get("/readyz"), 503, "not_ready")
    assert collector.get("/healthz").status_code == 200
    backend.reason = None
    until(lambda: collector.get("/readyz").status_code == 200)
    backend.reason = Undelivered("gone again")
    assert collector.get("/readyz").status_code == 200


def test_it_becomes_ready_even_after_a_check_that_broke_its_contract(start, root) -> None:
    class Odd(DirectoryTransport):
        broken = True

        def check(self):
            if self.broken:
                self.broken = False
                raise KeyError("odd")

    collector = start(backend=Odd(root), check_again_s=0.01)
    until(lambda: collector.get("/readyz").status_code == 200)


def test_metrics_count_what_became_of_segments_requests_and_tokens(collector, api) -> None:
    token = api.token()
    codes = [collector.post(segment(record(n)), token).status_code for n in (1, 1)]
    assert codes == [201, 200]
    collector.post(b"x", token)
    collector.post(segment(), api.token(expired=True))
    text = collector.get("/metrics").text
    for line in (
        'emissions_collector_segments_total{outcome="created"} 1.0',
        'emissions_collector_segments_total{outcome="existing"} 1.0',
        'emissions_collector_segments_total{outcome="not_a_segment"} 1.0',
        'emissions_collector_segments_total{outcome="token_refused"} 1.0',
        "emissions_collector_records_total 1.0",
        f"emissions_collector_bytes_total {float(len(segment()))}",
        'emissions_collector_request_duration_seconds_count{route="segments"} 4.0',
        "emissions_collector_in_flight_requests 0.0",
        'emissions_collector_token_reviews_total{outcome="accepted"} 1.0',
        'emissions_collector_token_reviews_total{outcome="refused"} 1.0',
    ):
        assert line in text.splitlines(), text


@pytest.mark.needs("promtool")
def test_promtool_finds_nothing_wrong_with_the_metrics(collector, api) -> None:
    collector.post(segment(), api.token())
    text = collector.get("/metrics").content
    check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert (check.returncode, check.stdout + check.stderr) == (0, b"")


# -- the process ---------------------------------------------------------------------------------


def test_the_command_serves_until_sigterm_and_exits_0(api, root, tmp_path) -> None:
    with CollectorProcess(api, tmp_path, *directory(root)) as process:
        url = process.url()
        until(lambda: requests.get(f"{url}/readyz", timeout=9).status_code == 200)
        assert post(url, segment(), api.token()).status_code == 201
        process.process.send_signal(signal.SIGTERM)
        process.said("shutting down")
        answer = requests.get(f"{url}/readyz", timeout=9)
        assert "shutting down" in refused(answer, 503, "not_ready")
        assert post(url, segment(record(2)), api.token()).status_code == 201  # still
        outcome = process.end(signal.SIGTERM)  # the second one ends the wait
    assert outcome.code == 0, outcome.stderr
    assert len(stored_files(root)) == 2
    assert {row["level"] for row in process.log_rows()} == {"info"}


def test_a_slow_upload_in_flight_at_sigterm_is_answered(api, root, tmp_path) -> None:
    content, token = segment(), api.token()
    head = (
        f"POST /v1/segments HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    with CollectorProcess(api, tmp_path, *directory(root)) as process:
        port = int(process.url().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
            connection.sendall(head.encode() + content[:20])
            until(lambda: api.reviewed)
            process.process.send_signal(signal.SIGTERM)
            process.said("shutting down")
            process.process.send_signal(signal.SIGINT)  # no more waiting for load balancers
            until(lambda: _refuses(port))
            connection.sendall(content[20:])
            answer = connection.recv(65536)
        assert b" 201 " in answer.splitlines()[0]
        assert process.end(None).code == 0
    assert len(stored_files(root)) == 1


def _refuses(port) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_it_serves_https_with_the_certificate_it_is_given(api, root, tmp_path) -> None:
    certificate = Certificate.made_in(tmp_path)
    tls = ("--tls-cert", certificate.cert_file, "--tls-key", certificate.key_file)
    with CollectorProcess(api, tmp_path, *directory(root), *tls) as process:
        url = process.url()
        assert url.startswith("https://")
        ready = requests.get(f"{url}/healthz", timeout=9, verify=certificate.cert_file)
        assert ready.status_code == 200


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--backend", "directory"], "--transport-directory"),
        (["--backend", "tape"], "not one of: blob, directory"),
        ([], "EMISSIONS_BLOB_ACCOUNT_URL"),
        (["--backend", "directory", "--transport-directory", ".", "--tls-cert", "x"], "together"),
        (
            ["--backend", "directory", "--transport-directory", ".", "--tls-cert", "x", "--tls-key",
             "y"],
            "cannot serve https",
        ),
        (
            ["--backend", "directory", "--transport-directory", ".", "--handover-key-file", "x"],
            "handover_key_file",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_its_settings_is_told_in_one_line(
    api, tmp_path, monkeypatch, arguments, told
) -> None:
    from sidecar.cli import collector
    from sidecar.settings import SettingsError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path / "kubeconfig")))
    with pytest.raises(SettingsError, match=told) as refusal:
        collector.main(["--listen", "127.0.0.1:0", *arguments])
    assert "\n" not in str(refusal.value)


def test_without_a_kubernetes_api_it_says_what_to_do(root, tmp_path, monkeypatch) -> None:
    from sidecar.cli import collector
    from sidecar.settings import SettingsError

    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="set KUBECONFIG"):
        collector.main([str(word) for word in directory(root)])


def test_the_command_tells_its_settings_and_no_flag_for_a_secret() -> None:
    outcome = sidecar("collector", "--help")
    assert outcome.code == 0
    for flag in ("--listen", "--backend", "--blob-account-url", "--uploads", "--handover-key-file"):
        assert flag in outcome.stdout
    assert "--blob-sas" not in outcome.stdout
    assert "EMISSIONS_BLOB_SAS" in outcome.stdout


# -- many at once --------------------------------------------------------------------------------


def test_two_collectors_and_one_container_store_a_segment_once(
    api, azurite, container_name, tmp_path
) -> None:
    env = {
        "EMISSIONS_BLOB_CONNECTION_STRING": azurite.connection_string,
        "EMISSIONS_BLOB_CONTAINER": container_name,
        "EMISSIONS_LOG_FORMAT": "json",
    }
    token = api.token()
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(CollectorProcess(api, tmp_path, **env)) for _ in range(2)]
        urls = [process.url() for process in processes]
        for process in processes:
            process.said("ready")
        with ThreadPoolExecutor(2) as threads:
            for sequence in range(1, 11):
                content = segment(record(sequence))
                both = threading.Barrier(2)

                def shipped(url, content=content, both=both):
                    both.wait(PATIENCE_S)
                    return post(url, content, token)

                answers = list(threads.map(shipped, urls))
                assert sorted(one.status_code for one in answers) == [200, 201]
                assert answers[0].json()["blob"] == answers[1].json()["blob"]
        for process in processes:
            assert azurite.connection_string not in process.log
    blobs = azurite.blobs(container_name)
    assert sorted(blobs.values()) == sorted(segment(record(n)) for n in range(1, 11))


@pytest.fixture
def descriptors():
    """As many files at a time as the machine allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_thousands_of_posts_of_one_pod_are_answered_in_bounded_memory_and_others_served(
    api, root, tmp_path, descriptors
) -> None:
    uid = "33333333-0000-4000-8000-000000000003"
    other = record(owner=type(POD)(pod="other", pod_uid=uid))
    greedy, modest = api.token(), api.token(pod="other", pod_uid=uid)
    with CollectorProcess(api, tmp_path, *directory(root)) as process:
        port = int(process.url().rpartition(":")[2])
        assert post(process.url(), segment(other), modest).status_code == 201
        memory = psutil.Process(process.process.pid).memory_info
        before_bytes = memory().rss
        answers, served = asyncio.run(_flood(port, (greedy, modest), segment(other)))
        grown_bytes = memory().rss - before_bytes
    assert sum(answers.values()) == FLOOD * ROUNDS
    assert set(answers) <= {b"200", b"201", b"429", b"503"}, answers
    assert answers[b"201"] >= 1
    assert served <= {b"200"}
    assert grown_bytes < 100 * 1024**2


async def _flood(port, tokens, modest_content):
    """All posts at the same time, several times over, while another pod ships one by one."""
    greedy, modest = tokens
    content = segment(*(record(number) for number in range(1, 400)))
    under_way = asyncio.Event()
    served = set()

    async def ship_modestly():
        await under_way.wait()
        for _ in range(10):
            while (code := await _status(port, modest, modest_content)) == b"503":
                await asyncio.sleep(0.05)
            served.add(code)

    async def ship(number):
        if number == FLOOD // 4:
            under_way.set()
        return await _status(port, greedy, content)

    async with asyncio.timeout(PATIENCE_S):
        shipping = asyncio.create_task(ship_modestly())
        answers: Counter[bytes] = Counter()
        for _ in range(ROUNDS):
            answers.update(await asyncio.gather(*map(ship, range(FLOOD))))
        await shipping
    return answers, served


async def _status(port, token, content):
    """Post on a connection of its own; return the status."""
    head = (
        f"POST /v1/segments HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {token}\r\n"
        f"Connection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + content)
        answer = await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return answer.split(b" ", 2)[1]
