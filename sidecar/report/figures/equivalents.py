"""Emissions as everyday things, from one cited table (`equivalents.csv` of the catalogue)."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sidecar.amounts import amount
from sidecar.catalogue.rows import Equivalent
from sidecar.report.figures.citations import Citations
from sidecar.report.figures.numbers import finite, quotient
from sidecar.report.measures import Measures

GRAMS_PER_KG: Final = 1000.0

TOLD_FROM: Final = 0.1
"""Less of a thing is not told in words: nobody pictures a ten-thousandth of a flight."""

PHRASES: Final[Mapping[str, str]] = {
    "car_km_eu_fleet": "{} km by an average car in use in Europe",
    "train_km_uk": "{} km by train for one passenger in the UK",
    "flight_paris_newyork_oneway": "{} × a one-way flight from Paris to New York, one passenger",
    "streaming_hour_world": "{} hours of video streaming",
    "smartphone_charge_us": "{} charges of a smartphone, US grid",
    "person_year_fr": "{} × the yearly footprint of one person in France",
    "tree_year": "what {} trees absorb in a year",
}
"""The items shown, in this order, and our amount of each in words."""


def equivalents(
    measures: Measures, table: Iterable[Equivalent], citations: Citations
) -> list[dict[str, Any]]:
    """Return the chosen items with their factor, its source, and our amount with bounds.

    amount = emissions / emissions of one; low takes our low and the item's high, high the other way.
    """
    by_item = {item.item: item for item in table}
    rows = []
    for name, phrase in PHRASES.items():
        item = by_item.get(name)
        if item is not None:
            rows.append(
                {
                    "item": name,
                    "description": item.description,
                    "geography": item.geography,
                    "note": item.note,
                    **citations.figure(item.emissions, "emissions/kg_co2e"),
                    **_amounts(measures, item),
                    "words": _words(phrase, measures.emissions_g, item),
                }
            )
    return rows


def equivalent_amounts(measures: Measures, table: Mapping[str, Equivalent]) -> list[dict[str, Any]]:
    """Return the same for one project, shorter: item, amount and words."""
    return [
        {
            "item": name,
            "amount": _amount(measures.emissions_g, table[name].emissions.value),
            "words": _words(phrase, measures.emissions_g, table[name]),
        }
        for name, phrase in PHRASES.items()
        if name in table
    ]


def _amounts(measures: Measures, item: Equivalent) -> dict[str, float | None]:
    return {
        "amount": _amount(measures.emissions_g, item.emissions.value),
        "amount_low": _amount(measures.emissions_low_g, item.emissions.high),
        "amount_high": _amount(measures.emissions_high_g, item.emissions.low),
    }


def _amount(emissions_g: float | None, kg_of_one: float) -> float | None:
    return quotient(finite(emissions_g), kg_of_one * GRAMS_PER_KG)


def _words(phrase: str, emissions_g: float | None, item: Equivalent) -> str | None:
    number = _amount(emissions_g, item.emissions.value)
    return None if number is None or number < TOLD_FROM else phrase.format(amount(number, 2))
