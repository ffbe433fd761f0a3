"""Which sources a figure rests on, by their numbers in the document's `factors`."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sidecar.report.page.reading import (
    PROSE_CHARACTERS_MAX,
    Mapped,
    child,
    number,
    rows,
    text,
)

AS_CITED: Final = "as cited"
"""The work of the catalogue whose details are works of their own."""

Numbers = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cited:
    """The sources of the factors behind a sum, largest energy first; and how much knows its PUE."""

    intensity: Numbers = ()
    pue: Numbers = ()
    power: Numbers = ()
    water: Numbers = ()
    embodied: Numbers = ()
    pue_share: float | None = None

    @property
    def all(self) -> frozenset[int]:
        """All of them."""
        return frozenset((*self.intensity, *self.pue, *self.power, *self.water, *self.embodied))


@dataclass(frozen=True, slots=True)
class Water:
    """The water that the catalogue knows a region's cooling to take, and the number of its source."""

    wue_l_per_kwh: float | None = None
    source: int = 0

    @classmethod
    def of(cls, region: Mapped) -> "Water":
        """Take it from a region of the map."""
        return cls(number(region, "wue_l_per_kwh"), int(number(region, "wue_source") or 0))

    def explains(self, measures: Mapped) -> bool:
        """Tell whether the water of a sum is its energy times this, and not of a setting."""
        litres, kwh = number(measures, "water_l"), number(measures, "energy_kwh")
        if not litres or not kwh or self.wue_l_per_kwh is None:
            return False
        return math.isclose(litres, kwh * self.wue_l_per_kwh, rel_tol=_ALIKE)


_ALIKE: Final = 1e-3
"""Relative difference up to which water is the catalogue's: some records may not know theirs."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of a report."""

    rows: Mapping[int, Mapped]
    numbers: Mapping[tuple[str, int | None], int]
    water: Mapping[str, "Water"]
    used: Cited

    @classmethod
    def of(cls, model: Mapped) -> "Sources":
        """Take them from the document."""
        found = {
            n: row for row in rows(model, "factors") if (n := int(number(row, "number") or 0)) > 0
        }
        numbers = {_key(row, "source", "year"): n for n, row in found.items()}
        water = {text(row, "region"): Water.of(row) for row in rows(model, "map")}
        used = _used(model, found)
        used = replace(used, water=_water(rows(model, "regions"), water, found))
        return cls(found, numbers, water, used)

    def of_project(self, project: Mapped) -> Cited:
        """Return the sources of the factors of a project."""
        cited = self._cited(rows(project, "factors"))
        return self._with_others(cited, project, rows(project, "regions"))

    def of_run(self, run: Mapped, project: Mapped) -> Cited:
        """Return the sources of a run's own factors; where it has several, those of its regions.

        Where its region is not known either, they are those of its project.
        """
        region, told = text(run, "region"), child(run, "sources")
        factors = rows(project, "factors")
        cited = self._cited([row for row in factors if not region or text(row, "region") == region])
        found = {name: int(number(told, key) or 0) for name, key in _FACTORS.items()}
        own: dict[str, Any] = {name: (n,) for name, n in found.items() if n in self.rows}
        return self._with_others(replace(cited, **own), run, [run])

    def _with_others(self, cited: Cited, measures: Mapped, regions: Sequence[Mapped]) -> Cited:
        """Add the sources of water, by the rows of regions, and of embodied emissions."""
        embodied = self.used.embodied if number(measures, "embodied_g") is not None else ()
        return replace(cited, water=_water(regions, self.water, self.rows), embodied=embodied)

    def _cited(self, factors: Sequence[Mapped]) -> Cited:
        energies: dict[str, dict[int, float]] = {}
        whole_kwh = known_kwh = 0.0
        for row in factors:
            kwh = number(row, "energy_kwh") or 0.0
            whole_kwh += kwh
            known_kwh += kwh if number(row, "pue") is not None else 0.0
            for name, key in _FACTORS.items():
                found = self.numbers.get(_key(row, f"{key}_source", f"{key}_year"))
                if found is not None:
                    of_factor = energies.setdefault(name, {})
                    of_factor[found] = of_factor.get(found, 0.0) + kwh
        share = known_kwh / whole_kwh if whole_kwh else None
        return Cited(**{name: _ranked(of) for name, of in energies.items()}, pue_share=share)

    def entries(self, only: Iterable[int] | None = None) -> list[dict[str, Any]]:
        """Return the sources by the work they cite, all or some; links only where they are https."""
        works: dict[str, dict[str, Any]] = {}
        for n in sorted(self.rows.keys() if only is None else self.rows.keys() & set(only)):
            for name, part, work in _parts(n, self.rows[n]):
                entry = works.setdefault(
                    name,
                    {
                        "name": name,
                        "licence": _licence(work),
                        "url": _url(work),
                        "also": part.pop("also"),
                        "parts": [],
                    },
                )
                part.pop("also", None)
                entry["parts"].append(part)
        return list(works.values())


