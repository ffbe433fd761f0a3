"""The webhook beside a kopf webhook with the same handler, in the same run.

    make kopf && python -m bench.webhook

Both are processes of their own, serve https with the same certificate, and get the same reviews of
three pods over kept connections, turn by turn. kopf runs as in an operator, from its HTTP server to
its answer, but for what it asks a cluster: no API is discovered, no memory kept. In the open loop a
request is due every 2 ms, however long others take; its latency counts from then. In the closed loop
each connection asks again as soon as it is answered.
"""

import argparse
import asyncio
import json
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure, percentile, table
from bench.load import request_bytes
from bench.machine import this_machine
from bench.peers import image_variables
from bench.servers import cpu_s, resident_mib
from tests.e2e.commands import ROOT, environment
from tests.fakes.azurite import Certificate
from tests.injector.goldens import case
from tests.injector.running import review

PODS: Final = ("job", "guaranteed-gpu", "azureml")
CONNECTIONS: Final = 16
KOPF_PYTHON: Final = ROOT / ".cache/kopf/bin/python"
CONFIG: Final = ROOT / "tests/injector/config.json"
_OURS: Final = "import sys; from sidecar.cli import webhook; sys.exit(webhook.main(sys.argv[1:]))"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.webhook", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each loop and round")
    parser.add_argument("--per-s", type=int, default=500, help="requests per second, open loop")
    parser.add_argument("--kopf-python", type=Path, default=KOPF_PYTHON, help="Python with kopf")
    parser.add_argument("--json", action="store_true", help="figures for programs")
    given = parser.parse_args()
    machine = this_machine()
    with servers(given.kopf_python) as measured:
        results = [Result(server) for server in measured]
        for _ in range(given.rounds):
            for result in results:
                result.add(given.per_s, given.seconds)
    if given.json:
        rows = [result.as_json() for result in results]
        print(json.dumps({"machine": machine.as_json(), "webhooks": rows}, indent=2))
    else:
        print(machine)
        print(table(*shown(results, given.per_s)))


# -- servers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Server:
    """A webhook that is measured. `path` decides what a pod without annotation gets."""

    name: str
    pid: int
    port: int
    path: str
    context: ssl.SSLContext


@contextmanager
def servers(kopf_python: Path) -> Iterator[list[Server]]:
    """Start both, or the webhook alone where there is no kopf."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        pair = Certificate.made_in(Path(directory))
        context = ssl.create_default_context(cafile=str(pair.cert_file))
        tls = ("--tls-cert", pair.cert_file, "--tls-key", pair.key_file)
        ours = (sys.executable, "-c", _OURS, "--config", CONFIG, "--log-level", "warning", *tls)
        commands: dict[tuple[str, str], tuple[str | Path, ...]]
        commands = {("webhook", "/mutate/namespace?timeout=3s"): ours}
        if kopf_python.exists():
            kopf = (kopf_python, "-m", "bench.kopf_webhook", "--config", CONFIG, *tls)
            commands[kopf_name(kopf_python), "/inject?timeout=3s"] = kopf
        else:
            print(f"no {kopf_python}: the webhook alone; see --help", file=sys.stderr)
        started = []
        for (name, path), command in commands.items():
            port = free_port()
            process = stack.enter_context(_running([*command, "--listen", f"127.0.0.1:{port}"]))
            wait_for(port, process)
            started.append(Server(name, process.pid, port, path, context))
        yield started


def kopf_name(python: Path) -> str:
    """Return `kopf` with its version."""
    code = "import importlib.metadata as m; print('kopf', m.version('kopf'))"
    run = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.strip()


@contextmanager
def _running(command: Sequence[str | Path]) -> Iterator["subprocess.Popen[bytes]"]:
    env = environment(**image_variables("services"))
    process = subprocess.Popen(command, env=env, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!s} does not listen; it ended with {process.poll()}")


# -- load ----------------------------------------------------------------------------------------


def reviews() -> list[bytes]:
    """Return reviews as an API server sends them."""
    return [json.dumps(review(case(name).pod)).encode() for name in PODS]


class Connections:
    """Kept connections of https; a request takes a free one."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._free: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
        headers = {"Content-Type": "application/json"}
        self._requests = cycle([request_bytes(server.path, one, headers) for one in reviews()])

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Connections"]:
        pairs = []
        try:
            for _ in range(CONNECTIONS):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self._server.port, ssl=self._server.context
                )
                pairs.append((reader, writer))
                self._free.put_nowait((reader, writer))
            yield self
        finally:
            for _, writer in pairs:
                writer.transport.abort()

    async def asked(self) -> None:
        """Send a review; raises RuntimeError unless a patch comes back."""
        reader, writer = await self._free.get()
        writer.write(next(self._requests))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        if not head.startswith(b"http/1.1 200") or b'"patch"' not in body:
            raise RuntimeError(f"{self._server.name}: no patch in {head + body!r}"[:600])
        self._free.put_nowait((reader, writer))


