"""What the node meter takes: memory, and CPU time as a part of one core, on a busy node.

A process of its own over a tree of cgroups in files (version 2, in memory), a fake NVML, kubelet's
PodResources over real gRPC, and a fake Kubernetes API, all as in the tests. The pods' counters go on,
and each pod's sidecar asks once per window, all at the same moment, as windows are aligned. Not in it:
what a kernel takes to make up the files of real cgroups, and TLS to the Kubernetes API.
"""

import argparse
import json
import os
import threading
import time
import urllib.request
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench.figures import Figure, percentile
from bench.machine import this_machine
from sidecar.meters.node_meter_client import NodeMeterClient, NodeMeterError
from tests.e2e.commands import Running, environment, messages
from tests.fakes.kubernetes_api import OWN_TOKEN, FakeKubernetesApi
from tests.fakes.nvml.build import build_fake_nvml
from tests.fakes.nvml.fixture import FakeNvml
from tests.fakes.pod_resources import FakePodResources

MIB: Final = 1024**2
GOAL_MIB: Final = 48.0
GOAL_CORE: Final = 0.01
NODE: Final = "bench-node"
GPU: Final = "GPU-{:08x}-0000-4000-8000-000000000000"
GPU_POWER_MW: Final = 300_000


@dataclass(frozen=True, slots=True)
class Load:
    """The node: pods, how many of them ask, GPUs, length of a window and of the measurement."""

    pods: int
    askers: int
    gpus: int
    window_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of the bench."""

    uid: str
    name: str
    directory: Path
    token_file: Path


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=100)
    parser.add_argument("--askers", type=int, default=100, help="pods with a sidecar that asks")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--window", type=float, default=15.0, help="seconds")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    load = Load(options.pods, options.askers, options.gpus, options.window, options.seconds)
    machine = this_machine()
    with TemporaryDirectory(dir="/dev/shm") as directory:
        taken = measured(Path(directory), load)
    print(machine)
    for name, value in taken.items():
        print(f"  {name:<28} {value}")
    if options.json:
        document = {"machine": machine.as_json(), "load": asdict(load), "taken": taken}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    is_small = taken["resident_mib"] <= GOAL_MIB and taken["core_share"] <= GOAL_CORE
    return 0 if is_small else 1


def measured(directory: Path, load: Load) -> dict[str, Any]:
    """Run the node meter under this load."""
    nvml = FakeNvml(directory / "nvml.state", build_fake_nvml())
    for index in range(load.gpus):
        nvml.gpu(index, energy_mj="integrate", power_mw=GPU_POWER_MW, util=90, mig=0)
    with FakeKubernetesApi() as api, FakePodResources(directory / "kubelet.sock") as kubelet:
        pods = [_pod(directory, api, number) for number in range(load.pods)]
        for index, pod in enumerate(pods[: load.gpus]):
            kubelet.give("bench", pod.name, GPU.format(index))
        for pod in pods[load.gpus :]:
            kubelet.give("bench", pod.name, "other-device")
        (directory / "own-token").write_text(OWN_TOKEN)
        env = environment(NODE_NAME=NODE, POD_UID=str(uuid.uuid4()), **nvml.environment)
        arguments = _arguments(directory, api, kubelet)
        with Running(*arguments, log=directory / "log", env=env) as running:
            running.until(lambda: "listening on " in messages(running.log))
            line = next(m for m in messages(running.log).splitlines() if "listening on" in m)
            url = line.removeprefix("listening on ")
            return _taken(running.process.pid, url, pods, load)


def _arguments(directory: Path, api: FakeKubernetesApi, kubelet: FakePodResources) -> list[str]:
    return [
        "node-meter",
        "--cgroup-root", str(directory / "cgroup"),
        "--pod-resources", kubelet.path,
        "--listen", "127.0.0.1:0",
        "--kubernetes-url", api.url,
        "--kubernetes-token-file", str(directory / "own-token"),
        "--volume", str(directory / "volume"),
        "--region", "westeurope",
        "--vm-size", "Standard_ND96isr_H100_v5",
        "--log-format", "json",
    ]  # fmt: skip


def _pod(directory: Path, api: FakeKubernetesApi, number: int) -> Pod:
    root = directory / "cgroup"
    root.mkdir(exist_ok=True)
    (root / "cgroup.controllers").write_text("cpuset cpu io memory\n")
    uid, name = str(uuid.uuid4()), f"pod-{number}"
    slices = root / "kubepods.slice" / "kubepods-burstable.slice"
    pod = slices / f"kubepods-burstable-pod{uid.replace('-', '_')}.slice"
    pod.mkdir(parents=True)
    (pod / "cpu.weight").write_text("39\n")
    (pod / "memory.current").write_text(f"{2 << 30}\n")
    filler = "".join(f"{key} {number}\n" for key in ("anon", "file", "kernel", "shmem", "slab"))
    (pod / "memory.stat").write_text(f"{filler}inactive_anon 0\ninactive_file 4096\n{filler * 8}")
    token_file = directory / f"token-{number}"
    token_file.write_text(api.token(namespace="bench", pod=name, pod_uid=uid, node=NODE))
    made = Pod(uid, name, pod, token_file)
    _burn(made, 0.0)
    return made


def _burn(pod: Pod, cpu_s: float) -> None:
    used = round(cpu_s * 1e6)
    scratch = pod.directory / "new"
    scratch.write_text(f"usage_usec {used}\nuser_usec {used}\nsystem_usec 0\n")
    scratch.replace(pod.directory / "cpu.stat")


def _taken(pid: int, url: str, pods: list[Pod], load: Load) -> dict[str, Any]:
    waits_s: list[float] = []
    failures: list[str] = []
    stopped = threading.Event()
    burner = threading.Thread(target=_burn_all, args=(pods, stopped))
    burner.start()
    with ThreadPoolExecutor(max(1, load.askers)) as askers:
        _ask_all(askers, url, pods[: load.askers], waits_s, failures)  # the first reviews
        urllib.request.urlopen(f"{url}/metrics", timeout=10).read()  # loads what tells metrics
        cold = Figure.of([percentile(waits_s, 0.99)]) if waits_s else None
        waits_s.clear()
        began_s, began_cpu_s = time.monotonic(), _cpu_s(pid)
        while (elapsed_s := time.monotonic() - began_s) < load.seconds:
            _ask_all(askers, url, pods[: load.askers], waits_s, failures)
            stopped.wait(max(0.0, load.window_s - (time.monotonic() - began_s - elapsed_s)))
        took_s, cpu_s = time.monotonic() - began_s, _cpu_s(pid) - began_cpu_s
    stopped.set()
    burner.join()
    return {
        "resident_mib": round(_most_resident_mib(pid), 1),
        "core_share": round(cpu_s / took_s, 5),
        "answers": len(waits_s),
        "failures": len(failures),
        "first_failure": failures[0] if failures else None,
        "p99_ms": round(percentile(waits_s, 0.99) * 1e3, 1) if waits_s else None,
        "cold_p99_ms": round(cold.median * 1e3, 1) if cold else None,
    }


def _ask_all(
    askers: ThreadPoolExecutor, url: str, pods: list[Pod], waits_s: list[float], failures: list[str]
) -> None:
    def ask(pod: Pod) -> None:
        began_s = time.monotonic()
        try:
            NodeMeterClient(url, pod.token_file, node=NODE).ask()
            waits_s.append(time.monotonic() - began_s)
        except NodeMeterError as error:
            failures.append(str(error))

    list(askers.map(ask, pods))


def _burn_all(pods: list[Pod], stopped: threading.Event) -> None:
    began_s = time.monotonic()
    while not stopped.wait(2.0):
        for number, pod in enumerate(pods):
            _burn(pod, (time.monotonic() - began_s) * (1 + number % 4) / 4)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _most_resident_mib(pid: int) -> float:
    """Return the most it ever had: VmHWM of proc(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (told,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(told.split()[1]) * 1024 / MIB


if __name__ == "__main__":
    raise SystemExit(main())
