"""`emissions.csv` in the column order of CodeCarbon 3.3.2, so that carbonboard can open it.

One cumulative row per run. Many processes may write the same file: each takes a lock beside it,
puts the new content into a temporary file and renames that into place, so that a reader, a full
disk or a killed writer never meets half a file. What stands in the file and is not ours is kept:
other runs' rows byte for byte, anything unreadable as a `.bak` beside it.
"""

import contextlib
import csv
import errno
import fcntl
import functools
import io
import logging
import os
import stat
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sidecar.exporters.spreadsheet import one_line, safe_cell
from sidecar.units import JOULES_PER_KWH

_log = logging.getLogger(__name__)

COLUMNS = (
    "timestamp",
    "project_name",
    "run_id",
    "experiment_id",
    "duration",
    "emissions",
    "emissions_rate",
    "cpu_power",
    "gpu_power",
    "ram_power",
    "cpu_energy",
    "gpu_energy",
    "ram_energy",
    "energy_consumed",
    "water_consumed",
    "country_name",
    "country_iso_code",
    "region",
    "cloud_provider",
    "cloud_region",
    "os",
    "python_version",
    "codecarbon_version",
    "cpu_count",
    "cpu_model",
    "gpu_count",
    "gpu_model",
    "longitude",
    "latitude",
    "ram_total_size",
    "tracking_mode",
    "cpu_utilization_percent",
    "gpu_utilization_percent",
    "ram_utilization_percent",
    "ram_used_gb",
    "on_cloud",
    "pue",
    "wue",
)
"""The columns of CodeCarbon 3.3.2's emissions.csv, in its order."""

LOCK_TIMEOUT_S = 1.0
MAX_FILE_BYTES = 4 * 1024**2
"""Some 8 000 runs. A larger file is set aside and a new one begun: memory here is small."""

NO_PROJECT = "unnamed"
NO_COUNTRY = "unknown"

