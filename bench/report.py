"""How long a report takes, and how much memory, beside a bare query of the same Parquet and pandas.

Generated records of a fleet (`bench.report_records`), compacted by the command's own code. Each
figure is of a process of its own, so that its peak of memory is its own, and of the second of two runs,
so that files are in the page cache for all:

- `report`: opens the dataset, settles what is to be settled, makes all tables, factors and balances. Of
  compacted days it reads the sums by the hour that compaction stored.
- `report, from records`: the same where there are none such (those stored are of another version); it
  reads the records.
- `report, with pages`: the whole command: model, CSV, Parquet, BoAmps and HTML, too.
- `bare DuckDB, all groups`: one query of the records' Parquet: the same sums and counts of runs and pods
  by the same groups (GROUPING SETS), with the same limit of memory. No settling, no factors, no times.
- `bare DuckDB, one group`: the most naive one, `SELECT project, sum(…), sum(…) … GROUP BY project`.
- `pandas`: `read_parquet` of the columns that are needed, and `groupby` for each of the groups, as
  people do it. Its memory is limited, so that it ends and not the machine.

Compaction is told, too: it is where the time for the sums went.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest import mock

from bench.figures import table, three_digits
from bench.machine import this_machine
from bench.report_records import COMPACTED, Fleet, made
from sidecar.report.dataset import Dataset, Resources, connect
from sidecar.report.duckdb_engine import DuckDBEngine
from sidecar.report.engine import totals
from sidecar.report.making import Asked, make_report
from sidecar.report.measures import GROUPINGS
from sidecar.report.places import DirectoryPlace
from sidecar.report.selection import Selection

GOAL_RATIO: Final = 1.5
GOAL_MIB: Final = 2048.0
COMPACTED_DAYS: Final = 2
"""So many days are compacted by the command's own code, the others are moved ones."""

PANDAS_BYTES_MAX: Final = 12 * 1024**3
"""Of address space."""

_SUMS: Final = (
    "duration_s", "gap_s", "cpu_energy_kwh", "ram_energy_kwh", "gpu_energy_kwh", "energy_kwh",
    "facility_energy_kwh", "water_l", "emissions_g", "emissions_low_g", "emissions_high_g",
    "embodied_g", "cpu_reserved_idle_energy_kwh", "gpu_reserved_idle_energy_kwh", "gpu_hours",
)  # fmt: skip
_COLUMNS_OF_KEYS: Final = {"run": "run_id"}
_GROUPS: Final = [
    [_COLUMNS_OF_KEYS.get(key, key) for key in keys]
    for keys in GROUPINGS.values()
    if "phase" not in keys  # no column of a record
]
_KEYS: Final = sorted({key for keys in _GROUPS for key in keys})


@dataclass(frozen=True, slots=True)
class Taken:
    """What one process took; None where it did not end."""

    seconds: float | None
    peak_mib: float | None
    energy_kwh: float | None = None


# -- what is measured ----------------------------------------------------------------------------------


def report(root: Path) -> float:
    """Make all tables; returns the energy, in kWh."""
    with Dataset.open([DirectoryPlace(root)]) as dataset:
        found = totals(dataset, Selection(), DuckDBEngine(dataset.connection))
        (row,) = found.tables.first("total")
        found.tables.close()
    return row.measures.energy_kwh or 0.0


def report_from_records(root: Path) -> float:
    """Do the same where the stored sums are of another version."""
    with mock.patch("sidecar.report.commits.SUMS_VERSION", -1):
        return report(root)


def report_with_pages(root: Path) -> float:
    """Do what the command does."""
    made_report = make_report([DirectoryPlace(root)], Asked(now=datetime.now(UTC)))
    with TemporaryDirectory(dir=root) as directory:
        made_report.write(Path(directory))
    energy_kwh: float = made_report.model["total"]["energy_kwh"]
    return energy_kwh


def bare_all_groups(root: Path) -> float:
    """Let DuckDB group the records in one query."""
    sets = ", ".join(f"({', '.join(keys)})" for keys in _GROUPS)
    names = ", ".join(_KEYS)
    sums = ", ".join(f"sum({name}) AS {name}" for name in _SUMS)
    query = (
        f"SELECT {names}, grouping({names}) AS which, count(*), "
        f"count(DISTINCT run_id), count(DISTINCT pod_key), min(start_us), max(end_us), {sums} "
        f"FROM read_parquet('{_parts(root)}') GROUP BY GROUPING SETS ({sets})"
    )
    with _bare(root) as connection:
        connection.execute(f"COPY ({query}) TO '{root / 'bare.parquet'}' (FORMAT parquet)")
        found = f"read_parquet('{root / 'bare.parquet'}')"
        rows = connection.execute(
            f"SELECT energy_kwh FROM {found} WHERE which = (SELECT max(which) FROM {found})"
        ).fetchall()
    (root / "bare.parquet").unlink()
    return float(rows[0][0])


def bare_one_group(root: Path) -> float:
    """Let DuckDB add up by project alone."""
    with _bare(root) as connection:
        rows = connection.execute(
            "SELECT project, sum(energy_kwh), sum(emissions_g) "
            f"FROM read_parquet('{_parts(root)}') GROUP BY project"
        ).fetchall()
    return float(sum(energy_kwh for _, energy_kwh, _ in rows))


