"""Records of a fleet for the benchmark of reports: made by DuckDB, compacted by the command's own code.

Pods meter every 15 s, eight to a node, each with a GPU of it. On one node of fifty the pods find their
shares by methods that mix, and claim more than the node had: there settling has to cut. Each day is made
as reading raw files would leave it, and then goes through `sidecar.report.compact`: what is reported is
laid out, settled and verified as any other dataset. Of many days the first ones go that way; the others
are those again, moved by whole days, with ids and runs of their own: as compaction would have left them.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from sidecar.report.columns import COLUMNS, derived_sql
from sidecar.report.commits import Commit, Part, Sums
from sidecar.report.compact import _sha256, _Work
from sidecar.report.dataset import Dataset, Resources, connect
from sidecar.report.places import DirectoryPlace
from sidecar.report.staging import quoted_text
from sidecar.report.stores import DirectoryStore

WINDOWS_A_DAY: Final = 24 * 60 * 4
FIRST_DAY: Final = date(2026, 9, 1)
COMPACTED: Final = "compacted/"


@dataclass(frozen=True, slots=True)
class Fleet:
    """So many pods for so many days, all day long."""

    pods: int
    days: int

    @classmethod
    def of(cls, records: int) -> "Fleet":
        """Return a fleet with about so many records, of days with up to five million."""
        days = max(1, round(records / 5_000_000))
        return cls(max(8, round(records / (days * WINDOWS_A_DAY))), days)

    @property
    def records(self) -> int:
        """How many records it has."""
        return self.pods * self.days * WINDOWS_A_DAY


def made(root: Path, fleet: Fleet, compacted_days: int) -> Iterator[tuple[str, float | None]]:
    """Make the days of a fleet below a directory; yields each, with its seconds if it was compacted."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(fleet.days):
        day = FIRST_DAY + timedelta(days=number)
        if number >= compacted_days:
            _move_day(root, number % compacted_days, number)
            yield day.isoformat(), None
            continue
        staged = root / "staged.parquet"
        _write_day(staged, fleet, day)
        written = time.perf_counter()
        _compact(root, staged, day)
        staged.unlink()
        yield day.isoformat(), time.perf_counter() - written


def _compact(root: Path, staged: Path, day: date) -> None:
    """Compact one day that lies there as reading raw files leaves it."""
    store = DirectoryStore(DirectoryPlace(root))
    dataset = Dataset._begun(Resources(directory=root))  # noqa: SLF001 - what reading does, without it
    try:
        dataset.read([store.where])
        staging = dataset._staging  # noqa: SLF001
        if staging is None:
            raise RuntimeError("nothing was read")
        staging.parts.append(staged)
        closed_before = (day + timedelta(days=1)).isoformat()
        _Work(store, COMPACTED, dataset, closed_before).done()
    finally:
        dataset.close()


def _write_day(path: Path, fleet: Fleet, day: date) -> None:
    directory = path.with_suffix(".tmp")
    directory.mkdir()
    connection = connect(directory, Resources())
    try:
        begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
        query = derived_sql(_records_sql(fleet.pods, begin))
        connection.execute(
            f"COPY (SELECT -1 AS file, * FROM ({query})) TO {quoted_text(path)} (FORMAT parquet)"
        )
    finally:
        connection.close()
        shutil.rmtree(directory)


# -- days that are moved -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Move:
    """From the day of a number to that of another: what changes in each kind of file, as SQL."""

    source: int
    target: int

    @property
    def day(self) -> date:
        """The day that is made."""
        return FIRST_DAY + timedelta(days=self.target)

    @property
    def _us(self) -> int:
        return (self.target - self.source) * 86_400_000_000

    def _renamed(self, column: str) -> str:
        """Return SQL for a name that ends in, or has in it, the number of the day."""
        old, new = (_number_of(FIRST_DAY + timedelta(days=n)) for n in (self.source, self.target))
        return f"regexp_replace({column}, '([-.]b?){old}(\\.|$)', '\\1{new}\\2') AS {column}"

    def _later(self, *columns: str, unit_us: int = 1) -> str:
        return ", ".join(f"{name} + {self._us // unit_us} AS {name}" for name in columns)

    def of_part(self) -> str:
        """Return what replaces the columns of records."""
        at = "make_timestamp({} + {})"
        times = ", ".join(
            f"{_TIME.format(at.format(f'{name}_us', self._us))} AS window_{name}"
            for name in ("start", "end")
        )
        names = ", ".join(map(self._renamed, ("record_id", "boot", "run_id")))
        days = self.target - self.source
        return (
            f"{names}, {times}, '{self.day}' AS day, (weekday + {days}) % 7 AS weekday, "
            f"{self._later('start_us', 'end_us')}, "
            f"{self._later('start_s', 'until_s', unit_us=1_000_000)}"
        )

    def of_sums(self) -> str:
        """Return what replaces the columns of sums."""
        return (
            f"{self._renamed('run')}, {self._later('hours', unit_us=3_600_000_000)}, "
            f"{self._later('start_us', 'last_start_us', 'end_us')}"
        )

    def of_balances(self) -> str:
        """Return what replaces the columns of balances."""
        return f"'{self.day}' AS day, {self._later('start_s', 'end_s', unit_us=1_000_000)}"


