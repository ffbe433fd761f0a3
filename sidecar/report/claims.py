"""Records reduced to what settling compares: about 100 bytes each, and 21 for each GPU.

Rows are numbered in the order they are added, whatever the record: one that cannot be placed, or that
holds more than a node can, is a row that no node has.
"""

import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from sidecar.estimate.attribution import LATE, MEASURED
from sidecar.record import EmissionRecord, GpuRecord
from sidecar.report.settle import NO_UUID, Claim, DeviceClaim
from sidecar.segment import NotASegment, SegmentName
from sidecar.validation import YEARS
from sidecar.windows import GAP_TOLERANCE_S

NODES_OWN: Final = "unallocated"
"""The method of the node meter's own records: what no pod used."""

LARGEST_KWH: Final = 1e9
"""More than any node uses in any window: who says so is not compared with others."""

SHORTEST_S: Final = 0.001
"""Both times of a window may be rounded to one millisecond; to spread its energy it needs a length."""

_BY_RESERVATION: Final = {"requests", "whole-node", "process-tree", None}
"""Ways to find the share of a GPU that do not look at the device."""

_UNKNOWN: Final = -1

if TYPE_CHECKING:  # generic for the type checker; when it runs, from Python 3.12 on only
    RowNumbers = array[int]
    Column = array[int] | array[float]


class NoPlaceInTime(ValueError):  # noqa: N818 - it is the record that is in error
    """A record whose id or times say nothing of its place among others."""


class Place(NamedTuple):
    """Which record of which process, and its window in seconds since the epoch."""

    name: SegmentName
    start_s: float
    end_s: float

    @classmethod
    def of(cls, record: EmissionRecord) -> Self:
        """Read the record's id and times. Raises NoPlaceInTime."""
        try:
            name = SegmentName.of_record(record.record_id)
        except NotASegment as error:
            raise NoPlaceInTime(str(error)) from error
        return cls(
            name,
            _seconds("window_start", record.window_start),
            _seconds("window_end", record.window_end),
        )


class Nodes:
    """The nodes that records name, numbered."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[tuple[str | None, ...], int] = {}

    def number(self, record: EmissionRecord) -> int:
        """Return which node it is, by its name where it has one, else by its VM; −1 = not known.

        A name is only unique within its cluster, so without a cluster's name the VM tells two apart.
        A pod that knows the VM is compared with one that does not (IMDS may be blocked for some).
        """
        if record.node is None and record.vm_id is None:
            return _UNKNOWN
        is_named = record.node is not None and record.cluster is not None
        key = (record.cluster, record.node, None if is_named else record.vm_id)
        number = self._numbers.setdefault(key, len(self.names))
        if number == len(self.names):
            self.names.append(record.node or f"VM {record.vm_id}")
        return number


class _Row(NamedTuple):
    node: int
    boot: int
    sequence: int
    is_nodes_own: int
    is_measured: int
    is_late: int
    cpu_rank: int
    gpu_rank: int
    first_device: int
    start_s: float
    end_s: float
    cpu_energy_kwh: float
    ram_energy_kwh: float
    gpu_energy_kwh: float
    node_cpu_energy_kwh: float
    node_ram_energy_kwh: float
    node_gpu_energy_kwh: float


_CODES: Final = dict(zip(_Row._fields, "iiqbbbbiq" + "d" * 8, strict=True))
_ENERGIES: Final = _Row._fields[-6:]


class Claims:
    """What records claim of their nodes, in columns."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._boots: dict[str, int] = {}
        self._uuids: dict[str, int] = {}
        self._columns = [_column(_CODES[name]) for name in _Row._fields]
        self._devices = [_column(code) for code in "iddb"]
        self._rows_of_nodes: dict[int, RowNumbers] = {}

    def __len__(self) -> int:
        return len(self._columns[0])

    def add(self, record: EmissionRecord, place: Place | None) -> int:
        """Add a record, with None where it has no place; returns its row."""
        row, first_device = len(self), len(self._devices[0])
        energies = [getattr(record, name) for name in _ENERGIES]
        node = self._nodes.number(record) if place and _can_be_compared(record, energies) else -1
        if place is None or node == _UNKNOWN:
            self._append(_NOWHERE._replace(first_device=first_device))
            return row
        is_nodes_own = record.pod_method == NODES_OWN
        for gpu in record.gpus:
            self._add_device(gpu)
        self._append(
            _Row(
                node,
                self._boots.setdefault(place.name.stem, len(self._boots)),
                place.name.sequence,
                is_nodes_own,
                is_measured(record.pod_method),
                is_late(record.pod_method),
                _cpu_rank(record, is_nodes_own=is_nodes_own),
                _gpu_rank(record, is_nodes_own=is_nodes_own),
                first_device,
                place.start_s,
                _end_s(record, place),
                *(math.nan if energy is None else energy for energy in energies),
            )
        )
        self._rows_of_nodes.setdefault(node, array("i")).append(row)
        return row

    def node_numbers(self) -> Iterable[int]:
        """Return the nodes that have claims."""
        return self._rows_of_nodes

    def of_node(self, node: int, only: Callable[[int], bool] | None = None) -> Iterator[Claim]:
        """Yield the claims of a node, of these rows only, in the order of their true starts."""
        rows = [row for row in self._rows_of_nodes[node] if only is None or only(row)]
        for start_s, end_s, row in sorted(self._in_true_time(rows)):
            yield self._claim(row, start_s, end_s)

    def _in_true_time(self, rows: list[int]) -> Iterator[tuple[float, float, int]]:
        """Undo a wall clock that was set back: the windows of one process follow each other.

        As all processes of a node have one clock, those that lived through it stay side by side.
        """
        boots, sequences = self._column("boot"), self._column("sequence")
        starts, ends = self._column("start_s"), self._column("end_s")
        boot, last_s, shift_s = -1, -math.inf, 0.0
        for row in sorted(rows, key=lambda row: (boots[row], sequences[row])):
            if boots[row] != boot:
                boot, last_s, shift_s = int(boots[row]), -math.inf, 0.0
            ahead_s = starts[row] + shift_s - last_s
            if ahead_s < -GAP_TOLERANCE_S or (shift_s and ahead_s > GAP_TOLERANCE_S):
                shift_s = max(0.0, shift_s - ahead_s)
            last_s = ends[row] + shift_s
            yield starts[row] + shift_s, last_s, row

    def _claim(self, row: int, start_s: float, end_s: float) -> Claim:
        entry = _Row._make([column[row] for column in self._columns])
        following = self._column("first_device")
        stop = int(following[row + 1]) if row + 1 < len(self) else len(self._devices[0])
        devices: Any = zip(
            *(column[entry.first_device : stop] for column in self._devices), strict=True
        )
        return Claim(
            row=row,
            boot=entry.boot,
            start_s=start_s,
            end_s=end_s,
            is_nodes_own=bool(entry.is_nodes_own),
            is_measured=bool(entry.is_measured),
            rank=(entry.cpu_rank, entry.cpu_rank, entry.gpu_rank),
            energy_kwh=entry[-6:-3],
            node_kwh=entry[-3:],
            devices=tuple(DeviceClaim(*device) for device in devices),
            is_late=bool(entry.is_late),
        )

    def _add_device(self, gpu: GpuRecord) -> None:
        uuid, energy, share = gpu.uuid, gpu.energy_kwh or 0.0, gpu.share or 0.0
        number = NO_UUID if uuid is None else self._uuids.setdefault(uuid, len(self._uuids))
        if not (0 <= energy <= LARGEST_KWH and 0 <= share <= 1 + 1e-6):
            energy = share = 0.0
        values = (number, energy, share, gpu.share_method not in _BY_RESERVATION)
        for column, value in zip(self._devices, values, strict=True):
            column.append(value)  # type: ignore[arg-type]

    def _append(self, row: _Row) -> None:
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)  # type: ignore[arg-type]

    def _column(self, name: str) -> "Column":
        return self._columns[_Row._fields.index(name)]


