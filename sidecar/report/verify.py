"""Verify records: what is lost, doubled, torn, or does not add up. Pure: records in, a verdict out.

Violations mean that totals of these records are wrong, or cannot be trusted; notices explain what looks
odd and is in order. Each check is described where it is made: of one record in `arithmetic`, of one
process and of one pod in `history`, of one node in `sharing`. Here: each record once, and each node
settled.

A record that is torn, alien or absurd, or whose id or times place it nowhere, is a violation and takes
no further part. For the memory it takes see `ledger`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

from sidecar.record import EmissionRecord
from sidecar.report.arithmetic import ABSOLUTE, RELATIVE, check_sums
from sidecar.report.balance import NOTEWORTHY, Balance
from sidecar.report.claims import NoPlaceInTime
from sidecar.report.commits import PARQUET
from sidecar.report.findings import (
    BLURRED,
    CONFLICT,
    DISPUTED,
    DUPLICATE,
    NODE_ENERGY,
    SETTLED,
    TIME,
    TWO_FORMS,
    Finding,
    Findings,
    Kind,
)
from sidecar.report.history import check_boot, check_pod
from sidecar.report.ledger import Boot, Ledger
from sidecar.report.read import LeftOut
from sidecar.report.settle import COMPONENTS, CPU, Stretch, settle
from sidecar.report.sharing import are_alike, check_node
from sidecar.segment import COMPRESSED_SUFFIX, HANDED_OVER, SUFFIX
from sidecar.windows import rfc3339

LATE_S: Final = 180.0
"""So many seconds of the node's mean power may late answers blur into a stretch at both of its ends."""

_TOTALED: Final = ("duration_s", "gap_s", "energy_kwh", "facility_energy_kwh", "emissions_g")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found. `totals` count each record once; an amount no record knows is None."""

    violations: tuple[Finding, ...]
    notices: tuple[Finding, ...]
    records: int
    duplicates: int
    totals: dict[str, Any] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether there are records, and none of them violates anything."""
        return self.records > 0 and not self.violations


def verify(entries: Iterable[tuple[str, EmissionRecord | LeftOut]]) -> Verdict:
    """Verify records, each with the name of its file. Reads them once."""
    ledger, found = Ledger(), Findings()
    for file, entry in entries:
        if isinstance(entry, LeftOut):
            kind = Kind(entry.kind, "left out", is_violation=not entry.is_harmless)
            found.add_line(kind, file, entry.text)
            continue
        try:
            ledger.add(file, entry)
        except NoPlaceInTime as error:
            found.add_line(TIME, file, str(error))
            continue
        check_sums(entry, file, found)
    return _verdict(ledger, found)


def _verdict(ledger: Ledger, found: Findings) -> Verdict:
    rows_of_boots = {
        number: _each_once(ledger, boot, found) for number, boot in enumerate(ledger.boots)
    }
    set_back = {
        number
        for number, rows in rows_of_boots.items()
        if check_boot(ledger, ledger.boots[number], rows, found)
    }
    _check_pods(ledger, rows_of_boots, set_back, found)
    _check_nodes(ledger, rows_of_boots, set_back, found)
    nodes = _settled(ledger, rows_of_boots, found)
    records = sum(map(len, rows_of_boots.values()))
    return Verdict(
        violations=found.all(violations=True),
        notices=found.all(violations=False),
        records=records,
        duplicates=len(ledger) - records,
        totals=_totals(ledger, rows_of_boots) | _balance(nodes),
    )


def _each_once(ledger: Ledger, boot: Boot, found: Findings) -> list[int]:
    """Return the records of a process in order; of those with one id, the first that was read."""
    sequences = ledger.column("sequence")
    once: list[int] = []
    for row in sorted(boot.rows, key=lambda row: (sequences[row], row)):
        if not once or sequences[once[-1]] != sequences[row]:
            once.append(row)
            continue
        first, second = ledger[once[-1]], ledger[row]
        files = [ledger.files[first.file], ledger.files[second.file]]
        if first.digest != second.digest:
            kind = CONFLICT
        else:
            kind = TWO_FORMS if files[0] != files[1] and _is_one_segment(*files) else DUPLICATE
        found.add(kind, record_id=f"{boot.stem}.{first.sequence}", files=files)
    return once


def _is_one_segment(first: str, second: str) -> bool:
    """Whether two files are one segment in two forms, as a kill at the wrong moment leaves them.

    On a volume it is compressed before the plain file goes; in Blob a pod may have stored its segment,
    died before it knew, and another handed it over. And a raw file stays beside the compacted part that
    holds its records where it reaches into a later day, or is sent once more.
    """
    return _bare(first) == _bare(second) or is_part(first)


def is_part(file: str) -> bool:
    """Whether a file is a compacted part; they are read before all others."""
    return file.endswith(PARQUET)


def _bare(file: str) -> PurePosixPath:
    path = PurePosixPath(file)
    for suffix in (COMPRESSED_SUFFIX, SUFFIX):
        if path.name.endswith(suffix):
            return path.with_name(path.name.removesuffix(suffix).removesuffix(HANDED_OVER))
    return path


def _check_pods(
    ledger: Ledger, rows_of_boots: dict[int, list[int]], set_back: set[int], found: Findings
) -> None:
    pods: dict[str, dict[int, list[int]]] = {}
    for number, rows in rows_of_boots.items():
        pod_uid = ledger.boots[number].pod_uid
        if pod_uid is not None:
            pods.setdefault(pod_uid, {})[number] = rows
    for boots in pods.values():
        if len(boots) > 1:
            check_pod(ledger, boots, set_back, found)


