"""What one window costs the sidecar: CPU time of its metering thread, beside that of the readings alone.

    python -m bench.ticks

The agent as `run` (or `exec`) wires it, under a clock that jumps from one moment at which it has to do
something to the next; each case in a process of its own. Real are the reading of files and NVML's
binding, HTTP over TLS, records, files in memory; imitated are the far ends: NVML's library, kubelet. In
a window are its 15 looks at what is sampled, where there is such. What costs nothing here is waiting.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench.ahead import AHEAD
from bench.figures import Figure, table
from bench.machine import memory_directory, this_machine
from bench.rungs import UID, node_meter_answer, summary
from sidecar.agent import Agent, Wake
from sidecar.assembly import assemble
from sidecar.meters.node import NodeMeter
from sidecar.meters.reading import NodeReading
from sidecar.settings import load_settings
from tests.e2e.commands import environment
from tests.fakes.collector import make_certificate
from tests.fakes.kubelet import SUMMARY_PATH, TOKEN, FakeKubelet
from tests.fakes.nvml.build import build_fake_nvml
from tests.fakes.nvml.fixture import FakeNvml

WINDOW_S: Final = 15.0
WARM: Final = 3
_IN_A_PROCESS: Final = (
    "from bench.ahead import AHEAD; AHEAD.install(); from bench.ticks import main; main()"
)
GPUS: Final = 8
PROCESSES: Final = 1000
PODS: Final = 200
REQUESTS: Final = {"requests_cpu": "1", "requests_memory": "1Gi", "requests_gpu": "0"}


@dataclass(frozen=True, slots=True)
class Case:
    """A case: its settings, beside those of all, and what has to be there for it."""

    name: str
    flags: Mapping[str, str]
    purpose: str = "run"
    prepare: Callable[[ExitStack, Path], Mapping[str, str]] = lambda _stack, _directory: {}


def _processes(stack: ExitStack, _: Path) -> Mapping[str, str]:
    for _number in range(PROCESSES):
        process = subprocess.Popen(["/bin/sleep", "3600"])
        stack.callback(process.wait)
        stack.callback(process.kill)
    return {}


def _kubelet(stack: ExitStack, directory: Path) -> Mapping[str, str]:
    certificate = make_certificate(directory / "tls")
    kubelet = stack.enter_context(FakeKubelet(tls=certificate))
    kubelet.documents[SUMMARY_PATH] = summary(PODS)
    token = directory / "token"
    token.write_text(TOKEN)
    return {
        "kubelet_url": kubelet.url,
        "kubernetes_token_file": str(token),
        "kubernetes_ca_file": str(certificate.authority_file),
    }


def _node_meter(stack: ExitStack, directory: Path) -> Mapping[str, str]:
    meter = stack.enter_context(FakeKubelet())
    meter.documents["/v1/pod"] = node_meter_answer()
    token = directory / "token"
    token.write_text(TOKEN)
    return {"node_meter_url": meter.url, "collector_token_file": str(token)}


_BY_REQUESTS: Final = {"attribution": "requests", **REQUESTS}
CASES: Final = (
    Case("no GPU, by requests", {**_BY_REQUESTS, "gpu_source": "none"}),
    Case(f"{GPUS} GPUs by NVML", {**_BY_REQUESTS, "requests_gpu": "8", "gpu_source": "nvml"}),
    Case(f"{GPUS} GPUs by a node meter", {"gpu_source": "node-meter"}, prepare=_node_meter),
    Case(
        f"tree of {PROCESSES:,} processes",
        {"attribution": "process-tree", "gpu_source": "none"}, "exec", _processes,
    ),
    Case(
        f"kubelet with {PODS} pods", {"attribution": "kubelet", "gpu_source": "none"}, prepare=_kubelet
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU milliseconds per window: of all, and of the readings in it."""

    name: str
    all_ms: Figure
    reading_ms: Figure

    @property
    def ratio(self) -> float:
        return self.all_ms.median / self.reading_ms.median

    def row(self) -> tuple[str, ...]:
        core = f"{self.all_ms.median / 1e3 / WINDOW_S:.4%}"
        return (self.name, self.all_ms.shown(), self.reading_ms.shown(), f"{self.ratio:.2f}", core)


