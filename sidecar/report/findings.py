"""What `verify` finds: kinds, how often each, and some examples."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

EXAMPLES_MAX: Final = 10
"""Examples kept of each kind; all are counted."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding. A violation: records are lost, doubled or wrong. A notice only explains."""

    name: str
    meaning: str
    is_violation: bool = True


DUPLICATE: Final = Kind(
    "duplicate", "the same record in two lines: counted once, but it should be there once"
)
CONFLICT: Final = Kind(
    "conflict",
    "two records with one id and different contents: the first in the order of files counts",
)
GAP: Final = Kind("gap", "records are missing: window_end and the next window_start are apart")
MISPLACED: Final = Kind(
    "misplaced event", "a record after the last one, or a start that is not first"
)
BACKWARDS: Final = Kind("backwards", "window_end is before window_start")
DURATION: Final = Kind("duration", "window_end − window_start is not duration_s + gap_s")
OVERLAP: Final = Kind(
    "overlap",
    "two processes metered one pod at the same time, or its clock was set back between them",
)
SHARES: Final = Kind(
    "shares", "a share outside 0 to 1, or those of a node's pods at one time add up to more than 1"
)
NODE_ENERGY: Final = Kind(
    "node energy", "more energy than the node's: of one pod, or of its pods together in one window"
)
ENERGY: Final = Kind("energy", "the parts of an energy do not add up to the whole")
FACILITY: Final = Kind("facility energy", "facility_energy_kwh is not energy_kwh × pue")
EMISSIONS: Final = Kind(
    "emissions",
    "emissions_g is not facility_energy_kwh × carbon intensity, or outside its own bounds",
)
TIME: Final = Kind(
    "time", "window_start or window_end is no time, or the record_id has no sequence"
)

TWO_FORMS: Final = Kind(
    "two forms",
    "a segment is there plain and compressed, also handed over, or beside the compacted part that holds "
    "it, with the same content: counted once",
    is_violation=False,
)
MERGED: Final = Kind(
    "merged", "windows merged into one while the volume could not be written", is_violation=False
)
SET_BACK: Final = Kind(
    "clock set back",
    "windows overlap those before because the wall clock was set back; energy is counted once",
    is_violation=False,
)
NO_END: Final = Kind(
    "no end", "ended without its last window: killed, or still running", is_violation=False
)
SETTLED: Final = Kind(
    "settled",
    "pods of a node that share it by different methods claim more than it has: `report` takes it off, "
    "from estimated shares first",
    is_violation=False,
)
BLURRED: Final = Kind(
    "blurred",
    "pods of a node whose CPU time is told late (kubelet, metrics-api) claim more than it had in these "
    "minutes: `report` takes it off",
    is_violation=False,
)
DISPUTED: Final = Kind(
    "disputed",
    "records of one node tell very different energies of it: claims that are within what one tells were "
    "cut to what another does; their settings differ, or one is wrong",
    is_violation=False,
)
UNCLEAR: Final = Kind(
    "not comparable",
    "windows overlap, or shares exceed 1, where the wall clock was set back: they may be apart",
    is_violation=False,
)


@dataclass(slots=True)
class Finding:
    """All findings of one kind. The keys of examples are the record's field names where it has them."""

    kind: Kind
    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


class Findings:
    """Collects findings, some examples of each kind."""

    def __init__(self) -> None:
        self._found: dict[str, Finding] = {}

    def add(self, kind: Kind, **example: Any) -> None:  # noqa: ANN401 - JSON types
        """Count a finding, and keep it as an example while there are few."""
        finding = self._finding(kind)
        finding.count += 1
        if len(finding.examples) < EXAMPLES_MAX:
            finding.examples.append({name: _json(value) for name, value in example.items()})

    def add_line(self, kind: Kind, file: str, text: str) -> None:
        """Count a line that is no record; the lines of one file are one example."""
        finding = self._finding(kind)
        if finding.examples and finding.examples[-1]["file"] == file:
            finding.count += 1
            finding.examples[-1]["lines"] += 1
        else:
            self.add(kind, file=file, lines=1, detail=text)

    def all(self, *, violations: bool) -> tuple[Finding, ...]:
        """Return the violations, or the notices, the most frequent first."""
        found = (item for item in self._found.values() if item.kind.is_violation is violations)
        return tuple(sorted(found, key=lambda item: (-item.count, item.kind.name)))

    def _finding(self, kind: Kind) -> Finding:
        return self._found.setdefault(kind.name, Finding(kind))


def count_of(found: Iterable[Finding]) -> int:
    """Return how many findings there are in all."""
    return sum(item.count for item in found)


def _json(value: object) -> object:
    """Make a value that JSON can hold: null for NaN, which stands for null, and infinity as a text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
