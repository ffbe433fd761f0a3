"""POST /v1/segments: what is stored, and what is refused with which reason."""

import gzip
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from sidecar.collector.cluster import open_cluster
from sidecar.collector.limits import Limits
from sidecar.record import to_mapping
from sidecar.segment import blob_name, compressed
from sidecar.serving import Serving
from sidecar.transport.delivery import Undelivered
from sidecar.transport.directory import DirectoryTransport
from tests.collector.running import POD, ndjson, post, record, segment, stored_files
from tests.e2e.commands import PATIENCE_S, until
from tests.fakes.kubernetes_api import REVIEWS_PATH


def refused(response, status, code):
    """The response is this refusal, in the one form of all; returns its text."""
    assert response.headers["content-type"] == "application/json", response.text
    answer = response.json()
    assert (response.status_code, answer["error"]) == (status, code), answer
    assert set(answer) == {"error", "detail"}
    assert "\n" not in answer["detail"]
    return answer["detail"]


class _Backend(DirectoryTransport):
    """A directory that says no, or waits, when told to."""

    def __init__(self, root) -> None:
        super().__init__(root)
        self.reason = None
        self.go_on = threading.Event()
        self.go_on.set()
        self.waiting = threading.Semaphore(0)

    def deliver(self, parcel, timeout_s):
        self.waiting.release()
        assert self.go_on.wait(PATIENCE_S)
        if self.reason is not None:
            raise self.reason
        return super().deliver(parcel, timeout_s)

    def check(self):
        if self.reason is not None:
            raise self.reason
        super().check()


@pytest.fixture
def token(api):
    return api.token()


@pytest.fixture
def backend(root):
    return _Backend(root)


# -- stored --------------------------------------------------------------------------------------


def test_a_segment_is_stored_as_it_came_under_the_name_of_its_first_record(
    collector, token, root
) -> None:
    records = [record(1), record(2, window_start="2026-11-23T00:00:00.000Z"), record(5)]
    response = collector.post(segment(*records), token)
    name = blob_name(to_mapping(records[0]))
    assert response.status_code == 201, response.text
    assert response.json() == {
        "blob": name, "created": True, "records": 3, "handed_over": False,
    }  # fmt: skip
    assert (root / name).read_bytes() == segment(*records)
    assert collector.metric("emissions_collector_records_total") == 3


def test_the_same_segment_again_is_there_already(collector, token, root) -> None:
    first, second = (collector.post(segment(), token) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == {**first.json(), "created": False}
    assert len(stored_files(root)) == 1


def test_two_collectors_given_one_segment_at_the_same_time_store_it_once(
    start, api, token, root
) -> None:
    collectors = [start(), start()]
    with ThreadPoolExecutor(8) as threads:
        for sequence in range(1, 16):
            content = segment(record(sequence))
            answers = list(
                threads.map(lambda one, content=content: one.post(content, token), collectors)
            )
            assert sorted(one.status_code for one in answers) == [200, 201]
    assert len(stored_files(root)) == 15


def test_a_first_record_that_does_not_know_its_node_yet_is_taken(collector, token) -> None:
    content = segment(record(1, event="start", node=None), record(2))
    assert collector.post(content, token).status_code == 201


def test_a_token_that_names_no_node_says_nothing_against_the_records_node(collector, api) -> None:
    assert collector.post(segment(), api.token(node=None)).status_code == 201


def test_a_project_that_would_climb_out_is_one_escaped_part_of_the_name(
    collector, token, root
) -> None:
    response = collector.post(segment(record(project="../../x", cluster="..")), token)
    assert response.status_code == 201
    (name,) = stored_files(root)
    assert name.startswith("records/v1/project=%2E.%2F..%2Fx/date=2026-11-22/%2E%2E/"), name


def test_a_chunked_body_is_taken(collector, token) -> None:
    content = segment()
    response = collector.post(iter([content[:9], content[9:]]), token)
    assert response.status_code == 201


# -- 401, 403: who calls -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    ["", "Basic dXNlcjpwYXNz", "Bearer", "Bearer x", "Bearer a.b.c d", "Bearer " + "x" * 9000],
)
def test_without_a_plausible_token_nobody_is_asked(collector, api, header) -> None:
    headers = {"Authorization": header}
    response = requests.post(f"{collector.url}/v1/segments", b"x", headers=headers, timeout=9)
    refused(response, 401, "no_token")
    assert api.requests == []


