"""What a training loop loses beside the sidecar: its rate with it over its rate without, turn by turn.

    make footprint && python -m bench.slowdown [--full]

Two loops, each a process: `cpu` reckons in one thread; `disk` writes a file of 1 MiB, syncs it and reads
it back, on the disk that the sidecar's volume is on. Loop and sidecar share one core, pinned: so all
that the sidecar takes is taken from the loop, as on a node whose cores are all busy. Each pair is one
stretch without and one with a sidecar that meters already, in alternating order; it ships to a collector
on another core. The interval is that of the mean of the pairs' ratios, 95 %, by Student's t.
"""

import argparse
import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Final

from bench.figures import table
from bench.footprint import to_a_collector
from bench.machine import file_system, this_machine
from bench.peers import Started, python_of, sidecar

SETTLED_S: Final = 2.0
CONFIDENCE: Final = 0.95
_CLOCKED: Final = """
import os, sys, time
seconds, place = float(sys.argv[1]), sys.argv[2]
def work():
    {work}
for _ in range(3):
    work()
begun, rounds = time.perf_counter(), 0
while (passed := time.perf_counter() - begun) < seconds:
    work()
    rounds += 1
print(rounds / passed)
"""
LOOPS: Final = {
    "cpu": _CLOCKED.format(work="sum(i * i for i in range(20_000))"),
    "disk": _CLOCKED.format(
        work="""
    with open(place, "wb") as file:
        file.write(bytes(1 << 20)); file.flush(); os.fsync(file.fileno())
    with open(place, "rb") as file:
        file.read()"""
    ),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    pairs: int
    seconds: float
    intervals: tuple[str, ...]


@dataclass
class Pairs:
    """Rates of a loop without and with a sidecar of some interval, and the CPU part it took."""

    loop: str
    interval: str
    ratios: list[float] = field(default_factory=list)
    cpu_part: list[float] = field(default_factory=list)

    @property
    def slower(self) -> float:
        """Mean part of the rate that is lost."""
        return 1 - fmean(self.ratios)

    @property
    def within(self) -> float:
        """Half the width of the interval of `slower`; infinite for a single pair."""
        count = len(self.ratios)
        if count < 2:
            return math.inf
        return student_t(count - 1) * stdev(self.ratios) / math.sqrt(count)

    def row(self) -> tuple[str, ...]:
        slower = f"{self.slower:+.2%} ± {self.within:.2%}"
        return (
            self.loop,
            self.interval,
            str(len(self.ratios)),
            slower,
            f"{fmean(self.cpu_part):.3%}",
        )


def student_t(degrees: int, confidence: float = CONFIDENCE) -> float:
    """Return the two-sided quantile of Student's t, within 1 % from 4 degrees of freedom on.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5, three terms.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def measured(wanted: Wanted, place: Path, core: int) -> list[Pairs]:
    """Measure every loop beside a sidecar of every interval."""
    results = [Pairs(loop, interval) for loop in LOOPS for interval in wanted.intervals]
    with ExitStack() as stack:
        ships = to_a_collector(stack, place)
        for number in range(wanted.pairs):
            for result in results:
                volume = place / f"{result.loop}-{result.interval}-{number}"
                flags = ("--interval", result.interval, *ships)
                turn = _Turn(volume, flags, wanted.seconds, core)
                add_pair(result, turn, with_first=number % 2 > 0)
    return results


@dataclass(frozen=True, slots=True)
class _Turn:
    volume: Path
    flags: Sequence[str]
    seconds: float
    core: int


def add_pair(result: Pairs, turn: _Turn, *, with_first: bool) -> None:
    """Run the loop without and with a sidecar, or the other way round."""
    rates: dict[bool, float] = {}
    for is_with in (with_first, not with_first):
        if not is_with:
            rates[False] = rate_of(result.loop, turn)
            continue
        with Started(sidecar("sidecar", turn.volume, *turn.flags)) as started:
            os.sched_setaffinity(started.pid, {turn.core})
            started.wait_until_ready()
            for thread in Path(f"/proc/{started.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {turn.core})
            time.sleep(SETTLED_S)
            before_s = started.cpu_s
            rates[True] = rate_of(result.loop, turn)
            result.cpu_part.append((started.cpu_s - before_s) / turn.seconds)
    result.ratios.append(rates[True] / rates[False])


def rate_of(loop: str, turn: _Turn) -> float:
    """Run a loop for so many seconds, and return its rounds per second."""
    command = [
        "taskset", "-c", str(turn.core), python_of("lean"), "-S", "-c", LOOPS[loop],
        str(turn.seconds), f"{turn.volume}.loop",
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.slowdown", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--pairs", type=int, help="of each loop and interval (default 5)")
    parser.add_argument("--seconds", type=float, help="of each stretch (default 5)")
    parser.add_argument("--intervals", default="15s,1s", help="of the sidecars (default 15s,1s)")
    parser.add_argument("--full", action="store_true", help="20 pairs of 30 s: an hour and a half")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument(
        "--directory", type=Path, help="on the disk to measure (default: temporary)"
    )
    parser.add_argument("--json", action="store_true", help="figures for programs")
    given = parser.parse_args()
    pairs, seconds = (20, 30.0) if given.full else (5, 5.0)
    intervals = tuple(given.intervals.split(","))
    wanted = Wanted(given.pairs or pairs, given.seconds or seconds, intervals)
    machine = this_machine()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=given.directory) as directory:
        place = Path(directory)
        disk = file_system(place)
        results = measured(wanted, place, given.core)
    if given.json:
        rows = [{**asdict(one), "slower": one.slower, "within": one.within} for one in results]
        print(json.dumps({"machine": machine.as_json(), "disk": disk, "pairs": rows}, indent=2))
        return
    print(
        f"Slow-down beside the sidecar, {machine}\nstretches of {wanted.seconds:g} s on one core, "
        f"disk: {disk}"
    )
    head = ("loop", "windows", "pairs", "slower by", "CPU of the sidecar on that core")
    print(table(head, (one.row() for one in results)))


if __name__ == "__main__":
    main()
