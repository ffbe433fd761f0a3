"""All records in memory, reduced to the columns that checks compare between records.

Up to 500 bytes a record and 2 kB a process while they are compared, whatever else the records hold: a
million records (170 pods metered for a day at the usual 15 s) take half a GB.
"""

import math
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.record import EmissionRecord
from sidecar.segment import NotASegment, SegmentName
from sidecar.validation import YEARS

EVENTS: Final = ("start", "window", "end")

STATIC_METHODS: Final = ("requests", "whole-node")
"""Ways to find shares that do not depend on what was used in the window."""

_UNKNOWN: Final = -1

if TYPE_CHECKING:  # generic for the type checker; when it runs, from Python 3.12 on only
    RowNumbers = array[int]
    Numbers = array[float]
    Column = RowNumbers | Numbers


class Entry(NamedTuple):
    """One record. Numbers are the record's, NaN where it has null; times are seconds since the epoch."""

    boot: int
    file: int
    node: int
    sequence: int
    event: int
    is_static: int
    digest: int
    start_s: float
    end_s: float
    duration_s: float
    gap_s: float
    pue: float
    carbon_intensity_g_per_kwh: float
    energy_kwh: float
    facility_energy_kwh: float
    emissions_g: float
    share_cpu: float
    share_idle: float
    share_ram: float
    share_gpu: float
    cpu_energy_kwh: float
    ram_energy_kwh: float
    gpu_energy_kwh: float
    node_cpu_energy_kwh: float
    node_ram_energy_kwh: float
    node_gpu_energy_kwh: float

    @property
    def is_last(self) -> bool:
        """Whether the record says that it is the last of its process."""
        return EVENTS[self.event] == "end"

    @property
    def is_start(self) -> bool:
        """Whether the record says that metering begins; it has metered nothing."""
        return EVENTS[self.event] == "start"


_CODES: Final = {
    "boot": "i",
    "file": "i",
    "node": "i",
    "sequence": "q",
    "event": "b",
    "is_static": "b",
}
_FIRST_NUMBER: Final = Entry._fields.index("duration_s")
NUMBERS: Final = Entry._fields[_FIRST_NUMBER:]
"""The columns that are fields of the record."""


class NoPlaceInTime(ValueError):  # noqa: N818 - it is the record that is in error
    """A record whose id or times say nothing of its place among others."""


@dataclass(slots=True)
class Boot:
    """One process: `stem` is `<pod_uid>.<boot>`; `rows` are its records in the order they were read."""

    stem: str
    pod_uid: str | None
    rows: "RowNumbers" = field(default_factory=lambda: array("i"))


class Ledger:
    """Columns of the records, in the order they were added."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.nodes: list[str] = []
        self.boots: list[Boot] = []
        self._boot_numbers: dict[str, int] = {}
        self._node_numbers: dict[tuple[str | None, ...], int] = {}
        self._columns: list[Column] = [_column(name) for name in Entry._fields]

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, row: int) -> Entry:
        return Entry._make([column[row] for column in self._columns])

    def entries(self, rows: list[int]) -> Iterator[Entry]:
        """Yield the records of these rows, one at a time."""
        return map(self.__getitem__, rows)

    def column(self, name: str) -> "Numbers":
        """Return the column of a number of the record; its rows in the order they were added."""
        return self._columns[Entry._fields.index(name)]  # type: ignore[return-value]

    def add(self, file: str, record: EmissionRecord) -> None:
        """Add a record. Raises NoPlaceInTime."""
        try:
            name = SegmentName.of_record(record.record_id)
        except NotASegment as error:
            raise NoPlaceInTime(str(error)) from error
        start_s = _seconds("window_start", record.window_start)
        end_s = _seconds("window_end", record.window_end)
        numbers = (getattr(record, column) for column in NUMBERS)
        boot = self._boot_number(name.stem, record.pod_uid)
        self.boots[boot].rows.append(len(self))
        entry = Entry(
            boot,
            self._file_number(file),
            self._node_number(record),
            name.sequence,
            EVENTS.index(record.event),
            int(record.pod_method in STATIC_METHODS),
            digest_of(record),
            start_s,
            end_s,
            *(math.nan if number is None else number for number in numbers),
        )
        for column, value in zip(self._columns, entry, strict=True):
            column.append(value)  # type: ignore[arg-type]

    def _file_number(self, file: str) -> int:
        if not self.files or self.files[-1] != file:
            self.files.append(file)
        return len(self.files) - 1

    def _boot_number(self, stem: str, pod_uid: str | None) -> int:
        number = self._boot_numbers.setdefault(stem, len(self.boots))
        if number == len(self.boots):
            self.boots.append(Boot(stem, pod_uid))
        return number

    def _node_number(self, record: EmissionRecord) -> int:
        """Return which node it is, by its name where it has one, else by its VM.

        A name is only unique within its cluster, so without a cluster's name the VM tells two apart.
        A pod that knows the VM is compared with one that does not (IMDS may be blocked for some).
        """
        if record.node is None and record.vm_id is None:
            return _UNKNOWN
        is_named = record.node is not None and record.cluster is not None
        key = (record.cluster, record.node, None if is_named else record.vm_id)
        number = self._node_numbers.setdefault(key, len(self.nodes))
        if number == len(self.nodes):
            self.nodes.append(record.node or f"VM {record.vm_id}")
        return number


def _column(name: str) -> "Column":
    if name == "digest":
        return array("Q")
    make: Callable[[str], Column] = array
    return make(_CODES.get(name, "d"))


def digest_of(record: EmissionRecord) -> int:
    """Return 64 bits that differ where two records do (save once in 2⁶⁴ times)."""
    content = repr(record).encode(errors="surrogatepass")
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big")


def _seconds(name: str, text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None and moment.year in YEARS:
            return moment.timestamp()
    except (ValueError, OverflowError):
        pass
    raise NoPlaceInTime(f"{name} {text[:40]!r} is no time in UTC")