async def open_loop(server: Server, per_s: int, seconds: float) -> list[float]:
    """Send at a fixed rate; return the seconds from when each was due to its answer."""
    latencies: list[float] = []

    async def one(connections: Connections, due_s: float) -> None:
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        await connections.asked()
        latencies.append(time.perf_counter() - due_s)

    async with Connections(server).opened() as connections:
        for _ in range(50):  # caches, and the allocator
            await connections.asked()
        begun_s = time.perf_counter() + 0.1
        due = [begun_s + number / per_s for number in range(int(per_s * seconds))]
        await asyncio.gather(*(one(connections, due_s) for due_s in due))
    return latencies


async def closed_loop(server: Server, seconds: float) -> float:
    """Return requests per second with all connections busy."""
    count = 0

    async def again_and_again(connections: Connections, until_s: float) -> None:
        nonlocal count
        while time.perf_counter() < until_s:
            await connections.asked()
            count += 1

    async with Connections(server).opened() as connections:
        begun_s = time.perf_counter()
        each = (again_and_again(connections, begun_s + seconds) for _ in range(CONNECTIONS))
        await asyncio.gather(*each)
        return count / (time.perf_counter() - begun_s)


# -- figures -------------------------------------------------------------------------------------


@dataclass
class Result:
    """What was measured of one webhook, round by round."""

    server: Server
    p50_s: list[float] = field(default_factory=list)
    p99_s: list[float] = field(default_factory=list)
    worst_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    mib: float = 0.0

    def add(self, per_s: int, seconds: float) -> None:
        before_s = cpu_s(self.server.pid)
        latencies = asyncio.run(open_loop(self.server, per_s, seconds))
        self.cpu_s.append((cpu_s(self.server.pid) - before_s) / len(latencies))
        self.p50_s.append(percentile(latencies, 0.5))
        self.p99_s.append(percentile(latencies, 0.99))
        self.worst_s.append(max(latencies))
        self.per_s.append(asyncio.run(closed_loop(self.server, seconds / 2)))
        self.mib = resident_mib(self.server.pid)

    def figures(self) -> list[Figure]:
        columns = (self.p50_s, self.p99_s, self.worst_s, self.cpu_s, self.per_s)
        return [Figure.of(column) for column in columns]

    def as_json(self) -> dict[str, Any]:
        names = ("p50_s", "p99_s", "worst_s", "cpu_s_per_request", "closed_loop_per_s")
        figures = zip(names, self.figures(), strict=True)
        return {
            "name": self.server.name,
            "resident_mib": self.mib,
            **{name: figure.as_json() for name, figure in figures},
        }


def shown(results: Sequence[Result], per_s: int) -> tuple[list[str], list[list[str]]]:
    head = [f"at {per_s} requests/s", "p50 ms", "p99 ms", "worst ms", "CPU ms", "max/s", "MiB"]
    rows = []
    for result in results:
        *times, most = result.figures()
        cells = [figure.shown(1000) for figure in times]
        rows.append([result.server.name, *cells, most.shown(), f"{result.mib:.0f}"])
    return head, rows


if __name__ == "__main__":
    main()
