"""Runs from CSV files: our own `emissions.csv`, and CodeCarbon's of any 2.x or 3.x.

A run is one record: its totals so far are in its last row, as CodeCarbon appends cumulative rows at each
`flush()`. Energies there include PUE where it is set (`emissions_tracker.py`: energy · pue), kWh; the
emissions are kg, water litres, and `timestamp` is local time without a zone (ours is UTC). A file of
tasks (`task_name`) counts where its run has no row of its own. Of the time in between the files say
nothing: a long run is spread evenly over the hours it took.
"""

import csv
import hashlib
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, BinaryIO, Final

from sidecar.record import SUMMED, EmissionRecord, GpuRecord
from sidecar.report.columns import ABSURD
from sidecar.report.read import UNREADABLE, VANISHED, ReadReport
from sidecar.report.source import RecordFile
from sidecar.validation import YEARS
from sidecar.windows import rfc3339

CSV_SUFFIX: Final = ".csv"

ALIEN: Final = "CSV that is none of CodeCarbon's"
TORN: Final = "torn row"
NO_RUN: Final = "not a run"
NEGATIVE: Final = "negative or infinite amount"
SUPERSEDED: Final = "earlier row of a run"
TOO_MANY: Final = "run in CSV beyond the number that is read"

METHOD: Final = "codecarbon"
"""`pod_method` and `cpu_power_method` of what CodeCarbon metered."""

OURS: Final = "emissions-sidecar "
"""What `codecarbon_version` begins with in our own `emissions.csv`."""

_NEEDED: Final = frozenset(
    {"timestamp", "project_name", "duration", "emissions", "energy_consumed"}
)
"""Columns of every version from 2.0 on."""

CELL_CHARACTERS_MAX: Final = 4096
FILE_BYTES_MAX: Final = 1024**3
RUNS_MAX: Final = 100_000
"""Runs of all files together: some 200 MB in memory."""

GPUS_MAX: Final = 1024
NO_EXPERIMENT: Final = "5b0fa12a-3dd7-45bb-9766-cc326314d9f1"
"""The id that CodeCarbon gives where none is set."""


class _NotARun(ValueError):  # noqa: N818 - it is the row that is in error
    """A row that is no run, with what to count it under."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row as a record; `key` is its run, or the row itself where it names none."""

    key: str
    task: str | None
    record: EmissionRecord


def runs(files: Iterable[RecordFile], seen: ReadReport, zone: tzinfo = UTC) -> list[EmissionRecord]:
    """Return one record for each run of these files; what is no run is counted in `seen`.

    `zone` is that of times without one, where not we but CodeCarbon wrote them.
    """
    latest: dict[tuple[str, str | None], _Row] = {}
    for file in files:
        seen.files += 1
        for row in _rows(file, seen, zone):
            place = (row.key, row.task)
            known = latest.get(place)
            if known is not None:
                seen.left_out[SUPERSEDED] += 1
            elif len(latest) >= RUNS_MAX:
                seen.left_out[TOO_MANY] += 1
                continue
            if known is None or row.record.duration_s >= known.record.duration_s:
                latest[place] = row
    whole = {row.key for row in latest.values() if row.task is None}
    return [row.record for row in latest.values() if row.task is None or row.key not in whole]


HOUR_S: Final = 3600.0
DAY_S: Final = 86_400.0
PARTS_MAX: Final = 1000
"""Parts of one run: hours for six weeks, else days for three years; what is longer stays whole."""


PARTS_IN_ALL_MAX: Final = 2_000_000
"""Parts of all runs, some 2 GB on disk; from there on runs stay whole."""


def parted(found: Iterable[EmissionRecord]) -> Iterator[EmissionRecord]:
    """Part all runs, as long as there is room."""
    left = PARTS_IN_ALL_MAX
    for run in found:
        parts = list(over_hours(run))
        if len(parts) > left:
            parts = [run]
        left -= len(parts)
        yield from parts


