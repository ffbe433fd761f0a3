"""What is left of days of metering: memory, threads and files, under a clock of the benchmark.

    python -m bench.days 30

One pod with 8 GPUs and windows of 15 s meters, ships to a directory, and is scraped once a minute; all
of it is the agent's own, but what it reads.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

from bench.machine import memory_directory
from bench.records import KINDS, WINDOW_S, Course, simulate
from sidecar.agent import Agent
from sidecar.exporters.energy_metrics import energy_samples
from sidecar.exporters.prometheus import prometheus_text
from sidecar.outbox import samples
from sidecar.transport.directory import DirectoryTransport

SCRAPE_S: Final = 60.0
EARLY: Final = (0.05, 0.10)
LATE: Final = (0.95, 1.0)


@dataclass(frozen=True, slots=True)
class Growth:
    """Resident memory early (median of 5 to 10 % of the time) and late (last 5 %); what is open."""

    days: float
    ticks: int
    early_mib: float
    late_mib: float
    threads: int
    files: int
    tick_cpu_ms: float

    def __str__(self) -> str:
        return (
            f"{self.days:g} days, {self.ticks:,} ticks with 8 GPUs: {self.early_mib:.2f} MiB early, "
            f"{self.late_mib:.2f} MiB late, {self.late_mib - self.early_mib:+.2f}; {self.threads} "
            f"threads and {self.files} files at the end; {self.tick_cpu_ms:.2f} ms CPU a tick, fakes "
            "included"
        )


def growth(days: float, **variables: str) -> Growth:
    """Let so many days pass in a process of its own, with these variables besides."""
    command = [sys.executable, "-m", "bench.days", str(days), "--json"]
    env = {**os.environ, **variables}
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return Growth(**json.loads(run.stdout.splitlines()[-1]))


def lived(days: float) -> Growth:
    """Let so many days pass in this process."""
    watched = _Watched(days)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=memory_directory()) as directory:
        far = Path(directory) / "far"
        far.mkdir()
        course = Course(days * 24, watch=watched)
        begun_s = time.process_time()
        simulate(KINDS[2], course, Path(directory), open_transport=lambda: DirectoryTransport(far))
        used_s = time.process_time() - begun_s
    ticks = round(days * 86400 / WINDOW_S)
    return Growth(
        days=days,
        ticks=ticks,
        early_mib=watched.mib(*EARLY),
        late_mib=watched.mib(*LATE),
        threads=threading.active_count(),
        files=len(list(Path("/proc/self/fd").iterdir())),
        tick_cpu_ms=used_s / ticks * 1e3,
    )


class _Watched:
    """Scrapes an agent, and notes the memory of this process."""

    def __init__(self, days: float) -> None:
        self._again_s = 0.0
        # All of it there from the start: what notes the growth must not grow.
        self._seen_mib = array("d", bytes(8 * (int(days * 86400 / SCRAPE_S) + 2)))
        self._count = 0

    def __call__(self, agent: Agent, passed_s: float) -> None:
        if passed_s < self._again_s:
            return
        self._again_s = passed_s + SCRAPE_S
        standing, state = agent.standing, agent.state()
        energy = energy_samples(standing) if standing else ()
        prometheus_text((*energy, *(samples(state) if state else ())))
        self._seen_mib[self._count] = _own_mib()
        self._count += 1

    def mib(self, begin: float, end: float) -> float:
        seen = self._seen_mib[: self._count]
        return median(seen[int(self._count * begin) : int(self._count * end) + 1])


def _own_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1024**2


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.days", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("days", type=float)
    parser.add_argument("--json", action="store_true", help="figures for programs")
    given = parser.parse_args(argv)
    past = lived(given.days)
    print(json.dumps(asdict(past)) if given.json else past)


if __name__ == "__main__":
    main()
