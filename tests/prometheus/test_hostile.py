"""A pod that names a container as ours and tells whatever it likes is not taken."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.e2e.commands import until
from tests.prometheus.cluster import chart, own_address
from tests.prometheus.server import Prometheus, Target, job_of_pods

pytestmark = pytest.mark.needs("helm", "promtool")

HARMLESS = "emissions_windows_total 1\n"


@contextmanager
def telling(address: str, text: str) -> Iterator[None]:
    """Serve a text at /metrics where a sidecar would."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((address, 9877), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("".join(f'emissions_x{{n="{n}"}} 1\n' for n in range(300)), "sample limit exceeded"),
        ('emissions_x{n="' + "x" * 600 + '"} 1\n', "label_value_length_limit exceeded"),
        (
            "emissions_x{" + ",".join(f'l{n}="1"' for n in range(60)) + "} 1\n",
            "label_limit exceeded",
        ),
    ],
)
def test_more_than_a_sidecar_tells_is_not_taken(tmp_path: Path, text: str, why: str) -> None:
    addresses = (own_address(2), own_address(3))
    targets = [
        Target(
            f"{address}:80",
            {
                "namespace": "team-a",
                "pod_name": f"pod-{number}",
                "pod_ip": address,
                "pod_container_name": "emissions-sidecar",
            },
        )
        for number, address in enumerate(addresses)
    ]
    job = job_of_pods(chart().one("PodMonitor"), targets)
    with (
        telling(addresses[0], HARMLESS + text),
        telling(addresses[1], HARMLESS),
        Prometheus(tmp_path, [job]) as prometheus,
    ):
        until(lambda: len(prometheus.ask("up")) == 2)
        health = {metric["pod"]: value for metric, value in prometheus.ask("up")}
        assert health == {"pod-0": 0, "pod-1": 1}
        assert [one["pod"] for one, _ in prometheus.ask("emissions_windows_total")] == ["pod-1"]
        errors = {one["labels"]["pod"]: one["lastError"] for one in prometheus.targets()}
        assert why in errors["pod-0"]


def test_what_a_pod_says_of_itself_does_not_replace_what_kubernetes_says(tmp_path: Path) -> None:
    address = own_address(2)
    meta = {
        "namespace": "team-a",
        "pod_name": "mine",
        "pod_ip": address,
        "pod_container_name": "emissions-sidecar",
    }
    job = job_of_pods(chart().one("PodMonitor"), [Target(f"{address}:80", meta)])
    text = 'emissions_info{namespace="team-b",pod="theirs",project="x"} 1\n'
    with telling(address, text), Prometheus(tmp_path, [job]) as prometheus:
        until(lambda: prometheus.ask("emissions_info"))
        ((metric, _),) = prometheus.ask("emissions_info")
    assert (metric["namespace"], metric["pod"]) == ("team-a", "mine")
    assert "theirs" not in metric.values()