@pytest.mark.parametrize("about", [{"expired": True}, {"audience": "vault"}])
def test_a_token_that_expired_or_is_for_another_audience_is_refused(collector, api, about) -> None:
    token = api.token(**about)
    detail = refused(collector.post(segment(), token), 401, "token_refused")
    assert "emissions-collector" in detail
    assert token not in detail


def test_a_token_of_another_key_is_refused(collector, api) -> None:
    head, body, _ = api.token().split(".")
    refused(collector.post(segment(), f"{head}.{body}.Zm9yZ2Vk"), 401, "token_refused")


@pytest.mark.parametrize("about", [{"pod": None}, {"pod_uid": None}, {"username": "jane"}])
def test_a_token_that_is_not_a_pods_is_refused(collector, api, about) -> None:
    refused(collector.post(segment(), api.token(**about)), 403, "not_a_pod")


@pytest.mark.parametrize(
    ("field", "about"),
    [
        ("namespace", {"namespace": "team-b"}),
        ("pod", {"pod": "train-1"}),
        ("pod_uid", {"pod_uid": "22222222-0000-4000-8000-000000000002"}),
        ("node", {"node": "aks-gpupool-12345678-vmss000009"}),
    ],
)
def test_records_of_another_pod_than_the_tokens_are_refused(
    collector, api, root, field, about
) -> None:
    detail = refused(collector.post(segment(), api.token(**about)), 403, "foreign")
    assert detail.startswith(f"{field} '{getattr(POD, field)}'")
    assert about[field] in detail
    assert stored_files(root) == []


def test_one_foreign_record_among_own_ones_is_enough(collector, token, root) -> None:
    content = segment(record(1), record(2, pod="train-9"), record(3))
    assert "'train-9'" in refused(collector.post(content, token), 403, "foreign")
    assert stored_files(root) == []


def test_a_foreign_record_behind_many_nodes_is_found_too(collector, api, root) -> None:
    """Where the token names no node, a record may: that hides no record of another pod behind it."""
    own = [record(number, node=f"node-{number}") for number in range(1, 40)]
    content = segment(*own, record(40, namespace="team-b", pod="train-9"))
    refused(collector.post(content, api.token(node=None)), 422, "invalid_record")
    assert stored_files(root) == []


NODES_OWN = {"pod_method": "unallocated", "energy_kwh": 0.0, "node_cpu_energy_kwh": 0.0}


@pytest.mark.parametrize("method", ["unallocated", "cgroup + unallocated"])
@pytest.mark.parametrize("account", [None, "emissions/node-meter"])
def test_no_pod_but_the_node_meter_tells_what_its_node_used(
    start, token, root, account, method
) -> None:
    """Else it could tell that the node used nothing, and its neighbours would lose their figures."""
    collector = start(node_meter=account)
    content = segment(record(1), record(2, **{**NODES_OWN, "pod_method": method}))
    detail = refused(collector.post(content, token), 403, "not_node_meter")
    assert (account or "EMISSIONS_NODE_METER_ACCOUNT") in detail
    assert stored_files(root) == []


def test_the_node_meter_is_known_by_its_service_account(start, api) -> None:
    collector = start(node_meter="emissions/node-meter")
    meter = replace(POD, namespace="emissions", service_account="node-meter", pod="node-meter-x7")
    about = {name: getattr(meter, name) for name in ("namespace", "service_account", "pod")}
    content = segment(record(1, meter, **NODES_OWN))
    assert collector.post(content, api.token(**about)).status_code == 201
    namesake = {**about, "namespace": "team-a"}
    content = segment(record(2, replace(meter, namespace="team-a"), **NODES_OWN))
    refused(collector.post(content, api.token(**namesake)), 403, "not_node_meter")


