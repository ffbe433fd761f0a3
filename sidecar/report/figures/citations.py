"""The sources that figures name, each once, by number."""

import csv
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from sidecar.units import Figure


class Citations:
    """Numbers sources in the order they are first named, from 1 on."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, int | None], int] = {}

    def number(self, text: str | None, year: int | None) -> int | None:
        """Return the number of a source; None where none is named."""
        if not text:
            return None
        return self._numbers.setdefault((text, year), len(self._numbers) + 1)

    def figure(self, figure: Figure | None, suffix: str) -> dict[str, Any]:
        """Return a factor as columns: value, bounds, year and number of its source."""
        stem, _, unit = suffix.partition("/")
        unit = f"_{unit}" if unit else ""
        if figure is None:
            values: tuple[Any, ...] = (None,) * 5
        else:
            source = self.number(figure.source, figure.year)
            values = (figure.value, figure.low, figure.high, figure.year, source)
        names = (f"{stem}{unit}", f"{stem}_low{unit}", f"{stem}_high{unit}")
        return dict(zip((*names, f"{stem}_year", f"{stem}_source"), values, strict=True))

    def rows(self) -> list[dict[str, Any]]:
        """Return all sources: text, year, and what the catalogue says of the works it cites."""
        works = _works()
        return [
            {"number": number, "source": text, "year": year, "works": _cited(text, works)}
            for (text, year), number in self._numbers.items()
        ]


def _works() -> Mapping[str, Mapping[str, str]]:
    """Return the works of the catalogue's `sources.csv` by their text."""
    table = files("sidecar.catalogue").joinpath("tables", "sources.csv")
    with table.open("r", encoding="utf-8") as stream:
        return {row["source"]: row for row in csv.DictReader(stream)}


def _cited(text: str, works: Mapping[str, Mapping[str, str]]) -> list[dict[str, str | None]]:
    """Return the works that a source text cites: `work: detail; work: detail`."""
    padded = f"; {text}; "
    return [
        {"source": work, "licence": row["licence"], "url": row["url"] or None}
        for work, row in works.items()
        if f"; {work}; " in padded or f"; {work}: " in padded
    ]