def over_hours(run: EmissionRecord) -> Iterator[EmissionRecord]:
    """Part a run at full hours (UTC), a longer one at midnights, and all its amounts with it."""
    start_s, end_s = (
        datetime.fromisoformat(text).timestamp() for text in (run.window_start, run.window_end)
    )
    step_s = next((step for step in (HOUR_S, DAY_S) if end_s - start_s <= PARTS_MAX * step), None)
    first_s = start_s - start_s % step_s + step_s if step_s else end_s
    if not step_s or first_s >= end_s:
        yield run
        return
    count = math.ceil((end_s - first_s) / step_s)
    edges_s = [start_s, *(first_s + number * step_s for number in range(count)), end_s]
    stem = run.record_id.rpartition(".")[0]
    for number, (from_s, until_s) in enumerate(itertools.pairwise(edges_s)):
        part = (until_s - from_s) / (end_s - start_s)
        amounts: dict[str, Any] = {name: _part(getattr(run, name), part) for name in SUMMED}
        yield replace(
            run,
            record_id=f"{stem}.{number}",
            window_start=rfc3339(from_s),
            window_end=rfc3339(until_s),
            **amounts,
        )


def _part(amount: float | None, part: float) -> float | None:
    return None if amount is None else amount * part


def _rows(file: RecordFile, seen: ReadReport, zone: tzinfo) -> Iterator[_Row]:
    try:
        with file.open() as stream:
            lines = _Lines(stream)
            reader = csv.reader(lines, strict=True)
            header = _header(next(reader, []))
            if header is None:
                seen.left_out[ALIEN] += 1
                return
            yield from _parsed(reader, header, seen, zone)
    except FileNotFoundError:
        seen.left_out[VANISHED] += 1
    except (OSError, csv.Error):
        seen.left_out[UNREADABLE] += 1


def _parsed(
    reader: Iterator[list[str]], header: list[str], seen: ReadReport, zone: tzinfo
) -> Iterator[_Row]:
    for cells in reader:
        if not cells:
            continue
        if len(cells) != len(header):
            seen.left_out[TORN] += 1
            continue
        try:
            yield _row(dict(zip(header, cells, strict=True)), zone)
        except _NotARun as error:
            seen.left_out[str(error)] += 1


