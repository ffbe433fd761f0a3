"""When to start so that the carbon intensity is least: a sliding mean over what is foreseen.

    mean(s) = 1/D · ∫ I(t) dt from s to s + D

I is constant within its spans, so the integral is linear between the starts at which s or s + D meets
an end of one. The least mean is at one of these; of equal ones the earliest is taken.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from sidecar.carbon.series import AHEAD_MAX_S, Matched, Span, Timeline, matched

_EQUAL = 1e-9
"""Relative difference up to which two means are one."""


@dataclass(frozen=True, slots=True)
class Start:
    """A start and what a constant power from then on takes; seconds since the epoch."""

    start_s: float
    end_s: float
    matched: Matched


@dataclass(frozen=True, slots=True)
class Choice:
    """The cleanest start, beside the earliest there is values for, which is at best now."""

    earliest: Start
    cleanest: Start
    foreseen_until_s: float


def cleanest_start(
    timeline: Timeline, now_s: float, duration_s: float, until_s: float = math.inf
) -> Choice | None:
    """Return the cleanest start for a run of so long that ends by `until_s`; None where none is known.

    Raises ValueError for a duration that is not positive.
    """
    if duration_s <= 0:
        raise ValueError(f"a run lasts longer than {duration_s:g} s")
    spans = published(timeline.spans_over(now_s, now_s + AHEAD_MAX_S))
    best: tuple[float, float] | None = None
    first_s = math.inf
    for stretch in _stretches(spans):
        for start_s, mean in _means(stretch, duration_s, until_s):
            first_s = min(first_s, start_s)
            if best is None or mean < best[1] - _EQUAL * max(best[1], 1.0):
                best = start_s, mean
    if best is None:
        return None
    earliest, cleanest = (_start(timeline, s, duration_s) for s in (first_s, best[0]))
    return Choice(earliest, cleanest, spans[-1].end_s)


def published(spans: Iterable[Span]) -> list[Span]:
    """Leave out what stands in after the last published value: it foresees nothing."""
    kept = list(spans)
    while kept and kept[-1].kind == "carried":
        kept.pop()
    return kept


def _stretches(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Yield the spans in groups without a gap."""
    stretch: list[Span] = []
    for span in spans:
        if stretch and span.start_s > stretch[-1].end_s + 1e-3:
            yield stretch
            stretch = []
        stretch.append(span)
    if stretch:
        yield stretch


def _means(
    stretch: Sequence[Span], duration_s: float, until_s: float
) -> Iterator[tuple[float, float]]:
    """Yield the starts at which the least mean may be, in order, each with its mean."""
    edges = [stretch[0].start_s, *(span.end_s for span in stretch)]
    parts = (
        span.g_per_kwh * (b - a) for span, (a, b) in zip(stretch, pairwise(edges), strict=True)
    )
    integral = [0.0, *accumulate(parts)]

    def up_to(at_s: float) -> float:
        index = min(bisect_right(edges, at_s), len(stretch)) - 1
        return integral[index] + stretch[index].g_per_kwh * (at_s - edges[index])

    last_s = min(edges[-1], until_s) - duration_s
    starts = set(edges) | {edge - duration_s for edge in edges} | {last_s}
    for start_s in sorted(starts):
        if edges[0] <= start_s <= last_s:
            yield start_s, (up_to(start_s + duration_s) - up_to(start_s)) / duration_s


def _start(timeline: Timeline, start_s: float, duration_s: float) -> Start:
    found = matched(timeline, start_s, start_s + duration_s)
    if found is None:
        raise ValueError(f"nothing is known from {start_s} on")  # pragma: no cover - it was seen
    return Start(start_s, start_s + duration_s, found)
