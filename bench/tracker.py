"""What the Python API costs a program, beside CodeCarbon in the same run.

    python -m bench.tracker

Each round runs every side in a fresh interpreter, turn by turn. `import` and `first call` are of a
program that decorates one function, which does nothing; `next call` are the same function's later calls.
`work` is the CPU time of a fixed computation in Python within a tracker, over the same without one: what
metering takes of the program's CPU. `mark` is a phase entered and left; the nearest that CodeCarbon
has is a task started and stopped. Both run offline, in the country FRA, and write their file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure, table
from bench.machine import this_machine
from tests.e2e.commands import Running, environment

MARKS: Final = 20_000
TASKS: Final = 20
CALLS: Final = 5
WORK_S: Final = 8.0

_COMMON: Final = """
import json, resource, sys, time

def now():
    times = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum((times.ru_utime, times.ru_stime, children.ru_utime, children.ru_stime))
    return time.perf_counter(), cpu

def since(before):
    after = now()
    return after[0] - before[0], after[1] - before[1]

def work(rounds):
    for _ in range(rounds):
        sum(i * i for i in range(1000))

def rounds_in(seconds):
    begun, rounds = time.process_time(), 0
    while time.process_time() - begun < seconds:
        work(100)
        rounds += 100
    return rounds

def of_process(function):
    begun = time.process_time()
    function()
    return time.process_time() - begun

def quotient(tracked, seconds):
    "Median over pairs, without and with a tracker that has begun: other work meets both."
    rounds = rounds_in(seconds / 8)

    def timed():
        time.sleep(0.5)
        return of_process(lambda: work(rounds))

    def within():
        with tracked():
            return timed()

    quotients = []
    for turn in range(4):
        first, second = (timed, within) if turn % 2 else (within, timed)
        one, other = first(), second()
        quotients.append(other / one if turn % 2 else one / other)
    return sum(sorted(quotients)[1:3]) / 2

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

marks, tasks, calls, work_s = json.loads(sys.argv[1])
result = {}
"""

_TRACKED: Final = """
before = now()
{imports}
result["import"] = since(before)

@track_emissions(offline=True, country_iso_code="FRA"{options})
def nothing():
    pass

before = now(); nothing(); result["first"] = since(before)
before = now()
for _ in range(calls):
    nothing()
result["next"] = [value / calls for value in since(before)]
tracker = OfflineEmissionsTracker(country_iso_code="FRA"{options})
result["work"] = quotient(lambda: tracker_of(), work_s)
"""

_OURS: Final = (
    _COMMON
    + _TRACKED.format(
        imports="from sidecar import OfflineEmissionsTracker, phase, track_emissions", options=""
    ).replace("lambda: tracker_of()", 'lambda: OfflineEmissionsTracker(country_iso_code="FRA")')
    + """
def marked():
    before = now()
    for _ in range(marks):
        with phase("train"):
            pass
    return [value / marks for value in since(before)]

result["mark, no tracker"] = marked()
with OfflineEmissionsTracker(country_iso_code="FRA"):
    result["mark, in a tracker"] = marked()
with OfflineEmissionsTracker(country_iso_code="FRA") as tracker:
    before = now()
    for _ in range(tasks):
        tracker.start_task("task"); tracker.stop_task()
    result["task"] = [value / tasks for value in since(before)]
result["peak_mib"] = peak_mib()
print(json.dumps(result))
"""
)

_THEIRS: Final = (
    _COMMON
    + _TRACKED.format(
        imports="from codecarbon import OfflineEmissionsTracker, track_emissions",
        options=', log_level="critical"',
    ).replace(
        "lambda: tracker_of()",
        'lambda: OfflineEmissionsTracker(country_iso_code="FRA", log_level="critical")',
    )
    + """
tracker = OfflineEmissionsTracker(country_iso_code="FRA", log_level="critical")
before = now()
for _ in range(tasks):
    tracker.start_task("task"); tracker.stop_task()
result["task"] = [value / tasks for value in since(before)]
tracker.stop()
result["peak_mib"] = peak_mib()
print(json.dumps(result))
"""
)

_BESIDE: Final = (
    _COMMON
    + """
from sidecar import phase
with phase("warm"):
    time.sleep(1.5)
before = now()
for _ in range(marks):
    with phase("train"):
        pass
