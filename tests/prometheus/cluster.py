"""A small cluster of processes: a node with its meter, two tracked pods, collector, webhook, Prometheus.

Prometheus finds them as the chart's monitors say, from what Kubernetes would tell of each of them.
"""

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import requests
import yaml

from tests.collector.running import CollectorProcess
from tests.e2e.commands import PATIENCE_S, Running, environment, messages
from tests.fakes.azurite import Certificate
from tests.fakes.kubernetes_api import AUDIENCE, OWN_TOKEN, FakeKubernetesApi
from tests.fakes.pod_resources import FakePodResources
from tests.helm.tools import render
from tests.injector import goldens
from tests.injector.running import review
from tests.node_meter.true_node import GPUS, OTHER, UID, TrueNode
from tests.prometheus.server import Prometheus, Target, job_of_pods, job_of_service

NODE: Final = "aks-gpupool-12345678-vmss000001"
CLUSTER: Final = "aks-1"
SECOND: Final = "33333333-0000-4000-8000-000000000003"
BUDGET_KG: Final = 100

SERVICES: Final = ("collector", "node-meter", "webhook")


def chart() -> Any:
    """The chart with everything that Prometheus has to do with."""
    return render(
        "node-meter",
        "--set=metrics.podMonitor.enabled=true",
        "--set=metrics.serviceMonitor.enabled=true",
        "--set=metrics.rules.enabled=true",
        f"--set=metrics.rules.budgetKg.vision={BUDGET_KG}",
    )


@dataclass(frozen=True)
class Pod:
    """A tracked pod; `address` is its own on loopback, for its sidecar always listens on one port."""

    namespace: str
    name: str
    uid: str
    project: str
    address: str
    requests: tuple[str, ...] = ("--requests-cpu", "1", "--requests-memory", "1Gi")


def own_address(number: int) -> str:
    """An address of this process's tests alone: others may run beside them."""
    return f"127.{64 + number}.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 256 % 255}"


PODS: Final = (
    Pod("team-a", "train-0", UID, "vision", own_address(0), ("--requests-cpu", "2",
        "--requests-memory", "1Gi", "--requests-gpu", "2")),
    Pod("team-b", "prep-0", SECOND, "speech", own_address(1)),
)  # fmt: skip


@dataclass
class Cluster:
    """What runs, and how to reach it."""

    directory: Path
    prometheus: Prometheus
    webhook_url: str
    certificate: Certificate
    processes: Mapping[str, Running] = field(default_factory=dict)

    def admit(self) -> None:
        """Ask the webhook as an API server does when pods of many kinds are created."""
        for case in goldens.cases():
            answer = requests.post(
                f"{self.webhook_url}/mutate", json=review(case.pod), timeout=PATIENCE_S,
                verify=str(self.certificate.cert_file),
            )  # fmt: skip
            assert answer.status_code == 200

    def assert_all_run(self) -> None:
        """Nothing may have ended meanwhile."""
        for name, process in self.processes.items():
            assert process.process.poll() is None, f"{name}: {process.log}"


