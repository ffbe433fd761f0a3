"""What shipping costs: bytes per record, blob writes and their price, CPU per record and segment.

Blob writes are not computed but counted: the records of whole pods go through the real outbox, under a
clock of the benchmark, to a directory. One file there is one write operation (Put Blob) on Azure.
"""

import argparse
import json
import logging
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

from bench.figures import Figure, percentile, table
from bench.machine import Machine, file_system, memory_directory, this_machine
from bench.records import BOOT_ID, KINDS, POD_UID, WINDOW_S, Course, PodKind, recorded, simulate
from sidecar.outbox import SHIPPED_SIZE, Outbox
from sidecar.record import EmissionRecord, to_ndjson
from sidecar.segment import compressed
from sidecar.settings import Settings, load_settings
from sidecar.transport.directory import DirectoryTransport

FLUSH_S: Final = {"1 min": 60.0, "5 min": 300.0, "15 min": 900.0, "1 h": 3600.0}
DEFAULT_FLUSH_S: Final = Settings().flush_interval

WRITES_USD_PER_10K: Final = 0.065
"""Azure Blob Storage, hot tier, LRS: an order of magnitude; it differs by region and changes."""

STORED_USD_PER_GB_MONTH: Final = 0.02
"""As above. GB = 10⁹ bytes."""

PER_POD_HOURS: Final = 1000.0
SHORT_POD_HOURS: Final = 1.0
ANNOUNCED_S: Final = 30.0
"""Kubernetes' default grace period."""

CPU_RECORDS: Final = 120
CPU_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class Prices:
    """USD per 10,000 write operations, and per GB and month."""

    writes: float
    stored: float


def scratch() -> AbstractContextManager[str]:
    return tempfile.TemporaryDirectory(prefix="bench-", dir=memory_directory())


# -- 1: bytes ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecordSize:
    """Mean bytes per record of a window: as NDJSON, and compressed in segments of so much time."""

    kind: str
    ndjson: float
    compressed: dict[str, float]


def record_size(kind: PodKind, records: Sequence[EmissionRecord]) -> RecordSize:
    lines = [to_ndjson(record).encode() for record in records if record.event == "window"]
    sizes = {}
    for name, seconds in FLUSH_S.items():
        count = round(seconds / WINDOW_S)
        starts = range(0, len(lines) - count + 1, count)
        contents = [compressed(b"".join(lines[start : start + count])) for start in starts]
        sizes[name] = mean(map(len, contents)) / count
    return RecordSize(kind.name, mean(map(len, lines)), sizes)


def show_sizes(sizes: Sequence[RecordSize]) -> None:
    print(f"\nBytes per record, windows of {WINDOW_S:g} s; gzip in segments of so much time")
    rows = [
        (size.kind, f"{size.ndjson:,.0f}", *(f"{part:,.0f}" for part in size.compressed.values()))
        for size in sizes
    ]
    print(table(("pod with", "NDJSON", *(f"gzip {name}" for name in FLUSH_S)), rows))


# -- 2: writes -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shipped:
    """What arrived on the far side: segments, their compressed bytes, and the records in them."""

    segments: int
    size: int
    records: int


def shipped(records: Sequence[EmissionRecord], flush_s: float, seed: int) -> Shipped:
    """Hand a pod's records to an outbox at the times they were made, and count what arrives."""
    random.seed(seed)  # the outbox throws dice for when it ships first
    now_s = 0.0
    with scratch() as directory:
        far = Path(directory) / "far"
        far.mkdir()
        flags = {"volume": f"{directory}/volume", "flush_interval": f"{flush_s:g}s"}
        settings = load_settings({**flags, "ship_deadline": "60s"}, {})
        stem = f"{POD_UID}.{BOOT_ID}"
        outbox = Outbox(settings, stem, lambda: DirectoryTransport(far), lambda: now_s)
        outbox.open()
        outbox.release()
        for record in records:
            now_s += record.duration_s + record.gap_s
            outbox.append(record)
        state = outbox.close()
        if state.shipped_records != len(records):
            raise RuntimeError(
                f"{state.shipped_records} of {len(records)} records arrived: {state}"
            )
        return _arrived(far, len(records))


def _arrived(far: Path, records: int) -> Shipped:
    sizes = [path.stat().st_size for path in far.rglob("*.ndjson.gz")]
    return Shipped(len(sizes), sum(sizes), records)


