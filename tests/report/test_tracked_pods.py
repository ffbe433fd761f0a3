"""Pods that asked to be tracked: by the API's lists, page by page, over real HTTP."""

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from sidecar.kubernetes_http import KubernetesHttp, KubernetesHttpError
from sidecar.report.figures.inputs import Amounts
from sidecar.report.tracked_pods import tracked_pods

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
WORDS = {
    "reason": "SIGTERM", "project": "vision", "windows": 14, "window_start": "2026-11-22T08:00:00.000Z",
    "energy_kwh": 0.25, "emissions_g": 63.0, "emissions_low_g": 40.0, "emissions_high_g": 90.0,
    "unshipped_records": 12,
}  # fmt: skip


def pod(uid, status="injected", namespace="vision", annotations=None, labels=None, **sidecar):
    given = dict(annotations or {})
    if status is not None:
        given["emissions/status"] = status
    has_sidecar = status == "injected" or bool(sidecar)
    states = [{"name": "emissions-sidecar", **sidecar}] if sidecar else []
    return {
        "metadata": {
            "namespace": namespace, "name": f"train-{uid}", "uid": uid, "annotations": given,
            "labels": labels or {},
        },
        "spec": {"initContainers": [{"name": "emissions-sidecar"}] if has_sidecar else []},
        "status": {"phase": "Succeeded", "initContainerStatuses": states},
    }  # fmt: skip


def ended(message, code=0):
    return {"state": {"terminated": {"exitCode": code, "message": message}}}


class Api:
    """Lists pods two by two, and the namespaces that are labelled."""

    def __init__(self):
        self.pods = []
        self.labelled = []
        self.paths = []
        self.statuses = {}
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                api.paths.append(self.path)
                where = urlsplit(self.path)
                query = parse_qs(where.query)
                kind = where.path.rsplit("/", 1)[-1]
                items = api.pods if kind == "pods" else api.namespaces(query)
                start = int(query.get("continue", ["0"])[0])
                following = str(start + 2) if start + 2 < len(items) else ""
                page = {"metadata": {"continue": following}, "items": items[start : start + 2]}
                content = json.dumps(page).encode()
                self.send_response(api.statuses.get(kind, 200))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def namespaces(self, query):
        assert query["labelSelector"] == ["emissions/track=true"]
        return [{"metadata": {"name": name}} for name in self.labelled]

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def api():
    made = Api()
    yield made
    made.close()


@pytest.fixture
def client(api, tmp_path):
    (tmp_path / "token").write_text("a.b.c")
    url = f"http://127.0.0.1:{api.server.server_port}"
    return KubernetesHttp(url, tmp_path / "token", tmp_path / "ca.crt")


def found(client, opt_in="all"):
    return {one.uid: one for one in tracked_pods(client, NOW, opt_in)}


def test_pods_with_a_status_are_listed_over_all_pages(api, client):
    api.pods = [pod("a"), pod("b"), pod("c", None), pod("d", "skipped: windows"), pod("e")]
    listed = found(client)
    assert sorted(listed) == ["a", "b", "d", "e"]
    assert (listed["a"].namespace, listed["a"].pod, listed["a"].kind) == (
        "vision", "train-a", "silent"
    )  # fmt: skip
    assert sum(path.startswith("/api/v1/pods") for path in api.paths) == 3


def test_a_skipped_pod_says_why_in_the_words_of_its_status(api, client):
    api.pods = [pod("d", "skipped: Windows pods are not metered")]
    one = found(client)["d"]
    assert (one.kind, one.reason) == ("skipped", "skipped: Windows pods are not metered")


def test_a_pod_that_asked_and_was_never_injected_is_listed(api, client):
    api.pods = [pod("a", None, annotations={"emissions/track": "true"})]
    one = found(client)["a"]
    assert one.kind == "never injected"
    assert "never injected" in one.reason


@pytest.mark.parametrize("value", ["false", "yes", ""])
def test_only_true_asks(api, client, value):
    api.pods = [pod("a", None, annotations={"emissions/track": value})]
    assert found(client) == {}


def test_a_pod_of_a_labelled_namespace_asked_too(api, client):
    api.labelled = ["one", "two", "lab"]
    api.pods = [
        pod("a", None, "lab"),
        pod("b", None, "elsewhere"),
        pod("c", None, "lab", {"emissions/track": "false"}),
    ]
    assert sorted(found(client)) == ["a"]


