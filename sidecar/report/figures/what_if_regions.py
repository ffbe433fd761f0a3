"""What the same computing would have caused in another Azure region.

emissions in t = Σ regions r ≠ t  E_r · PUE_t · I_t  +  emissions_t        [kWh · ratio · g/kWh = g]

E_r is the IT energy (`energy_kwh`) of region r whose emissions are known; what ran in t already stays
as recorded. The second figure keeps the recorded PUE: Σ r ≠ t  facility_r · I_t + emissions_t. Not
told: whether a region has the VM sizes, what moving the input costs, and that a VM there may have
another CPU.

Advice moves only what ran in a region that is known: each geography's work to the best region of that
geography (`within_geographies`), or all of it anywhere. Where all of it ran in one geography that is
one region (`same_geography`, `is_same_geography`); else these say nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from sidecar.catalogue.names import region_key
from sidecar.catalogue.rows import Region
from sidecar.estimate.bounded import NOTHING, Bounded
from sidecar.report.figures.geographies import geography_of
from sidecar.report.figures.numbers import finite, quotient, total
from sidecar.report.measures import Row

OPEN: Final = "ga"
"""Status of a region that anybody may choose; others are restricted, sovereign, canary, announced."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A region with the gCO2e that one kWh of IT energy causes there."""

    region: Region
    geography: str
    grams_per_kwh: Bounded | None
    carbon_intensity: Bounded

    @classmethod
    def of(cls, region: Region) -> "Candidate | None":
        """Return it; None where its intensity is not known, without a factor where its PUE is not."""
        if region.carbon_intensity is None:
            return None
        intensity = Bounded.of(region.carbon_intensity)
        factor = intensity * Bounded.of(region.pue) if region.pue else None
        return cls(region, geography_of(region), factor, intensity)

    @property
    def is_open(self) -> bool:
        """Whether anybody may choose it."""
        return self.region.status == OPEN


@dataclass(frozen=True, slots=True)
class Candidates:
    """The regions of the catalogue by `region_key`, and the best open one of each geography."""

    by_key: Mapping[str, Candidate]
    best: Mapping[str, Candidate]

    @classmethod
    def of(cls, regions: Iterable[Region]) -> Self:
        """Take the regions whose intensity is known; the best is that with fewest g per IT kWh."""
        found = [candidate for region in regions if (candidate := Candidate.of(region))]
        best: dict[str, Candidate] = {}
        for candidate in sorted(found, key=_grams):
            if candidate.is_open and candidate.grams_per_kwh is not None:
                best.setdefault(candidate.geography, candidate)
        return cls({region_key(item.region.name): item for item in found}, best)


def _grams(candidate: Candidate) -> float:
    return candidate.grams_per_kwh.value if candidate.grams_per_kwh else float("inf")


