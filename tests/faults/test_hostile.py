"""Callers that lie, flood and bomb: the collector answers each, stays small, and serves the others."""

import asyncio
import contextlib
import json
import re
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.record import EmissionRecord, to_ndjson
from sidecar.segment import compressed
from tests.collector.running import CollectorProcess, post, stored_files
from tests.fakes.kubernetes_api import FakeKubernetesApi
from tests.faults.scene import Pod, ndjson, verified

HONEST, HOSTILE = Pod(1, project="honest"), Pod(2, project="hostile")

POSTS, CONNECTIONS = 10_000, 200
GROWTH_MAX_BYTES = 96 * 1024**2
"""What 200 connections and their bodies may take; a collector that kept 10,000 would take more."""

CLIMBING = ("../", "../../../../etc", "/", "..", ".", "a/../../b", "..\\..", "%2e%2e/", "\0", "")

ANSWERS = {200, 201, 429, 503}


class Site:
    """A collector with a directory behind it, as a process, and the pods that know its address."""

    def __init__(self, api: FakeKubernetesApi, tmp_path: Path) -> None:
        self.api = api
        self.root = tmp_path / "stored"
        self.root.mkdir()
        backend = ("--backend", "directory", "--transport-directory", self.root)
        self.process = CollectorProcess(api, tmp_path, *backend)

    def post(self, content: bytes, token: str):
        """The status, and the short code of a refusal."""
        answer = post(self.process.url(), content, token)
        return answer.status_code, answer.json().get("error")

    def honest_pod_is_served(self) -> None:
        segment = compressed(ndjson(HONEST.history()))
        assert self.post(segment, HONEST.token(self.api)) == (201, None)

    def holds_only(self, *pods: Pod) -> None:
        """`verify` finds valid records, and none but those of these pods."""
        verdict = verified(self.root)
        assert verdict["totals"]["pods"] == len(pods)
        names = [name.rpartition("/")[2] for name in stored_files(self.root)]
        assert {name.partition(".")[0] for name in names} == {pod.uid for pod in pods}


@pytest.fixture
def site(api: FakeKubernetesApi, tmp_path: Path) -> Iterator[Site]:
    made = Site(api, tmp_path)
    with made.process:
        yield made


def segment(records: list[EmissionRecord]) -> bytes:
    return compressed(ndjson(records))


def test_tokens_that_are_not_this_pods_own_store_nothing(site: Site):
    """Expired, for another audience, of another pod, of another namespace, invented, or none."""
    api, content = site.api, segment(HOSTILE.history())
    tokens = {
        "expired": (HOSTILE.token(api, expired=True), 401),
        "for another audience": (HOSTILE.token(api, audience="api://other"), 401),
        "of another pod": (Pod(3).token(api), 403),
        "of another namespace": (HOSTILE.token(api, namespace="team-b"), 403),
        "invented": ("eyJhbGciOiJub25lIn0.e30.", 401),
        "none": ("", 401),
    }
    found = {name: site.post(content, token)[0] for name, (token, _) in tokens.items()}
    assert found == {name: status for name, (_, status) in tokens.items()}
    site.honest_pod_is_served()
    site.holds_only(HONEST)


def test_a_segment_that_claims_another_pod_is_refused_whole(site: Site):
    """In all records, in the last alone, or in its name only."""
    own, token = HOSTILE.history(), HOSTILE.token(site.api)
    last_only = [*own[:-1], replace(own[-1], pod=HONEST.name, pod_uid=HONEST.uid)]
    other_node = [*own[:-1], replace(own[-1], node=HONEST.node)]
    for records, status in ((HONEST.history(), 403), (last_only, 422), (other_node, 403)):
        assert site.post(segment(records), token)[0] == status
    site.honest_pod_is_served()
    site.holds_only(HONEST)


def test_a_project_that_climbs_out_stays_in_its_place(site: Site, tmp_path: Path):
    """It is the name of a project like any other, in one part of a path; or no name at all."""
    before = beside(site, tmp_path)
    stored = [HONEST]
    for number, project in enumerate(CLIMBING, start=10):
        pod = Pod(number, project=project)
        status, code = site.post(segment(pod.history()), pod.token(site.api))
        assert (status, code) in ((201, None), (422, "invalid_record"))
        stored += [pod] if status == 201 else []
    assert beside(site, tmp_path) == before
    for name in stored_files(site.root):
        assert re.fullmatch(r"records/v1/project=[^/]+/date=[^/]+/[^/]+/[^/]+", name)
        assert not {"..", "project=.."} & set(name.split("/"))
    site.honest_pod_is_served()
    assert len(stored) > 1
    site.holds_only(*stored)


def beside(site: Site, directory: Path) -> set[Path]:
    """What is there outside of the place where segments are stored."""
    return {path for path in directory.rglob("*") if not path.is_relative_to(site.root)}