def with_pandas(root: Path) -> float:
    """Group as people do it in a notebook."""
    import pandas as pd  # noqa: PLC0415 - nothing else here pays for it

    resource.setrlimit(resource.RLIMIT_AS, (PANDAS_BYTES_MAX, PANDAS_BYTES_MAX))
    paths = sorted((root / COMPACTED).glob("project=*/*/*.parquet"))
    columns = list(dict.fromkeys([*_KEYS, "run_id", "pod_key", *_SUMS]))
    frame = pd.concat([pd.read_parquet(path, columns=columns, partitioning=None) for path in paths])
    energy_kwh = float(frame["energy_kwh"].sum())
    for keys in filter(None, _GROUPS):
        groups = frame.groupby(keys, dropna=False)
        groups[list(_SUMS)].sum()
        groups[["run_id", "pod_key"]].nunique()
    return energy_kwh


MEASURED: Final[dict[str, Callable[[Path], float]]] = {
    "report": report,
    "report, from records": report_from_records,
    "report, with pages": report_with_pages,
    "bare DuckDB, all groups": bare_all_groups,
    "bare DuckDB, one group": bare_one_group,
    "pandas": with_pandas,
}


@contextmanager
def _bare(root: Path) -> Iterator[Any]:
    with TemporaryDirectory(dir=root) as directory:
        connection = connect(Path(directory), Resources())
        try:
            yield connection
        finally:
            connection.close()


def _parts(root: Path) -> str:
    return f"{root}/{COMPACTED}project=*/*/*.parquet"


# -- processes -----------------------------------------------------------------------------------------


def taken(name: str, root: Path, runs: int) -> Taken:
    """Run one of `MEASURED` in processes of its own; of the last one what it took."""
    command = [sys.executable, "-m", "bench.report", "--child", name, "--directory", str(root)]
    for _ in range(runs):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines()
            print(f"    {name}: {said[-1] if said else f'code {done.returncode}'}", flush=True)
            return Taken(None, None)
    return Taken(**json.loads(done.stdout.splitlines()[-1]))


def _child(name: str, root: Path) -> int:
    begun = time.perf_counter()
    energy_kwh = MEASURED[name](root)
    seconds = time.perf_counter() - begun
    print(json.dumps(asdict(Taken(seconds, _peak_mib(), energy_kwh))))
    return 0


def _peak_mib() -> float:
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) / 1024 if match else 0.0


def measured(root: Path, fleet: Fleet, runs: int, skipped: Sequence[str]) -> dict[str, Any]:
    """Make a fleet's records, where they are not there yet, and measure all."""
    done = root / "made.json"
    if not done.exists():
        taken_s = [seconds for _, seconds in made(root, fleet, COMPACTED_DAYS) if seconds]
        records = fleet.records * len(taken_s) // fleet.days
        compaction = {"seconds": sum(taken_s), "records": records, "peak_mib": _peak_mib()}
        done.write_text(json.dumps(compaction))
    size = sum(path.stat().st_size for path in (root / COMPACTED).rglob("*.parquet"))
    print(f"  {fleet.records:,} records, {size / 1e9:.2f} GB of Parquet", flush=True)
    found = {name: taken(name, root, runs) for name in MEASURED if name not in skipped}
    _print(found, json.loads(done.read_text()))
    return {
        "records": fleet.records,
        "bytes": size,
        "compaction": json.loads(done.read_text()),
        "taken": {name: asdict(item) for name, item in found.items()},
    }


def _print(found: dict[str, Taken], compaction: dict[str, float]) -> None:
    bare = found["bare DuckDB, all groups"].seconds if "bare DuckDB, all groups" in found else None
    rows = [
        (
            name,
            _shown(item.seconds),
            _shown(item.seconds / bare if item.seconds and bare else None),
            _shown(item.peak_mib),
        )
        for name, item in found.items()
    ]
    print(table(("", "s", "× bare, all groups", "peak MiB"), rows))
    per_million = compaction["seconds"] * 1e6 / compaction["records"]
    print(
        f"  {compaction['records']:,.0f} records compacted in {compaction['seconds']:.0f} s "
        f"({per_million:.1f} s a million), making records included at most "
        f"{compaction['peak_mib']:.0f} MiB",
        flush=True,
    )
    energies = {item.energy_kwh for item in found.values() if item.energy_kwh}
    print(f"  energy, kWh: {', '.join(three_digits(item) for item in sorted(energies))}\n")


def _shown(value: float | None) -> str:
    return "–" if value is None else three_digits(value)


def _is_met(result: dict[str, Any]) -> bool:
    """Tell whether what was measured meets its goal; of what was skipped nothing is asked."""
    found = result["taken"]
    bare = found.get("bare DuckDB, all groups", {}).get("seconds")
    ours = [found[name] for name in ("report", "report, from records") if name in found]
    return all(
        item["seconds"] is not None
        and (bare is None or item["seconds"] <= GOAL_RATIO * bare)
        and item["peak_mib"] <= GOAL_MIB
        for item in ours
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=float, nargs="+", default=[1e6], help="1e6 1e7 1e8")
    parser.add_argument("--directory", type=Path, help="where records are made, and stay")
    parser.add_argument("--runs", type=int, default=2, help="processes of each, the last counts")
    parser.add_argument("--skip", action="append", default=[], choices=list(MEASURED))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=list(MEASURED), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        return _child(options.child, options.directory)
    machine = this_machine()
    print(machine)
    results = []
    with TemporaryDirectory(prefix="bench-report-") as temporary:
        for records in options.records:
            fleet = Fleet.of(int(records))
            root = (options.directory or Path(temporary)) / f"{records:.0e}"
            results.append(measured(root, fleet, options.runs, options.skip))
    if options.json:
        document = {"machine": machine.as_json(), "results": results}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0 if all(map(_is_met, results)) else 1


if __name__ == "__main__":
    sys.exit(main())
