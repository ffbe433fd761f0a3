"""Node meter and sidecar as processes of their own, on a node whose true use the test knows."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import Running, environment, messages, windows
from tests.fakes.kubernetes_api import AUDIENCE, OWN_TOKEN, FakeKubernetesApi
from tests.fakes.pod_resources import FakePodResources
from tests.node_meter.true_node import GPUS, OTHER, UID, TrueNode

NODE = "aks-gpupool-12345678-vmss000001"
HELD, RUNNING_ON, FREE = range(3)
MILLIJOULES_PER_KWH = 3_600_000_000
OWN_USE_MOST_S = 20.0
"""The sidecar's own CPU time is taken off the pod's."""

HANDED_OVER_MOST_S = 60.0
"""Where one source follows another, what is used between their readings (some ms, in which the pod of
the test uses 10 CPU seconds each 50 ms) is in both; a window that counted twice would be some 200 s."""


class Scene:
    """One node with its meter, which can be killed and started again, and a pod's sidecar."""

    def __init__(self, directory: Path, api: FakeKubernetesApi, kubelet: FakePodResources) -> None:
        self.directory = directory
        self.truth = TrueNode(directory)
        self.api = api
        self.kubelet = kubelet
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        (directory / "own-token").write_text(OWN_TOKEN)
        (directory / "token").write_text(
            api.token(namespace="team-a", pod="train-0", pod_uid=UID, node=NODE, audience=AUDIENCE)
        )

    def node_meter(self, name: str) -> Running:
        arguments = (
            "node-meter",
            "--cgroup-root", self.truth.cgroups.root,
            "--pod-resources", self.kubelet.path,
            "--listen", f"127.0.0.1:{self.port}",
            "--kubernetes-url", self.api.url,
            "--kubernetes-token-file", self.directory / "own-token",
            "--volume", self.directory / name,
            "--interval", "1s",
            "--region", "westeurope",
            "--log-format", "json",
        )  # fmt: skip
        env = environment(NODE_NAME=NODE, POD_UID=OTHER, **self.truth.nvml.environment)
        running = Running(*arguments, log=self.directory / f"{name}.log", env=env)
        running.until(lambda: "listening on " in messages(running.log))
        return running

    def sidecar(self, *options: str | Path) -> Running:
        """The pod's sidecar; without options it has nothing to fall back on but requests."""
        arguments = (
            "run",
            "--node-meter-url", f"http://127.0.0.1:{self.port}",
            "--collector-token-file", self.directory / "token",
            *options,
            "--volume", self.directory / "sidecar",
            "--interval", "1s",
            "--region", "westeurope",
            "--log-format", "json",
        )  # fmt: skip
        env = environment(NODE_NAME=NODE, POD_UID=UID, POD_NAME="train-0", POD_NAMESPACE="team-a")
        return Running(*arguments, log=self.directory / "sidecar.log", env=env)

    def windows(self, name: str = "sidecar") -> list[dict[str, Any]]:
        return windows(self.directory / name)

    def methods(self) -> list[str]:
        """The methods of the windows, in the order in which they changed."""
        told = [row["pod_method"] for row in self.windows()]
        changes = zip([None, *told], told, strict=False)
        return [method for before, method in changes if method != before]

    def energy_mj(self, index: int, name: str = "sidecar") -> float:
        """What the windows say the pod had of one GPU."""
        return sum(
            gpu["energy_kwh"] * MILLIJOULES_PER_KWH
            for row in self.windows(name)
            for gpu in row["gpus"]
            if gpu["uuid"] == GPUS[index] and gpu["energy_kwh"] is not None
        )

    def pass_windows(self, running: Running, count: int = 2) -> None:
        """Wait until so many more windows have ended."""
        before = len(self.windows())
        running.until(lambda: len(self.windows()) >= before + count)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with FakeKubernetesApi() as api, FakePodResources(tmp_path / "kubelet.sock") as kubelet:
        kubelet.give("team-a", "train-0", GPUS[HELD], GPUS[RUNNING_ON])
        scene = Scene(tmp_path, api, kubelet)
        ended = threading.Event()

        def work() -> None:
            while not ended.wait(0.05):
                scene.truth.step()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield scene
        finally:
            ended.set()
            thread.join()


