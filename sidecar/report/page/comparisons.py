"""Other regions and other hours: what the page shows of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.amounts import amount
from sidecar.report.page.cube import short
from sidecar.report.page.numbers import mass, mass_between
from sidecar.report.page.reading import Mapped, child, number, rows, text


def what_if_rows(model: Mapped) -> list[Mapped]:
    """Return the regions of the comparison."""
    return rows(child(model, "what_if_regions"), "regions")


def region_names(model: Mapped) -> dict[str, str]:
    """Return the display names of regions."""
    return {text(row, "region"): text(row, "display_name") for row in rows(model, "map")}


def map_entries(model: Mapped) -> list[dict[str, Any]]:
    """Return the regions of the map; the ones in use are ringed."""
    return [
        {
            "name": text(row, "display_name") or text(row, "region"),
            "latitude": number(row, "latitude"),
            "longitude": number(row, "longitude"),
            "intensity": short(number(row, "carbon_intensity_g_per_kwh")),
            "low": short(number(row, "carbon_intensity_low_g_per_kwh")),
            "high": short(number(row, "carbon_intensity_high_g_per_kwh")),
            "year": short(number(row, "carbon_intensity_year")),
            "source": source_number(row, "carbon_intensity_source"),
            "energy_kwh": short(number(row, "energy_kwh")),
            "isUsed": bool(number(row, "energy_kwh")),
        }
        for row in rows(model, "map")
    ]


def what_if_entries(model: Mapped) -> list[dict[str, Any]]:
    """Return the regions of the comparison with their factors, least emissions first."""
    factors = {text(row, "region"): row for row in rows(model, "map")}
    entries = []
    for row in what_if_rows(model):
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
                "is_used": row.get("is_used") is True,
                "intensity": short(number(factor, "carbon_intensity_g_per_kwh")),
                "year": short(number(factor, "carbon_intensity_year")),
                "intensity_source": source_number(factor, "carbon_intensity_source"),
                "pue": short(number(factor, "pue")),
                "pue_source": source_number(factor, "pue_source"),
            }
        )
    return sorted(entries, key=lambda entry: (entry["emissions_g"] is None, entry["emissions_g"]))


def source_number(row: Mapped, key: str) -> int | None:
    """Return the number of a source; None where none is named."""
    found = number(row, key)
    return int(found) if found else None


def move_lines(within: Mapped, names: Mapping[str, str]) -> list[str]:
    """Return where each geography's work would have come to least, data staying within it."""
    lines = []
    for move in rows(within, "moves"):
        difference_g, kwh = number(move, "difference_g"), number(move, "energy_kwh")
        if difference_g is None or difference_g >= 0 or not kwh:
            continue
        region = names.get(text(move, "region")) or text(move, "region")
        low, high = number(move, "emissions_low_g"), number(move, "emissions_high_g")
        lines.append(
            f"{text(move, 'geography')}: the same energy in {region} would have come to "
            f"{mass(number(move, 'emissions_g'))} CO₂e, {mass_between(low, high)}: "
            f"{mass(-difference_g)} less."
        )
    return lines


def weekday_hour_rows(found: Sequence[Mapped]) -> list[dict[str, float | int | None]]:
    """Return the cells of the heat map whose place is known."""
    cells: list[dict[str, float | int | None]] = []
    for row in found:
        weekday, hour = number(row, "weekday"), number(row, "hour")
        if weekday is None or hour is None or not (0 <= weekday <= 6 and 0 <= hour <= 23):
            continue
        cells.append(
            {
                "weekday": int(weekday),
                "hour": int(hour),
                **{
                    key: short(number(row, key))
                    for key in ("energy_kwh", "emissions_g", "emissions_low_g", "emissions_high_g")
                },
            }
        )
    return cells


def hour_entries(what_if: Mapped, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return for each region with a varying intensity the mean of each hour, for the chart."""
    return [
        {
            "name": names.get(text(row, "region")) or text(row, "region"),
            "hours": [
                short(number(hour, "carbon_intensity_g_per_kwh")) for hour in rows(row, "hours")
            ],
        }
        for row in rows(what_if, "regions")
    ]


def hour_lines(found: Sequence[Mapped], names: Mapping[str, str]) -> list[str]:
    """Return for each region with a varying intensity what its best hour would have come to."""
    lines = []
    for row in found:
        hour, gain = number(row, "best_hour"), number(row, "difference_at_best_g")
        before = number(row, "emissions_g")
        if hour is None or gain is None or before is None:
            continue
        region = names.get(text(row, "region")) or text(row, "region")
        lines.append(
            f"{region}: all of it at {int(hour):02d}:00 UTC{_intensity_at(row, int(hour))} would have "
            f"come to {mass(before + gain)} CO₂e, {mass(abs(gain))} {'less' if gain <= 0 else 'more'} "
            f"than {mass(before)}."
        )
    return lines


def _intensity_at(row: Mapped, hour: int) -> str:
    """Return the mean of an hour, and what it was at least and at most, between commas."""
    known = next((item for item in rows(row, "hours") if number(item, "hour") == hour), row)
    mean, least, greatest = (
        number(known, f"carbon_intensity{end}_g_per_kwh") for end in ("", "_least", "_greatest")
    )
    if mean is None:
        return ""
    spread = (
        "" if amount(least) == amount(greatest) else f" ({amount(least)} to {amount(greatest)})"
    )
    return f", at a mean of {amount(mean)} g CO₂e/kWh{spread},"