@dataclass(frozen=True, slots=True)
class Writes:
    """Blob writes of pods, as counted, and for 1,000 pod-hours."""

    kind: str
    pod_hours: float
    flush: str
    pods: int
    writes_per_pod: float
    records_per_segment: float
    writes: float
    stored_gb: float
    writes_usd: float
    stored_usd_per_month: float


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that was simulated."""

    kind: PodKind
    hours: float
    records: Sequence[EmissionRecord]


def count_writes(pod: Pod, flush: str, pods: int, prices: Prices) -> Writes:
    """Ship the records of a pod as so many pods would, each with dice of its own."""
    rounds = [shipped(pod.records, FLUSH_S[flush], seed) for seed in range(pods)]
    segments, size = sum(one.segments for one in rounds), sum(one.size for one in rounds)
    scale = PER_POD_HOURS / (pods * pod.hours)
    return Writes(
        kind=pod.kind.name,
        pod_hours=pod.hours,
        flush=flush,
        pods=pods,
        writes_per_pod=segments / pods,
        records_per_segment=sum(one.records for one in rounds) / segments,
        writes=segments * scale,
        stored_gb=size * scale / 1e9,
        writes_usd=segments * scale / 10_000 * prices.writes,
        stored_usd_per_month=size * scale / 1e9 * prices.stored,
    )


def show_writes(writes: Sequence[Writes], prices: Prices) -> None:
    print(
        "\nBlob writes and stored bytes per 1,000 pod-hours, counted in a directory; "
        f"{prices.writes:g} USD per 10,000 writes, {prices.stored:g} USD per GB and month"
    )
    head = (
        "pod with", "pod runs", "flush", "per pod", "records each", "writes", "MB stored",
        "USD writes", "USD/month stored",
    )  # fmt: skip
    rows = [
        (
            row.kind,
            f"{row.pod_hours:g} h",
            f"{row.flush}{'*' if FLUSH_S[row.flush] == DEFAULT_FLUSH_S else ' '}",
            f"{row.writes_per_pod:.1f}",
            f"{row.records_per_segment:.1f}",
            f"{row.writes:,.0f}",
            f"{row.stored_gb * 1000:.1f}",
            f"{row.writes_usd:.4f}",
            f"{row.stored_usd_per_month:.5f}",
        )
        for row in writes
    ]
    print(table(head, rows))
    print(
        f"  * the default. A segment is closed at {SHIPPED_SIZE // 1024} KiB of NDJSON, too, however "
        "long the flush interval."
    )


def end_writes(announced_s: float) -> int:
    """Count the writes of a pod of an hour whose end is announced so long before, by the real agent."""
    random.seed(0)
    with scratch() as directory:
        far = Path(directory) / "far"
        far.mkdir()
        agent = simulate(
            KINDS[0],
            Course(SHORT_POD_HOURS, announced_s),
            Path(directory),
            open_transport=lambda: DirectoryTransport(far),
        )
        state = agent.state()
        if state is None or state.unshipped_records:
            raise RuntimeError(f"not all arrived: {state}")
        return _arrived(far, state.shipped_records).segments


# -- 3: CPU --------------------------------------------------------------------------------------


Times = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU time of the metering thread and wall time, in seconds, over several rounds."""

    kind: str
    append_cpu_s: Figure
    append_wall_s: Figure
    append_wall_p99_s: Figure
    close_cpu_s: Figure


def spent(pods: Sequence[Pod], place: Path) -> list[Spent]:
    """Time the same records of each pod, in turns, so that other work hits all alike."""
    rounds = [
        [_spent_once(pod.records[:CPU_RECORDS], place) for pod in pods] for _ in range(CPU_ROUNDS)
    ]
    return [
        _spent_of(pod, of_pod) for pod, of_pod in zip(pods, zip(*rounds, strict=True), strict=True)
    ]


def _spent_of(pod: Pod, rounds: Sequence[tuple[Times, Times]]) -> Spent:
    appends, closes = [one[0] for one in rounds], [one[1] for one in rounds]
    append_cpu_s = [median(cpu_s for cpu_s, _ in one) for one in appends]
    close_cpu_s = [median(cpu_s for cpu_s, _ in one) for one in closes]
    return Spent(
        pod.kind.name,
        Figure.of(append_cpu_s),
        Figure.of(median(wall_s for _, wall_s in one) for one in appends),
        Figure.of(percentile([wall_s for _, wall_s in one], 0.99) for one in appends),
        Figure.of(both - append for both, append in zip(close_cpu_s, append_cpu_s, strict=True)),
    )


def _spent_once(records: Sequence[EmissionRecord], place: Path) -> tuple[Times, Times]:
    """Return CPU and wall seconds of the appends, and of those that closed a segment, too."""
    now_s = 0.0
    appends, closes = Times(), Times()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=place) as directory:
        far = Path(directory) / "far"
        far.mkdir()
        settings = load_settings({"volume": f"{directory}/volume"}, {})
        stem = f"{POD_UID}.{BOOT_ID}"
        outbox = Outbox(settings, stem, lambda: DirectoryTransport(far), lambda: now_s)
        outbox.open()
        outbox.release()
        for record in records:
            now_s += record.duration_s
            taken = _timed(lambda record=record: outbox.append(record))  # type: ignore[misc]
            (appends if outbox.journal.path else closes).append(taken)
        outbox.close()
    return appends, closes


