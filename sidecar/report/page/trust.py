"""What a report rests on and what is missing from it, in words."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sidecar.amounts import amount, counted
from sidecar.report.page.numbers import energy, mass
from sidecar.report.page.reading import (
    PROSE_CHARACTERS_MAX,
    Mapped,
    child,
    number,
    prose,
    rows,
    text,
)
from sidecar.report.page.view import bounded_mass, duration

_PODS_SHOWN: Final = 50
_BUDGETS_SHOWN: Final = 10
_RECONCILED_SHOWN: Final = 24
_PARTLY: Final = "; ours are of a part of that month or of some projects, Azure’s of all"


def coverage_lines(model: Mapped) -> list[str]:
    """Return what the report does not hold, plainly."""
    sources, measures = _sources(model), child(model, "total")
    coverage = child(model, "coverage")
    records = int(number(sources, "records") or number(measures, "records") or 0)
    files = int(number(sources, "files") or 0)
    lines = [f"{counted(records, 'record')} were read from {counted(files, 'file')}."]
    age_days = number(coverage, "last_record_age_days")
    if age_days is not None and age_days >= 1:
        lines.append(f"The last record is {amount(age_days, 2)} days old.")
    duplicates = int(number(sources, "duplicates") or 0)
    if duplicates:
        lines.append(f"{counted(duplicates, 'record')} came twice and were counted once.")
    left_out = child(sources, "left_out")
    lines += [
        f"{int(number(left_out, name) or 0):,} × left out: {name[:160]}."
        for name in sorted(left_out)
    ]
    lines += _incomplete_lines(measures, int(number(sources, "late") or 0))
    return lines + _budget_lines(model)


def _incomplete_lines(measures: Mapped, late: int) -> Iterator[str]:
    if late:
        yield f"{counted(late, 'record')} came after their day was compacted; they are counted."
    missing = int(number(measures, "records_without_emissions") or 0)
    if missing:
        yield (
            f"{counted(missing, 'record')} know no emissions: the totals are at least what they say."
        )
    unbounded = int(number(measures, "records_without_bounds") or 0)
    if unbounded:
        yield (
            f"{counted(unbounded, 'record')} know no bounds: theirs are taken to be the emissions "
            "themselves, so the bounds of the sums are too narrow."
        )
    taken_kwh = number(measures, "energy_taken_off_kwh")
    if taken_kwh:
        yield (
            f"{energy(taken_kwh)} were taken off where the pods of a node claimed more than it had."
        )
    gap_s = number(measures, "gap_s")
    if gap_s:
        yield f"Between windows {duration(gap_s)} of pods were not metered; nothing is guessed for it."


def _budget_lines(model: Mapped) -> list[str]:
    """Return the budgets that were not understood."""
    found = ((row, prose(child(row, "budget"), "reason")) for row in rows(model, "projects"))
    unread = [(text(row, "project"), reason) for row, reason in found if reason]
    said = [f"The budget of {name} is not known: {reason}." for name, reason in unread]
    return said[:_BUDGETS_SHOWN] + _silent_budget_lines(child(model, "coverage"))


def _silent_budget_lines(coverage: Mapped) -> list[str]:
    """Return the budgets that were given to projects without records."""
    names = coverage.get("budgets_without_records")
    named = [{"name": name} for name in names] if isinstance(names, list) else []
    return [
        f"A budget was given to {text(item, 'name')}, of which there are no records: is it spelled so?"
        for item in named[:_BUDGETS_SHOWN]
    ]


@dataclass(frozen=True, slots=True)
class PodList:
    """Pods of which records are missing: what they have in common, and each by name."""

    title: str
    rows: tuple[Mapping[str, str], ...]
    more: int


@dataclass(frozen=True, slots=True)
class Pods:
    """What is known of the pods that asked to be tracked."""

    summary: str
    lists: tuple[PodList, ...] = ()
    not_arrived: str = ""


def tracked_pods(model: Mapped) -> Pods:
    """Return which pods asked to be tracked and of which records are missing, if it was looked up."""
    coverage = child(model, "coverage")
    failure = text(coverage, "pods_failure", at_most=PROSE_CHARACTERS_MAX)
    if failure:
        return Pods(
            f"Whether every pod that asked to be tracked has records is not known: {failure}"
        )
    count = number(coverage, "pods_without_records_count")
    if count is None:
        return Pods(
            "Whether every pod that asked to be tracked has records was not looked up "
            "(--tracked-pods asks Kubernetes)."
        )
    asked = int(number(coverage, "pods_asked") or 0)
    rest = int(number(coverage, "pods_incomplete_count") or 0)
    begin = int(number(coverage, "pods_starting_count") or 0)
    complete = asked - int(count) - rest - begin
    summary = (
        f"Kubernetes knows {counted(asked, 'pod')} that asked to be tracked: {complete:,} with all"
    )
    summary += f" their records, {int(count):,} with none, {rest:,} without their last ones"
    summary += f", {begin:,} only beginning." if begin else "."
    lists = (
        _pod_list(coverage, "pods_without_records", "No records", int(count)),
        _pod_list(coverage, "pods_incomplete", "Last records missing", rest),
    )
    return Pods(summary, tuple(found for found in lists if found.rows), _not_arrived(coverage))


def _pod_list(coverage: Mapped, key: str, title: str, count: int) -> PodList:
    pods = rows(coverage, key)[:_PODS_SHOWN]
    shown = tuple(
        {
            "pod": f"{text(pod, 'namespace')}/{text(pod, 'pod')}",
            "reason": text(pod, "reason"),
            "told": _told(pod),
        }
        for pod in pods
    )
    return PodList(title, shown, max(0, count - len(shown)))


def _told(pod: Mapped) -> str:
    """Return what a pod's sidecar told at its end, with its bounds."""
    kwh = number(pod, "energy_kwh")
    return "–" if kwh is None else f"{energy(kwh)}, {bounded_mass(pod, 'emissions')}"


