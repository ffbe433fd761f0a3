"""Checks of one process's records in their order, and of the processes of one pod against each other.

What the sidecar promises, and so what is checked: numbers begin at 0; a window begins at the very moment
the one before ended; only the last record says `end`. A missing number has one innocent cause: while the
volume cannot be written the oldest waiting windows are merged, and the merged record keeps the first's
number and start and the last's end. So numbers that are missing where the times join are a merge, and a
loss where they do not. (Where the clock was set back at that very place they cannot join: it is called a
loss. A merge that ends just there is the rarer of the two, and a loss must not pass for one.)

A wall clock that is set back makes a window begin before the end of the one before it; durations and
energies come from monotonic counters and are not concerned.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from sidecar.report.arithmetic import check_products
from sidecar.report.findings import (
    BACKWARDS,
    DURATION,
    GAP,
    MERGED,
    MISPLACED,
    NO_END,
    OVERLAP,
    SET_BACK,
    UNCLEAR,
    Findings,
)
from sidecar.report.ledger import Boot, Entry, Ledger
from sidecar.windows import GAP_TOLERANCE_S, SLEW, rfc3339

JOIN_S: Final = 0.01
"""Where records were merged, the next begins at the very same moment: both round it to a millisecond.

Stricter than between neighbours, or a lost window of a second would pass for merged.
"""

ROUNDING_S: Final = 0.002
"""Of the two times of a window, each to a millisecond."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A record and the next one of the same process."""

    entry: Entry
    follower: Entry

    @property
    def missing(self) -> int:
        """Sequence numbers that are not there in between."""
        return self.follower.sequence - self.entry.sequence - 1

    @property
    def apart_s(self) -> float:
        """Seconds between the end and the next start; negative where they overlap."""
        return self.follower.start_s - self.entry.end_s

    @property
    def is_set_back(self) -> bool:
        return self.apart_s < -_tolerance_s(self.entry)

    @property
    def is_merge(self) -> bool:
        """Whether missing numbers are explained by a merge."""
        return self.missing > 0 and -_tolerance_s(self.entry) <= self.apart_s <= JOIN_S

    @property
    def is_gap(self) -> bool:
        if self.missing:
            return not self.is_merge
        return self.apart_s > _tolerance_s(self.entry)


def check_boot(ledger: Ledger, boot: Boot, rows: list[int], found: Findings) -> bool:
    """Check the records of one process, given in order and each once.

    Returns whether the wall clock was set back while it ran.
    """
    first = ledger[rows[0]]
    if first.sequence > 0:
        found.add(
            GAP,
            **_about(ledger, boot, first),
            missing=first.sequence,
            seconds=None,
            detail="beginning lost",
        )
    was_set_back = False
    for step in _steps(ledger, rows):
        about = _about(ledger, boot, step.entry)
        merged = step.missing if step.is_merge else 0
        if merged:
            found.add(MERGED, **about, windows=merged + 1)
        _check_step(step, about, found)
        was_set_back |= step.is_set_back
        was_set_back |= _check_window(step.entry, about, found, merged)
        if step.follower.is_start:
            found.add(MISPLACED, **_about(ledger, boot, step.follower), event="start")
    last = ledger[rows[-1]]
    _check_window(last, _about(ledger, boot, last), found, 0)
    if not last.is_last:
        found.add(NO_END, **_about(ledger, boot, last), window_end=rfc3339(last.end_s))
    return was_set_back


def _steps(ledger: Ledger, rows: list[int]) -> Iterator[_Step]:
    return itertools.starmap(_Step, itertools.pairwise(ledger.entries(rows)))


def _check_step(step: _Step, about: dict[str, Any], found: Findings) -> None:
    if step.entry.is_last:
        found.add(MISPLACED, **about, event="end", detail=f"{step.follower.sequence} follows it")
    if step.is_gap:
        seconds = None if step.is_set_back else round(step.apart_s, 3)
        found.add(
            GAP,
            **about,
            window_end=rfc3339(step.entry.end_s),
            next_window_start=rfc3339(step.follower.start_s),
            missing=step.missing,
            seconds=seconds,
        )
    if step.is_set_back:
        found.add(
            SET_BACK, **about, window_end=rfc3339(step.entry.end_s), seconds=-round(step.apart_s, 3)
        )


