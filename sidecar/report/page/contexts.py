"""What each page shows: the values of its template, and the JSON its script reads."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sidecar.report.page import view
from sidecar.report.page.cube import MEASURES, Cube, short
from sidecar.report.page.numbers import energy, mass, mass_between, percent
from sidecar.report.page.reading import (
    NAMELESS,
    PROSE_CHARACTERS_MAX,
    Mapped,
    child,
    number,
    ratio,
    rows,
    text,
    total,
)

PROJECTS_WITHOUT_SCRIPT: Final = 25
"""Rows of the table that is there without JavaScript."""

EXPERIMENTS_SHOWN: Final = 50

Hrefs = Mapping[object, str]

_COMPONENTS: Final = (("GPU", "gpu", "--gpu"), ("CPU", "cpu", "--cpu"), ("RAM", "ram", "--ram"))


def totals(measures: Mapped) -> dict[str, str]:
    """Return the headline of any sum."""
    low, high = number(measures, "emissions_low_g"), number(measures, "emissions_high_g")
    emissions_g = number(measures, "emissions_g")
    parts = [f"{percent(part.share)} {part.name}" for part in view.qualities(measures)]
    return {
        "emissions": mass(emissions_g) if emissions_g is not None else "Not known",
        "unit": "CO2e" if emissions_g is not None else "",
        "between": mass_between(low, high),
        "obtained": ", ".join(parts),
        "energy": energy(number(measures, "energy_kwh")),
        "facility": energy(number(measures, "facility_energy_kwh")),
    }


def window(measures: Mapped) -> str:
    """Return the time that the records of a sum span."""
    start, end = text(measures, "window_start"), text(measures, "window_end")
    if not start or not end:
        return "No records"
    return f"{_minute(start)} to {_minute(end)} UTC"


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")


def table_row(row: Mapped, name: str, href: str | None = None) -> dict[str, str | None]:
    """Return a row of a table that is there without JavaScript."""
    low, high = number(row, "emissions_low_g"), number(row, "emissions_high_g")
    return {
        "name": name,
        "href": href,
        "emissions": mass(number(row, "emissions_g")),
        "between": mass_between(low, high),
        "energy": energy(number(row, "energy_kwh")),
    }


def short_measures(row: Mapped) -> dict[str, float | int]:
    """Return the measures that are known, rounded for the page's script."""
    found = ((name, short(number(row, name))) for name in MEASURES)
    return {name: value for name, value in found if value is not None}


def project_entry(row: Mapped, href: str | None) -> dict[str, Any]:
    """Return a project for the page's script, with the facts that its table unfolds."""
    facts = [
        ["Facility energy, with PUE", energy(number(row, "facility_energy_kwh"))],
        ["Embodied, not in the emissions", f"{mass(number(row, 'embodied_g'))} CO2e"],
        ["Runs", f"{int(number(row, 'runs') or 0):,}"],
    ]
    change = view.month_change(child(row, "month_on_month"))
    if change:
        facts.append(["Against the month before", f"{change.text}; {change.detail}"])
    name = text(row, "project", NAMELESS)
    return {"name": name, "href": href, "totals": short_measures(row), "facts": facts}


def run_entry(row: Mapped, href: str | None) -> dict[str, Any]:
    """Return a run for the page's script."""
    return {
        "name": text(row, "run", NAMELESS),
        "project": text(row, "project", NAMELESS),
        "href": href,
        "start": text(row, "window_start") or None,
        "end": text(row, "window_end") or None,
        "totals": short_measures(row),
    }


def summed(entries: Sequence[Mapped], name: str) -> dict[str, Any]:
    """Return many projects as one entry."""
    sums = {key: short(total([number(row, key) for row in entries])) for key in MEASURES}
    known = {key: value for key, value in sums.items() if value is not None}
    return {"name": name, "href": None, "totals": known, "facts": []}


def factor_entries(model: Mapped) -> list[dict[str, Any]]:
    """Return the sources by the work they cite; links only where they are https."""
    works: dict[str, dict[str, Any]] = {}
    for row in rows(model, "factors"):
        source, year = (
            text(row, "source", "not named", at_most=PROSE_CHARACTERS_MAX),
            number(row, "year"),
        )
        cited = rows(row, "works")
        work = cited[0] if len(cited) == 1 else {}
        name = text(work, "source", source)
        entry = works.setdefault(
            name,
            {
                "name": name,
                "licence": text(work, "licence"),
                "url": _url(work),
                "also": [_work(item) for item in cited if len(cited) > 1 and _url(item)],
                "parts": [],
            },
        )
        part = {
            "number": int(number(row, "number") or 0),
            "detail": source.removeprefix(name).lstrip(":; "),
            "year": int(year) if year else None,
        }
        entry["parts"].append(part)
    return list(works.values())


def _work(work: Mapped) -> dict[str, str]:
    return {"name": text(work, "source"), "licence": text(work, "licence"), "url": _url(work)}


def _url(work: Mapped) -> str:
    """Return an https address; nothing else becomes a link."""
    url = text(work, "url")
    return url if url.startswith("https://") else ""


def region_names(model: Mapped) -> dict[str, str]:
    """Return the display names of regions."""
    return {text(row, "region"): text(row, "display_name") for row in rows(model, "map")}


