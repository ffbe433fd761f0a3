"""The node meter's HTTP service, with real requests, cgroups in files and a fake Kubernetes API."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecar.kubernetes_http import KubernetesHttp
from sidecar.meters.pod.cgroup_tree import CgroupTree
from sidecar.node_meter import callers as callers_module
from sidecar.node_meter.callers import (
    ACCEPTED_S,
    REFUSED_S,
    SPREAD,
    UNANSWERED_S,
    Callers,
    in_a_thread,
)
from sidecar.node_meter.gpus import NodeGpus
from sidecar.node_meter.looks import LATE_S, Looks
from sidecar.node_meter.mig_parts import MigParts
from sidecar.node_meter.pod_resources import PodName
from sidecar.node_meter.pods import NodePods
from sidecar.node_meter.service import BOUNDS, NodeMeterService, PodNames
from sidecar.status import HttpServer
from tests.e2e.commands import PATIENCE_S
from tests.fakes.kubernetes_api import AUDIENCE, OWN_TOKEN, FakeKubernetesApi
from tests.node_meter.cgroup_node import CgroupNode
from tests.node_meter.test_gpus import Clock, Counters, Holders

NODE = "aks-gpupool-12345678-vmss000001"
UID, OTHER = "11111111-0000-4000-8000-000000000001", "22222222-0000-4000-8000-000000000002"


@dataclass
class Scene:
    node: CgroupNode
    api: FakeKubernetesApi
    server: HttpServer
    service: NodeMeterService
    pods: NodePods
    holders: Holders
    boards: Counters
    clock: Clock
    looks: Looks
    behind: list[Callable[[], object]]
    """Reviews that were left to be done beside."""

    def give(self, **held: str) -> None:
        """Let pods of team-a hold devices, and look."""
        pods = {name.replace("_", "-"): device for name, device in held.items()}
        self.holders.held = {PodName("team-a", name): (device,) for name, device in pods.items()}
        self.clock.now_s += 5
        self.looks.begin()

    def ask(self, token: str | None, path: str = "/v1/pod", method: str = "GET"):
        connection = http.client.HTTPConnection(*self.server.address, timeout=PATIENCE_S)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            body = response.read()
            is_json = response.headers["Content-Type"] == "application/json"
            return response.status, json.loads(body) if is_json else body.decode()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    node = CgroupNode(tmp_path / "cgroup")
    node.add(UID, cpu_s=12.5, memory=4096)
    node.add(OTHER, cpu_s=99.0)
    (tmp_path / "token").write_text(OWN_TOKEN)
    clock = Clock()
    boards, holders = Counters(x=0), Holders()
    with FakeKubernetesApi() as api:
        pods = NodePods(node.tree, clock)
        names = PodNames(pods.is_there)
        gpus = NodeGpus(boards, holders, MigParts(), names.has_ended, clock)
        gpus.on_listed = names.keep
        http_client = KubernetesHttp(api.url, tmp_path / "token", tmp_path / "no-ca")
        looks = Looks(pods, gpus, clock)
        looks.begin()
        behind: list[Callable[[], object]] = []
        callers = Callers(http_client, AUDIENCE, clock, behind.append)
        service = NodeMeterService(callers, pods, gpus, looks, names)
        service.node = NODE
        server = HttpServer(("127.0.0.1", 0), service.answer, BOUNDS)
        server.start()
        try:
            yield Scene(node, api, server, service, pods, holders, boards, clock, looks, behind)
        finally:
            server.close()


def test_a_pod_gets_its_own_counters_as_of_now(scene: Scene):
    token = scene.api.token()
    scene.node.use(UID, 20.0)
    code, told = scene.ask(token)
    assert code == 200
    assert (told["node"], told["pod_uid"], told["boot"]) == (NODE, UID, scene.service.boot)
    assert told["cpu_s"] == pytest.approx(20.0)
    assert told["working_set_bytes"] == 4096
    assert told["memory_byte_s"] >= 0


def test_a_pod_gets_its_part_of_the_nodes_gpus_and_no_names_of_others(scene: Scene):
    scene.give(train_0="GPU-x", other="GPU-y")
    token = scene.api.token()
    scene.ask(token)
    scene.clock.now_s += 5
    scene.boards.energy_mj["x"] = 700
    _, told = scene.ask(token)
    (gpu,) = told["gpus"]
    assert (gpu["uuid"], gpu["energy_mj"], gpu["pod_energy_mj"], gpu["pod_share"]) == (
        "GPU-x", 700, 700, 1.0,
    )  # fmt: skip
    assert "other" not in json.dumps(told)


@pytest.mark.parametrize(
    ("about", "code", "error"),
    [
        ({"audience": "https://kubernetes.default.svc"}, 401, "token_refused"),
        ({"expired": True}, 401, "token_refused"),
        ({"pod": None, "pod_uid": None}, 403, "not_a_pod"),
        ({"username": "system:node:aks"}, 403, "not_a_pod"),
        ({"node": "another-node"}, 403, "other_node"),
        ({"pod_uid": "33333333-0000-4000-8000-000000000003"}, 404, "pod_not_here"),
        ({"pod_uid": "../../../etc"}, 404, "pod_not_here"),
    ],
)
def test_who_is_no_pod_of_this_node_gets_nothing(scene: Scene, about, code, error):
    status, told = scene.ask(scene.api.token(**about))
    assert (status, told["error"]) == (code, error)
    assert told["detail"]


@pytest.mark.parametrize("token", [None, "", "x", "a.b.c d", "ü.b.c", "a.b." + "c" * 9000])
def test_what_is_no_token_is_not_reviewed(scene: Scene, token):
    with contextlib.suppress(UnicodeEncodeError):
        status, told = scene.ask(token)
        assert (status, told["error"]) == (401, "no_token")
    assert scene.api.reviewed == []


def test_a_pod_whose_token_names_no_node_is_known_by_its_cgroup(scene: Scene):
    assert scene.ask(scene.api.token(node=None))[0] == 200


def test_a_token_is_reviewed_once_while_it_is_remembered(scene: Scene):
    token = scene.api.token()
    for _ in range(3):
        assert scene.ask(token)[0] == 200
    scene.clock.now_s += ACCEPTED_S * (1 - SPREAD) - 1
    assert scene.ask(token)[0] == 200
    assert len(scene.api.reviewed) == 1


def test_a_token_that_was_accepted_is_answered_at_once_and_reviewed_behind(scene: Scene):
    token = scene.api.token()
    scene.ask(token)
    scene.api.revoke(token)
    scene.clock.now_s += ACCEPTED_S
    assert [scene.ask(token)[0] for _ in range(2)] == [200, 200]
    (review,) = scene.behind
    review()
    assert len(scene.api.reviewed) == 2
    assert scene.ask(token)[0] == 401, "the review found it revoked"


def test_tokens_that_came_together_are_not_all_reviewed_together(scene: Scene):
    tokens = [scene.api.token() for _ in range(32)]
    for token in tokens:
        scene.ask(token)
    scene.clock.now_s += ACCEPTED_S * (1 - SPREAD / 2)
    for token in tokens:
        scene.ask(token)
    assert 0 < len(scene.behind) < 32


def test_where_no_thread_can_be_had_a_known_token_is_answered_all_the_same(
    scene: Scene, monkeypatch
):
    def no_thread(work) -> None:
        raise RuntimeError("can't start new thread")

    token = scene.api.token()
    scene.ask(token)
    monkeypatch.setattr(scene.service._callers, "_behind", no_thread)
    scene.clock.now_s += ACCEPTED_S
    assert [scene.ask(token)[0] for _ in range(2)] == [200, 200]


def test_a_review_behind_is_done_in_a_thread():
    done = threading.Event()
    in_a_thread(done.set)
    assert done.wait(PATIENCE_S)


def test_refused_tokens_however_many_push_no_accepted_one_out(scene: Scene, monkeypatch):
    """Else a pod that invents tokens could have all others of its node reviewed at once, and refused."""
    monkeypatch.setattr(callers_module, "TOKENS_MAX", 4)
    token = scene.api.token()
    assert scene.ask(token)[0] == 200
    invented = [f"eyJhbGciOiJub25lIn0.e30.{number}" for number in range(12)]
    assert {scene.ask(one)[0] for one in invented} == {401}
    assert len(scene.service._callers) <= 2 * 4
    scene.api.mode = "error"
    assert scene.ask(token)[0] == 200
    assert scene.api.reviewed.count(token) == 1


def test_a_refused_token_is_reviewed_again_after_a_while(scene: Scene):
    token = scene.api.token(expired=True)
    assert [scene.ask(token)[0] for _ in range(2)] == [401, 401]
    assert len(scene.api.reviewed) == 1
    scene.clock.now_s += REFUSED_S
    assert scene.ask(token)[0] == 401
    assert len(scene.api.reviewed) == 2


def test_many_requests_at_once_with_one_token_share_a_review(scene: Scene):
    token = scene.api.token()
    scene.api.mode = "hang"
    with ThreadPoolExecutor(6) as clients:
        asked = [clients.submit(scene.ask, token) for _ in range(6)]
        scene.api.release()
        codes = [one.result()[0] for one in asked]
    assert codes == [200] * 6
    assert len(scene.api.reviewed) == 1


@pytest.mark.parametrize("mode", ["error", "forbidden", "garbage", "no-status"])
def test_an_api_that_does_not_review_is_told_without_the_token(scene: Scene, mode):
    scene.api.mode = mode
    token = scene.api.token()
    status, told = scene.ask(token)
    assert (status, told["error"]) == (503, "kubernetes_api")
    assert token not in told["detail"]
    assert OWN_TOKEN not in told["detail"]
    scene.api.mode = "well"
    assert scene.ask(token)[0] == 200


def test_an_api_that_hangs_costs_less_than_a_sidecar_waits(scene: Scene, monkeypatch):
    monkeypatch.setattr(callers_module, "REVIEW_S", 0.1)
    scene.api.mode = "hang"
    status, told = scene.ask(scene.api.token())
    assert (status, told["error"]) == (503, "kubernetes_api")
    assert "did not answer completely within 0.1 s" in told["detail"]


def test_a_pod_that_was_known_is_served_while_the_api_is_away(scene: Scene):
    token = scene.api.token()
    scene.ask(token)
    scene.api.mode = "error"
    scene.clock.now_s += ACCEPTED_S + 1
    assert scene.ask(token)[0] == 200
    (review,) = scene.behind
    review()
    assert scene.ask(token)[0] == 200
    scene.clock.now_s += UNANSWERED_S
    assert scene.ask(token)[0] == 503


def test_a_pod_that_ended_gets_nothing_though_its_token_is_remembered(scene: Scene):
    token = scene.api.token()
    assert scene.ask(token)[0] == 200
    scene.node.end(UID)
    assert scene.ask(token)[1]["error"] == "pod_not_here"


def test_a_pod_that_called_and_ended_holds_no_gpu_any_more(scene: Scene):
    scene.give(train_0="GPU-x")
    scene.ask(scene.api.token())
    scene.node.end(UID)
    for energy_mj in (100, 300):
        scene.clock.now_s += 5
        scene.boards.energy_mj["x"] = energy_mj
        scene.looks.begin()
    assert scene.service._gpus.unallocated()[0].pod_energy_mj == 200


def test_the_next_pod_of_that_name_may_hold_gpus_though_it_never_calls(scene: Scene):
    """As of a StatefulSet, made anew without a sidecar."""
    scene.give(train_0="GPU-x")
    scene.ask(scene.api.token())
    scene.node.end(UID)
    scene.give()
    scene.give(train_0="GPU-x")
    before_mj = scene.service._gpus.unallocated()[0].pod_energy_mj
    scene.clock.now_s += 5
    scene.boards.energy_mj["x"] += 300
    assert scene.service._gpus.unallocated()[0].pod_energy_mj == before_mj


def test_without_the_nodes_cgroups_a_pod_is_told_so(scene: Scene, tmp_path: Path):
    scene.pods._tree = CgroupTree(tmp_path / "nothing")
    scene.pods.look()
    assert scene.ask(scene.api.token())[1]["error"] == "no_cgroups"
    assert scene.ask(None, "/readyz")[0] == 503


def test_probes_tell_how_it_does(scene: Scene):
    assert [scene.ask(None, path)[0] for path in ("/healthz", "/readyz")] == [200, 200]
    scene.clock.now_s += LATE_S + 1
    assert scene.ask(None, "/healthz") == (503, "no looks any more\n")


@pytest.mark.parametrize(("method", "path", "code"), [("POST", "/v1/pod", 405), ("GET", "/x", 404)])
def test_other_requests_are_refused(scene: Scene, method, path, code):
    assert scene.ask(None, path, method)[0] == code


def test_metrics_tell_pods_looks_requests_and_energy(scene: Scene):
    scene.give(train_0="GPU-x")
    scene.ask(scene.api.token())
    scene.ask("x")
    scene.clock.now_s += 5
    scene.boards.energy_mj["x"] = 5000
    text = scene.ask(None, "/metrics")[1]
    for line in (
        "emissions_node_meter_pods 2.0",
        "emissions_node_meter_looks_total 2.0",
        'emissions_node_meter_requests_total{outcome="answered"} 1.0',
        'emissions_node_meter_requests_total{outcome="no_token"} 1.0',
        'emissions_node_meter_gpu_energy_joules_total{uuid="GPU-x"} 5.0',
        'emissions_node_meter_gpu_pods_energy_joules_total{uuid="GPU-x"} 5.0',
        'emissions_node_meter_gpu_unallocated_energy_joules_total{uuid="GPU-x"} 0.0',
    ):
        assert line in text.splitlines()


def test_more_clients_at_once_than_are_served_all_get_their_answer(scene: Scene):
    token = scene.api.token()
    scene.ask(token)
    count = 3 * BOUNDS.connections // 2
    with ThreadPoolExecutor(count) as clients:
        codes = list(clients.map(lambda _: scene.ask(token)[0], range(count)))
    assert codes == [200] * count


def test_clients_that_say_nothing_do_not_keep_others_out(scene: Scene):
    with contextlib.ExitStack() as silent:
        for _ in range(BOUNDS.connections):
            silent.enter_context(socket.create_connection(scene.server.address))
        assert scene.ask(scene.api.token())[0] == 200


def test_an_endless_head_is_not_read(scene: Scene):
    with socket.create_connection(scene.server.address, timeout=PATIENCE_S) as client:
        with contextlib.suppress(OSError):
            client.sendall(b"GET /healthz HTTP/1.0\r\n" + b"X: y\r\n" * 90 + b"Y: " + b"z" * 60_000)
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            assert client.recv(100)[:12] in (b"", b"HTTP/1.0 200", b"HTTP/1.0 400")
    assert scene.ask(None, "/healthz")[0] == 200


def test_a_look_that_fails_is_told_once_and_is_not_the_last(scene: Scene, caplog, monkeypatch):
    def fail() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(scene.pods, "look", fail)
    scene.looks.begin()
    scene.looks.begin()
    assert sum("a look failed" in record.message for record in caplog.records) == 1
    assert scene.looks.count == 3


def test_looks_go_on_in_a_thread_until_they_are_stopped(scene: Scene):
    looked = threading.Event()
    scene.clock.now_s = 0.0

    class Waking(Looks):
        def _pause_s(self, next_look_s: float) -> float:
            self._clock.now_s += 5  # type: ignore[attr-defined]
            if self.count >= 3:
                looked.set()
            return 0.0

    looks = Waking(scene.pods, scene.service._gpus, scene.clock)
    looks.start()
    assert looked.wait(PATIENCE_S)
    looks.stop()
    looks._thread.join(PATIENCE_S)
    assert not looks._thread.is_alive()