_NOWHERE: Final = _Row(_UNKNOWN, _UNKNOWN, 0, 0, 0, 0, 0, 0, 0, *[math.nan] * 8)


def is_measured(pod_method: str | None) -> bool:
    """Whether the pod's use was measured: by each of the methods, where windows were merged."""
    return pod_method is not None and set(pod_method.split(" + ")) <= MEASURED


def is_late(pod_method: str | None) -> bool:
    """Whether any of its methods tells CPU figures of some seconds ago."""
    return pod_method is not None and not LATE.isdisjoint(pod_method.split(" + "))


def _cpu_rank(record: EmissionRecord, *, is_nodes_own: bool) -> int:
    """Rank who has a counter of energy, then whose figures are of the window itself."""
    sight = 2 * (record.cpu_power_method == "rapl") + (not is_late(record.pod_method))
    return 10 * is_nodes_own + sight


def _can_be_compared(record: EmissionRecord, energies: list[float | None]) -> bool:
    """Whether it metered for some time, and no more than a node can."""
    plausible = all(energy is None or 0 <= energy <= LARGEST_KWH for energy in energies)
    return plausible and record.event != "start"


def _end_s(record: EmissionRecord, place: Place) -> float:
    """Return where the window ends; where the clock was set back in it, where it would have."""
    if place.end_s > place.start_s:
        return place.end_s
    return place.start_s + max(SHORTEST_S, record.duration_s)


def _gpu_rank(record: EmissionRecord, *, is_nodes_own: bool) -> int:
    """Rank who sees more devices first, then who has them from counters, from utilisation, a table."""
    method = record.gpu_method or "table"
    sight = 0 if "table" in method else 1 if "utilization" in method else 2
    return 1_000_000 * is_nodes_own + 10 * min(len(record.gpus), 9_999) + sight


def _column(code: str) -> "Column":
    make: Callable[[str], Column] = array
    return make(code)


def _seconds(name: str, text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None and moment.year in YEARS:
            return moment.timestamp()
    except (ValueError, OverflowError):
        pass
    raise NoPlaceInTime(f"{name} {text[:40]!r} is no time in UTC")
