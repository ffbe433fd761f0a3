"""Pods that asked to be tracked and have no records: by the API's list, page by page, over real HTTP."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from sidecar.kubernetes_http import KubernetesHttp, KubernetesHttpError
from sidecar.report.tracked_pods import pods_without_records

WORDS = {"reason": "SIGTERM", "energy_kwh": 0.25, "emissions_g": 63.0, "unshipped_records": 12}


def pod(uid, status="injected", **sidecar):
    annotations = {} if status is None else {"emissions/status": status}
    states = [{"name": "emissions-sidecar", **sidecar}] if sidecar else []
    return {
        "metadata": {
            "namespace": "vision", "name": f"train-{uid}", "uid": uid, "annotations": annotations
        },
        "status": {"phase": "Succeeded", "initContainerStatuses": states},
    }  # fmt: skip


def ended(message):
    return {"state": {"terminated": {"exitCode": 0, "message": message}}}


class Api:
    """Lists pods two by two."""

    def __init__(self):
        self.pods = []
        self.paths = []
        self.status = 200
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                api.paths.append(self.path)
                query = parse_qs(urlsplit(self.path).query)
                start = int(query.get("continue", ["0"])[0])
                following = str(start + 2) if start + 2 < len(api.pods) else ""
                page = {"metadata": {"continue": following}, "items": api.pods[start : start + 2]}
                content = json.dumps(page).encode()
                self.send_response(api.status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

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


def test_injected_pods_without_records_are_listed_over_all_pages(api, client):
    api.pods = [pod("a"), pod("b"), pod("c", None), pod("d", "skipped: windows"), pod("e")]
    found = pods_without_records(client, {"b"})
    assert [(one.namespace, one.pod) for one in found] == [
        ("vision", "train-a"), ("vision", "train-e")
    ]  # fmt: skip
    assert len(api.paths) == 3


def test_what_did_not_arrive_is_taken_from_the_termination_message(api, client):
    api.pods = [pod("a", **ended(json.dumps(WORDS)))]
    (found,) = pods_without_records(client, set())
    assert found.reason == "its sidecar ended with 0.25 kWh, 63 g CO2e that did not arrive"


@pytest.mark.parametrize(
    ("sidecar", "said"),
    [
        (ended(json.dumps({"reason": "settings", "error": "no such setting"})), "metered nothing"),
        (ended("{torn"), "ended with code 0"),
        (ended(json.dumps(["x"])), "ended with code 0"),
        (ended(json.dumps({"energy_kwh": True})), "ended with code 0"),
        ({"state": {"waiting": {"reason": "ImagePullBackOff"}}}, "ImagePullBackOff"),
        ({"state": {"running": {}}}, "still to come"),
        ({}, "the pod is 'Succeeded'"),
    ],
)
def test_every_other_end_has_its_words(api, client, sidecar, said):
    api.pods = [pod("a", **sidecar)]
    (found,) = pods_without_records(client, set())
    assert said in found.reason


@pytest.mark.parametrize("odd", [None, 7, [], {"metadata": None}, {"metadata": {"annotations": 3}}])
def test_what_is_no_pod_is_passed_over(api, client, odd):
    api.pods = [odd, pod("a")]
    assert len(pods_without_records(client, set())) == 1


def test_a_refusal_says_which_right_is_missing(api, client):
    api.status = 403
    with pytest.raises(KubernetesHttpError, match="pods"):
        pods_without_records(client, set())