_RUN_ID = COLUMNS.index("run_id")
_LOCK_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL, errno.EBADF}
# fmt: off
_READ_AS_MISSING = frozenset({
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
})
# fmt: on
"""What pandas.read_csv, and so carbonboard, takes for a missing value (its `na_values`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeCarbonRow:
    """The totals of one run so far. None = unknown: its cell stays empty.

    Unknown emissions stay empty too, rather than 0: carbonboard sums what is known and shows no
    equivalents for such a project.

    The energies of CPU, GPU and RAM are those of the record, without PUE; `facility_energy_kwh` is
    their sum with PUE, window by window. CodeCarbon's columns all hold energy with PUE: the parts
    are scaled so that they sum to it.
    Utilisations are 0..1, `ram_*_gib` GiB, `timestamp` carries its zone.
    """

    timestamp: datetime
    project: str
    run_id: str
    experiment_id: str
    duration_s: float
    facility_energy_kwh: float
    cpu_energy_kwh: float | None
    gpu_energy_kwh: float | None
    ram_energy_kwh: float | None
    emissions_g: float | None
    version: str
    tracking_mode: str = "machine"
    water_l: float | None = None
    pue: float = 1.0
    wue_l_per_kwh: float = 0.0
    country_name: str | None = None
    country_iso3: str | None = None
    region: str | None = None
    cloud_provider: str | None = None
    cloud_region: str | None = None
    longitude: float | None = None
    latitude: float | None = None
    os: str | None = None
    python_version: str | None = None
    cpu_count: int | None = None
    cpu_model: str | None = None
    gpu_count: int | None = None
    gpu_model: str | None = None
    ram_total_gib: float | None = None
    ram_used_gib: float | None = None
    cpu_utilization: float | None = None
    gpu_utilization: float | None = None
    ram_utilization: float | None = None

    def __post_init__(self) -> None:
        if not self.run_id.strip():
            raise ValueError(
                "a row of emissions.csv needs a run_id: it is what its run is known by"
            )
        if self.timestamp.tzinfo is None:
            raise ValueError(f"timestamp {self.timestamp} has no time zone; give it one")


def write_row(path: Path, row: CodeCarbonRow) -> None:
    """Put a run's totals into `path`: in place of that run's row, or as a new one at the end.

    Raises OSError (TimeoutError if another writer holds the lock for `LOCK_TIMEOUT_S`) where the
    row could not be written; the file is then what it was.
    """
    with _lock(path) as locked:
        if locked:
            _remove_leftovers(path)
        found = _read(path)
        content = _encode(COLUMNS) + _with_row(found.records, row)
        temporary = path.with_name(f"{_temporary_prefix(path)}{uuid.uuid4().hex}.tmp")
        try:
            _write_durably(temporary, content)
            _set_aside(path, found)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


# --- what the row says ----------------------------------------------------------------------------


def _cells(row: CodeCarbonRow) -> dict[str, str | float | None]:
    return {
        "timestamp": row.timestamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "project_name": _readable_as_text(row.project, NO_PROJECT),
        "run_id": row.run_id,
        "experiment_id": row.experiment_id,
        "duration": row.duration_s,
        "water_consumed": row.water_l,
        "country_name": row.country_name,
        "country_iso_code": _readable_as_text(row.country_iso3 or "", NO_COUNTRY),
        "region": row.region,
        "cloud_provider": row.cloud_provider,
        "cloud_region": row.cloud_region,
        "os": row.os,
        "python_version": row.python_version,
        "codecarbon_version": row.version,
        "cpu_count": row.cpu_count,
        "cpu_model": row.cpu_model,
        "gpu_count": row.gpu_count,
        "gpu_model": row.gpu_model,
        "longitude": row.longitude,
        "latitude": row.latitude,
        "ram_total_size": row.ram_total_gib,
        "ram_used_gb": row.ram_used_gib,
        "tracking_mode": row.tracking_mode,
        # Carbonboard 3.3.2 knows no region of Azure and fails on any row of it that says Y.
        "on_cloud": "N",
        "pue": row.pue,
        "wue": row.wue_l_per_kwh,
        **_energy_cells(row),
        **_utilization_cells(row),
    }


def _energy_cells(row: CodeCarbonRow) -> dict[str, float | None]:
    """Energies in kWh and mean powers in W with PUE, emissions in kg and kg/s."""
    parts = {"cpu": row.cpu_energy_kwh, "gpu": row.gpu_energy_kwh, "ram": row.ram_energy_kwh}
    it_energy_kwh = sum(energy or 0.0 for energy in parts.values())
    overhead = row.facility_energy_kwh / it_energy_kwh if it_energy_kwh > 0 else 1.0
    emissions_kg = None if row.emissions_g is None else row.emissions_g / 1000
    cells = {
        "energy_consumed": row.facility_energy_kwh,
        "emissions": emissions_kg,
        "emissions_rate": _per_second(emissions_kg, row.duration_s),
    }
    for part, energy_kwh in parts.items():
        facility_kwh = None if energy_kwh is None else energy_kwh * overhead
        facility_j = None if facility_kwh is None else facility_kwh * JOULES_PER_KWH
        cells[f"{part}_energy"] = facility_kwh
        cells[f"{part}_power"] = _per_second(facility_j, row.duration_s)
    return cells


def _per_second(amount: float | None, duration_s: float) -> float | None:
    return None if amount is None or duration_s <= 0 else amount / duration_s


def _utilization_cells(row: CodeCarbonRow) -> dict[str, float | None]:
    fractions = {
        "cpu": row.cpu_utilization,
        "gpu": row.gpu_utilization,
        "ram": row.ram_utilization,
    }
    return {
        f"{part}_utilization_percent": None if fraction is None else fraction * 100
        for part, fraction in fractions.items()
    }


def _readable_as_text(text: str, default: str) -> str:
    """Never empty, and never one of the words that a reader of CSV takes for a missing value."""
    text = one_line(text).strip() or default
    return f"'{text}" if text in _READ_AS_MISSING else text


def _encode(cells: tuple[str | float | None, ...]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(
        [safe_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    )
    return line.getvalue().encode("utf-8")


# --- what stands in the file already --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """Whole records, each with its run; lines that are none; or why the file is not ours."""

    records: tuple[tuple[str, bytes], ...] = ()
    torn: bytes = b""
    foreign: str | None = None


def _with_row(records: tuple[tuple[str, bytes], ...], row: CodeCarbonRow) -> bytes:
    cells = _cells(row)
    mine = _encode(tuple(cells[column] for column in COLUMNS))
    run_id = safe_cell(row.run_id)
    lines = [line for _, line in records]
    own = [index for index, (found, _) in enumerate(records) if found == run_id]
    if not own:
        return b"".join([*lines, mine])
    lines[own[0]] = mine
    for index in own[1:]:
        lines[index] = b""
    return b"".join(lines)


def _read(path: Path) -> _Found:
    """Read the file as it stands; a link or pipe in its place is not followed or waited on."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return _Found()
    if not stat.S_ISREG(status.st_mode):
        return _Found(foreign="it is no regular file")
    if status.st_size > MAX_FILE_BYTES:
        return _Found(foreign=f"it is larger than {MAX_FILE_BYTES} bytes")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        content = stream.read()
    return _parse(content) if content else _Found()