class _Timed:
    """A meter whose readings are timed; for all else it is the meter."""

    def __init__(self, meter: NodeMeter) -> None:
        self._meter = meter
        self.cpu_s = 0.0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the meter's own
        return getattr(self._meter, name)

    def read(self, *, gpus: bool = True) -> NodeReading:
        return self._timed(lambda: self._meter.read(gpus=gpus))

    def sample(self) -> None:
        self._timed(self._meter.sample)

    def _timed(self, work: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the work returns
        begun_s = time.thread_time()
        try:
            return work()
        finally:
            self.cpu_s += time.thread_time() - begun_s


def spent(case: Case, windows: int) -> tuple[list[float], list[float]]:
    """Return the CPU seconds of so many windows, and those of the readings in them."""
    with (
        TemporaryDirectory(prefix="bench-", dir=memory_directory()) as directory,
        ExitStack() as stack,
    ):
        place = Path(directory)
        flags = {**case.flags, **case.prepare(stack, place), "volume": str(place / "volume")}
        settings = load_settings({**flags, "region": "westeurope", "imds_endpoint": "none"}, {})
        pod = {"POD_UID": UID, "POD_NAME": "train-0", "POD_NAMESPACE": "team-a"}
        parts = assemble(settings, {} if case.purpose == "exec" else pod, case.purpose)  # type: ignore[arg-type]
        meter = _Timed(parts.meter)
        agent = Agent(replace(parts, meter=meter))  # type: ignore[arg-type]
        agent.open()
        all_s, reading_s = [], []
        marks = (time.thread_time(), meter.cpu_s)

        def wait(timeout_s: float) -> Wake:
            nonlocal marks
            if _passes_boundary(timeout_s):
                now = (time.thread_time(), meter.cpu_s)
                all_s.append(now[0] - marks[0])
                reading_s.append(now[1] - marks[1])
                marks = (time.thread_time(), meter.cpu_s)
            return Wake(stop="enough") if len(all_s) >= windows + WARM else Wake()

        agent.close(agent.run(wait))
        return all_s[WARM:], reading_s[WARM:]


def _passes_boundary(wait_s: float) -> bool:
    """Let this time pass; whether a window ends in it."""
    before = math.floor(time.time() / WINDOW_S)
    AHEAD.jump(wait_s + 0.001)
    return math.floor(time.time() / WINDOW_S) > before


def measured(case: Case, windows: int) -> Cost:
    """Measure a case in a process of its own."""
    with TemporaryDirectory(prefix="bench-", dir=memory_directory()) as directory:
        nvml = FakeNvml(Path(directory) / "nvml.state", build_fake_nvml())
        for index in range(GPUS):
            nvml.gpu(index, energy_mj="integrate", power_mw=300_000, util=90, mig=0)
        command = [
            sys.executable,
            "-c",
            _IN_A_PROCESS,
            "--case",
            case.name,
            "--windows",
            str(windows),
        ]
        env = {**environment(**nvml.environment), **os.environ, **nvml.environment}
        run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"{case.name}: {run.stderr}")
    all_s, reading_s = json.loads(run.stdout.splitlines()[-1])
    return Cost(case.name, _quartiles(all_s), _quartiles(reading_s))


def _quartiles(values_s: Sequence[float]) -> Figure:
    """Return the median, and the lower and upper quartile, in milliseconds."""
    ordered = sorted(1e3 * value for value in values_s)
    return Figure(median(ordered), ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ticks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--windows", type=int, default=60, help="of each case (default 60)")
    parser.add_argument("--json", action="store_true", help="figures for programs")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # one of them, in this process
    given = parser.parse_args()
    if given.case:
        case = next(case for case in CASES if case.name == given.case)
        print(json.dumps(spent(case, given.windows)))
        return
    machine = this_machine()
    costs = [measured(case, given.windows) for case in CASES]
    if given.json:
        print(json.dumps({"machine": machine.as_json(), "cases": [asdict(cost) for cost in costs]}))
        return
    print(f"One window of {WINDOW_S:g} s, {machine}\nmedian (quartiles) of {given.windows}")
    head = ("", "CPU ms", "of that reading", "all / reading", "of one core")
    print(table(head, (cost.row() for cost in costs)))


if __name__ == "__main__":
    main()
