"""The form in which values over time are kept on disk and told by the collector: one JSON object.

    {"format": 1, "provider": "uk", "zone": "GB", "source": "…", "level": "zone", "unit": "g/kWh",
     "asked_at_s": 1800000000.0, "forecast_asked_at_s": null,
     "known": [[1800000000, 1800001800, 231, "observed"], …], "foreseen": [[…, …, …, "forecast"], …]}

Whoever wrote it is not trusted: what cannot be right is refused as a whole.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast, get_args

from sidecar.carbon.intensity import HIGHEST_G_PER_KWH, Level
from sidecar.carbon.series import SPAN_MAX_S, SPANS_MAX, Kind, Series, Span, in_order

FORMAT: Final = 1
UNIT: Final = "g/kWh"
TEXT_CHARACTERS_MAX: Final = 300

_KNOWN_KINDS: Final = ("observed", "estimated", "scheduled")
_LEVELS: Final = (None, *get_args(Level))


def encoded(series: Series) -> bytes:
    """Return a series as JSON."""
    document = {
        "format": FORMAT,
        "provider": series.provider,
        "zone": series.zone,
        "source": series.source,
        "level": series.level,
        "unit": UNIT,
        "asked_at_s": series.asked_at_s,
        "forecast_asked_at_s": series.forecast_asked_at_s,
        "known": [_row(span) for span in series.known],
        "foreseen": [_row(span) for span in series.foreseen],
    }
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def between(series: Series, start_s: float, end_s: float) -> Series:
    """Return the series without the values before and after these times."""

    def near(spans: tuple[Span, ...]) -> tuple[Span, ...]:
        return tuple(span for span in spans if span.end_s > start_s and span.start_s < end_s)

    return replace(series, known=near(series.known), foreseen=near(series.foreseen))


def decoded(content: bytes) -> Series:
    """Return the series of such a JSON object. Raises ValueError, which says what is wrong."""
    try:
        document = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    return series_of(document)


def series_of(document: Mapping[str, Any]) -> Series:
    """Return the series of a decoded object. Raises ValueError, which says what is wrong."""
    if document.get("format") != FORMAT:
        raise ValueError(f"it has format {document.get('format')!r:.40}, not {FORMAT}")
    level = document.get("level")
    if level not in _LEVELS or document.get("unit") != UNIT:
        raise ValueError("its level or its unit is not known")
    return Series(
        provider=_text(document, "provider"),
        zone=_text(document, "zone"),
        source=_text(document, "source"),
        level=cast("Level | None", level),
        known=_spans(document, "known", _KNOWN_KINDS),
        foreseen=_spans(document, "foreseen", ("forecast",)),
        asked_at_s=_time(document, "asked_at_s"),
        forecast_asked_at_s=_time(document, "forecast_asked_at_s"),
    )


def _row(span: Span) -> list[Any]:
    return [span.start_s, span.end_s, span.g_per_kwh, span.kind]


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= TEXT_CHARACTERS_MAX:
        raise ValueError(f"its {name} is no text of 1 to {TEXT_CHARACTERS_MAX} characters")
    if not value.isprintable():
        raise ValueError(f"its {name} is not printable")
    return value


def _time(document: Mapping[str, Any], name: str) -> float | None:
    value = document.get(name)
    if value is not None and not _is_number(value):
        raise ValueError(f"its {name} is no time")
    return value


def _spans(document: Mapping[str, Any], name: str, kinds: tuple[str, ...]) -> tuple[Span, ...]:
    rows = document.get(name)
    if not isinstance(rows, list) or len(rows) > SPANS_MAX:
        raise ValueError(f"its {name} is no list of at most {SPANS_MAX} values")
    return in_order(_span(row, name, kinds) for row in rows)


def _span(row: object, name: str, kinds: tuple[str, ...]) -> Span:
    if not isinstance(row, list) or len(row) != 4 or not all(map(_is_number, row[:3])):
        raise ValueError(f"its {name} has a value that is not [start, end, g/kWh, kind]")
    start_s, end_s, g_per_kwh, kind = row
    if kind not in kinds or not 0 < end_s - start_s <= SPAN_MAX_S:
        raise ValueError(f"its {name} has a value of no length, of no kind or too long")
    if not 0 <= g_per_kwh <= HIGHEST_G_PER_KWH:
        raise ValueError(f"its {name} has {g_per_kwh:g} g/kWh, outside 0 to {HIGHEST_G_PER_KWH:g}")
    return Span(start_s, end_s, g_per_kwh, cast("Kind", kind))


def _is_number(value: object) -> bool:
    """Whether it is a finite number of a size that a float holds exactly enough."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -(10**15) < value < 10**15  # which neither NaN nor infinity is
