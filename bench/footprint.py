"""What the sidecar takes beside a training job, beside `codecarbon monitor` in the same run.

    make footprint && python -m bench.footprint [--full]

Memory and CPU time: all run at the same time, for as long as `--seconds`. The sidecars ship through a
collector (or to Azurite, by workload identity), their metrics are scraped each 15 s, and one asks a
node meter, too. Start: turn by turn, to the first record on the disk, and to the first that metered
something, in windows of 1 s; `monitor` writes when it is ended, so CodeCarbon is a tracker there that
is started and stopped. Growth: days of ticks, by `bench.days`.
Sizes: what the image's own script installs, beside an environment that pip made. `--full` is 10 min,
30 days, 10 starts.
"""

import argparse
import contextlib
import json
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.days import Growth, growth
from bench.figures import Figure, table
from bench.machine import Machine, this_machine
from bench.peers import (
    POD,
    Memory,
    Peer,
    Started,
    image_layer_mb,
    image_variables,
    monitor,
    sidecar,
    tracker,
    without_pip,
)
from bench.rungs import node_meter_answer
from bench.webhook import free_port
from tests.fakes.azurite import MAIN, Azurite, Certificate
from tests.fakes.collector import TOKEN, Caller, FakeCollector
from tests.fakes.entra import FakeEntra
from tests.fakes.kubelet import FakeKubelet

SCRAPE_S: Final = 15.0
SETTLED_S: Final = 5.0
"""CPU time is counted from here on: the start is told by itself."""