def _check_nodes(
    ledger: Ledger, rows_of_boots: dict[int, list[int]], set_back: set[int], found: Findings
) -> None:
    node_of, boot_of = ledger.column("node"), ledger.column("boot")
    nodes: dict[int, list[int]] = {}
    for rows in rows_of_boots.values():
        for row in rows:
            nodes.setdefault(int(node_of[row]), []).append(row)
    nodes.pop(-1, None)
    starts, ends = ledger.column("start_s"), ledger.column("end_s")
    for node, rows in nodes.items():
        boots = {int(boot_of[row]) for row in rows}
        if len(boots) > 1:
            rows.sort(key=lambda row: (starts[row], ends[row]))
            check_node(ledger, node, rows, found, was_set_back=bool(boots & set_back))


def _settled(ledger: Ledger, rows_of_boots: dict[int, list[int]], found: Findings) -> list[Balance]:
    """Settle each node, with the records that count; no stretch of its time has more than it had."""
    is_counted = {row for rows in rows_of_boots.values() for row in rows}.__contains__
    nodes: list[Balance] = []
    for node in ledger.claims.node_numbers():
        balance = Balance(ledger.nodes[node])
        for stretch in settle(ledger.claims.of_node(node, only=is_counted)):
            balance.add_stretch(stretch, None)
            _check_stretch(ledger, stretch, balance.node, found)
        nodes.append(balance)
    return nodes


def _check_stretch(ledger: Ledger, stretch: Stretch, node: str, found: Findings) -> None:
    """Check that a settled stretch has no more than the node, and tell what was cut.

    Of one method that is the rounding of ticks, or `sharing` has found it; of a late one what is
    blurred, and a violation where that cannot be.
    """
    about = {"node": node, **_span(stretch)}
    for name, balance in zip(COMPONENTS, stretch.balances, strict=True):
        column = f"{name}_energy_kwh"
        after = balance.pods + balance.untracked
        if after > balance.node * (1 + RELATIVE) + ABSOLUTE:
            found.add(NODE_ENERGY, **about, column=column, found=after, at_most=balance.node)
    cut = [
        item for item in stretch.balances if item.claimed - item.pods > NOTEWORTHY * item.claimed
    ]
    if not cut:
        return
    pods = [claim for claim in stretch.claims if not claim.is_nodes_own]
    about["pods"] = len({claim.boot for claim in pods})
    claimed, kept = (sum(item.claimed for item in cut), sum(item.pods for item in cut))
    _check_dispute(stretch, about, found)
    families = ledger.column("family")
    if not are_alike(int(families[claim.row]) for claim in pods):
        found.add(SETTLED, **about, claimed_kwh=claimed, kept_kwh=kept)
    elif any(claim.is_late for claim in pods):
        cpu = stretch.balances[CPU]
        at_most = cpu.node * (1 + LATE_S / (stretch.end_s - stretch.start_s))
        if cpu.claimed > at_most:
            numbers = {"found": cpu.claimed, "at_most": at_most}
            found.add(NODE_ENERGY, **about, column="cpu_energy_kwh", **numbers)
        found.add(BLURRED, **about, claimed_kwh=claimed, kept_kwh=kept)


def _check_dispute(stretch: Stretch, about: dict[str, Any], found: Findings) -> None:
    """Tell where claims were cut that are within what one of the pods tells of the node.

    Settling believes who says that he knows best; the node meter, where there is one, is known to.
    """
    if any(claim.is_nodes_own for claim in stretch.claims):
        return
    for place, (name, item) in enumerate(zip(COMPONENTS, stretch.balances, strict=True)):
        told: dict[int, float] = {}
        for claim in stretch.claims:
            if not math.isnan(claim.node_kwh[place]):
                told[claim.boot] = told.get(claim.boot, 0.0) + claim.node_kwh[place]
        most = max(told.values(), default=0.0)
        if item.claimed - item.pods > NOTEWORTHY * item.claimed and item.claimed <= most:
            numbers = {"claimed_kwh": item.claimed, "kept_kwh": item.pods, "told_kwh": most}
            found.add(DISPUTED, **about, column=f"{name}_energy_kwh", **numbers)


def _span(stretch: Stretch) -> dict[str, Any]:
    return {"window_start": rfc3339(stretch.start_s), "window_end": rfc3339(stretch.end_s)}


def _balance(nodes: list[Balance]) -> dict[str, float]:
    """Return what settling takes off all records, and what no pod used of the nodes' energy."""
    total = Balance.of_all(nodes)
    return {
        "energy_taken_off_kwh": total.taken_off_kwh,
        "untracked_energy_kwh": total.untracked_energy_kwh,
        "unallocated_energy_kwh": sum(total.unallocated_energy_kwh.values()),
        "node_energy_kwh": total.node_energy_kwh,
    }


def _totals(ledger: Ledger, rows_of_boots: dict[int, list[int]]) -> dict[str, Any]:
    rows = [row for rows in rows_of_boots.values() for row in rows]
    starts, ends = ledger.column("start_s"), ledger.column("end_s")
    totals: dict[str, Any] = {
        "pods": len({boot.pod_uid for boot in ledger.boots if boot.pod_uid is not None}),
        "boots": len(ledger.boots),
        "nodes": len(ledger.nodes),
        "window_start": rfc3339(min(starts[row] for row in rows)) if rows else None,
        "window_end": rfc3339(max(ends[row] for row in rows)) if rows else None,
    }
    for name in _TOTALED:
        column = ledger.column(name)
        totals[name] = _total(value for row in rows if not math.isnan(value := column[row]))
    return totals


def _total(values: Iterable[float]) -> float | None:
    """Add up to the last bit, in whatever order they came; None of nothing, or of what is absurd."""
    known = list(values)
    try:
        return math.fsum(known) if known else None
    except OverflowError:
        return None
