"""What each source of a pod's part costs its sidecar: CPU time and memory of a reading.

    python -m bench.rungs

Real parts, and far ends as in the tests: cgroups of version 2 in files in memory, a kubelet and an API
server on loopback behind TLS (kubelet's answer is of a node with 100 pods), a node meter's answer
without TLS, as the chart has it, and the processes of this machine. CPU time is that of the thread that
reads: no server's. What a kernel takes to make up the files of real cgroups is not in it.
"""

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench.figures import table
from bench.machine import this_machine
from sidecar.kubernetes_http import KubernetesHttp
from sidecar.meters.node_meter_client import SHARED_S, NodeMeterClient
from sidecar.meters.pod.cgroup import CgroupSource
from sidecar.meters.pod.kubelet import KubeletSource
from sidecar.meters.pod.metrics_api import MetricsApiSource
from sidecar.meters.pod.node_meter import NodeMeterSource
from sidecar.meters.pod.ourselves import Ourselves
from sidecar.meters.pod.process_tree import SAMPLE_PERIOD_S, ProcessTreeSource
from sidecar.meters.pod.requests import RequestsSource, Reservation
from sidecar.meters.pod.source import PodSource
from tests.fakes.collector import Certificate, make_certificate
from tests.fakes.kubelet import DATA, SUMMARY_PATH, TOKEN, FakeKubelet
from tests.node_meter.cgroup_node import CgroupNode