def test_where_the_label_counts_for_azureml_alone_only_its_runs_asked(api, client):
    api.labelled = ["lab"]
    api.pods = [pod("a", None, "lab"), pod("b", None, "lab", labels={"ml.azure.com/run-id": "r"})]
    assert sorted(found(client, "azureml")) == ["b"]


def test_where_the_label_does_nothing_no_namespace_is_asked_for(api, client):
    api.statuses["namespaces"] = 403
    api.labelled = ["lab"]
    api.pods = [pod("a", None, "lab"), pod("b")]
    assert sorted(found(client, "none")) == ["b"]


def test_a_sidecar_that_was_written_in_by_hand_asked_by_being_there(api, client):
    by_hand = pod("a", None, state={"running": {}})
    api.pods = [by_hand]
    assert found(client)["a"].kind == "silent"


def test_a_status_that_came_with_a_copied_pod_does_not_count_as_injected(api, client):
    copied = pod("a")
    copied["spec"]["initContainers"] = []
    api.pods = [copied]
    assert found(client)["a"].kind == "never injected"


def test_the_last_words_of_a_sidecar_are_kept(api, client):
    api.pods = [pod("a", **ended(json.dumps(WORDS)))]
    one = found(client)["a"]
    assert one.words is not None
    assert one.words.amounts == Amounts(0.25, 63.0, 40.0, 90.0)
    assert one.words.unshipped_records == 12
    assert (one.words.project, one.words.window_start) == ("vision", WORDS["window_start"])
    assert one.reason == "its sidecar ended with 12 records that were not shipped"


def test_a_sidecar_that_shipped_everything_elsewhere_says_so(api, client):
    api.pods = [pod("a", **ended(json.dumps(WORDS | {"unshipped_records": 0})))]
    reason = found(client)["a"].reason
    assert reason == "its sidecar ended and left nothing behind; its records went elsewhere"


@pytest.mark.parametrize(
    ("sidecar", "said"),
    [
        (ended(json.dumps({"reason": "settings", "error": "no such setting"})), "metered nothing"),
        (ended("{torn", 137), "ended with code 137"),
        (ended(json.dumps(["x"])), "ended with code 0"),
        (ended(json.dumps({"energy_kwh": True, "unshipped_records": "many"})), "ended with code 0"),
        (ended(json.dumps({"energy_kwh": float("inf")})), "ended with code 0"),
        ({"state": {"waiting": {"reason": "ImagePullBackOff"}}}, "ImagePullBackOff"),
        ({"state": {"running": {"startedAt": "2026-11-22T09:00:00Z"}}}, "since 2026-11-22T09:00:00Z"),
        ({"state": {"running": {"startedAt": 7}}}, "its sidecar runs"),
    ],
)  # fmt: skip
def test_every_other_end_has_its_words(api, client, sidecar, said):
    api.pods = [pod("a", **sidecar)]
    one = found(client)["a"]
    assert said in one.reason
    assert one.kind == "silent"


def test_a_sidecar_that_just_began_is_no_reason_to_worry(api, client):
    api.pods = [pod("a", state={"running": {"startedAt": "2026-11-22T11:55:00Z"}})]
    assert found(client)["a"].kind == "starting"


def test_a_pod_that_was_not_scheduled_yet_is_no_reason_to_worry(api, client):
    waiting = pod("a")
    waiting["status"] = {"phase": "Pending"}
    api.pods = [waiting]
    assert found(client)["a"].kind == "starting"


@pytest.mark.parametrize("odd", [None, 7, [], {"metadata": None}, {"metadata": {"annotations": 3}}])
def test_what_is_no_pod_is_passed_over(api, client, odd):
    api.pods = [odd, pod("a")]
    assert sorted(found(client)) == ["a"]


def test_a_refusal_says_which_right_is_missing(api, client):
    api.statuses["pods"] = 403
    with pytest.raises(KubernetesHttpError, match="list on pods"):
        found(client)


def test_a_refusal_of_namespaces_says_which_right_is_missing(api, client):
    api.statuses["namespaces"] = 403
    with pytest.raises(KubernetesHttpError, match="namespaces"):
        found(client)
