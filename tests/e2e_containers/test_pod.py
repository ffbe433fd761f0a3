"""A training Job with the sidecar that `inject` put in, from its start to its records in storage.

Both images run, beside Azurite, a fake Kubernetes API and a fake IMDS at its real address, in a network
namespace that leads nowhere else. `pod.py` says what is different from a cluster.
"""

import contextlib
import http.client
import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.segment import decompressed
from tests.e2e.commands import Outcome, environment, sidecar, until
from tests.e2e_containers.engine import BASE, HARDENED, Image, Podman
from tests.e2e_containers.network import IMDS, Namespace
from tests.e2e_containers.pod import Scheduled, playable
from tests.fakes.azurite import Azurite
from tests.fakes.imds import FakeImds
from tests.fakes.kubernetes_api import FakeKubernetesApi
from tests.helm.tools import injector_json

pytestmark = pytest.mark.needs("podman", "root", "netns", "azurite", "helm")

Row = dict[str, Any]

COLLECTOR = ("127.0.0.1", 8080)
SIDECAR = ("127.0.0.1", 9877)
POD = "train-7xk2p"
UID = "5f3c8a52-3a01-4c8e-9a52-6d1f7c1e0b11"
NODE = "aks-agentpool-12628255-vmss000002"

TRAINING = """\
import json, os, pathlib, time
begun_s = time.process_time()
while time.process_time() - begun_s < 8:
    sum(number * number for number in range(10_000))
summary = pathlib.Path("/var/run/emissions/summary.json")
deadline_s = time.monotonic() + 60
while time.monotonic() < deadline_s:
    if summary.exists() and json.loads(summary.read_text())["region"]:
        break
    time.sleep(0.1)
print(os.getuid(), summary.read_text())
try:
    summary.write_text("mine")
except OSError as error:
    print("refused:", error.strerror)
"""

JOB = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "train"},
    "spec": {
        "template": {
            "metadata": {
                "labels": {"app.kubernetes.io/name": "train"},
                "annotations": {
                    "emissions/track": "true",
                    "emissions/mount": "true",
                    "emissions/project": "podman-run",
                    "emissions/interval": "2s",
                },
            },
            "spec": {
                "restartPolicy": "Never",
                "containers": [
                    {
                        "name": "train",
                        "image": BASE,
                        "command": ["python", "-u", "-c", TRAINING],
                        "resources": {"limits": {"cpu": "1", "memory": "256Mi"}},
                        "securityContext": {"runAsUser": 1000},
                    }
                ],
            },
        }
    },
}


@dataclass(frozen=True)
class Ended:
    """What was left when all was over."""

    training: Outcome
    sidecar: Outcome
    blobs: dict[str, bytes]
    verdict: Outcome
    imds_requests: int

    @property
    def rows(self) -> list[Row]:
        """The records in storage, in order of the segments' names."""
        segments = (decompressed(self.blobs[name]) for name in sorted(self.blobs))
        return [json.loads(line) for segment in segments for line in segment.splitlines()]


class Cluster:
    """What of a cluster the pod meets; everything of it within the namespace."""

    def __init__(self, podman: Podman, azurite: Azurite, api: FakeKubernetesApi) -> None:
        self._podman = podman
        self._api = api
        self.azurite = azurite
        self.container = azurite.make_container()
        self.credentials = {"EMISSIONS_BLOB_CONNECTION_STRING": azurite.connection_string}

    @contextlib.contextmanager
    def collector(self, image: Image, directory: Path) -> Iterator[None]:
        """The service, from its own image, ready to take segments."""
        config = self._api.kubeconfig(directory / "kubeconfig")
        config.chmod(0o644)
        hardened = [option for option in HARDENED if not option.startswith(("--rm", "--network"))]
        name = self._podman.do(
            *("run", "--detach", "--network=host", *hardened),
            *(f"--volume={config}:/kubeconfig:ro", "--env=KUBECONFIG=/kubeconfig"),
            *("--env=EMISSIONS_BLOB_CONNECTION_STRING", image.tag),
            *("collector", "--listen=0.0.0.0:8080", f"--blob-container={self.container}"),
            **self.credentials,
        )
        try:
            until(lambda: asked(COLLECTOR, "/readyz") == 200)
            yield
        finally:
            self._podman.do("rm", "--force", "--time=5", name)

    def run(self, pod: Row, directory: Path) -> tuple[Outcome, Outcome]:
        """Play a pod; end its sidecar as kubelet does, once the training is over."""
        manifest = directory / "pod.yaml"
        manifest.write_text(yaml.safe_dump(pod))
        self._podman.do("kube", "play", "--network=host", manifest)
        try:
            until(lambda: asked(SIDECAR, "/healthz") == 200)
            training = self._ended("train")
            assert asked(SIDECAR, "/terminating") == 200
            self._podman.do("kill", "--signal=TERM", f"{POD}-emissions-sidecar")
            return training, self._ended("emissions-sidecar")
        finally:
            self._podman.do("pod", "rm", "--force", POD)

    def verify(self) -> Outcome:
        """Ask the tool itself whether all arrived."""
        arguments = ("verify", f"az://{self.container}", "--json")
        return sidecar(*arguments, env=environment(**self.credentials))

    def _ended(self, container: str) -> Outcome:
        name = f"{POD}-{container}"
        code = int(self._podman.do("wait", name, timeout_s=120))
        logs = self._podman.ask("logs", name)
        return Outcome(code, logs.stdout, logs.stderr)