WINDOW_S: Final = 15.0
PODS: Final = 100
PROCESSES: Final = 100
UID: Final = "7d5b1f6e-0000-4000-8000-000000000001"
METRICS_PATH: Final = "/apis/metrics.k8s.io/v1beta1/namespaces/team-a/pods/train-0"
GPU: Final[dict[str, Any]] = {
    "uuid": "GPU-x", "model": "NVIDIA H100 80GB HBM3", "energy_mj": 700, "pod_energy_mj": 350,
    "pod_share": 0.5, "energy_source": "energy-counter", "utilization_s": 1.5, "observed_s": 3.0,
    "metered_s": 15.0, "power_limit_w": 700.0, "mig": False, "virtual": False, "notes": [],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rung:
    """A source, and what lets it look anew where it remembers an answer."""

    name: str
    source: PodSource
    forget: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time (ms) of a reading and of a sample between two, and the most memory a reading took."""

    name: str
    reading_ms: float
    sample_ms: float
    peak_kib: float

    @property
    def core_share(self) -> float:
        """The part of one core, with windows of 15 s."""
        samples = WINDOW_S / SAMPLE_PERIOD_S
        return (self.reading_ms + samples * self.sample_ms) / 1e3 / WINDOW_S

    def row(self) -> tuple[str, ...]:
        """Return it as cells."""
        sample = f"{self.sample_ms:.2f}" if self.sample_ms else "–"
        share = f"{100 * self.core_share:.3f} %"
        return (self.name, f"{self.reading_ms:.2f}", sample, share, f"{self.peak_kib:.0f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readings", type=int, default=200)
    options = parser.parse_args(argv)
    print(this_machine())
    with TemporaryDirectory(dir="/dev/shm") as directory, rungs(Path(directory)) as found:
        costs = [cost_of(rung, options.readings) for rung in found]
    head = ("source", "ms a reading", "ms a sample", "of one core", "KiB at most")
    print(table(head, (cost.row() for cost in costs)))
    return 0


def cost_of(rung: Rung, readings: int) -> Cost:
    """Read again and again; the median is told, as others may use the machine."""
    read_ms = sorted(_cpu_ms(rung.source.read, rung.forget) for _ in range(readings))
    if rung.source.read().cpu_s is None and rung.name != "requests":
        raise SystemExit(f"{rung.name} does not answer: {rung.source.status()}")
    sample_ms = 0.0
    if rung.source.needs_sampling:
        pace = rung.source._pace  # type: ignore[attr-defined] # noqa: SLF001 - each sample looks
        pace_off = lambda: setattr(pace, "_next_s", -math.inf)  # noqa: E731
        samples = sorted(_cpu_ms(rung.source.sample, pace_off) for _ in range(readings))
        sample_ms = samples[readings // 2]
    tracemalloc.start()
    rung.forget()
    rung.source.read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return Cost(rung.name, read_ms[readings // 2], sample_ms, peak / 1024)


def _cpu_ms(work: Callable[[], object], before: Callable[[], object]) -> float:
    before()
    began_s = time.thread_time()
    work()
    return (time.thread_time() - began_s) * 1e3


@contextlib.contextmanager
def rungs(directory: Path) -> Iterator[list[Rung]]:
    """Open every source on far ends of its own."""
    ourselves = Ourselves(Path("/proc"))
    (directory / "token").write_text(TOKEN)
    certificate = make_certificate(directory / "tls")
    node = CgroupNode(directory / "cgroup")
    for number in range(PODS):
        node.add(UID if number == 0 else f"pod-{number}", cpu_s=100.0)
    with contextlib.ExitStack() as stack:
        kubelet = stack.enter_context(FakeKubelet(tls=certificate))
        kubelet.documents[SUMMARY_PATH] = summary(PODS)
        kubelet.documents[METRICS_PATH] = _fresh(DATA / "metrics-api" / "pod-metrics.json")
        plain = stack.enter_context(FakeKubelet())
        plain.documents["/v1/pod"] = node_meter_answer()
        stack.enter_context(_processes(PROCESSES))
        http = _http(kubelet, directory, certificate)
        clock = _Clock()
        client = NodeMeterClient(plain.url, directory / "token", clock=clock)
        yield [
            Rung("node-meter (8 GPUs)", NodeMeterSource(client, ourselves), clock.forget),
            Rung("cgroup", CgroupSource(UID, node.root, ourselves)),
            Rung(f"kubelet ({PODS} pods)", KubeletSource(http, UID)),
            Rung(
                f"shared-pid, process-tree ({PROCESSES} processes)",
                ProcessTreeSource(os.getpid(), Path("/proc")),
            ),
            Rung("metrics-api", MetricsApiSource(http, "team-a", "train-0")),
            Rung("requests", RequestsSource(Reservation(4.0, 16.0, 1.0))),
        ]


def _http(kubelet: FakeKubelet, directory: Path, certificate: Certificate) -> KubernetesHttp:
    return KubernetesHttp(kubelet.url, directory / "token", certificate.authority_file)


class _Clock:
    """A clock on which the client's last answer is always too old."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        return self._now_s

    def forget(self) -> None:
        self._now_s += 2 * SHARED_S


@contextlib.contextmanager
def _processes(count: int) -> Iterator[None]:
    """Children that do nothing."""
    program = "import sys; sys.stdin.read()"
    started = [
        subprocess.Popen([sys.executable, "-S", "-c", program], stdin=subprocess.PIPE)
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in started:
            process.communicate()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _fresh(path: Path) -> bytes:
    document = json.loads(path.read_text())
    return json.dumps({**document, "timestamp": _now()}).encode()


def summary(pods: int) -> bytes:
    """kubelet's answer with so many pods; ours is the last one."""
    cpu = {"time": _now(), "usageNanoCores": 31234567, "usageCoreNanoSeconds": 5_123_456_789_012}
    memory = {
        "time": _now(),
        "usageBytes": 1 << 30,
        "workingSetBytes": 1 << 29,
        "rssBytes": 1 << 28,
    }
    container = {"name": "train", "startTime": "2026-11-20T06:11:31Z", "cpu": cpu, "memory": memory}
    listed = [
        {
            "podRef": {"name": f"pod-{n}", "namespace": "team-a", "uid": f"other-{n}"},
            "startTime": "2026-11-20T06:11:31Z",
            "containers": [container, {**container, "name": "beside"}],
            "cpu": cpu,
            "memory": memory,
        }
        for n in range(pods)
    ]
    listed[-1]["podRef"] = {"name": "train-0", "namespace": "team-a", "uid": UID}
    return json.dumps({"node": {"nodeName": "n", "cpu": cpu}, "pods": listed}).encode()


def node_meter_answer() -> bytes:
    gpus = [{**GPU, "uuid": f"GPU-{n}"} for n in range(8)]
    answer = {
        "node": "n", "pod_uid": UID, "boot": "b", "at_s": 1e9, "cpu_s": 91.25,
        "working_set_bytes": 1 << 30, "memory_byte_s": 5e9, "gpus": gpus,
    }  # fmt: skip
    return json.dumps(answer).encode()


if __name__ == "__main__":
    raise SystemExit(main())