def _move_day(root: Path, source: int, target: int) -> None:
    """Make a day of one that is compacted, and commit it."""
    base, move = root / COMPACTED, _Move(source, target)
    name = f"commits/commit-{source + 1:08d}.json"
    given = Commit.of_json((base / name).read_bytes(), f"{COMPACTED}{name}")
    if given.sums is None:
        raise RuntimeError(f"{name} has no sums")
    directory = root / "moving"
    directory.mkdir()
    connection = connect(directory, Resources())

    def moved(old: str, changes: str) -> tuple[str, str]:
        new = directory / "moved.parquet"
        connection.execute(
            f"COPY (SELECT * REPLACE ({changes}) FROM read_parquet({quoted_text(base / old)}, "
            f"hive_partitioning = false)) TO {quoted_text(new)} "
            "(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)"
        )
        sha256, folder = _sha256(new), old.partition("/")[0]
        name = f"{folder}/month={move.day:%Y-%m}/part-{move.day}-{sha256[:16]}.parquet"
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        new.rename(base / name)
        return name, sha256

    def moved_part(part: Part) -> Part:
        name, sha256 = moved(part.name, move.of_part())
        ((ids,),) = connection.execute(
            "SELECT CAST(bit_xor(md5_number(record_id)) AS VARCHAR) "
            f"FROM read_parquet({quoted_text(base / name)})"
        ).fetchall()
        return replace(part, name=name, sha256=sha256, ids=ids, day=f"{move.day}")

    try:
        commit = Commit(
            target + 1,
            f"{move.day}",
            tuple(map(moved_part, given.parts)),
            moved(given.balances, move.of_balances())[0],
            Sums(moved(given.sums.name, move.of_sums())[0], given.sums.version),
        )
    finally:
        connection.close()
        shutil.rmtree(directory)
    (base / commit.name).write_bytes(commit.to_json())


def _records_sql(pods: int, begin: datetime) -> str:
    """Return SQL of a day's records, with the columns of the schema in their order."""
    texts = dict(_TEXTS)
    columns = ", ".join(
        f"CAST({texts.get(item.name, _absent(item.sql_type))} AS {item.sql_type}) AS {item.name}"
        for item in COLUMNS
    )
    return f"""
        SELECT {columns} FROM (
          SELECT *, {_NOISE.format("p * 5760 + w")} AS busy, {_NOISE.format("node * 7919 + w")} AS load,
            CASE WHEN node % 50 = 0 THEN CASE WHEN slot < 4 THEN 0.2 ELSE 0.15 END ELSE 0.125 END
              AS part,
            make_timestamp({int(begin.timestamp()) * 1_000_000}::BIGINT + w * 15000000) AS begun_at
          FROM (SELECT p, p // 8 AS node, p % 8 AS slot, w,
              {_number_of(begin)} AS day_number
            FROM range({pods}) AS pods(p), range({WINDOWS_A_DAY}) AS windows(w)))"""


def _number_of(day: date) -> int:
    """Return a number that is in the names of a day's processes and runs."""
    return day.day + 31 * day.month


def _absent(sql_type: str) -> str:
    return "MAP {}" if sql_type.startswith("MAP(VARCHAR, VARCHAR") else "NULL"


_NOISE: Final = "(hash({}) % 1000000) / 1000000.0"
_TIME: Final = "strftime({}, '%Y-%m-%dT%H:%M:%S.%gZ')"
_NODE: Final = "'aks-gpupool-12628255-vmss' || lpad(node::VARCHAR, 6, '0')"
_NODE_CPU: Final = "0.0016 * (0.4 + 0.6 * load)"
_NODE_RAM: Final = "0.0003"
_CPU: Final = f"({_NODE_CPU} * part * (0.5 + 0.5 * busy))"
_RAM: Final = f"({_NODE_RAM} * part)"
_GPU: Final = "(0.00125 * (0.25 + 0.75 * busy))"
_IT: Final = f"({_CPU} + {_RAM} + {_GPU})"
_REGION: Final = "['westeurope', 'swedencentral', 'eastus', 'francecentral'][node % 4 + 1]"
_INTENSITY: Final = "[253.0, 20.0, 385.0, 35.0][node % 4 + 1]"
_METHOD: Final = (
    "CASE WHEN node % 50 <> 0 THEN 'node-meter' WHEN slot < 4 THEN 'cgroup' ELSE 'requests' END"
)