def _check_window(entry: Entry, about: dict[str, Any], found: Findings, merged: int) -> bool:
    """Check the times of one record; `merged` is how many more windows it holds than one.

    Each window may differ from the wall clock by the tolerance. A merged one over a clock that was set
    back is shorter than its duration, and may end before it starts: then returns True.
    """
    if not merged:
        check_products(entry, about, found)
    length_s = entry.end_s - entry.start_s
    excess_s = entry.duration_s + entry.gap_s - length_s
    tolerance_s = (merged + 1) * GAP_TOLERANCE_S + SLEW * entry.duration_s + ROUNDING_S
    numbers = {"found": round(length_s, 3), "expected": round(entry.duration_s + entry.gap_s, 3)}
    if merged and excess_s > tolerance_s:
        found.add(SET_BACK, **about, seconds=round(excess_s, 3))
        return True
    if length_s < -ROUNDING_S:
        found.add(BACKWARDS, **about, seconds=-round(length_s, 3))
    elif abs(excess_s) > tolerance_s:
        found.add(DURATION, **about, **numbers)
    return False


def _about(ledger: Ledger, boot: Boot, entry: Entry) -> dict[str, Any]:
    return {"record_id": f"{boot.stem}.{entry.sequence}", "file": ledger.files[entry.file]}


def _tolerance_s(entry: Entry) -> float:
    return max(GAP_TOLERANCE_S, SLEW * entry.duration_s) + ROUNDING_S


# -- the processes of one pod ------------------------------------------------------------------------


@dataclass(slots=True)
class _Meeting:
    """Two processes of one pod that metered at the same time."""

    first_s: float
    last_s: float
    seconds: float = 0.0


def check_pod(
    ledger: Ledger, rows_of_boots: dict[int, list[int]], set_back: set[int], found: Findings
) -> None:
    """Check that no two processes of a pod metered at the same time.

    Where the clock was set back in one of them, windows of all may only seem to overlap.
    The seconds of all their windows count together: short windows that overlap are found too.
    """
    rows = sorted(
        itertools.chain.from_iterable(rows_of_boots.values()),
        key=ledger.column("start_s").__getitem__,
    )
    for (earlier, later), meeting in _meetings(ledger.entries(rows)).items():
        if meeting.seconds <= GAP_TOLERANCE_S:
            continue
        found.add(
            UNCLEAR if set_back & rows_of_boots.keys() else OVERLAP,
            pod_uid=ledger.boots[earlier].pod_uid,
            boots=[ledger.boots[earlier].stem, ledger.boots[later].stem],
            window_start=rfc3339(meeting.first_s),
            window_end=rfc3339(meeting.last_s),
            seconds=round(meeting.seconds, 3),
        )


def _meetings(entries: Iterable[Entry]) -> dict[tuple[int, int], _Meeting]:
    """Sweep over windows in the order of their starts."""
    ends_s: dict[int, float] = {}
    meetings: dict[tuple[int, int], _Meeting] = {}
    for entry in entries:
        for boot in [boot for boot, end_s in ends_s.items() if end_s <= entry.start_s]:
            del ends_s[boot]
        for boot, end_s in ends_s.items():
            if boot == entry.boot:
                continue
            pair = (min(boot, entry.boot), max(boot, entry.boot))
            meeting = meetings.setdefault(pair, _Meeting(entry.start_s, entry.end_s))
            meeting.last_s = min(end_s, entry.end_s)
            meeting.seconds += max(0.0, meeting.last_s - entry.start_s)
        ends_s[entry.boot] = max(entry.end_s, ends_s.get(entry.boot, entry.end_s))
    return meetings