class _Parts:
    """Starts one process after another."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self.stack = stack
        self.api = stack.enter_context(FakeKubernetesApi())
        self.api.add_node(NODE)
        self.kubelet = stack.enter_context(FakePodResources(directory / "kubelet.sock"))
        self.kubelet.give("team-a", "train-0", *GPUS[:2])
        self.truth = TrueNode(directory)
        self.truth.cgroups.add(SECOND, 100.0, memory=1 << 28)
        for index in range(len(GPUS)):
            self.truth.nvml.gpu(index, name="NVIDIA A100 80GB PCIe", util=30 * index)
        self.truth.cpu_goes_on, self.truth.gpus_go_on = True, [True, False, True]
        self.certificate = Certificate.made_in(directory)
        self.processes: dict[str, Running] = {}
        (directory / "own-token").write_text(OWN_TOKEN)

    def goes_on(self) -> None:
        """Let pods and GPUs use something, until the end."""
        ended = threading.Event()

        def work() -> None:
            while not ended.wait(0.05):
                self.truth.step()

        thread = threading.Thread(target=work)
        thread.start()
        self.stack.callback(thread.join)
        self.stack.callback(ended.set)

    def started(self, name: str, process: Running) -> str:
        """Keep a process until the end; return where it listens."""
        self.processes[name] = self.stack.enter_context(process)

        def told() -> str:
            lines = messages(process.log.rpartition("\n")[0]).splitlines()
            return next((line.split()[-1] for line in lines if "listening on" in line), "")

        return process.until(told)

    def token(self, namespace: str, pod: str, uid: str) -> Path:
        path = self.directory / f"token-{pod}"
        path.write_text(
            self.api.token(namespace=namespace, pod=pod, pod_uid=uid, node=NODE, audience=AUDIENCE)
        )
        return path

    def collector(self) -> str:
        (self.directory / "stored").mkdir()
        return self.started(
            "collector",
            CollectorProcess(
                self.api, self.directory, "--backend", "directory", "--log-format", "json",
                "--transport-directory", self.directory / "stored",
                "--node-meter-account", "emissions/default",
            ),
        )  # fmt: skip

    def shipping(self, collector: str, token: Path) -> tuple[Any, ...]:
        return (
            "--transport", "collector", "--collector-url", collector,
            "--collector-token-file", token, "--flush-interval", "1s", "--interval", "1s",
            "--cluster", CLUSTER, "--region", "westeurope", "--vm-size", "Standard_D16as_v5",
            "--log-format", "json",
        )  # fmt: skip

    def node_meter(self, collector: str) -> str:
        token = self.token("emissions", "node-meter-x", OTHER)
        env = environment(
            NODE_NAME=NODE, POD_UID=OTHER, POD_NAME="node-meter-x", POD_NAMESPACE="emissions",
            **self.truth.nvml.environment,
        )  # fmt: skip
        arguments = (
            "node-meter",
            "--cgroup-root", self.truth.cgroups.root,
            "--pod-resources", self.kubelet.path,
            "--listen", "127.0.0.1:0",
            "--kubernetes-url", self.api.url,
            "--kubernetes-token-file", self.directory / "own-token",
            "--volume", self.directory / "node-meter",
            *self.shipping(collector, token),
        )  # fmt: skip
        log = self.directory / "node-meter.log"
        return self.started("node-meter", Running(*arguments, log=log, env=env))

    def sidecar(self, pod: Pod, node_meter: str, collector: str) -> None:
        podinfo = self.directory / f"podinfo-{pod.name}"
        podinfo.mkdir()
        (podinfo / "labels").write_text(f'job-name="{pod.name.rpartition("-")[0]}"\n')
        (podinfo / "annotations").write_text(f'emissions/project="{pod.project}"\n')
        env = environment(
            NODE_NAME=NODE, POD_UID=pod.uid, POD_NAME=pod.name, POD_NAMESPACE=pod.namespace
        )
        arguments = (
            "run",
            "--listen", f"{pod.address}:9877",
            "--node-meter-url", node_meter,
            "--podinfo", podinfo,
            "--volume", self.directory / pod.name,
            *pod.requests,
            *self.shipping(collector, self.token(pod.namespace, pod.name, pod.uid)),
        )  # fmt: skip
        log = self.directory / f"{pod.name}.log"
        self.started(pod.name, Running(*arguments, log=log, env=env))

    def webhook(self) -> str:
        arguments = (
            "webhook", "--config", goldens.HERE / "config.json", "--listen", "127.0.0.1:0",
            "--tls-cert", self.certificate.cert_file, "--tls-key", self.certificate.key_file,
            "--log-format", "json",
        )  # fmt: skip
        log = self.directory / "webhook.log"
        return self.started("webhook", Running(*arguments, log=log, env=environment()))

    def prometheus(self, urls: Mapping[str, str]) -> Prometheus:
        rendered = chart()
        pods = [
            Target(f"{pod.address}:80", _meta(pod.namespace, pod.name) | {
                "pod_ip": pod.address, "pod_host_ip": "10.0.0.1",
                "pod_container_name": "emissions-sidecar",
            })
            for pod in PODS
        ]  # fmt: skip
        # Neither a container that is none of ours is scraped, nor a pod on the node's network.
        pods.append(Target("127.0.0.1:1", _meta("team-a", "on-node") | {
            "pod_ip": "10.0.0.1", "pod_host_ip": "10.0.0.1",
            "pod_container_name": "emissions-sidecar",
        }))  # fmt: skip
        pods.append(Target("127.0.0.1:1", _meta("team-a", "train-0") | {
            "pod_ip": "127.0.0.1", "pod_container_name": "train",
        }))  # fmt: skip
        jobs = [job_of_pods(rendered.one("PodMonitor"), pods)]
        for name in SERVICES:
            monitor = rendered.one("ServiceMonitor", f"-{name}")
            meta = _meta("emissions", f"{name}-x") | {"service_name": monitor["metadata"]["name"]}
            address = urls[name].partition("//")[2]
            jobs.append(job_of_service(monitor, [Target(address, meta)]))
        rules = self.directory / "rules.yml"
        groups = rendered.one("PrometheusRule")["spec"]["groups"]
        rules.write_text(yaml.safe_dump({"groups": [{**one, "interval": "1s"} for one in groups]}))
        return self.stack.enter_context(Prometheus(self.directory, jobs, rules))


def _meta(namespace: str, pod: str) -> dict[str, str]:
    return {"namespace": namespace, "pod_name": pod}


@contextlib.contextmanager
def running_cluster(directory: Path) -> Iterator[Cluster]:
    """Run everything until the block ends."""
    with contextlib.ExitStack() as stack:
        parts = _Parts(directory, stack)
        parts.goes_on()
        collector = parts.collector()
        node_meter = parts.node_meter(collector)
        for pod in PODS:
            parts.sidecar(pod, node_meter, collector)
        webhook = parts.webhook()
        urls = {"collector": collector, "node-meter": node_meter, "webhook": webhook}
        prometheus = parts.prometheus(urls)
        yield Cluster(directory, prometheus, webhook, parts.certificate, parts.processes)