_FACTORS: Final = {"intensity": "carbon_intensity", "pue": "pue", "power": "cpu_power"}


def _key(row: Mapped, source: str, year: str) -> tuple[str, int | None]:
    known = number(row, year)
    whole = text(row, source, at_most=PROSE_CHARACTERS_MAX)
    return whole, int(known) if known is not None else None


def _ranked(energies: Mapping[int, float]) -> Numbers:
    return tuple(sorted(energies, key=lambda n: (-energies[n], n)))


def _used(model: Mapped, found: Mapping[int, Mapped]) -> Cited:
    energies: dict[str, dict[int, float]] = {}
    for row in rows(model, "factors_used"):
        n = int(number(row, "source") or 0)
        if n in found:
            of_factor = energies.setdefault(text(row, "factor"), {})
            of_factor[n] = of_factor.get(n, 0.0) + (number(row, "energy_kwh") or 0.0)
    return Cited(
        **{name: _ranked(energies.get(key, {})) for name, key in _FACTORS.items()},
        embodied=_ranked(energies.get("embodied", {})),
        pue_share=number(child(model, "coverage"), "energy_with_pue_share"),
    )


def _water(
    regions: Sequence[Mapped], known: Mapping[str, Water], found: Mapping[int, Mapped]
) -> Numbers:
    litres: dict[int, float] = {}
    for row in regions:
        water = known.get(text(row, "region"), Water())
        if water.source in found and water.explains(row):
            litres[water.source] = litres.get(water.source, 0.0) + (number(row, "water_l") or 0.0)
    return _ranked(litres)


def _parts(n: int, row: Mapped) -> Iterator[tuple[str, dict[str, Any], Mapped]]:
    """Yield the work that a source cites and what of it."""
    source = text(row, "source", "not named", at_most=PROSE_CHARACTERS_MAX)
    year, cited = number(row, "year"), rows(row, "works")
    work = cited[0] if len(cited) == 1 else {}
    name = text(work, "source", source)
    detail = source.removeprefix(name).lstrip(":; ")
    if name == AS_CITED and detail:
        name, detail = detail, ""
    also = [
        {"name": text(item, "source"), "licence": _licence(item), "url": _url(item)}
        for item in cited
        if len(cited) > 1 and _url(item)
    ]
    part = {"number": n, "detail": detail, "year": int(year) if year else None, "also": also}
    yield name, part, work


def _licence(work: Mapped) -> str:
    """Return the licence of a work; where only facts were taken, there is none to name."""
    licence = text(work, "licence")
    return "" if licence == AS_CITED or licence.startswith("facts only") else licence


def _url(work: Mapped) -> str:
    """Return an https address; nothing else becomes a link."""
    url = text(work, "url")
    return url if url.startswith("https://") else ""
