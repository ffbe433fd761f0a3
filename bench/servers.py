"""What the collector is compared with, and what it asks, as processes of their own.

    python -m bench.servers bare                        a bare Starlette endpoint: reads and answers
    python -m bench.servers durable DIR                 … that inflates, and stores what came durably
    python -m bench.servers durable DIR --json          … and reads its lines as JSON before
    python -m bench.servers cluster DIR --pods 100      a fake Kubernetes API

Each prints one line of JSON once it listens, and ends when its standard input does.
"""

import argparse
import gzip
import hashlib
import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench.records import NAMESPACE, NODE, POD, POD_UID
from sidecar.collector_client import SEGMENTS_PATH
from sidecar.durable_file import replace_file
from tests.e2e.commands import environment
from tests.fakes.kubernetes_api import FakeKubernetesApi, Known

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.servers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("bare")
    durable = commands.add_parser("durable")
    durable.add_argument("directory", type=Path)
    durable.add_argument("--json", action="store_true")
    cluster = commands.add_parser("cluster")
    cluster.add_argument("directory", type=Path)
    cluster.add_argument("--pods", type=int, default=100)
    cluster.add_argument("--pods-per-node", type=int, help="(default: all are on one)")
    given = parser.parse_args()
    if given.command == "bare":
        serve_bare()
    elif given.command == "durable":
        serve_durable(given.directory, reads_json=given.json)
    else:
        serve_cluster(given.directory, given.pods, given.pods_per_node)


def serve_bare() -> None:
    """Serve an endpoint that reads a body and answers 201."""

    async def take(request: Request) -> JSONResponse:
        body = await request.body()
        return JSONResponse({"bytes": len(body)}, 201)

    _serve(take)


def serve_durable(directory: Path, *, reads_json: bool) -> None:
    """Serve an endpoint that inflates a body, stores it as it came under its digest, and answers 201.

    A file is there whole or not at all, and on the disk before the answer: as the collector has it.
    """

    def store(body: bytes) -> str:
        ndjson = gzip.decompress(body)
        if reads_json:
            for line in ndjson.splitlines():
                json.loads(line)
        path = directory / f"{hashlib.sha256(ndjson).hexdigest()}.ndjson.gz"
        replace_file(path, body)
        return path.name

    async def take(request: Request) -> JSONResponse:
        name = await run_in_threadpool(store, await request.body())
        return JSONResponse({"blob": name}, 201)

    _serve(take)


def _serve(take: Callable[[Request], Awaitable[JSONResponse]]) -> None:
    """Serve one route with the collector's settings of uvicorn."""
    app = Starlette(routes=[Route(SEGMENTS_PATH, take, methods=["POST"])])
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http="h11", ws="none", loop="asyncio", lifespan="on",
        log_config=None, access_log=False, server_header=False, proxy_headers=False, backlog=2048,
    )  # fmt: skip
    server = uvicorn.Server(config)
    threading.Thread(target=_tell_and_end, args=(server,), daemon=True).start()
    server.run()


def _tell_and_end(server: uvicorn.Server) -> None:
    while not server.started:
        time.sleep(0.01)
    (host, port), *_ = (one.getsockname() for one in server.servers[0].sockets)
    _say({"url": f"http://{host}:{port}"})
    sys.stdin.read()
    server.should_exit = True


def serve_cluster(directory: Path, pods: int, pods_per_node: int | None) -> None:
    """Serve the API with so many pods, each with a token."""
    # Head and body of its answers are two writes: the second would wait 40 ms for a delayed ACK.
    socketserver.StreamRequestHandler.disable_nagle_algorithm = True
    with FakeKubernetesApi() as api:
        known = [pod_number(number, pods_per_node) for number in range(pods)]
        tokens = [api.token(**asdict(pod)) for pod in known]
        _say({"kubeconfig": str(api.kubeconfig(directory / "kubeconfig")), "tokens": tokens})
        sys.stdin.read()


def pod_number(number: int, pods_per_node: int | None = None) -> Known:
    """Return one of many pods; its names are as long as those of the records that are made."""
    node = NODE if pods_per_node is None else f"{NODE[:-6]}{number // pods_per_node:06d}"
    return Known(
        namespace=NAMESPACE,
        pod=f"{POD[:-6]}{number:06d}",
        pod_uid=f"{number:08x}{POD_UID[8:]}",
        node=node,
    )


def _say(about: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(about) + "\n")
    sys.stdout.flush()


class Server:
    """One of the servers above as a process; `about` is what it said."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.servers", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        self.about: dict[str, Any] = {}

    def __enter__(self) -> Self:
        line = self.process.stdout.readline() if self.process.stdout else b""
        if not line:
            self.process.wait()
            raise RuntimeError(f"{self.process.args!s} ended with {self.process.returncode}")
        self.about = json.loads(line)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.communicate()  # closes its standard input


def cpu_s(pid: int) -> float:
    """Return CPU seconds that a process has used; resolution 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def cpu_clock_s(pid: int) -> float:
    """Return CPU seconds that a process and its ended threads have used; resolution 1 ns.

    The process's own clock (clock_getcpuclockid(3)): on Linux the inverted pid and CPUCLOCK_SCHED.
    """
    return time.clock_gettime((~pid << 3) | 2)


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
