"""Checks of the pods of one node against each other: together they cannot have more than the node.

Shares by requests, or of a whole node, do not depend on what was used: at every moment those in force
must add up to at most 1, however the windows lie. Shares by use are of their own window's use and say
nothing of a moment within it: they are compared only between windows of the same name (start and end),
and with room for what those names round away, as a window ends up to `SNAP_S` from the moment it is
named by. So are energies. Pods that do not know their node are compared with none.

CPU figures of sources that answer late are not compared in single windows, as they may be of those
beside it: `verify` looks at them settled, over ten minutes.

Where sidecars use different methods they can claim too much together without any being wrong: that is
not looked at here, `settle` takes it off. The node meter's own records claim nothing.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.report.arithmetic import COMPONENTS, SHARE_COLUMNS, SHARE_TOLERANCE
from sidecar.report.findings import NODE_ENERGY, SHARES, UNCLEAR, Findings, Kind
from sidecar.report.ledger import FAMILIES, Entry, Ledger
from sidecar.windows import GAP_TOLERANCE_S, SNAP_S, rfc3339

NAMED_MAX: Final = 5
"""Claimants named in an example."""


@dataclass(frozen=True, slots=True)
class _Window:
    """The records of one node for windows of the same name."""

    entries: list[Entry]

    @property
    def boots(self) -> list[int]:
        return sorted({entry.boot for entry in self.claims})

    @property
    def is_static(self) -> bool:
        return all(entry.is_static for entry in self.claims)

    @property
    def is_late(self) -> bool:
        return any(entry.is_late for entry in self.claims)

    @property
    def claims(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.is_nodes_own]

    @property
    def limit(self) -> float:
        """Return what shares may add up to."""
        if self.is_static:
            return 1 + SHARE_TOLERANCE
        shortest_s = min(entry.duration_s for entry in self.entries)
        return 1 + 2 * SNAP_S / max(shortest_s, SNAP_S)

    def total(self, column: str) -> float:
        """Return the sum over the records that know the number."""
        values: Iterable[float] = (getattr(entry, column) for entry in self.claims)
        return sum(value for value in values if not math.isnan(value))


def check_node(
    ledger: Ledger, node: int, rows: list[int], found: Findings, *, was_set_back: bool
) -> None:
    """Check the records of one node, in the order of their starts and ends.

    Where the wall clock was set back, windows of the same name may be of different times.
    """
    about = {"node": ledger.nodes[node]}
    for window in _shared_windows(ledger, rows):
        named = {**about, **_named(ledger, window.boots)}
        named |= _span(window.entries[0].start_s, window.entries[0].end_s)
        for kind, numbers in _excesses(window):
            found.add(UNCLEAR if was_set_back else kind, **named, **numbers)
    static = [row for row in rows if ledger[row].is_static]
    for stretch in _overclaimed(ledger, static):
        if not stretch.is_of_one_family:
            continue
        named = {**about, **_named(ledger, stretch.boots), **_span(stretch.start_s, stretch.end_s)}
        found.add(
            UNCLEAR if was_set_back else SHARES,
            **named,
            column=stretch.column,
            found=stretch.peak,
            at_most=1,
        )


def _shared_windows(ledger: Ledger, rows: list[int]) -> Iterator[_Window]:
    """Yield the windows that more than one process has."""
    windows = itertools.groupby(
        ledger.entries(rows), key=lambda entry: (entry.start_s, entry.end_s)
    )
    for _, group in windows:
        window = _Window(list(group))
        if are_alike(entry.family for entry in window.claims) and len(window.boots) > 1:
            yield window


def _excesses(window: _Window) -> Iterator[tuple[Kind, dict[str, Any]]]:
    if not window.is_static:  # those are looked at moment by moment
        for column in SHARE_COLUMNS:
            if window.is_late and column == "share_cpu":
                continue
            total = window.total(column)
            if total > window.limit:
                yield SHARES, {"column": column, "found": total, "at_most": 1}
    for name in COMPONENTS[1:] if window.is_late else COMPONENTS:
        of_node = [getattr(entry, f"node_{name}_energy_kwh") for entry in window.entries]
        at_most = max((energy for energy in of_node if not math.isnan(energy)), default=math.nan)
        total = window.total(f"{name}_energy_kwh")
        if total > at_most * window.limit:  # never so where the node's is not known
            yield NODE_ENERGY, {"column": f"{name}_energy_kwh", "found": total, "at_most": at_most}


# -- moment by moment --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Stretch:
    """A time in which the shares in force add up to more than 1."""

    column: str
    start_s: float
    end_s: float = math.inf
    peak: float = 0.0
    boots: list[int] = field(default_factory=list)
    is_of_one_family: bool = True

    def take(self, total: float, in_force: "_InForce") -> None:
        """Remember the highest sum, and whose it was."""
        if total > self.peak:
            self.peak, self.boots = total, sorted(in_force.boots)
            self.is_of_one_family = are_alike(in_force.families.elements())


@dataclass(slots=True)
class _InForce:
    """The shares in force at one moment, one sum for each column, and whose they are."""

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SHARE_COLUMNS, 0.0))
    boots: Counter[int] = field(default_factory=Counter)
    families: Counter[int] = field(default_factory=Counter)

    def change(self, entry: Entry, sign: int) -> None:
        """Begin (+1) or end (−1) a record's window."""
        self.boots[entry.boot] += sign
        self.families[entry.family] += sign
        if not self.boots[entry.boot]:
            del self.boots[entry.boot]
        for column in SHARE_COLUMNS:
            share = getattr(entry, column)
            if not math.isnan(share):
                self.sums[column] += sign * share
        if not self.boots:  # forget what rounding left
            self.sums = dict.fromkeys(SHARE_COLUMNS, 0.0)


def _overclaimed(ledger: Ledger, rows: list[int]) -> Iterator[_Stretch]:
    """Sweep over time; a stretch no longer than the clocks' tolerance is none."""
    in_force = _InForce()
    stretches: dict[str, _Stretch] = {}
    for moment_s, changes in itertools.groupby(
        _changes(ledger, rows), key=lambda change: change[0]
    ):
        for _, sign, row in changes:
            in_force.change(ledger[row], sign)
        for column, total in in_force.sums.items():
            if total > 1 + SHARE_TOLERANCE:
                stretch = stretches.setdefault(column, _Stretch(column, moment_s))
                stretch.take(total, in_force)
            elif column in stretches:
                stretch = stretches.pop(column)
                stretch.end_s = moment_s
                if stretch.end_s - stretch.start_s > GAP_TOLERANCE_S:
                    yield stretch


def _changes(ledger: Ledger, rows: list[int]) -> list[tuple[float, int, int]]:
    """Return when windows end (−1) and begin (+1), in order; those without length never do."""
    starts, ends = ledger.column("start_s"), ledger.column("end_s")
    spans = [row for row in rows if ends[row] > starts[row]]
    return sorted(
        [(starts[row], 1, row) for row in spans] + [(ends[row], -1, row) for row in spans]
    )


def are_alike(families: Iterable[int]) -> bool:
    """Whether the shares were found alike; windows merged of several ways are like none."""
    found = {FAMILIES[family] for family in families}
    return len(found) == 1 and "mixed" not in found


def _named(ledger: Ledger, boots: list[int]) -> dict[str, Any]:
    return {"pods": len(boots), "boots": [ledger.boots[boot].stem for boot in boots[:NAMED_MAX]]}


def _span(start_s: float, end_s: float) -> dict[str, str]:
    return {"window_start": rfc3339(start_s), "window_end": rfc3339(end_s)}