def _not_arrived(coverage: Mapped) -> str:
    """Return what these pods told at their end, in no sum."""
    lost = child(coverage, "pods_not_arrived")
    kwh = number(lost, "energy_kwh")
    if not kwh:
        return ""
    return (
        f"{energy(kwh)} and {bounded_mass(lost, 'emissions')}, as their sidecars told Kubernetes at "
        "their end. It is in none of the sums of this report."
    )


def _sources(model: Mapped) -> Mapped:
    """Return how much was read; the first schema kept it at the top."""
    sources = child(model, "sources")
    return sources or model


def reconciliation_lines(reconciliation: Mapped) -> list[str]:
    """Return Azure's own figures beside ours, and what differs; nothing where no export was given."""
    if reconciliation.get("known") is not True:
        return []
    lines = []
    for row in rows(reconciliation, "rows")[:_RECONCILED_SHOWN]:
        who = text(row, "subscription", "all subscriptions")
        scopes = row.get("scopes")
        named = ", ".join(map(str, scopes)) if isinstance(scopes, list | tuple) and scopes else ""
        lines.append(
            f"{text(row, 'month')}, {who}{f', scope {named}' if named else ''}: Azure "
            f"{mass(_grams(row, 'azure_kg'))}, ours {mass(_grams(row, 'ours_kg'))}, "
            f"factor {amount(number(row, 'factor'))} (shown, not applied)"
            f"{_PARTLY if row.get('is_whole') is False and number(row, 'ours_kg') else ''}."
        )
    left_out = child(reconciliation, "left_out")
    lines += [
        f"{counted(int(number(left_out, name) or 0), 'row')} of the export left out: {name[:160]}."
        for name in sorted(left_out)
    ]
    differs = reconciliation.get("differs")
    return lines + (list(map(str, differs[:10])) if isinstance(differs, list) else [])


def _grams(row: Mapped, key: str) -> float | None:
    kilograms = number(row, key)
    return None if kilograms is None else kilograms * 1000