_TEXTS: Final = {
    "schema": "1",
    "record_id": "'6d0c1f4e-8e0f-4a8e-' || lpad(p::VARCHAR, 8, '0') || '.b' || day_number || '.' "
    "|| (w + 1)",
    "tool_version": "'0.2.0'",
    "project": "'project-' || lpad((p % 40)::VARCHAR, 3, '0')",
    "experiment": "'trial-' || (p % 5)",
    "run_id": "'run-' || p || '-' || day_number",
    "cluster": "'aks-training'",
    "namespace": "'team-' || (p % 6)",
    "pod": "'llm-finetune-lora-worker-' || p",
    "pod_uid": "'6d0c1f4e-8e0f-4a8e-' || lpad(p::VARCHAR, 8, '0')",
    "workload": "'llm-finetune-' || (p % 200)",
    "labels": "MAP {'app.kubernetes.io/name': 'llm-finetune', 'app.kubernetes.io/part-of': 'models', "
    "'topology.kubernetes.io/region': 'westeurope'}",
    "annotations": "MAP {'emissions/track': 'true', 'emissions/budget': '250kg'}",
    "event": "'window'",
    "node": _NODE,
    "provider": "'azure'",
    "vm_size": "'Standard_ND96asr_v4'",
    "vm_id": "'1f0f8c5e-5d1c-4b8e-8f6d-' || lpad(node::VARCHAR, 12, '0')",
    "region": _REGION,
    "zone": "'1'",
    "subscription_id": "'11111111-2222-3333-4444-555555555555'",
    "resource_group": "'mc_training'",
    "vm_scale_set": "'aks-gpupool-12628255-vmss'",
    "priority": "'Spot'",
    "identity_source": "MAP {'pue': 'Microsoft, FY25 averages', 'region': 'imds', 'vm_size': 'imds', "
    "'node': 'downward API'}",
    "window_start": _TIME.format("begun_at"),
    "window_end": _TIME.format("begun_at + INTERVAL 15 SECOND"),
    "duration_s": "15.0",
    "gap_s": "0.0",
    "cpu_utilization": "0.3 + 0.5 * load",
    "gpu_utilization": "busy",
    "ram_used_gib": "300.0 + 100.0 * load",
    "pod_cpu_seconds": "15.0 * 96 * part * busy",
    "gpus": f"[{{'uuid': 'GPU-' || node || '-' || slot, 'model': 'NVIDIA A100-SXM4-40GB', "
    f"'energy_kwh': {_GPU}, 'share': 1.0, 'method': 'energy-counter', 'share_method': 'node-meter'}}]",
    "node_cpu_energy_kwh": _NODE_CPU,
    "node_ram_energy_kwh": _NODE_RAM,
    "node_gpu_energy_kwh": "8 * 0.00125",
    "node_energy_kwh": f"{_NODE_CPU} + {_NODE_RAM} + 8 * 0.00125",
    "share_cpu": "part",
    "share_idle": "part",
    "share_ram": "part",
    "share_gpu": "0.125",
    "cpu_energy_kwh": _CPU,
    "ram_energy_kwh": _RAM,
    "gpu_energy_kwh": _GPU,
    "energy_kwh": _IT,
    "pue": "1.14",
    "facility_energy_kwh": f"{_IT} * 1.14",
    "water_l": f"{_IT} * 0.27",
    "carbon_intensity_g_per_kwh": _INTENSITY,
    "carbon_intensity_source": "'em:zone ' || " + _REGION,
    "carbon_intensity_year": "2025",
    "carbon_intensity_level": "'zone'",
    "emissions_g": f"{_IT} * 1.14 * {_INTENSITY}",
    "embodied_g": "0.4",
    "cpu_power_method": "'vm-share'",
    "cpu_power_source": "'cpus.csv: AMD EPYC 7V12'",
    "gpu_method": "'energy-counter'",
    "pod_method": _METHOD,
    "quality": "'estimated'",
    "emissions_low_g": f"{_IT} * 1.14 * {_INTENSITY} * 0.9",
    "emissions_high_g": f"{_IT} * 1.14 * {_INTENSITY} * 1.2",
    "cpu_reserved_idle_energy_kwh": f"{_CPU} * 0.2",
    "gpu_reserved_idle_energy_kwh": f"{_GPU} * 0.1",
}