def _parse(content: bytes) -> _Found:
    header, _, body = content.partition(b"\n")
    if _fields(header) != COLUMNS:
        return _Found(foreign="its header is not that of CodeCarbon 3.3.2")
    records: list[tuple[str, bytes]] = []
    torn: list[bytes] = []
    lines = [line for line in body.splitlines(keepends=True) if line.strip()]
    index = 0
    while index < len(lines):
        end = _end_of_record(lines, index)
        record = b"".join(lines[index:end])
        fields = _fields(record)
        if len(fields) == len(COLUMNS) and record.endswith(b"\n"):
            records.append((fields[_RUN_ID], record))
            index = end
        else:
            torn.append(lines[index])
            index += 1
    return _Found(tuple(records), b"".join(torn))


def _end_of_record(lines: list[bytes], start: int) -> int:
    """Index behind the record that begins at `start`: a quoted field may span lines."""
    quotes = 0
    for end in range(start, len(lines)):
        quotes += lines[end].count(b'"')
        if quotes % 2 == 0:
            return end + 1
    return start + 1


def _fields(record: bytes) -> tuple[str, ...]:
    """Return the fields of one record, none if it is not exactly one."""
    text = io.StringIO(record.decode("utf-8", "surrogateescape"), newline="")
    try:
        rows = list(csv.reader(text, strict=True))
    except csv.Error:
        return ()
    return tuple(rows[0]) if len(rows) == 1 else ()


def _set_aside(path: Path, found: _Found) -> None:
    if found.foreign:
        backup = _free_backup(path)
        path.rename(backup)
        _log.warning("%s: %s; moved to %s, a new file is begun", path, found.foreign, backup)
    elif found.torn:
        backup = _free_backup(path)
        _write_durably(backup, found.torn)
        _log.warning("%s: lines that are no whole row were moved to %s", path, backup)


def _free_backup(path: Path) -> Path:
    number = 1
    while os.path.lexists(backup := path.with_name(f"{path.name}.{number}.bak")):
        number += 1
    return backup


def _write_durably(path: Path, content: bytes) -> None:
    """Create `path` with this content, on the disk on return; nothing is left if it fails."""
    with path.open("xb") as stream:
        try:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise


# --- one writer at a time -------------------------------------------------------------------------


def _temporary_prefix(path: Path) -> str:
    return f".{path.name}."


def _remove_leftovers(path: Path) -> None:
    """Remove what killed writers left behind; only for who holds the lock."""
    for entry in path.parent.iterdir():
        if entry.name.startswith(_temporary_prefix(path)) and entry.suffix == ".tmp":
            entry.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Hold the lock beside `path`; False where the file system has no locks."""
    descriptor = _open_lock(path.with_name(f".{path.name}.lock"))
    try:
        yield _locked(descriptor, path)
    finally:
        os.close(descriptor)


def _open_lock(lock: Path) -> int:
    flags = os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(lock, os.O_RDWR | flags, 0o666)
    except PermissionError:  # another user's lock file: reading rights are enough for flock
        return os.open(lock, os.O_RDONLY | flags)


def _locked(descriptor: int, path: Path) -> bool:
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    errno.ETIMEDOUT,
                    f"another writer held its lock for {LOCK_TIMEOUT_S} s",
                    str(path),
                ) from None
            time.sleep(0.01)
        except OSError as error:
            if error.errno not in _LOCK_UNSUPPORTED:
                raise
            _log_without_lock(path, error.strerror)
            return False
        else:
            return True


@functools.lru_cache(maxsize=16)
def _log_without_lock(path: Path, reason: str) -> None:
    """Say once per file that it is written without a lock."""
    _log.warning(
        "%s: no file locks here (%s); if several processes write this file at once, "
        "a row may be missing until its run writes again",
        path,
        reason,
    )