def test_a_deleted_pods_token_is_taken_for_seconds_only(start, api, token) -> None:
    collector = start()
    assert collector.post(segment(), token).status_code == 201
    assert collector.post(segment(), token).status_code == 200
    assert api.requests.count(f"POST {REVIEWS_PATH}") == 1


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("error", "500"),
        ("forbidden", "may not create tokenreviews"),
        ("garbage", "no Kubernetes object"),
        ("no-status", "without status"),
    ],
)
def test_an_api_server_that_gives_no_usable_answer_is_worth_another_try(
    collector, api, token, mode, told
) -> None:
    api.mode = mode
    response = collector.post(segment(), token)
    assert told in refused(response, 503, "kubernetes_api")
    assert int(response.headers["Retry-After"]) > 0
    api.mode = "well"
    assert collector.post(segment(), token).status_code == 201


def test_an_api_server_that_is_not_there_is_worth_another_try(collector, api, token) -> None:
    api.refuse()
    assert "no answer" in refused(collector.post(segment(), token), 503, "kubernetes_api")


def test_an_api_server_that_hangs_is_given_up(start, api, token, tmp_path) -> None:
    environ = {"KUBECONFIG": str(api.kubeconfig(tmp_path / "kubeconfig"))}
    collector = start(cluster=open_cluster(environ, timeout_s=(1.0, 0.1)))
    api.mode = "hang"
    assert "no answer" in refused(collector.post(segment(), token), 503, "kubernetes_api")
    api.release()
    assert collector.post(segment(), token).status_code == 201


# -- 400, 413, 422: what is sent -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"not gzip at all", "not gzip"),
        (ndjson(record()), "not gzip"),
        (segment()[:-9], "cut short"),
        (segment() + b"x", "follows"),
        (segment() + segment(record(2)), "follows"),
        (compressed(b""), "empty"),
        (compressed(ndjson(record())[:-1]), "torn"),
        (gzip.compress(b"x" * 9, mtime=0)[:12], "cut short"),
    ],
)
def test_what_is_no_whole_segment_is_refused(collector, token, root, content, told) -> None:
    assert told in refused(collector.post(content, token), 400, "not_a_segment")
    assert stored_files(root) == []


def test_arbitrary_bytes_are_refused_with_a_reason(start, token, root) -> None:
    collector = start(limits=Limits(pod_burst=10**6))

    @given(st.binary(min_size=1, max_size=5000) | st.binary(max_size=500).map(compressed))
    def refused_whatever_they_are(content) -> None:
        response = collector.post(content, token)
        assert response.status_code in (400, 422), response.text
        assert set(response.json()) == {"error", "detail"}

    refused_whatever_they_are()
    assert stored_files(root) == []


def test_another_content_type_is_refused(collector, token) -> None:
    response = collector.post(segment(), token, Content_Type="application/json")
    assert "application/json" in refused(response, 400, "content_type")


@pytest.mark.parametrize(
    ("limits", "records"),
    [
        (Limits(content_bytes=200), [record()]),
        (Limits(ndjson_bytes=1500), [record(1), record(2)]),
        (Limits(records=2), [record(1), record(2), record(3)]),
        (Limits(line_bytes=1000), [record()]),
    ],
)
def test_what_is_larger_than_a_limit_is_refused(start, token, root, limits, records) -> None:
    refused(start(limits=limits).post(segment(*records), token), 413, "too_large")
    assert stored_files(root) == []


def test_a_chunked_body_is_not_read_beyond_its_limit(start, token) -> None:
    collector = start(limits=Limits(content_bytes=1000))
    refused(collector.post(iter([b"x" * 600] * 3), token), 413, "too_large")