@dataclass(frozen=True, slots=True)
class _Amounts:
    """Energies in kWh and recorded emissions in g, with the spread of their region's factors."""

    energy_kwh: float = 0.0
    facility_energy_kwh: float = 0.0
    emissions_g: Bounded = NOTHING

    def plus(self, other: "_Amounts") -> "_Amounts":
        return _Amounts(
            self.energy_kwh + other.energy_kwh,
            self.facility_energy_kwh + other.facility_energy_kwh,
            self.emissions_g + other.emissions_g,
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """What ran where: sums by `region_key`, None for a region that is not known."""

    by_key: Mapping[str | None, _Amounts]
    left_out_kwh: float
    incomplete_records: int

    @classmethod
    def of(cls, rows: Iterable[Row], candidates: Candidates) -> Self:
        """Take rows that have a region; energy whose emissions are not known is left out."""
        by_key: dict[str | None, _Amounts] = {}
        left_out_kwh, incomplete = 0.0, 0
        for row in rows:
            measures, name = row.measures, row.keys.get("region")
            energy_kwh = measures.energy_with_emissions_kwh or 0.0
            facility_kwh = measures.facility_energy_with_emissions_kwh
            incomplete += measures.records_without_emissions
            if measures.emissions_g is None or facility_kwh is None:
                left_out_kwh += measures.energy_kwh or 0.0
                continue
            left_out_kwh += max(0.0, (measures.energy_kwh or 0.0) - energy_kwh)
            key = region_key(name) if isinstance(name, str) else None
            amounts = _Amounts(
                energy_kwh,
                facility_kwh,
                _with_spread(measures.emissions_g, candidates.by_key.get(key or ""), row),
            )
            by_key[key] = by_key.get(key, _Amounts()).plus(amounts)
        return cls(by_key, left_out_kwh, incomplete)

    @property
    def total(self) -> _Amounts:
        """The sums over all regions."""
        whole = _Amounts()
        for amounts in self.by_key.values():
            whole = whole.plus(amounts)
        return whole

    def without(self, key: str) -> _Amounts:
        """Return the sums over all regions but one."""
        rest = _Amounts()
        for other, amounts in self.by_key.items():
            if other != key:
                rest = rest.plus(amounts)
        return rest

    def by_geography(self, candidates: Candidates) -> dict[str, "Usage"]:
        """Part it by geography group; what ran in a region that is not known is in none."""
        parts: dict[str, dict[str | None, _Amounts]] = {}
        for key, amounts in self.by_key.items():
            candidate = candidates.by_key.get(key or "")
            if candidate is not None:
                parts.setdefault(candidate.geography, {})[key] = amounts
        return {name: Usage(part, 0.0, 0) for name, part in parts.items()}

    def known(self, candidates: Candidates) -> "Usage":
        """Return what ran in regions that are known."""
        by_key = {key: item for key, item in self.by_key.items() if key in candidates.by_key}
        return Usage(by_key, self.left_out_kwh, self.incomplete_records)

    def geography(self, candidates: Candidates) -> str | None:
        """Return the geography group of all; None where there are several, or one is not known."""
        found = [candidates.by_key.get(key or "") for key in self.by_key]
        names = {candidate.geography if candidate else None for candidate in found}
        return names.pop() if len(names) == 1 else None


def _with_spread(emissions_g: float, candidate: Candidate | None, row: Row) -> Bounded:
    """Give recorded emissions the relative spread of their region's factors in the catalogue.

    None where the region is not in it, or the intensity was set by the user. The spread of the energy
    is no part of it: it is the same in either region.
    """
    factor = candidate.grams_per_kwh if candidate else None
    if factor is None or factor.value <= 0 or row.measures.energy_set_kwh > 0:
        return Bounded.exact(emissions_g)
    return Bounded(
        emissions_g,
        emissions_g * factor.low / factor.value,
        emissions_g * factor.high / factor.value,
    )


def what_if_regions(rows: Sequence[Row], candidates: Candidates) -> dict[str, Any]:
    """Return what each region of the catalogue would have come to: own geographies first, ranked.

    `rank` counts the open regions of the world by emissions. The bounds of `difference_g` take each
    side's factors at opposite ends.
    """
    usage = Usage.of(rows, candidates)
    whole = usage.total
    if whole.energy_kwh <= 0:
        return {
            "known": False,
            "reason": "no energy whose emissions are known",
            "energy_left_out_kwh": usage.left_out_kwh,
            "within_geographies": None,
            "regions": [],
        }
    near = usage.geography(candidates)
    regions = [_region_row(item, usage, near) for item in candidates.by_key.values()]
    regions.sort(key=_order)
    open_ones = (row for row in regions if row["is_open"] and row["emissions_g"] is not None)
    for rank, row in enumerate(sorted(open_ones, key=lambda row: row["emissions_g"]), start=1):
        row["rank"] = rank
    return {
        "known": True,
        "reason": None,
        "energy_kwh": whole.energy_kwh,
        "emissions_g": whole.emissions_g.value,
        "energy_left_out_kwh": usage.left_out_kwh,
        "records_without_emissions": usage.incomplete_records,
        "within_geographies": within_geographies(usage, candidates),
        "regions": regions,
    }


def _order(row: Mapping[str, Any]) -> tuple[bool, bool, float, str]:
    emissions_g = row["emissions_g"]
    return (
        not row["is_same_geography"],
        emissions_g is None,
        emissions_g if emissions_g is not None else 0.0,
        row["region"],
    )


def _region_row(candidate: Candidate, usage: Usage, near: str | None) -> dict[str, Any]:
    key = region_key(candidate.region.name)
    rest = usage.without(key)
    stays_g = usage.by_key.get(key, _Amounts()).emissions_g.value
    moved = candidate.grams_per_kwh.scaled(rest.energy_kwh) if candidate.grams_per_kwh else None
    same_pue_g = candidate.carbon_intensity.value * rest.facility_energy_kwh + stays_g
    row: dict[str, Any] = {
        "region": candidate.region.name,
        "display_name": candidate.region.display_name,
        "geography": candidate.geography,
        "is_same_geography": candidate.geography == near,
        "is_used": key in usage.by_key,
        "is_open": candidate.is_open,
        "status": candidate.region.status,
        "rank": None,
    }
    row |= _figures(moved, rest.emissions_g, stays_g)
    return row | {
        "change": quotient(row["difference_g"], rest.emissions_g.value + stays_g),
        "emissions_same_pue_g": finite(same_pue_g),
        "difference_same_pue_g": finite(same_pue_g - stays_g - rest.emissions_g.value),
    }


def _figures(moved: Bounded | None, leaves_g: Bounded, stays_g: float) -> dict[str, float | None]:
    """Return emissions and difference, each with bounds, of what moves, leaves and stays."""
    if moved is None:
        names = ("emissions_g", "difference_g")
        return {f"{name[:-2]}{end}": None for name in names for end in ("_g", "_low_g", "_high_g")}
    return {
        "emissions_g": finite(moved.value + stays_g),
        "emissions_low_g": finite(moved.low + stays_g),
        "emissions_high_g": finite(moved.high + stays_g),
        "difference_g": finite(moved.value - leaves_g.value),
        "difference_low_g": finite(moved.low - leaves_g.high),
        "difference_high_g": finite(moved.high - leaves_g.low),
    }


def best_regions(rows: Sequence[Row], candidates: Candidates) -> dict[str, Any] | None:
    """Return for one project the open region with least emissions: near, and anywhere.

    Of what ran in regions that are known: None where nothing did. `same_geography` is None where not
    all of it ran in one geography; `within_geographies` moves each part within its own.
    """
    usage = Usage.of(rows, candidates)
    known = usage.known(candidates)
    if known.total.energy_kwh <= 0:
        return None
    near = usage.geography(candidates)
    best = _best(known, candidates)
    within = [] if near is None else [_best(known, candidates, near)]
    return {
        "same_geography": next((_told(row) for row in within if row), None),
        "anywhere": None if best is None else _told(best),
        "within_geographies": within_geographies(usage, candidates),
    }


def within_geographies(usage: Usage, candidates: Candidates) -> dict[str, Any] | None:
    """Return what it would come to if each geography's work had run in its best open region.

    A geography that has none stays as it is. None where no region is known. Energies are those that
    move, and those of regions that are not known, in kWh.
    """
    moves: list[dict[str, Any]] = []
    stays_g = 0.0
    parts = usage.by_geography(candidates)
    for name, part in sorted(parts.items()):
        best = _best(part, candidates, name)
        if best is None:
            stays_g += part.total.emissions_g.value
            continue
        moved_kwh = part.without(region_key(best["region"])).energy_kwh
        moves.append({"geography": name, "energy_kwh": moved_kwh, **_told(best)})
    if not parts:
        return None
    sums = {name: total([move[name] for move in moves]) for name in _TOLD[1:-1]}
    before_g = sum(part.total.emissions_g.value for part in parts.values())
    known_kwh = sum(part.total.energy_kwh for part in parts.values())
    for name in ("emissions_g", "emissions_low_g", "emissions_high_g"):
        sums[name] = total((sums[name], stays_g))
    return {
        "moves": moves,
        **sums,
        "change": quotient(sums["difference_g"], before_g),
        "energy_of_unknown_region_kwh": max(0.0, usage.total.energy_kwh - known_kwh),
    }


def _best(
    usage: Usage, candidates: Candidates, geography: str | None = None
) -> dict[str, Any] | None:
    """Return the open region with least emissions: anywhere, or of one geography.

    Only the best region of each geography that was not used, and those that were, can be it.
    """
    used = (item for key, item in candidates.by_key.items() if key in usage.by_key)
    tried = {item.region.name: item for item in (*candidates.best.values(), *used)}
    rows = [
        _region_row(item, usage, geography)
        for item in tried.values()
        if item.is_open and geography in (None, item.geography)
    ]
    known = (row for row in rows if row["emissions_g"] is not None)
    return min(known, key=lambda row: (row["emissions_g"], row["region"]), default=None)


_TOLD: Final = (
    "region",
    "emissions_g",
    "emissions_low_g",
    "emissions_high_g",
    "difference_g",
    "difference_low_g",
    "difference_high_g",
    "change",
)


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _TOLD}
