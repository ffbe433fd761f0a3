"""What the pages have in common: the values of their templates."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidecar.report.page import view
from sidecar.report.page.citing import Cited, Numbers
from sidecar.report.page.numbers import energy, mass, mass_between, percent
from sidecar.report.page.reading import Mapped, child, number, ratio, text

CITED: Final = 3
"""Sources named beside a headline, those behind most energy; the facts name all."""

COMPONENTS: Final = (("GPU", "gpu", "--gpu"), ("CPU", "cpu", "--cpu"), ("RAM", "ram", "--ram"))


@dataclass(frozen=True, slots=True)
class Range:
    """Where a value lies between its bounds, for the eye: percent of the length that shows 0 to high."""

    low: float
    value: float

    @classmethod
    def of(cls, measures: Mapped) -> "Range | None":
        """Return it; None where anything is not known."""
        value, low, high = (number(measures, f"emissions{end}_g") for end in ("", "_low", "_high"))
        if value is None or low is None or not high or not 0 <= low <= value <= high:
            return None
        return cls(100 * low / high, 100 * value / high)


def totals(measures: Mapped, cited: Cited) -> dict[str, Any]:
    """Return the headline of any sum."""
    low, high = number(measures, "emissions_low_g"), number(measures, "emissions_high_g")
    emissions_g = number(measures, "emissions_g")
    parts = [f"{percent(part.share)} {part.name}" for part in view.qualities(measures)]
    return {
        "emissions": mass(emissions_g) if emissions_g is not None else "Not known",
        "unit": "CO₂e" if emissions_g is not None else "",
        "between": mass_between(low, high),
        "range": Range.of(measures),
        "obtained": ", ".join(parts),
        "energy": energy(number(measures, "energy_kwh")),
        "facility": view.facility_text(measures, cited.pue_share),
        "intensity_sources": cited.intensity[:CITED],
        "pue_sources": cited.pue[:CITED],
        "power_sources": cited.power[:CITED],
        "world_share": _world_share(measures),
    }


def _world_share(measures: Mapped) -> str:
    """Return the part of the energy whose region is not known; nothing where all of it is."""
    share = ratio(number(measures, "energy_world_kwh"), number(measures, "energy_kwh"))
    return percent(min(1.0, share)) if share is not None and share >= 0.005 else ""


def window(measures: Mapped) -> str:
    """Return the time that the records of a sum span; to the second where it is short."""
    start, end = text(measures, "window_start"), text(measures, "window_end")
    if not start or not end:
        return "No records"
    same_day = start[:10] == end[:10]
    if start[:16] == end[:16] or (same_day and _minutes(end) - _minutes(start) < 10):
        return f"{moment(start)}{start[16:19]} to {end[11:19]} UTC"
    return f"{moment(start)} to {end[11:16] if same_day else moment(end)} UTC"


def _minutes(at: str) -> int:
    hours, minutes = at[11:13], at[14:16]
    return int(hours) * 60 + int(minutes) if hours.isdecimal() and minutes.isdecimal() else 0


def moment(at: str) -> str:
    """Return date and time of a moment, to the minute."""
    return at[:16].replace("T", " ")


def table_row(row: Mapped, name: str, href: str | None = None) -> dict[str, Any]:
    """Return a row of a table that is there without JavaScript."""
    low, high = number(row, "emissions_low_g"), number(row, "emissions_high_g")
    return {
        "name": name,
        "href": href,
        "emissions": mass(number(row, "emissions_g")),
        "between": mass_between(low, high),
        "energy": energy(number(row, "energy_kwh")),
        "obtained": ", ".join(f"{percent(part.share)} {part.name}" for part in view.qualities(row)),
    }


def component_rows(measures: Mapped) -> list[dict[str, Any]]:
    """Return what each component used, with its part of the emissions."""
    whole = number(measures, "energy_kwh")
    found = []
    for label, stem, colour in COMPONENTS:
        kwh = number(measures, f"{stem}_energy_kwh")
        part = ratio(kwh, whole)
        value, low, high = view.emissions_of_part(measures, part) if part else [None] * 3
        found.append(
            {
                "name": label,
                "energy": energy(kwh),
                "share": percent(part),
                "ratio": part or 0.0,
                "emissions": mass(value),
                "between": "–" if low is None else f"{mass(low)} – {mass(high)}",
                "colour": colour,
            }
        )
    return found


def common(model: Mapped, measures: Mapped, cited: Cited) -> dict[str, Any]:
    """Return what every page has."""
    return {
        "generated_at": moment(text(model, "generated_at")),
        "report_name": report_name(model),
        "note": text(model, "note", at_most=400),
        "window": window(measures),
        "totals": totals(measures, cited),
        "facts": view.measures_facts(measures, cited),
        "qualities": view.qualities(measures),
        "change": view.month_change(child(measures, "month_on_month")),
        "saving": None,
        "reserved": None,
        "used": None,
        "equivalents": [],
        "sections": [],
        "follows": False,
        "has_filters": False,
    }


def report_name(model: Mapped) -> str:
    """Return what the report is called."""
    return text(model, "title", "Emissions report")


def cited_numbers(cited: Cited, equivalents: Iterable[Mapping[str, Any]]) -> frozenset[int]:
    """Return the sources that a page of a project or run cites."""
    return cited.all | {item["source"] for item in equivalents if item["source"]}


def navigation(sections: Sequence[tuple[str, str]], absent: Iterable[str]) -> list[tuple[str, str]]:
    """Return the sections that are there."""
    gone = set(absent)
    return [item for item in sections if item[0] not in gone]


__all__ = ["CITED", "Numbers", "Range"]