def test_a_record_of_a_megabyte_is_refused(collector, token, root) -> None:
    content = segment(record(annotations={"emissions/x": "a" * 1024**2}))
    refused(collector.post(content, token), 413, "too_large")
    assert stored_files(root) == []


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (b"{}\n", "line 1: "),
        (b"\n", "line 1: "),
        (ndjson(record(1)) + b"[]\n", "line 2: "),
        (ndjson(record(1)) + b"{torn\n", "line 2: "),
        (ndjson(record(1)) + b"\xff\xfe\n", "line 2: "),
        (ndjson(record(energy_kwh=-1.0)), "line 1: "),
        (ndjson(record(schema=2)), "schema 2"),
        (ndjson(record(1), record(1)), "does not come after"),
        (ndjson(record(2), record(1)), "does not come after"),
        (ndjson(record(1), record(2, project="x")), "line 2: project 'x'"),
        (ndjson(record(1), record(2, cluster=None)), "line 2: cluster 'None'"),
        (ndjson(record(1), record(record_id=f"{POD.pod_uid}.other.2")), "another process"),
        (ndjson(record(record_id="11111111.b.1")), "pod_uid"),
        (ndjson(record(record_id="../../etc.b.1")), "record_id"),
        (ndjson(record(window_start="yesterday")), "window_start"),
        (ndjson(record(window_start="2026-99-22T08:00:00Z")), "window_start"),
        (ndjson(record(window_end="")), "window_end"),
        (ndjson(record()).replace(b'"pod":"', b'"pod":"train-9","pod":"'), "twice"),
        (ndjson(record()).replace(b'"pue":null', b'"pue":NaN'), "NaN"),
    ],
)
def test_a_line_that_is_no_record_of_this_segment_is_named(
    collector, token, root, lines, told
) -> None:
    detail = refused(collector.post(compressed(lines), token), 422, "invalid_record")
    assert told in detail
    assert stored_files(root) == []


def test_a_reason_is_short_however_long_the_value_is(collector, token) -> None:
    content = segment(record(record_id="x" * 40_000))
    assert len(refused(collector.post(content, token), 422, "invalid_record")) < 500


# -- 408: too slow -------------------------------------------------------------------------------


def test_a_body_that_does_not_come_is_given_up(start, token) -> None:
    serving = Serving(host="127.0.0.1", port=0, drain_s=0, finish_s=1, linger_s=0.05)
    collector = start(limits=Limits(body_s=0.2), serving=serving)
    answer = _begun_upload(collector, token, segment(), 5)
    assert b" 408 " in answer.splitlines()[0]
    assert b'"error":"too_slow"' in answer
    assert b"connection: close" in answer