class _Lines(Iterator[str]):
    """The lines of a file, none longer than a row can be, nor more than a file of runs has."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline="")
        self._left = FILE_BYTES_MAX

    def __next__(self) -> str:
        line = self._stream.readline(CELL_CHARACTERS_MAX * 64)
        self._left -= len(line)
        if not line:
            raise StopIteration
        if self._left < 0:
            raise csv.Error("longer than a file of runs")
        return line


def _header(cells: list[str]) -> list[str] | None:
    names = [cell.strip().removeprefix("\ufeff") for cell in cells]
    return names if set(names) >= _NEEDED and len(set(names)) == len(names) else None


def _row(cells: Mapping[str, str], zone: tzinfo) -> _Row:
    if any(len(cell) > CELL_CHARACTERS_MAX for cell in cells.values()):
        raise _NotARun(NO_RUN)
    run_id = _text(cells, "run_id")
    task = _text(cells, "task_name")
    key = run_id or hashlib.sha256(repr(sorted(cells.items())).encode()).hexdigest()
    digest = hashlib.sha256(f"{key}\0{task or ''}".encode()).hexdigest()[:32]
    return _Row(key, task, _record(f"{METHOD}.{digest}.0", cells, zone))


def _record(record_id: str, cells: Mapping[str, str], zone: tzinfo) -> EmissionRecord:
    facility_kwh = _amount(cells, "energy_consumed")
    duration_s = _amount(cells, "duration")
    emissions_kg = _amount(cells, "emissions")
    if facility_kwh is None or duration_s is None:
        raise _NotARun(NO_RUN)
    start, end = _window(cells, duration_s, zone)
    pue = _amount(cells, "pue") or 1.0
    emissions_g = None if emissions_kg is None else emissions_kg * 1000
    cpu_kwh, ram_kwh, gpu_kwh = (_without(pue, cells, name) for name in ("cpu", "ram", "gpu"))
    known = facility_kwh > 0 and emissions_g is not None
    return EmissionRecord(
        record_id=record_id,
        tool_version=_tool(cells),
        project=_text(cells, "project_name") or "default",
        experiment=_experiment(cells),
        run_id=_text(cells, "run_id"),
        window_start=start,
        window_end=end,
        duration_s=duration_s,
        region=_text(cells, "cloud_region") or _text(cells, "region"),
        provider=_text(cells, "cloud_provider"),
        country_iso3=_text(cells, "country_iso_code"),
        cpu_utilization=_percent(cells, "cpu_utilization_percent"),
        gpu_utilization=_percent(cells, "gpu_utilization_percent"),
        ram_used_gib=_amount(cells, "ram_used_gb"),
        gpus=_gpus(cells),
        energy_kwh=facility_kwh / pue,
        pue=pue if _text(cells, "pue") else None,
        facility_energy_kwh=facility_kwh,
        water_l=_amount(cells, "water_consumed"),
        carbon_intensity_g_per_kwh=emissions_g / facility_kwh if known and emissions_g else None,
        carbon_intensity_source="codecarbon",
        emissions_g=emissions_g,
        cpu_power_method=METHOD,
        pod_method=METHOD,
        quality="estimated",
        cpu_energy_kwh=cpu_kwh,
        ram_energy_kwh=ram_kwh,
        gpu_energy_kwh=gpu_kwh,
    )


def _without(pue: float, cells: Mapping[str, str], component: str) -> float | None:
    energy_kwh = _amount(cells, f"{component}_energy")
    return None if energy_kwh is None else energy_kwh / pue


def _window(cells: Mapping[str, str], duration_s: float, zone: tzinfo) -> tuple[str, str]:
    """Return start and end in UTC."""
    if _tool(cells).startswith(OURS):
        zone = UTC
    try:
        moment = datetime.fromisoformat(cells["timestamp"].strip())
        end_s = (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()
        start = datetime.fromtimestamp(end_s, UTC) - timedelta(seconds=duration_s)
    except (ValueError, OverflowError, OSError) as error:
        raise _NotARun(NO_RUN) from error
    if moment.year not in YEARS or start.year not in YEARS:
        raise _NotARun(NO_RUN)
    return rfc3339(start.timestamp()), rfc3339(end_s)


def _tool(cells: Mapping[str, str]) -> str:
    version = _text(cells, "codecarbon_version") or "(unknown)"
    return version if version.startswith(OURS) else f"codecarbon {version}"


def _gpus(cells: Mapping[str, str]) -> tuple[GpuRecord, ...]:
    """Return the GPUs that were metered, each as a whole: CodeCarbon books all it sees to its run."""
    count = _amount(cells, "gpu_count") or 0.0
    if not 0 < count <= GPUS_MAX or count != int(count):
        return ()
    model = (_text(cells, "gpu_model") or "").partition(" x ")[2]
    return (GpuRecord(model=model, share=1.0, share_method="whole-node"),) * int(count)


def _experiment(cells: Mapping[str, str]) -> str | None:
    experiment = _text(cells, "experiment_id")
    return None if experiment == NO_EXPERIMENT else experiment


def _text(cells: Mapping[str, str], name: str) -> str | None:
    return cells.get(name, "").strip() or None


def _amount(cells: Mapping[str, str], name: str) -> float | None:
    text = _text(cells, name)
    if text is None:
        return None
    try:
        amount = float(text)
    except ValueError as error:
        raise _NotARun(NO_RUN) from error
    if math.isnan(amount):  # as pandas writes what is missing
        return None
    if not 0 <= amount <= ABSURD:
        raise _NotARun(NEGATIVE)
    return amount


def _percent(cells: Mapping[str, str], name: str) -> float | None:
    """Return a utilisation, 0 to 1; tasks have columns of zeros for what they do not know."""
    percent = _amount(cells, name)
    if percent is None or "task_name" in cells or percent > 100:
        return None
    return percent / 100
