"""A whole fleet: simulated pods, each a real agent, ship through real collectors; all arrives once.

The pods' clock runs fast, their machines' energy is known (`tests.fakes.known_node`), and all between is
the product's own: agent, journal, outbox, shipper, HTTP, two collectors as processes, their reviews of
tokens with a fake Kubernetes API, and a directory, or Azurite, as Blob. At the end `verify` must find no
violation, and the records must add up to what the machines used.

Left out in the pods: `summary.json` and `emissions.csv`, which never leave a volume (`--side-files`).
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from bench.collector import Measured, reviews
from bench.figures import table, three_digits
from bench.fleet_pods import PODS_PER_NODE, Wanted
from bench.machine import Machine, file_system, memory_directory, this_machine
from bench.servers import Server, cpu_s, resident_mib
from bench.shipping import STORED_USD_PER_GB_MONTH, WRITES_USD_PER_10K, Prices
from tests.e2e.commands import Running, environment, messages, sidecar

COLLECTORS: Final = 2
SAME: Final = 1e-9
"""Relative: of sums of millions of floats."""

PROGRESS_S: Final = 60.0
"""How far it is, is said so often."""

ROUNDING_S: Final = 1e-6
"""Of the duration in a record."""


@dataclass(frozen=True, slots=True)
class Size:
    """What the command line asks for."""

    pods: int
    hours: float
    workers: int
    side_files: bool
    azurite: bool

    @property
    def pod_hours(self) -> float:
        return self.pods * self.hours


# -- the far side --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Store:
    """Where segments end: what the collectors are told, and what is there."""

    options: tuple[str | Path, ...]
    env: Mapping[str, str]
    source: str
    place: str
    root: Path | None = None

    def sizes(self) -> list[int]:
        """Bytes of each blob."""
        if self.root is not None:
            return [path.stat().st_size for path in self.root.rglob("*.ndjson.gz")]
        from azure.storage.blob import ContainerClient  # noqa: PLC0415

        text = self.env["EMISSIONS_BLOB_CONNECTION_STRING"]
        container = self.env["EMISSIONS_BLOB_CONTAINER"]
        with ContainerClient.from_connection_string(text, container) as client:
            return [blob.size for blob in client.list_blobs()]


@contextlib.contextmanager
def store(directory: Path, *, azurite: bool) -> Iterator[Store]:
    if not azurite:
        root = directory / "stored"
        root.mkdir()
        options = ("--backend", "directory", "--transport-directory", root)
        yield Store(options, {}, str(root), f"a directory on {file_system(root)}", root)
        return
    from tests.fakes.azurite import Azurite  # noqa: PLC0415 - it needs pytest and Azurite

    with Azurite() as running:
        container = running.make_container()
        env = {
            "EMISSIONS_BLOB_CONNECTION_STRING": running.connection_string,
            "EMISSIONS_BLOB_CONTAINER": container,
        }
        yield Store((), env, f"az://{container}", "Azurite")


@contextlib.contextmanager
def collectors(directory: Path, kubeconfig: str, stored: Store) -> Iterator[list[Measured]]:
    env = environment(KUBECONFIG=kubeconfig, **stored.env)
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(
                Running(
                    *("collector", "--listen", "127.0.0.1:0", *stored.options),
                    log=directory / f"collector-{number}.log",
                    env=env,
                )
            )
            for number in range(COLLECTORS)
        ]
        for one in running:
            one.until(lambda one=one: "ready: " in one.log)
        yield [
            Measured(f"collector {number}", _url(one), one.process.pid)
            for number, one in enumerate(running)
        ]


def _url(collector: Running) -> str:
    lines = messages(collector.log.rpartition("\n")[0]).splitlines()
    return next(line.split()[-1] for line in lines if line.startswith("listening on "))


# -- the pods ------------------------------------------------------------------------------------


class Worker:
    """Some of the pods, as a process; `told` is what it said last."""

    def __init__(self, wanted: Wanted) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.fleet_pods"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        self.told: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._listen, args=(wanted,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self._thread.join()

    def _listen(self, wanted: Wanted) -> None:
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("no pipes")
        with contextlib.suppress(OSError):
            stdin.write(json.dumps(asdict(wanted)))
            stdin.close()
        for line in stdout:
            self.told = json.loads(line)
        self.process.wait()

    def summary(self) -> dict[str, Any]:
        """Wait for the end. Raises RuntimeError where that is not a good one."""
        self._thread.join()
        if self.process.returncode or "segments" not in self.told:
            raise RuntimeError(f"pods ended with {self.process.returncode}, after {self.told}")
        return self.told


@contextlib.contextmanager
def workers(size: Size, tokens: Path, urls: list[str], directory: Path) -> Iterator[list[Worker]]:
    nodes = math.ceil(size.pods / PODS_PER_NODE)
    bounds = [
        min(size.pods, round(nodes * number / size.workers) * PODS_PER_NODE)
        for number in range(size.workers + 1)
    ]
    with contextlib.ExitStack() as stack:
        made = []
        for number, (first, last) in enumerate(itertools.pairwise(bounds)):
            place = directory / f"pods-{number}"
            place.mkdir()
            wanted = Wanted(
                first, last - first, size.hours, urls, str(tokens), str(place), size.side_files
            )
            made.append(stack.enter_context(Worker(wanted)))
        yield made


# -- the run -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Results:
    """What was measured. Seconds are real, but for `duration_s`, which the pods metered."""

    place: str
    wall_s: float = 0.0
    segments: int = 0
    records: int = 0
    failures: int = 0
    pods_cpu_s: float = 0.0
    collector_cpu_s: float = 0.0
    collector_mib: dict[str, tuple[float, float]] = field(default_factory=dict)
    """At the start, and the most there ever was."""
    reviews: int = 0
    blobs: int = 0
    stored_bytes: int = 0
    energy_kwh: float = 0.0
    duration_s: float = 0.0
    verify_s: float = 0.0
    report_s: float = 0.0


def measured(size: Size) -> Results:
    with tempfile.TemporaryDirectory(prefix="bench-", dir=memory_directory()) as made:
        directory = Path(made)
        arguments = ("--pods", str(size.pods), "--pods-per-node", str(PODS_PER_NODE))
        with (
            Server("cluster", directory, *arguments) as cluster,
            store(directory, azurite=size.azurite) as stored,
            collectors(directory, cluster.about["kubeconfig"], stored) as both,
        ):
            tokens = directory / "tokens"
            tokens.write_text("\n".join(cluster.about["tokens"]))
            urls = [collector.url for collector in both]
            results = Results(stored.place)
            with workers(size, tokens, urls, directory) as made_workers:
                _run(results, made_workers, both)
            sizes = stored.sizes()
            results.blobs, results.stored_bytes = len(sizes), sum(sizes)
            _tell(f"all has arrived, verifying: {json.dumps(asdict(results))}")
            _verify(results, stored)
            _tell(f"clean after {results.verify_s:.0f} s, reporting")
            _report(results, stored, directory)
    return results


def _run(results: Results, pods: Sequence[Worker], both: Sequence[Measured]) -> None:
    before_s = {one.name: cpu_s(one.pid) for one in both}
    before_mib = {one.name: resident_mib(one.pid) for one in both}
    _until_ready(pods)
    begun_s = time.monotonic()
    _tell("metering begins")
    _until_ended(pods)
    summaries = [worker.summary() for worker in pods]
    results.wall_s = time.monotonic() - begun_s
    for name in ("segments", "records", "failures"):
        setattr(results, name, sum(summary[name] for summary in summaries))
    left = sum(summary["left"] for summary in summaries)
    if left:
        raise RuntimeError(f"{left} records have not arrived")
    results.pods_cpu_s = sum(summary["cpu_s"] for summary in summaries)
    results.energy_kwh = math.fsum(summary["energy_kwh"] for summary in summaries)
    results.duration_s = math.fsum(summary["duration_s"] for summary in summaries)
    results.collector_cpu_s = sum(cpu_s(one.pid) - before_s[one.name] for one in both)
    results.collector_mib = {one.name: (before_mib[one.name], peak_mib(one.pid)) for one in both}
    results.reviews = sum(map(reviews, both))


def _until_ready(pods: Sequence[Worker]) -> None:
    while not all(worker.told or worker.process.poll() is not None for worker in pods):
        time.sleep(0.01)


def _until_ended(pods: Sequence[Worker]) -> None:
    """Wait, and say how far the slowest is, now and then."""
    told, due_s = -1, time.monotonic()
    while any(worker.process.poll() is None for worker in pods):
        time.sleep(0.05)
        window = min(worker.told.get("window", 0) for worker in pods)
        if window > told and time.monotonic() >= due_s:
            told, due_s = window, time.monotonic() + PROGRESS_S
            _tell(f"{window} windows")


def _tell(text: str) -> None:
    """Say what goes on, to whoever waits for the end of a long run."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def peak_mib(pid: int) -> float:
    """Return the most resident memory that a process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _verify(results: Results, stored: Store) -> None:
    """Compare with the truth. Raises RuntimeError where records are lost, doubled or changed."""
    begun_s = time.monotonic()
    outcome = sidecar(
        "verify", stored.source, "--json", env=environment(**stored.env), timeout_s=3600
    )
    results.verify_s = time.monotonic() - begun_s
    verdict = json.loads(outcome.stdout)
    totals = verdict["totals"]
    told = (verdict["records"], totals["energy_kwh"], totals["duration_s"])
    truth = (results.records, results.energy_kwh, results.duration_s)
    same = (0.0, SAME * results.energy_kwh, ROUNDING_S * results.records)
    is_true = all(abs(a - b) <= most for a, b, most in zip(told, truth, same, strict=True))
    if outcome.code or verdict["violations"] or verdict["notices"] or verdict["duplicates"]:
        raise RuntimeError(f"verify: {outcome.stdout}")
    if not is_true or results.blobs != results.segments:
        raise RuntimeError(
            f"records, kWh and seconds are {told}, but should be {truth}; {results.blobs} blobs of "
            f"{results.segments} segments"
        )


def _report(results: Results, stored: Store, directory: Path) -> None:
    """Make the report, as it is made each night."""
    begun_s = time.monotonic()
    out = ("--out", directory / "report")
    env = environment(**stored.env)
    outcome = sidecar("report", stored.source, *out, env=env, timeout_s=3600)
    results.report_s = time.monotonic() - begun_s
    if outcome.code:
        raise RuntimeError(f"report: {outcome.stderr}")


# -- output --------------------------------------------------------------------------------------


def figures(results: Results, size: Size, prices: Prices) -> dict[str, float]:
    """Return what follows from what was measured."""
    per_1000 = 1000 / size.pod_hours
    gb = results.stored_bytes * per_1000 / 1e9
    return {
        "speed": size.hours * 3600 / results.wall_s,
        "pod_hours_per_hour": size.pod_hours / results.wall_s * 3600,
        "segments_per_s": results.segments / results.wall_s,
        "records_per_s": results.records / results.wall_s,
        "collector_cpu_ms_per_segment": results.collector_cpu_s / results.segments * 1000,
        "collector_cpu_s_per_1000_pod_hours": results.collector_cpu_s * per_1000,
        "pods_cpu_ms_per_window": results.pods_cpu_s / results.records * 1000,
        "blobs_per_1000_pod_hours": results.blobs * per_1000,
        "mb_per_1000_pod_hours": gb * 1000,
        "reviews_per_1000_pod_hours": results.reviews * per_1000,
        "verified_blobs_per_s": results.blobs / results.verify_s,
        "reported_blobs_per_s": results.blobs / results.report_s,
        "usd_writes_per_1000_pod_hours": results.blobs * per_1000 / 10_000 * prices.writes,
        "usd_stored_per_month_per_1000_pod_hours": gb * prices.stored,
    }


def show(machine: Machine, results: Results, size: Size, prices: Prices) -> None:
    told = figures(results, size, prices)
    print(
        f"Fleet, {machine}\n{size.pods:,} pods for {size.hours:g} h through {COLLECTORS} collectors to "
        f"{results.place}, by {size.workers} processes\n\n"
        f"verify: clean; {results.records:,} records in {results.blobs:,} blobs are the "
        f"{results.energy_kwh:,.6f} kWh and {results.duration_s:,.0f} s that the machines used\n"
        f"{results.failures:,} deliveries were asked to come again, or failed, and were tried again; "
        f"verify took {results.verify_s:.0f} s, report {results.report_s:.0f} s"
    )
    print(f"\n{results.wall_s:,.0f} s for {size.hours:g} h: {told['speed']:,.1f} times real time")
    names = {
        "segments_per_s": "segments/s",
        "records_per_s": "records/s",
        "pod_hours_per_hour": "pod-hours per hour of this machine",
        "collector_cpu_ms_per_segment": "collector CPU per segment, ms",
        "collector_cpu_s_per_1000_pod_hours": "collector CPU, s",
        "pods_cpu_ms_per_window": "CPU of pod, shipping and all, per window, ms",
        "blobs_per_1000_pod_hours": "blobs",
        "mb_per_1000_pod_hours": "MB stored",
        "reviews_per_1000_pod_hours": "token reviews",
        "verified_blobs_per_s": "blobs verified per s",
        "reported_blobs_per_s": "blobs reported per s",
        "usd_writes_per_1000_pod_hours": "USD, writes",
        "usd_stored_per_month_per_1000_pod_hours": "USD per month stored",
    }
    print(
        table(
            ("", ""),
            [
                (
                    f"{text} per 1,000 pod-hours" if "1000" in name else text,
                    three_digits(told[name]),
                )
                for name, text in names.items()
            ],
        )
    )
    print(
        f"  {prices.writes:g} USD per 10,000 writes, {prices.stored:g} USD per GB and month: an order "
        "of magnitude, look yours up\n"
    )
    for name, (before, peak) in results.collector_mib.items():
        print(f"memory of {name}: {before:.0f} MiB at the start, {peak:.0f} MiB at most")


def as_json(machine: Machine, results: Results, size: Size, prices: Prices) -> dict[str, Any]:
    return {
        "machine": machine.as_json(),
        "size": asdict(size),
        "prices_usd": {"per_10k_writes": prices.writes, "per_gb_month": prices.stored},
        "measured": asdict(results),
        "figures": figures(results, size, prices),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.add_argument("--pods", type=int, default=200, help="pods (default 200)")
    parser.add_argument("--hours", type=float, default=1.0, help="of their time (default 1)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes (default: one for each core)"
    )
    parser.add_argument("--azurite", action="store_true", help="store in Azurite, not a directory")
    parser.add_argument(
        "--side-files", action="store_true", help="pods write summary.json and emissions.csv, too"
    )
    parser.add_argument(
        "--price", type=float, default=WRITES_USD_PER_10K, metavar="USD",
        help=f"of 10,000 write operations (default {WRITES_USD_PER_10K})",
    )  # fmt: skip
    parser.add_argument(
        "--storage-price", type=float, default=STORED_USD_PER_GB_MONTH, metavar="USD",
        help=f"of a GB stored for a month (default {STORED_USD_PER_GB_MONTH})",
    )  # fmt: skip
    given = parser.parse_args()
    if given.pods < given.workers * PODS_PER_NODE or given.workers < 1 or given.hours < 0.1:
        parser.error(
            f"--workers is 1 or more, --pods {PODS_PER_NODE} for each, --hours 0.1 or more"
        )
    size = Size(given.pods, given.hours, given.workers, given.side_files, given.azurite)
    prices = Prices(given.price, given.storage_price)
    machine = this_machine()
    results = measured(size)
    if given.json:
        print(json.dumps(as_json(machine, results, size, prices), indent=2))
    else:
        show(machine, results, size, prices)


if __name__ == "__main__":
    main()