def _timed(call: Callable[[], None]) -> tuple[float, float]:
    wall_s, cpu_s = time.perf_counter(), time.thread_time()
    call()
    return time.thread_time() - cpu_s, time.perf_counter() - wall_s


def show_spent(spents: Sequence[Spent], place: Path) -> None:
    print(
        f"\nTime per record appended, with fsync on {file_system(place)}, and per segment closed "
        f"(5 min: 20 records);\nmedian of {CPU_ROUNDS} rounds (lowest–highest)"
    )
    rows = [
        (
            row.kind,
            row.append_cpu_s.shown(1e6),
            row.append_wall_s.shown(1e6),
            row.append_wall_p99_s.shown(1e3),
            row.close_cpu_s.shown(1e3),
        )
        for row in spents
    ]
    head = ("pod with", "append: CPU µs", "wall µs, median", "wall ms, p99", "close: CPU ms")
    print(table(head, rows))


# -- all -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for. `place` is where fsync is timed."""

    hours: float
    pods: int
    prices: Prices
    place: Path


@dataclass(frozen=True, slots=True)
class Results:
    """All that was measured."""

    sizes: list[RecordSize]
    writes: list[Writes]
    announced: dict[str, int]
    spent: list[Spent]


def measured(wanted: Wanted) -> Results:
    pods = [_pod(kind, wanted.hours) for kind in KINDS]
    short = [_pod(kind, SHORT_POD_HOURS) for kind in KINDS]
    default = next(name for name, seconds in FLUSH_S.items() if seconds == DEFAULT_FLUSH_S)
    writes = [
        count_writes(pod, flush, wanted.pods, wanted.prices) for pod in pods for flush in FLUSH_S
    ]
    writes += [count_writes(pod, default, 4 * wanted.pods, wanted.prices) for pod in short]
    return Results(
        sizes=[record_size(pod.kind, pod.records) for pod in pods],
        writes=writes,
        announced={f"{seconds:g}": end_writes(seconds) for seconds in (0.0, ANNOUNCED_S)},
        spent=spent(pods, wanted.place),
    )


def _pod(kind: PodKind, hours: float) -> Pod:
    with scratch() as directory:
        return Pod(kind, hours, recorded(kind, hours, Path(directory)))


def show(machine: Machine, results: Results, wanted: Wanted) -> None:
    print(f"Shipping, {machine}")
    show_sizes(results.sizes)
    show_writes(results.writes, wanted.prices)
    plain, announced = results.announced["0"], results.announced[f"{ANNOUNCED_S:g}"]
    print(
        f"  An end announced {ANNOUNCED_S:g} s before it comes costs {announced - plain} writes more "
        f"({announced} instead of {plain} in a pod of {SHORT_POD_HOURS:g} h)."
    )
    show_spent(results.spent, wanted.place)


def as_json(machine: Machine, results: Results, wanted: Wanted) -> dict[str, Any]:
    return {
        "machine": machine.as_json(),
        "prices_usd": {
            "per_10k_writes": wanted.prices.writes,
            "per_gb_month": wanted.prices.stored,
        },
        "fsync_on": file_system(wanted.place),
        "writes_per_pod_by_seconds_announced": results.announced,
        "bytes_per_record": [asdict(item) for item in results.sizes],
        "per_1000_pod_hours": [asdict(item) for item in results.writes],
        "spent": [asdict(item) for item in results.spent],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.shipping", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.add_argument("--hours", type=float, default=8.0, help="length of the pods (default 8)")
    parser.add_argument("--pods", type=int, default=3, help="pods shipped per row (default 3)")
    parser.add_argument(
        "--price", type=float, default=WRITES_USD_PER_10K, metavar="USD",
        help=f"of 10,000 write operations; look it up for your region (default {WRITES_USD_PER_10K}, "
        "hot tier LRS, an order of magnitude)",
    )  # fmt: skip
    parser.add_argument(
        "--storage-price", type=float, default=STORED_USD_PER_GB_MONTH, metavar="USD",
        help=f"of a GB stored for a month (default {STORED_USD_PER_GB_MONTH}, as above)",
    )  # fmt: skip
    parser.add_argument(
        "--directory", type=Path, default=Path(tempfile.gettempdir()), metavar="DIR",
        help="on the disk whose fsync is timed (default: that of temporary files)",
    )  # fmt: skip
    given = parser.parse_args()
    if given.hours < 1 or given.pods < 1 or not given.directory.is_dir():
        parser.error("--hours and --pods are 1 or more, --directory is there")
    logging.disable(logging.CRITICAL)
    wanted = Wanted(
        given.hours, given.pods, Prices(given.price, given.storage_price), given.directory
    )
    machine = this_machine()
    results = measured(wanted)
    if given.json:
        print(json.dumps(as_json(machine, results, wanted), indent=2))
    else:
        show(machine, results, wanted)


if __name__ == "__main__":
    main()