def regions_of(cube: Cube, names: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the regions of a cube as the script shows them."""
    return [{"key": name, "name": names.get(name) or name or "not known"} for name in cube.regions]


def map_entries(model: Mapped) -> list[dict[str, Any]]:
    """Return the regions of the map; the ones in use are ringed."""
    return [
        {
            "name": text(row, "display_name") or text(row, "region"),
            "latitude": number(row, "latitude"),
            "longitude": number(row, "longitude"),
            "intensity": short(number(row, "carbon_intensity_g_per_kwh")),
            "year": short(number(row, "carbon_intensity_year")),
            "energy_kwh": short(number(row, "energy_kwh")),
            "isUsed": bool(number(row, "energy_kwh")),
        }
        for row in rows(model, "map")
    ]


def what_if_entries(model: Mapped) -> list[dict[str, Any]]:
    """Return the regions of the comparison with their factors, least emissions first."""
    factors = {text(row, "region"): row for row in rows(model, "map")}
    entries = []
    for row in view.what_if_rows(model):
        factor = factors.get(text(row, "region"), {})
        entries.append(
            {
                "key": text(row, "region"),
                "name": text(row, "display_name") or text(row, "region"),
                **{
                    key: short(number(row, key))
                    for key in ("emissions_g", "emissions_low_g", "emissions_high_g")
                },
                "is_restricted": row.get("is_open") is not True,
                "is_near": row.get("is_same_geography") is True,
                "is_used": row.get("is_used") is True,
                "intensity": short(number(factor, "carbon_intensity_g_per_kwh")),
                "year": short(number(factor, "carbon_intensity_year")),
                "pue": short(number(factor, "pue")),
            }
        )
    return sorted(entries, key=lambda entry: (entry["emissions_g"] is None, entry["emissions_g"]))


def unallocated(model: Mapped) -> dict[str, Any] | None:
    """Return what no pod used; None where nodes were not looked at."""
    balance = child(model, "balance")
    kwh, whole = number(balance, "unallocated_energy_kwh"), number(balance, "node_energy_kwh")
    if kwh is None or not whole:
        return None
    names = (
        ("Energy of the nodes", "node_energy_kwh"),
        ("Pods with records", "pods_energy_kwh"),
        ("Pods without records", "untracked_energy_kwh"),
        ("Unallocated GPU", "unallocated_gpu_energy_kwh"),
        ("Unallocated CPU", "unallocated_cpu_energy_kwh"),
        ("Unallocated RAM", "unallocated_ram_energy_kwh"),
    )
    return {
        "energy": energy(kwh),
        "node_energy": energy(whole),
        "share": percent(ratio(kwh, whole)),
        "emissions": mass(number(balance, "unallocated_emissions_g")),
        "facts": [view.Fact(name, energy(number(balance, key))) for name, key in names],
    }


def experiments(found: Sequence[Mapped]) -> dict[str, Any]:
    """Return the largest experiments of a project as table rows, and how many more there are."""
    ranked = sorted(found, key=lambda row: -(number(row, "emissions_g") or 0.0))
    shown = ranked[:EXPERIMENTS_SHOWN]
    return {
        "experiments": [table_row(row, text(row, "experiment", NAMELESS)) for row in shown],
        "experiments_more": len(ranked) - len(shown),
    }


def common(model: Mapped, measures: Mapped) -> dict[str, Any]:
    """Return what every page has."""
    return {
        "generated_at": _minute(text(model, "generated_at")),
        "window": window(measures),
        "totals": totals(measures),
        "facts": view.measures_facts(measures),
        "qualities": view.qualities(measures),
        "change": view.month_change(child(measures, "month_on_month")),
        "saving": None,
        "equivalents": [],
        "sections": [],
        "follows": False,
    }


def run_page(model: Mapped, row: Mapped, project_href: str | None) -> dict[str, Any]:
    """Return what the page of a run shows."""
    name = text(row, "run", NAMELESS)
    whole = number(row, "energy_kwh")
    components = []
    for label, stem, colour in _COMPONENTS:
        kwh = number(row, f"{stem}_energy_kwh")
        part = ratio(kwh, whole)
        components.append(
            {
                "name": label,
                "energy": energy(kwh),
                "share": percent(part),
                "ratio": part or 0.0,
                "colour": colour,
            }
        )
    return common(model, row) | {
        "title": f"{name} · emissions report",
        "name": name,
        "project": text(row, "project", NAMELESS),
        "project_href": project_href,
        "components": components,
    }


def best_region_lines(project: Mapped, names: Mapping[str, str]) -> list[str]:
    """Return where the project's work would have come to least."""
    best = child(project, "best_region")
    lines: list[str] = []
    for key, where in (("same_geography", "near"), ("anywhere", "anywhere")):
        row = child(best, key)
        difference, emissions = number(row, "difference_g"), number(row, "emissions_g")
        if difference is not None and emissions is not None and difference < 0:
            region = names.get(text(row, "region")) or text(row, "region")
            low, high = number(row, "emissions_low_g"), number(row, "emissions_high_g")
            line = (
                f"The same energy in {region} (the lowest {where}) would have come to "
                f"{mass(emissions)} CO2e, {mass_between(low, high)}: {mass(-difference)} less."
            )
            if not lines or region not in lines[0]:
                lines.append(line)
    return lines