def _begun_upload(collector, token, content, sent):
    """Send some bytes of a body and no more; return all that is answered."""
    head = (
        f"POST /v1/segments HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", collector.service.port), PATIENCE_S) as connection:
        connection.sendall(head.encode() + content[:sent])
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_a_body_that_is_cut_off_is_not_stored(collector, token, root) -> None:
    content = segment()
    head = (
        f"POST /v1/segments HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    address = ("127.0.0.1", collector.service.port)
    with socket.create_connection(address, PATIENCE_S) as connection:
        connection.sendall(head.encode() + content[:-1])
    until(lambda: collector.metric("emissions_collector_segments_total", outcome="cut_off") == 1)
    assert stored_files(root) == []


# -- 409, 503: storage ---------------------------------------------------------------------------


def test_other_content_under_the_same_name_is_a_conflict(collector, token, root) -> None:
    assert collector.post(segment(), token).status_code == 201
    response = collector.post(segment(record(energy_kwh=2.0)), token)
    assert "other content" in refused(response, 409, "conflict")
    assert len(stored_files(root)) == 1


def test_storage_that_takes_nothing_is_worth_another_try(start, backend, token, root) -> None:
    collector = start(backend=backend)
    backend.reason = Undelivered("the account is throttled; wait", retry_after_s=30.5)
    response = collector.post(segment(), token)
    assert "throttled" in refused(response, 503, "storage")
    assert int(response.headers["Retry-After"]) >= 31
    backend.reason = None
    assert collector.post(segment(), token).status_code == 201


def test_an_error_of_its_own_is_answered_in_json_and_logged(start, backend, token, caplog) -> None:
    collector = start(backend=backend)
    until(lambda: collector.parts.readiness.obstacle is None)
    backend.reason = RuntimeError("unexpected")
    detail = refused(collector.post(segment(), token), 500, "internal")
    assert "unexpected" not in detail
    until(lambda: "unexpected" in caplog.text)
    assert collector.metric("emissions_collector_segments_total", outcome="internal") == 1


# -- 429, 503: how much --------------------------------------------------------------------------


def test_more_than_its_rate_is_refused_and_other_pods_are_served(start, api, token) -> None:
    collector = start(limits=Limits(pod_burst=3, pod_per_s=0.001))
    codes = [collector.post(segment(record(n)), token).status_code for n in range(1, 5)]
    assert codes == [201, 201, 201, 429]
    response = collector.post(segment(), token)
    refused(response, 429, "pod_rate")
    assert int(response.headers["Retry-After"]) >= 900
    other = replace(POD, pod="other", pod_uid="33333333-0000-4000-8000-000000000003")
    answer = collector.post(
        segment(record(owner=other)), api.token(pod="other", pod_uid=other.pod_uid)
    )
    assert answer.status_code == 201


def test_a_pods_requests_at_a_time_are_bounded(start, backend, api, token) -> None:
    collector = start(backend=backend, limits=Limits(pod_requests=1))
    backend.go_on.clear()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(collector.post, segment(), token)
        assert backend.waiting.acquire(timeout=PATIENCE_S)
        response = collector.post(segment(record(2)), token)
        refused(response, 429, "pod_busy")
        backend.go_on.set()
        assert first.result(PATIENCE_S).status_code == 201
    assert collector.post(segment(record(2)), token).status_code == 201


def test_more_segments_than_can_be_stored_at_a_time_wait_a_little_and_come_again(
    start, backend, api
) -> None:
    collector = start(backend=backend, uploads=1, limits=Limits(queue_s=0.05, arriving=2))
    backend.go_on.clear()
    pods = [replace(POD, pod=f"p-{n}", pod_uid=f"uid-{n}") for n in range(2)]
    tokens = [api.token(pod=pod.pod, pod_uid=pod.pod_uid) for pod in pods]
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(collector.post, segment(record(owner=pods[0])), tokens[0])
        assert backend.waiting.acquire(timeout=PATIENCE_S)
        response = collector.post(segment(record(owner=pods[1])), tokens[1])
        refused(response, 503, "busy")
        assert int(response.headers["Retry-After"]) > 0
        backend.go_on.set()
        assert first.result(PATIENCE_S).status_code == 201


def test_bodies_in_memory_are_bounded(start, backend, api) -> None:
    collector = start(backend=backend, uploads=1, limits=Limits(arriving=1))
    backend.go_on.clear()
    pods = [replace(POD, pod=f"p-{n}", pod_uid=f"uid-{n}") for n in range(2)]
    tokens = [api.token(pod=pod.pod, pod_uid=pod.pod_uid) for pod in pods]
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(collector.post, segment(record(owner=pods[0])), tokens[0])
        assert backend.waiting.acquire(timeout=PATIENCE_S)
        refused(collector.post(segment(record(owner=pods[1])), tokens[1]), 503, "busy")
        backend.go_on.set()
        assert first.result(PATIENCE_S).status_code == 201


# -- everything else -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/v1/segments/", 404, "not_found"),
        ("GET", "/v1/segments", 405, "method_not_allowed"),
        ("DELETE", "/v1/node", 405, "method_not_allowed"),
    ],
)
def test_paths_and_methods_that_are_not_there_are_answered_in_json(
    collector, method, path, status, code
) -> None:
    response = requests.request(method, collector.url + path, data=b"x" * 50_000, timeout=9)
    refused(response, status, code)


def test_no_token_is_ever_logged(collector, api, token, caplog) -> None:
    caplog.set_level("INFO")
    collector.post(segment(), token)
    api.mode = "error"
    other = api.token(expired=True)
    refused(collector.post(segment(), other), 503, "kubernetes_api")
    assert token not in caplog.text
    assert other not in caplog.text


def test_what_is_remembered_of_a_token_is_its_digest(collector, token, api) -> None:
    assert collector.post(segment(), token).json()["created"]
    assert json.dumps(api.reviewed) == json.dumps([token])


def test_many_requests_with_one_new_token_are_one_review(collector, api, token) -> None:
    api.mode = "hang"
    with ThreadPoolExecutor(8) as threads:
        posts = [
            threads.submit(post, collector.url, segment(record(n)), token) for n in range(1, 9)
        ]
        until(lambda: collector.metric("emissions_collector_in_flight_requests") == 8)
        api.release()
        codes = {one.result(PATIENCE_S).status_code for one in posts}
    assert codes <= {201, 429}
    assert len(api.reviewed) == 1
