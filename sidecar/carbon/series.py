"""Carbon intensity over time: values with the time they hold for, and what a window takes of them.

A window takes the mean of the values it lies in, weighted by time:

    I(window) = Σ_k I_k · |window ∩ span_k| / |window|

which is what splitting it there would give, for its counters are read only at its ends. The least and
the greatest of these values bound it, however the energy was spread within the window.
"""

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from sidecar.carbon.intensity import HIGHEST_G_PER_KWH, Level

Kind = Literal["observed", "estimated", "scheduled", "forecast", "carried"]
KINDS: Final[tuple[Kind, ...]] = ("observed", "estimated", "scheduled", "forecast", "carried")
"""From the best known to the least: published as measured, published as an estimate, from the user's
schedule, published before its time, and the value of an earlier time because there is no later one."""

CARRIED_MAX_S: Final = 3 * 3600.0
"""A value stands in for the time after its own for so long; then nothing is known any more."""

KEPT_S: Final = 48 * 3600.0
"""Values are kept this long after their time: windows come within minutes, but a machine may sleep."""

AHEAD_MAX_S: Final = 8 * 86400.0
SPAN_MAX_S: Final = 86400.0
SPANS_MAX: Final = 1000
"""Bounds of what is believed and kept: no forecast reaches further, no value holds longer."""


@dataclass(frozen=True, slots=True)
class Span:
    """One value in g/kWh, from `start_s` up to `end_s` (seconds since the epoch, UTC).

    `of_s` is the time it was published for, where that is not its start: a part of a span, or a value
    that stands in for a later time.
    """

    start_s: float
    end_s: float
    g_per_kwh: float
    kind: Kind
    of_s: float | None = None

    @property
    def published_for_s(self) -> float:
        """Start of the time that the value was published for."""
        return self.start_s if self.of_s is None else self.of_s


@dataclass(frozen=True, slots=True)
class Matched:
    """What holds over a window; `kind` is the weakest of its values, `at_s` the time of the first."""

    g_per_kwh: float
    low: float
    high: float
    kind: Kind
    at_s: float


class Timeline(Protocol):
    """Whatever knows the carbon intensity over time."""

    @property
    def source(self) -> str:
        """Where the values come from, as records cite it; the same for all times."""
        ...

    @property
    def level(self) -> Level | None:
        """What the values describe."""
        ...

    def spans_over(self, start_s: float, end_s: float) -> Iterator[Span]:
        """Yield what holds from start to end, cut to it, in order; gaps are left out."""
        ...


@dataclass(frozen=True, slots=True)
class Series:
    """The values that one source gave for one zone; each tuple in order and without overlap.

    `asked_at_s` and `forecast_asked_at_s` are when the source was asked; None = never.
    """

    provider: str
    zone: str
    source: str
    level: Level | None
    known: tuple[Span, ...] = ()
    foreseen: tuple[Span, ...] = ()
    asked_at_s: float | None = None
    forecast_asked_at_s: float | None = None

    def spans_over(self, start_s: float, end_s: float) -> Iterator[Span]:
        """Yield what holds: what is known, else what was foreseen, else the value before."""
        at_s = start_s
        while at_s < end_s:
            span, until_s = self._holding(at_s)
            until_s = min(until_s, end_s)
            if span is not None:
                yield replace(span, start_s=at_s, end_s=until_s, of_s=span.published_for_s)
            at_s = until_s

    def plus(self, other: "Series", now_s: float) -> "Series":
        """Return both; of two values with one start that of the later answer, and none that is old."""
        mine, theirs = self.asked_at_s or 0.0, other.asked_at_s or 0.0
        known = (self.known, other.known) if theirs >= mine else (other.known, self.known)
        seen_mine, seen_theirs = self.forecast_asked_at_s or 0.0, other.forecast_asked_at_s or 0.0
        foreseen = (self.foreseen, other.foreseen)
        if seen_theirs < seen_mine:
            foreseen = (other.foreseen, self.foreseen)
        return replace(
            other,
            known=_kept(itertools.chain(*known), now_s),
            foreseen=_kept(itertools.chain(*foreseen), now_s),
            asked_at_s=max(mine, theirs) or None,
            forecast_asked_at_s=max(seen_mine, seen_theirs) or None,
        )

    def _holding(self, at_s: float) -> tuple[Span | None, float]:
        """Return what holds at an instant, and until when that is so."""
        known, before, next_known_s = _place(self.known, at_s)
        if known is not None:
            return known, known.end_s
        foreseen, earlier, next_foreseen_s = _place(self.foreseen, at_s)
        if foreseen is not None:
            return foreseen, min(foreseen.end_s, next_known_s)
        next_s = min(next_known_s, next_foreseen_s)
        last = max(filter(None, (before, earlier)), key=lambda span: span.end_s, default=None)
        if last is None or at_s >= last.end_s + CARRIED_MAX_S:
            return None, next_s
        return replace(last, kind="carried"), min(last.end_s + CARRIED_MAX_S, next_s)


def matched(timeline: Timeline, start_s: float, end_s: float) -> Matched | None:
    """Return what holds from start to end; None unless all of it is known.

    An instant (start = end) takes the value that begins or holds there.
    """
    until_s = max(end_s, start_s + 1e-3)
    spans = list(timeline.spans_over(start_s, until_s))
    length_s = until_s - start_s
    known_s = math.fsum(span.end_s - span.start_s for span in spans)
    if not spans or known_s < length_s * (1 - 1e-9) - 1e-6:
        return None
    values = [span.g_per_kwh for span in spans]
    low, high = min(values), max(values)
    mean = math.fsum(span.g_per_kwh * (span.end_s - span.start_s) for span in spans) / known_s
    kind = max((span.kind for span in spans), key=KINDS.index)
    return Matched(min(max(mean, low), high), low, high, kind, spans[0].published_for_s)


def believable(span: Span, now_s: float) -> bool:
    """Whether a value can be one: finite, from 0 to 5000 g/kWh, for a time that is near now."""
    numbers = (span.start_s, span.end_s, span.g_per_kwh)
    return (
        all(map(math.isfinite, numbers))
        and 0 <= span.g_per_kwh <= HIGHEST_G_PER_KWH
        and 0 < span.end_s - span.start_s <= SPAN_MAX_S
        and now_s - KEPT_S <= span.end_s
        and span.start_s <= now_s + AHEAD_MAX_S
    )


def in_order(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return spans by their start, each cut where the next begins; of equal starts the last counts."""
    by_start = {span.start_s: span for span in spans}
    ordered = [by_start[start_s] for start_s in sorted(by_start)]
    later = [*ordered[1:], None]
    return tuple(
        span if after is None else replace(span, end_s=min(span.end_s, after.start_s))
        for span, after in zip(ordered, later[: len(ordered)], strict=True)
    )


def _kept(spans: Iterable[Span], now_s: float) -> tuple[Span, ...]:
    return in_order(span for span in spans if believable(span, now_s))[-SPANS_MAX:]


def _place(spans: Sequence[Span], at_s: float) -> tuple[Span | None, Span | None, float]:
    """Return the span that holds at an instant, the one before, and when the next one begins."""
    index = bisect_right(spans, at_s, key=lambda span: span.start_s)
    next_s = spans[index].start_s if index < len(spans) else math.inf
    last = spans[index - 1] if index else None
    if last is not None and at_s < last.end_s:
        return last, None, next_s
    return None, last, next_s
