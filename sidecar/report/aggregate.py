"""Add records up per project, settled node by node. The keys of the result are the record's field names.

One pass over the records: sums are kept per project, and of each record on a known node some 200 bytes,
from which `settle` finds what its pod claimed too much; that is taken off the sums in the end.
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar

from sidecar.record import SUMMED, EmissionRecord
from sidecar.report.balance import Balance
from sidecar.report.claims import NODES_OWN, Claims, Nodes, NoPlaceInTime, Place
from sidecar.report.settle import Claim, Stretch, settle
from sidecar.windows import rfc3339

if TYPE_CHECKING:
    RowNumbers = array[int]
    Amounts = array[float]

_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class FactorsUsed:
    """The factors behind a part of a project's energy, each with its source."""

    region: str | None
    carbon_intensity_g_per_kwh: float | None
    carbon_intensity_source: str | None
    carbon_intensity_year: int | None
    carbon_intensity_level: str | None
    pue: float | None
    pue_source: str | None
    cpu_power_source: str | None

    @classmethod
    def of(cls, record: EmissionRecord) -> Self:
        """Return the factors of one record."""
        return cls(
            region=record.region,
            carbon_intensity_g_per_kwh=record.carbon_intensity_g_per_kwh,
            carbon_intensity_source=record.carbon_intensity_source,
            carbon_intensity_year=record.carbon_intensity_year,
            carbon_intensity_level=record.carbon_intensity_level,
            pue=record.pue,
            pue_source=record.identity_source.get("pue"),
            cpu_power_source=record.cpu_power_source,
        )


@dataclass(slots=True)
class ProjectTotals:
    """Totals of one project. A sum is None while no record knew the amount: missing is never 0."""

    project: str
    window_start: str = ""
    window_end: str = ""
    records: int = 0
    records_without_emissions: int = 0
    runs: set[str] = field(default_factory=set)
    pods: set[str] = field(default_factory=set)
    duration_s: float | None = None
    gap_s: float | None = None
    cpu_energy_kwh: float | None = None
    ram_energy_kwh: float | None = None
    gpu_energy_kwh: float | None = None
    energy_kwh: float | None = None
    facility_energy_kwh: float | None = None
    water_l: float | None = None
    emissions_g: float | None = None
    emissions_low_g: float | None = None
    emissions_high_g: float | None = None
    embodied_g: float | None = None
    node_energy_kwh: float | None = None
    cpu_reserved_idle_energy_kwh: float | None = None
    gpu_reserved_idle_energy_kwh: float | None = None
    energy_taken_off_kwh: float = 0.0
    energy_kwh_by_quality: dict[str, float] = field(default_factory=dict)
    energy_kwh_by_carbon_intensity_level: dict[str, float] = field(default_factory=dict)
    energy_kwh_by_factors: dict[FactorsUsed, float] = field(default_factory=dict)

    @property
    def carbon_intensity_g_per_kwh(self) -> float | None:
        """Mean intensity, weighted by facility energy."""
        if not self.facility_energy_kwh or self.emissions_g is None:
            return None
        return self.emissions_g / self.facility_energy_kwh

    def add(self, record: EmissionRecord) -> None:
        """Add one record."""
        self.runs.update(filter(None, (record.run_id,)))
        self.pods.update(filter(None, (record.pod_uid or record.pod,)))
        self.window_start = min(filter(None, (self.window_start, record.window_start)), default="")
        self.window_end = max(self.window_end, record.window_end)
        if record.event == "start":
            return
        self.records += 1
        self.records_without_emissions += record.emissions_g is None
        for name in _SUMMED:
            amount = getattr(record, name)
            if amount is not None:
                setattr(self, name, (getattr(self, name) or 0.0) + amount)
        self._count_energy(Group.of(record), record.energy_kwh or 0.0)

    def take_off(self, group: "Group", amounts: dict[str, float]) -> None:
        """Take off what a record claimed too much, by the names of its columns."""
        for name, amount in amounts.items():
            known = getattr(self, name)
            if known is not None:
                setattr(self, name, max(0.0, known - amount))
        self.energy_taken_off_kwh += amounts["energy_kwh"]
        self._count_energy(group, -amounts["energy_kwh"])

    def _count_energy(self, group: "Group", energy_kwh: float) -> None:
        _count(self.energy_kwh_by_quality, group.quality, energy_kwh)
        _count(self.energy_kwh_by_carbon_intensity_level, group.level, energy_kwh)
        _count(self.energy_kwh_by_factors, group.factors, energy_kwh)


class Group(NamedTuple):
    """What energies are added up by."""

    project: str
    quality: str
    level: str
    factors: FactorsUsed

    @classmethod
    def of(cls, record: EmissionRecord) -> Self:
        """Return the group of one record."""
        level = record.carbon_intensity_level or "set"
        return cls(record.project, record.quality, level, FactorsUsed.of(record))


_SUMMED: Final = tuple(name for name in SUMMED if name in ProjectTotals.__dataclass_fields__)