@pytest.mark.needs("gcc")
def test_a_node_meter_that_is_killed_and_comes_back_loses_and_doubles_nothing(scene: Scene):
    truth = scene.truth
    before_cpu_s, before_mj = truth.cpu_s, list(truth.energy_mj)
    cgroups = ("--cgroup-root", truth.cgroups.root)
    with scene.node_meter("first") as node_meter, scene.sidecar(*cgroups) as sidecar:
        sidecar.until(lambda: scene.methods() == ["node-meter"])
        scene.pass_windows(sidecar)
        truth.cpu_goes_on, truth.gpus_go_on = True, [True] * 3
        scene.pass_windows(sidecar)
        truth.gpus_go_on[HELD] = False
        scene.pass_windows(sidecar)
        node_meter.process.kill()
        node_meter.process.wait()
        sidecar.until(lambda: scene.methods() == ["node-meter", "cgroup"])
        with scene.node_meter("second") as again:
            sidecar.until(lambda: scene.methods() == ["node-meter", "cgroup", "node-meter"])
            sidecar.until(lambda: scene.windows()[-1]["gpus"][HELD]["energy_kwh"] is not None)
            truth.gpus_go_on[HELD] = True
            scene.pass_windows(sidecar)
            truth.cpu_goes_on, truth.gpus_go_on = False, [False] * 3
            scene.pass_windows(sidecar)
            assert sidecar.end().code == 0
            assert again.end().code == 0

    used_s = truth.cpu_s - before_cpu_s
    recorded_s = sum(row["pod_cpu_seconds"] for row in scene.windows())
    assert used_s - OWN_USE_MOST_S <= recorded_s <= used_s + HANDED_OVER_MOST_S
    true_mj = [now - then for now, then in zip(truth.energy_mj, before_mj, strict=True)]
    assert scene.energy_mj(HELD) == pytest.approx(true_mj[HELD], abs=1)
    assert 0 < scene.energy_mj(RUNNING_ON) < true_mj[RUNNING_ON]
    assert scene.energy_mj(FREE) == 0


@pytest.mark.needs("gcc")
def test_as_the_chart_has_it_requests_take_over_while_the_node_meter_is_away(scene: Scene):
    """No host path in users' pods, so no other source: no window is lost, nor anything doubled."""
    truth = scene.truth
    before_cpu_s, before_mj = truth.cpu_s, truth.energy_mj[HELD]
    requests = ("--requests-cpu", "500m", "--requests-memory", "1Gi", "--requests-gpu", "2")
    with scene.node_meter("first") as node_meter, scene.sidecar(*requests) as sidecar:
        sidecar.until(lambda: scene.methods() == ["node-meter"])
        truth.cpu_goes_on, truth.gpus_go_on[HELD] = True, True
        scene.pass_windows(sidecar)
        truth.gpus_go_on[HELD] = False
        scene.pass_windows(sidecar)
        node_meter.process.kill()
        node_meter.process.wait()
        sidecar.until(lambda: scene.methods() == ["node-meter", "requests"])
        with scene.node_meter("second"):
            sidecar.until(lambda: scene.methods() == ["node-meter", "requests", "node-meter"])
            scene.pass_windows(sidecar)
            assert sidecar.end().code == 0

    rows = scene.windows()
    for row in rows:
        if row["pod_method"] == "requests":
            assert row["pod_cpu_seconds"] is None
            assert row["share_cpu"] == row["share_idle"] > 0
        assert row["cpu_energy_kwh"] <= row["node_cpu_energy_kwh"] * (1 + 1e-9)
    starts, ends = ([row[name] for row in rows] for name in ("window_start", "window_end"))
    assert starts[1:] == ends[:-1]
    measured_s = sum(row["pod_cpu_seconds"] or 0.0 for row in rows)
    assert 0 < measured_s <= truth.cpu_s - before_cpu_s
    assert scene.energy_mj(HELD) == pytest.approx(truth.energy_mj[HELD] - before_mj, abs=1)


@pytest.mark.needs("gcc")
def test_the_nodes_own_records_say_what_no_pod_used(scene: Scene):
    truth = scene.truth
    with scene.node_meter("node") as node_meter:
        node_meter.until(lambda: scene.windows("node"))
        before_mj = truth.energy_mj[FREE]
        truth.gpus_go_on = [True] * 3
        node_meter.until(lambda: scene.energy_mj(FREE, "node") > 0)
        truth.gpus_go_on = [False] * 3
        node_meter.until(
            lambda: round(scene.energy_mj(FREE, "node")) == truth.energy_mj[FREE] - before_mj
        )
        assert node_meter.end().code == 0
    rows = scene.windows("node")
    assert {row["pod_method"] for row in rows} == {"unallocated"}
    assert {row["project"] for row in rows} == {"unallocated"}
    assert {row["pod_uid"] for row in rows} == {OTHER}
    assert scene.energy_mj(HELD, "node") == 0
    for row in rows:
        node_kwh = row["node_energy_kwh"]
        assert row["energy_kwh"] + row["node_pods_energy_kwh"] == pytest.approx(node_kwh, rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--listen", "127.0.0.1:1x"), "is not HOST:PORT"),
        (("--listen", "192.0.2.1:9879"), "cannot listen on 192.0.2.1:9879"),
        (("--vm-sizes-file", "/no/such/file"), "/no/such/file"),
    ],
)
def test_what_it_cannot_do_is_told_in_one_line(tmp_path: Path, arguments, told):
    log = tmp_path / "log"
    volume = ("--volume", tmp_path / "volume")
    with Running("node-meter", *volume, *arguments, log=log) as running:
        assert running.process.wait(30) == 2
    assert told in log.read_text().splitlines()[-1]