SMALL_CORES: Final = 0.05
"""The CPU limit that the chart gives a sidecar: 50m."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    seconds: float
    starts: int
    days: float


# -- beside one another ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """What a process took: memory at the end, and CPU seconds per minute once it had settled."""

    name: str
    memory: Memory
    cpu_s_per_min: float


def beside_one_another(directory: Path, seconds: float) -> list[Taken]:
    """Run all at the same time."""
    with ExitStack() as stack:
        peers, urls = _peers(stack, directory)
        started = [stack.enter_context(Started(peer)) for peer in peers]
        stack.enter_context(_scraped(urls))
        for one in started:
            one.wait_until_ready()
        time.sleep(SETTLED_S)
        begun_s, before_s = time.monotonic(), [one.cpu_s for one in started]
        time.sleep(seconds)
        minutes = (time.monotonic() - begun_s) / 60
        cpu_s = [one.cpu_s - before for one, before in zip(started, before_s, strict=True)]
        return [
            Taken(one.peer.name, one.memory(), used_s / minutes)
            for one, used_s in zip(started, cpu_s, strict=True)
        ]


def _peers(stack: ExitStack, directory: Path) -> tuple[list[Peer], list[str]]:
    """Return all that run, and where the sidecars tell their metrics."""
    urls: list[str] = []

    def listening() -> tuple[str, str]:
        port = free_port()
        urls.append(f"http://127.0.0.1:{port}/metrics")
        return "--listen", f"127.0.0.1:{port}"

    ships = to_a_collector(stack, directory)
    peers = [
        sidecar(f"sidecar, {name}", directory / name, *flags, *ships, *listening())
        for name, flags in (
            ("collector, 15 s", ("--interval", "15s")),
            ("collector, 1 s", ("--interval", "1s")),
            (
                "collector and node meter, 15 s",
                ("--interval", "15s", *_a_node_meter(stack)),
            ),
        )
    ]
    if MAIN.exists():
        flags, env = _to_azurite(stack, directory)
        place = directory / "blob"
        blob = ("--interval", "15s", *flags, *listening())
        peers.append(sidecar("sidecar, Blob, 15 s", place, *blob, environment="blob", **env))
    peers += [monitor(directory / f"monitor-{interval_s}", interval_s) for interval_s in (15, 1)]
    return peers, urls


def to_a_collector(stack: ExitStack, directory: Path) -> tuple[str, ...]:
    """Start a collector; return the flags of a sidecar that ships there."""
    collector = stack.enter_context(FakeCollector())
    collector.callers[TOKEN] = Caller(pod_uid=POD["POD_UID"])
    token = directory / "token"
    token.write_text(TOKEN)
    url = ("--collector-url", collector.url, "--collector-token-file", str(token))
    return ("--transport", "collector", *url, "--flush-interval", "1m")


def _a_node_meter(stack: ExitStack) -> tuple[str, ...]:
    meter = stack.enter_context(FakeKubelet())
    meter.documents["/v1/pod"] = node_meter_answer()
    meter.token = TOKEN
    return ("--node-meter-url", meter.url)


def _to_azurite(stack: ExitStack, directory: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    certificate = Certificate.made_in(directory)
    assertion = directory / "assertion"
    assertion.write_text("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2ln")
    entra = stack.enter_context(FakeEntra(certificate, assertion))
    azurite = stack.enter_context(Azurite(certificate))
    flags = (
        "--transport", "blob", "--blob-account-url", azurite.blob_endpoint,
        "--blob-container", azurite.make_container(), "--flush-interval", "1m",
    )  # fmt: skip
    return flags, {**entra.environment, "REQUESTS_CA_BUNDLE": str(certificate.cert_file)}


@contextlib.contextmanager
def _scraped(urls: Sequence[str]) -> Iterator[None]:
    over = threading.Event()

    def scrape() -> None:
        while True:
            for url in urls:
                with contextlib.suppress(OSError):  # it may not listen yet
                    urllib.request.urlopen(url, timeout=5).read()
            if over.wait(SCRAPE_S):
                return

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# -- start ----------------------------------------------------------------------------------------


@dataclass
class Starts:
    """Seconds to the first record, to the first window with something metered, and CPU time by then."""

    name: str
    record_s: list[float] = field(default_factory=list)
    window_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)


def starts(directory: Path, times: int) -> list[Starts]:
    """Start each so many times, turn by turn."""
    with ExitStack() as stack:
        ships = to_a_collector(stack, directory)
        made = {
            "sidecar": lambda place: sidecar("sidecar", place, "--interval", "1s", *ships),
            "codecarbon, start() and stop()": tracker,
        }
        results = [Starts(name) for name in made]
        for number in range(times):
            for result in results:
                _start(result, made[result.name](directory / f"{result.name}-{number}"))
    return results


def _start(result: Starts, peer: Peer) -> None:
    with Started(peer) as started:
        result.record_s.append(started.first_record_s())
        result.cpu_s.append(started.cpu_s)
        is_ours = peer.records.endswith(".ndjson")
        if is_ours:
            result.window_s.append(started.first_record_s(b'"event":"window"'))


# -- sizes ----------------------------------------------------------------------------------------


def sizes(directory: Path) -> dict[str, float]:
    """Return installed sizes in MB (10⁶ bytes), compiled code included."""
    return {
        "lean half, and what its image adds to the base": image_layer_mb(directory),
        "codecarbon 3.3.2, without pip": without_pip("codecarbon"),
    }


# -- all ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Results:
    """All that was measured."""

    starts: list[Starts]
    taken: list[Taken]
    growth: Growth
    sizes: dict[str, float]


def measured(wanted: Wanted) -> Results:
    def within(work: Callable[[Path], Any]) -> Any:  # noqa: ANN401 - whatever the work returns
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            return work(Path(directory))

    return Results(
        starts=within(lambda place: starts(place, wanted.starts)),
        taken=within(lambda place: beside_one_another(place, wanted.seconds)),
        growth=growth(wanted.days, **image_variables("sidecar")),
        sizes=within(sizes),
    )


def show(machine: Machine, results: Results, wanted: Wanted) -> None:
    print(f"Footprint, {machine}\n\nStart, median of {wanted.starts} (lowest–highest)")
    head = ("", "to the first record, s", "to the first window, s", "CPU s by then", "at 50m, s")
    print(table(head, map(_start_row, results.starts)))
    print(f"\nAfter {wanted.seconds:g} s beside one another, scraped each {SCRAPE_S:g} s")
    head = ("", "resident MiB", "proportional", "anonymous", "threads", "CPU s per minute")
    print(table(head, map(_taken_row, results.taken)))
    print(f"\n{results.growth}")
    print("\nInstalled")
    print(table(("", "MB"), [(name, f"{size:.1f}") for name, size in results.sizes.items()]))


def _start_row(row: Starts) -> tuple[str, ...]:
    cpu = Figure.of(row.cpu_s)
    small = Figure.of(value / SMALL_CORES for value in row.cpu_s)
    window = Figure.of(row.window_s).shown() if row.window_s else "–"
    return (row.name, Figure.of(row.record_s).shown(), window, cpu.shown(), small.shown())


def _taken_row(row: Taken) -> tuple[str, ...]:
    memory = row.memory
    amounts = (memory.resident_mib, memory.proportional_mib, memory.anonymous_mib)
    shown = [f"{amount:.1f}" for amount in amounts]
    return (row.name, *shown, str(memory.threads), f"{row.cpu_s_per_min:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.footprint", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, help="of running beside one another (default 60)")
    parser.add_argument("--starts", type=int, help="of each (default 5)")
    parser.add_argument("--days", type=float, help="of ticks under an own clock (default 0.5)")
    parser.add_argument("--full", action="store_true", help="600 s, 10 starts, 30 days")
    parser.add_argument("--json", action="store_true", help="figures for programs")
    given = parser.parse_args()
    seconds, count, days = (600.0, 10, 30.0) if given.full else (60.0, 5, 0.5)
    wanted = Wanted(given.seconds or seconds, given.starts or count, given.days or days)
    machine = this_machine()
    results = measured(wanted)
    if given.json:
        print(json.dumps({"machine": machine.as_json(), **asdict(results)}, indent=2))
    else:
        show(machine, results, wanted)


if __name__ == "__main__":
    main()
