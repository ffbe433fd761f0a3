"""All records in memory, reduced to the columns that checks compare between records.

Up to 500 bytes a record (and 21 for each of its GPUs) and 2 kB a process while they are compared,
whatever else the records hold: a million records (170 pods metered for a day at the usual 15 s) take
half a GB.
"""

import math
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.estimate.attribution import LATE
from sidecar.record import EmissionRecord
from sidecar.report.claims import NODES_OWN, Claims, Nodes, Place, is_late, is_measured

EVENTS: Final = ("start", "window", "end")

FAMILIES: Final = (
    "measured", "kubelet", "metrics-api", "requests", "whole-node", "mixed", "node's own",
)  # fmt: skip
"""Ways to find shares: sidecars of one family conserve energy without talking to one another.

Those that answer late are each their own: they tell of different moments, and in single windows a
burst may be blurred into the next.
"""

STATIC: Final = (FAMILIES.index("requests"), FAMILIES.index("whole-node"))
"""Those that do not depend on what was used in the window."""

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
    family: int
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
    def is_static(self) -> bool:
        """Whether its shares do not depend on what was used in the window."""
        return self.family in STATIC

    @property
    def is_late(self) -> bool:
        """Whether its CPU figures are blurred over the windows beside it."""
        return FAMILIES[self.family] in LATE

    @property
    def is_nodes_own(self) -> bool:
        """Whether it is the node meter's: what no pod used, and so no pod's claim."""
        return FAMILIES[self.family] == "node's own"

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
    "family": "b",
}
_FIRST_NUMBER: Final = Entry._fields.index("duration_s")
NUMBERS: Final = Entry._fields[_FIRST_NUMBER:]
"""The columns that are fields of the record."""


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
        self.boots: list[Boot] = []
        self._boot_numbers: dict[str, int] = {}
        self._node_numbers = Nodes()
        self.claims = Claims(self._node_numbers)
        self._columns: list[Column] = [_column(name) for name in Entry._fields]

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes, by their numbers."""
        return self._node_numbers.names

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
        place = Place.of(record)
        numbers = (getattr(record, column) for column in NUMBERS)
        boot = self._boot_number(place.name.stem, record.pod_uid)
        self.boots[boot].rows.append(len(self))
        entry = Entry(
            boot,
            self._file_number(file),
            self._node_numbers.number(record),
            place.name.sequence,
            EVENTS.index(record.event),
            family_of(record.pod_method),
            digest_of(record),
            place.start_s,
            place.end_s,
            *(math.nan if number is None else number for number in numbers),
        )
        for column, value in zip(self._columns, entry, strict=True):
            column.append(value)  # type: ignore[arg-type]
        self.claims.add(record, place)

    def _file_number(self, file: str) -> int:
        if not self.files or self.files[-1] != file:
            self.files.append(file)
        return len(self.files) - 1

    def _boot_number(self, stem: str, pod_uid: str | None) -> int:
        number = self._boot_numbers.setdefault(stem, len(self.boots))
        if number == len(self.boots):
            self.boots.append(Boot(stem, pod_uid))
        return number


def _column(name: str) -> "Column":
    if name == "digest":
        return array("Q")
    make: Callable[[str], Column] = array
    return make(_CODES.get(name, "d"))


def family_of(pod_method: str | None) -> int:
    """Return the place in `FAMILIES`; a record without a method is taken for a measured one."""
    if pod_method is None or (is_measured(pod_method) and not is_late(pod_method)):
        return 0
    if pod_method == NODES_OWN:
        return FAMILIES.index("node's own")
    return FAMILIES.index(pod_method if pod_method in FAMILIES else "mixed")


def digest_of(record: EmissionRecord) -> int:
    """Return 64 bits that differ where two records do (save once in 2⁶⁴ times)."""
    content = repr(record).encode(errors="surrogatepass")
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big")