def test_a_record_of_a_megabyte_is_refused(site: Site):
    start, *rest = HOSTILE.history()
    huge = [replace(start, experiment="x" * 1024**2), *rest]
    assert site.post(segment(huge), HOSTILE.token(site.api)) == (413, "too_large")
    site.honest_pod_is_served()
    site.holds_only(HONEST)


def test_a_gzip_bomb_is_refused_before_it_takes_memory(site: Site):
    """An eighth of a gigabyte in less than a megabyte: of empty lines, of one line, and of records."""
    record = to_ndjson(HOSTILE.history()[0]).encode()
    token = HOSTILE.token(site.api)
    site.honest_pod_is_served()
    before = peak_bytes(site)
    for line in (b"\n", b"x", record):
        status, _ = site.post(bomb(line), token)
        assert status in (413, 422)
    assert peak_bytes(site) - before < GROWTH_MAX_BYTES
    site.holds_only(HONEST)


def bomb(line: bytes) -> bytes:
    """Gzip of much more than it is."""
    packer = zlib.compressobj(level=9, wbits=31)
    piece = line * (1024**2 // len(line))
    content = b"".join(packer.compress(piece) for _ in range(128)) + packer.flush()
    assert len(content) < 1024**2
    return content


# -- the flood ---------------------------------------------------------------------------------------


def test_ten_thousand_parallel_posts_of_one_pod_are_all_answered_while_others_are_served(
    site: Site,
):
    url, token = site.process.url(), HOSTILE.token(site.api)
    site.honest_pod_is_served()
    before = peak_bytes(site)
    over = threading.Event()
    with meanwhile(lambda: patient_pod(site, over)) as served:
        try:
            statuses = asyncio.run(flood(url, token, segment(HOSTILE.history())))
        finally:
            over.set()
    assert statuses.total() == POSTS
    assert set(statuses) <= ANSWERS
    assert statuses[201] == 1
    assert statuses[429] > POSTS / 2
    assert len(served) >= 2
    assert set(served) == {(201, None)}
    assert peak_bytes(site) - before < GROWTH_MAX_BYTES
    verdict = verified(site.root)
    assert verdict["totals"]["boots"] == 2 + len(served)


def patient_pod(site: Site, over: threading.Event) -> list[tuple[int, str | None]]:
    """What another pod is answered, segment after segment, until the flood is over."""
    other = Pod(3)
    token, answers = other.token(site.api), []
    while not over.wait(0.2) and len(answers) < 100:
        # Each of another process, hours after the one before.
        records = other.history(windows=1, boot=f"boot{len(answers)}")
        hour = f"2026-11-{20 + len(answers) // 24:02d}T{len(answers) % 24:02d}:"
        content = segment([_at(record, hour) for record in records])
        answers.append(site.post(content, token))
    return answers


def _at(record: EmissionRecord, hour: str) -> EmissionRecord:
    def moved(text: str) -> str:
        return hour + text[len("2026-11-18T12:") :]

    return replace(
        record, window_start=moved(record.window_start), window_end=moved(record.window_end)
    )


@contextlib.contextmanager
def meanwhile(work) -> Iterator[list]:
    """Do work in a thread; what it returned is in the list after the block."""
    results: list = []
    thread = threading.Thread(target=lambda: results.extend(work()))
    thread.start()
    try:
        yield results
    finally:
        thread.join(60)


async def flood(url: str, token: str, content: bytes) -> Counter[int]:
    """Post from so many connections at once, each again and again; returns how often which status."""
    host, _, port = url.removeprefix("http://").partition(":")
    head = (
        f"POST /v1/segments HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/gzip\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    request = head.encode() + content
    left = iter(range(POSTS))

    async def caller() -> Counter[int]:
        answers: Counter[int] = Counter()
        streams = None
        for _ in left:
            streams = streams or await asyncio.open_connection(host, int(port))
            status, closes = await _asked(*streams, request)
            answers[status] += 1
            if closes:
                await _closed(streams[1])
                streams = None
        if streams is not None:
            await _closed(streams[1])
        return answers

    callers = [asyncio.create_task(caller()) for _ in range(CONNECTIONS)]
    return sum(await asyncio.gather(*callers), Counter())


async def _asked(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bool]:
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = re.search(r"content-length: (\d+)", head)
    assert length is not None, head
    body = json.loads(await reader.readexactly(int(length[1])))
    status = int(head.split(" ", 2)[1])
    assert status < 300 or body["error"]
    assert status not in (429, 503) or "\r\nretry-after: " in head
    return status, "\r\nconnection: close" in head


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def peak_bytes(site: Site) -> int:
    """The most memory that the collector ever had."""
    status = Path(f"/proc/{site.process.process.pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) * 1024