result["mark, beside a sidecar"] = [value / marks for value in since(before)]
print(json.dumps(result))
"""
)


@dataclass
class Side:
    """One way to meter, and what was measured of it, round by round: wall and CPU seconds."""

    name: str
    source: str
    wall_s: dict[str, list[float]] = field(default_factory=dict)
    cpu_s: dict[str, list[float]] = field(default_factory=dict)
    work: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)

    def add(self, measured: dict[str, Any]) -> None:
        self.work += [measured.pop("work")] if "work" in measured else []
        self.peak_mib += [measured.pop("peak_mib")] if "peak_mib" in measured else []
        for name, (wall_s, cpu_s) in measured.items():
            self.wall_s.setdefault(name, []).append(wall_s)
            self.cpu_s.setdefault(name, []).append(cpu_s)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "wall_s": {name: Figure.of(of).as_json() for name, of in self.wall_s.items()},
            "cpu_s": {name: Figure.of(of).as_json() for name, of in self.cpu_s.items()},
            "work": Figure.of(self.work).as_json() if self.work else None,
            "peak_mib": Figure.of(self.peak_mib).as_json() if self.peak_mib else None,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tracker", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=WORK_S, help="of work, each round and side"
    )
    parser.add_argument("--json", action="store_true", help="figures for programs")
    given = parser.parse_args()
    machine = this_machine()
    sides = [Side("emissions-sidecar", _OURS), Side("CodeCarbon 3.3.2", _THEIRS)]
    beside = Side("emissions-sidecar", _BESIDE)
    sizes = json.dumps([MARKS, TASKS, CALLS, given.seconds])
    for _ in range(given.rounds):
        for side in sides:
            side.add(measured(side.source, sizes))
        beside.add(measured_beside_a_sidecar(sizes))
    sides[0].wall_s |= beside.wall_s
    sides[0].cpu_s |= beside.cpu_s
    if given.json:
        rows = [side.as_json() for side in sides]
        print(json.dumps({"machine": machine.as_json(), "sides": rows}, indent=2))
    else:
        print(machine)
        print(table(*shown(sides)))


def measured(source: str, sizes: str, **changes: str) -> dict[str, Any]:
    """Run one side in a fresh interpreter and a directory of its own."""
    env = environment(EMISSIONS_IMDS_ENDPOINT="none", EMISSIONS_CONFIG="none", **changes)
    env.setdefault("EMISSIONS_SIDECAR_URL", "none")
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        run = subprocess.run(
            [sys.executable, "-c", source, sizes],
            cwd=directory, env=env, capture_output=True, text=True, check=True,
        )  # fmt: skip
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def measured_beside_a_sidecar(sizes: str) -> dict[str, Any]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        running = stack.enter_context(
            Running(
                "run", "--volume", directory, "--listen", "127.0.0.1:0",
                log=directory / "log", env=environment(POD_UID="bench", EMISSIONS_IMDS_ENDPOINT="none"),
            )
        )  # fmt: skip
        running.until(lambda: "listening on" in running.log)
        url = running.log.partition("listening on ")[2].split()[0].rstrip('",}')
        figures = measured(_BESIDE, sizes, EMISSIONS_SIDECAR_URL=url)
        running.end()
    return figures


_ROWS: Final = (
    ("import", "import, ms", 1e3),
    ("first", "first call, ms", 1e3),
    ("next", "next call, ms", 1e3),
    ("mark, no tracker", "phase, no tracker, µs", 1e6),
    ("mark, in a tracker", "phase, in a tracker, µs", 1e6),
    ("mark, beside a sidecar", "phase, beside a sidecar, µs", 1e6),
    ("task", "task, ms", 1e3),
)


def shown(sides: Sequence[Side]) -> tuple[list[str], list[list[str]]]:
    head = ["median (low–high)"]
    for side in sides:
        head += [f"{side.name}, wall", "CPU"]
    rows = []
    for name, text, scale in _ROWS:
        row = [text]
        for side in sides:
            for times in (side.wall_s, side.cpu_s):
                row += [Figure.of(times[name]).shown(scale) if name in times else "–"]
        rows.append(row)
    for text, of in (("work within / without, CPU", "work"), ("peak memory, MiB", "peak_mib")):
        row = [text]
        for side in sides:
            values = getattr(side, of)
            row += ["", Figure.of(values).shown() if values else "–"]
        rows.append(row)
    return head, rows


if __name__ == "__main__":
    main()