def _count(counts: dict[_Key, float], key: _Key, amount: float) -> None:
    counts[key] = max(0.0, counts.get(key, 0.0) + amount)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records count: projects by name (none = all), and windows by their start, RFC 3339."""

    projects: frozenset[str] = frozenset()
    since: str = ""
    until: str = ""

    def takes(self, record: EmissionRecord) -> bool:
        """Tell whether a record is asked for; `since` is included, `until` is not."""
        if self.projects and record.project not in self.projects:
            return False
        return self.takes_time(record.window_start)

    def takes_time(self, window_start: str) -> bool:
        """Tell whether a window is asked for by its start."""
        if self.since and window_start < self.since:
            return False
        return not self.until or window_start < self.until


@dataclass(frozen=True, slots=True)
class Report:
    """Totals per project, the largest emissions first, and what became of each node's energy.

    `nodes` are all that were metered in the time that was asked for, whatever projects were; None
    where only some projects were.
    """

    projects: list[ProjectTotals]
    nodes: list[Balance] | None


def aggregate(records: Iterable[EmissionRecord], selection: Selection) -> Report:
    """Return the settled totals per project. Neighbours that were not asked for are settled with."""
    totals: dict[str, ProjectTotals] = {}
    store = _Store()
    for record in records:
        is_taken = selection.takes(record) and record.pod_method != NODES_OWN
        if is_taken:
            totals.setdefault(record.project, ProjectTotals(record.project)).add(record)
        store.add(record, is_taken=is_taken)
    nodes: list[Balance] = []
    for node, stretches in store.settled():
        balance = Balance(node)
        for stretch in stretches:
            for group, amounts in store.taken_off(stretch):
                totals[group.project].take_off(group, amounts)
            if selection.takes_time(rfc3339(stretch.start_s)):
                balance.add_stretch(stretch, store.grams_per_kwh(stretch.claims))
        if balance.end_s > balance.start_s:
            nodes.append(balance)
    projects = sorted(totals.values(), key=lambda item: (-(item.emissions_g or 0.0), item.project))
    return Report(projects, None if selection.projects else nodes)


_PARTS: Final = ("cpu_energy_kwh", "ram_energy_kwh", "gpu_energy_kwh")
_IDLE: Final = ("cpu_reserved_idle_energy_kwh", "gpu_reserved_idle_energy_kwh")
_IN_PROPORTION: Final = (
    "facility_energy_kwh",
    "water_l",
    "emissions_g",
    "emissions_low_g",
    "emissions_high_g",
)


class _Store:
    """The records again, reduced to what settling changes; row by row like its claims."""

    def __init__(self) -> None:
        self._nodes = Nodes()
        self._claims = Claims(self._nodes)
        self._groups: dict[Group, int] = {}
        self._group_of: RowNumbers = array("i")
        self._grams_per_kwh: Amounts = array("d")
        self._amounts: dict[str, Amounts] = {name: array("d") for name in _IDLE + _IN_PROPORTION}

    def add(self, record: EmissionRecord, *, is_taken: bool) -> None:
        """Keep a record; what is not taken into any total is kept as a neighbour."""
        try:
            place = Place.of(record)
        except NoPlaceInTime:
            place = None
        self._claims.add(record, place)
        number = self._groups.setdefault(Group.of(record), len(self._groups)) if is_taken else -1
        self._group_of.append(number)
        self._grams_per_kwh.append(_grams_per_kwh(record))
        for name, column in self._amounts.items():
            column.append(getattr(record, name) or 0.0)

    def settled(self) -> Iterator[tuple[str, Iterator[Stretch]]]:
        """Yield each node's name with its settled stretches."""
        for node in self._claims.node_numbers():
            yield self._nodes.names[node], settle(self._claims.of_node(node))

    def taken_off(self, stretch: Stretch) -> Iterator[tuple[Group, dict[str, float]]]:
        """Yield, of each record that is cut, its group and what is taken off by column."""
        if stretch.kept is None:
            return
        groups = list(self._groups) if any(map(_is_cut, stretch.kept)) else []
        for claim, kept in zip(stretch.claims, stretch.kept, strict=True):
            number = self._group_of[claim.row]
            if number >= 0 and _is_cut(kept):
                yield groups[number], self._cut(claim, kept)

    def _cut(self, claim: Claim, kept: tuple[float, float, float]) -> dict[str, float]:
        known = [0.0 if math.isnan(energy) else energy for energy in claim.energy_kwh]
        cuts = [energy * (1.0 - part) for energy, part in zip(known, kept, strict=True)]
        energy_kwh = math.fsum(cuts)
        amounts = dict(zip(_PARTS, cuts, strict=True)) | {"energy_kwh": energy_kwh}
        for name, part in zip(_IDLE, (kept[0], kept[2]), strict=True):
            amounts[name] = self._amounts[name][claim.row] * (1.0 - part)
        for name in _IN_PROPORTION:
            amounts[name] = self._amounts[name][claim.row] * energy_kwh / math.fsum(known)
        return amounts

    def grams_per_kwh(self, claims: Sequence[Claim]) -> float | None:
        """Return the mean emissions of a kWh on the node, of the records that know it."""
        known = [
            grams for claim in claims if not math.isnan(grams := self._grams_per_kwh[claim.row])
        ]
        return math.fsum(known) / len(known) if known else None


def _is_cut(kept: tuple[float, float, float]) -> bool:
    return kept != (1.0, 1.0, 1.0)


def _grams_per_kwh(record: EmissionRecord) -> float:
    if record.pue is None or record.carbon_intensity_g_per_kwh is None:
        return math.nan
    return record.pue * record.carbon_intensity_g_per_kwh


def to_row(totals: ProjectTotals) -> dict[str, Any]:
    """Return the totals as JSON types: sets as their sizes, the mean intensity beside the sums.

    `factors` lists what the sums rest on, each with its source and the energy it was used for.
    """
    row: dict[str, Any] = {}
    for item in fields(totals):
        value = getattr(totals, item.name)
        row[item.name] = len(value) if isinstance(value, set) else value
    row["carbon_intensity_g_per_kwh"] = totals.carbon_intensity_g_per_kwh
    used = row.pop("energy_kwh_by_factors")
    row["factors"] = [
        {**asdict(factors), "energy_kwh": energy_kwh} for factors, energy_kwh in used.items()
    ]
    return row