def asked(address: tuple[str, int], path: str) -> int:
    """Status of a GET; 0 where nobody listens yet."""
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=30)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except ConnectionRefusedError:
            return 0


def injected(image: Image, directory: Path) -> Row:
    """The Job as `inject` prints it, with what the chart gives the injector."""
    options = ("--set=sidecar.transport=collector", "--set=sidecar.collectorUrl=http://{}:{}")
    config = injector_json("default", *(option.format(*COLLECTOR) for option in options))
    (directory / "injector.json").write_text(json.dumps(config))
    (directory / "job.yaml").write_text(yaml.safe_dump(JOB))
    outcome = sidecar(
        *("inject", "-f", directory / "job.yaml", "--config", directory / "injector.json"),
        *("--image", image.tag),
    )
    assert outcome.code == 0, outcome.stderr
    job: Row = yaml.safe_load(outcome.stdout)
    return job


def whole_life(podman: Podman, lean: Image, services: Image, directory: Path) -> Ended:
    """Run the pod once, from the Job's manifest to the verdict on what is in storage."""
    job = injected(lean, directory)
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Namespace())
        stack.enter_context(network.inside())
        imds = stack.enter_context(FakeImds("aks-regular", host=IMDS, port=80))
        api = stack.enter_context(FakeKubernetesApi())
        cluster = Cluster(podman, stack.enter_context(Azurite()), api)
        token = api.token(namespace="team-a", pod=POD, pod_uid=UID, node=NODE)
        api.add_node(NODE)
        pod = playable(job, Scheduled(POD, "team-a", UID, NODE, token), directory)
        with cluster.collector(services, directory):
            training, meter = cluster.run(pod, directory)
        blobs = cluster.azurite.blobs(cluster.container)
        return Ended(training, meter, blobs, cluster.verify(), len(imds.requests))


@pytest.fixture(scope="module")
def ended(
    podman: Podman, lean: Image, services: Image, tmp_path_factory: pytest.TempPathFactory
) -> Ended:
    """The pod's life, run by the first test process that asks and remembered for the other ones."""
    with podman.alone("pod") as place:
        remembered = place / "pod.pickle"
        if not remembered.exists():
            life = whole_life(podman, lean, services, tmp_path_factory.mktemp("pod"))
            remembered.write_bytes(pickle.dumps(life))
        life = pickle.loads(remembered.read_bytes())
    assert isinstance(life, Ended)
    return life


def test_the_training_ends_as_without_a_sidecar(ended: Ended):
    assert ended.training.code == 0, ended.training.stderr


def test_the_training_reads_its_summary_and_cannot_write_it(ended: Ended):
    user, _, rest = ended.training.stdout.partition(" ")
    text, refused, reason = rest.partition("refused: ")
    assert user == "1000"
    assert json.loads(text)["project"] == "podman-run"
    assert (refused, reason.strip()) == ("refused: ", "Read-only file system")


def test_the_sidecar_ends_well(ended: Ended):
    assert ended.sidecar.code == 0, ended.sidecar.stderr
    assert "Traceback" not in ended.sidecar.stderr
    assert not [line for line in ended.sidecar.stderr.splitlines() if '"level": "error"' in line]


def test_every_record_up_to_the_last_window_is_in_storage(ended: Ended):
    rows = ended.rows
    numbers = [int(row["record_id"].rsplit(".", 1)[1]) for row in rows]
    assert numbers == list(range(len(rows)))
    assert rows[0]["event"] == "start"
    assert (rows[-1]["event"], rows[-1]["end_reason"]) == ("end", "SIGTERM")
    assert sum(row["energy_kwh"] for row in rows[1:]) > 0


def test_verify_finds_nothing_wrong(ended: Ended):
    assert ended.verdict.code == 0, ended.verdict.stdout + ended.verdict.stderr
    verdict = json.loads(ended.verdict.stdout)
    assert verdict["violations"] == []
    assert verdict["records"] == len(ended.rows)


def test_records_name_the_pod_and_its_node(ended: Ended):
    about = {"pod": POD, "namespace": "team-a", "pod_uid": UID, "node": NODE}
    for row in ended.rows:
        assert {name: row[name] for name in about} == about
        assert row["project"] == "podman-run"


def test_the_metadata_service_is_asked_once_for_region_and_size(ended: Ended):
    """First windows may close before it has answered: the sidecar may use little CPU."""
    assert ended.imds_requests == 1
    last = ended.rows[-1]
    assert (last["region"], last["vm_size"]) == ("eastus", "Standard_DS2_v2")


def test_the_pod_is_charged_for_what_its_containers_ask_for(ended: Ended):
    """One CPU of all that the machine has."""
    windows = ended.rows[1:]
    assert {row["pod_method"] for row in windows} == {"requests"}
    assert windows[-1]["share_idle"] == pytest.approx(1 / os.cpu_count())
