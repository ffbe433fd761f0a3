"""What a page says in words and figures: pure functions from the report model to its parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.amounts import amount, counted
from sidecar.report.page.numbers import (
    energy,
    mass,
    mass_between,
    percent,
    signed_percent,
)
from sidecar.report.page.reading import (
    PROSE_CHARACTERS_MAX,
    Mapped,
    child,
    number,
    ratio,
    rows,
    text,
    total,
)

QUALITIES: Final = (
    ("measured", "from counters of the hardware or the kernel"),
    ("estimated", "a power model fed with measured use"),
    ("modelled", "from tables alone"),
)
"""How an energy was obtained, as records say it, and what that means."""

LEVELS: Final = (
    ("zone", "of the grid zone"),
    ("country", "of the country"),
    ("world", "of the world"),
    ("set", "set by whoever ran the sidecar"),
)
"""What a carbon intensity describes."""

_EQUIVALENTS_SHOWN: Final = 3
_PODS_SHOWN: Final = 10
_RECONCILED_SHOWN: Final = 24


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and what is to be said of it."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a whole: its amount as text, its share of 0 to 1, and what it means."""

    name: str
    text: str
    share: float
    meaning: str


@dataclass(frozen=True, slots=True)
class Saving:
    """Something that could be saved, g CO2e, and the section of the page that tells more."""

    emissions_g: float
    what: str
    how: str
    section: str

    @property
    def text(self) -> str:
        """Return the amount."""
        return mass(self.emissions_g)


@dataclass(frozen=True, slots=True)
class Change:
    """A change against the month before."""

    text: str
    is_less: bool
    detail: str


@dataclass(frozen=True, slots=True)
class BudgetBar:
    """One budget as a bar; positions in percent of its length."""

    project: str
    href: str | None
    used_percent: float
    forecast_percent: float
    limit_percent: float
    status: str
    is_bad: bool
    summary: str
    facts: tuple[Fact, ...]


def idle_energy_kwh(measures: Mapped) -> float | None:
    """Return what was reserved and idle, CPU and GPU, kWh."""
    cpu = number(measures, "cpu_reserved_idle_energy_kwh")
    return total((cpu, number(measures, "gpu_reserved_idle_energy_kwh")))


def qualities(measures: Mapped) -> list[Part]:
    """Return the energy by how it was obtained."""
    return _parts(measures, QUALITIES)


def levels(measures: Mapped) -> list[Part]:
    """Return the energy by what its carbon intensity describes."""
    return _parts(measures, LEVELS)


def _parts(measures: Mapped, names: Sequence[tuple[str, str]]) -> list[Part]:
    known = [(name, number(measures, f"energy_{name}_kwh") or 0.0, says) for name, says in names]
    whole = sum(kwh for _, kwh, _ in known)
    return [
        Part(name, f"{energy(kwh)} ({percent(kwh / whole)})", kwh / whole, says)
        for name, kwh, says in known
        if kwh > 0
    ]


def measures_facts(measures: Mapped) -> list[Fact]:
    """Return every figure of a sum with its bounds and how it was obtained."""
    idle_kwh = idle_energy_kwh(measures)
    obtained = ", ".join(f"{part.name} {part.text}" for part in qualities(measures))
    facts = [
        Fact("Emissions, location-based", _bounded_mass(measures, "emissions")),
        Fact("How the energy was obtained", obtained or "not known"),
        Fact("Energy of the pods", energy(number(measures, "energy_kwh"))),
        Fact("Facility energy, with PUE", energy(number(measures, "facility_energy_kwh"))),
        Fact("GPU", energy(number(measures, "gpu_energy_kwh"))),
        Fact("CPU", energy(number(measures, "cpu_energy_kwh"))),
        Fact("RAM", energy(number(measures, "ram_energy_kwh"))),
        Fact(
            "Reserved but idle", f"{energy(idle_kwh)} ({_share(idle_kwh, measures)} of the energy)"
        ),
        Fact("Carbon intensity, weighted by energy", _intensity(measures)),
        Fact("Embodied, not in the emissions", f"{mass(number(measures, 'embodied_g'))} CO2e"),
        Fact("Water", _with_unit(number(measures, "water_l"), "L")),
        Fact("GPU-hours", amount(number(measures, "gpu_hours"))),
        Fact("Mean CPU utilisation", percent(number(measures, "cpu_utilization"))),
        Fact("Mean GPU utilisation", percent(number(measures, "gpu_utilization"))),
        Fact("Runs and records", _counts(measures)),
    ]
    return facts + _sci_facts(child(measures, "sci"))


def _share(part: float | None, measures: Mapped) -> str:
    return percent(ratio(part, number(measures, "energy_kwh")))


def _bounded_mass(row: Mapped, stem: str) -> str:
    low, high = number(row, f"{stem}_low_g"), number(row, f"{stem}_high_g")
    return f"{mass(number(row, f'{stem}_g'))} CO2e, {mass_between(low, high)}"


def _intensity(measures: Mapped) -> str:
    return _with_unit(number(measures, "carbon_intensity_g_per_kwh"), "g CO2e/kWh")


def _with_unit(value: float | None, unit: str) -> str:
    return f"{amount(value)} {unit}" if value is not None else "not known"


def _counts(measures: Mapped) -> str:
    runs, records = int(number(measures, "runs") or 0), int(number(measures, "records") or 0)
    missing = int(number(measures, "records_without_emissions") or 0)
    without = f", {missing:,} without emissions" if missing else ""
    return f"{runs:,} {'run' if runs == 1 else 'runs'}, {records:,} records{without}"


def _sci_facts(sci: Mapped) -> list[Fact]:
    """Return the software carbon intensity (ISO/IEC 21031:2024) per run and GPU-hour, where known."""
    facts = []
    for unit, name in (("run", "run"), ("gpu_hour", "GPU-hour")):
        value = number(sci, f"per_{unit}_g")
        if value is not None:
            low, high = number(sci, f"per_{unit}_low_g"), number(sci, f"per_{unit}_high_g")
            bounds = mass_between(low, high)
            facts.append(Fact(f"SCI per {name}", f"{mass(value)} CO2e, {bounds}, with embodied"))
    return facts


def equivalents(row: Mapped) -> list[dict[str, str | int]]:
    """Return the first equivalents that are known, in words, with the number of their source (or 0)."""
    known = [item for item in rows(row, "equivalents") if text(item, "words")]
    return [
        {"words": text(item, "words"), "source": int(number(item, "emissions_source") or 0)}
        for item in known[:_EQUIVALENTS_SHOWN]
    ]


def month_change(comparison: Mapped) -> Change | None:
    """Return the change of this month so far; of the last full month where this one is too young."""
    for key, which in (("to_date", "so far"), ("full", "in full")):
        row = child(comparison, key)
        change = number(row, "change")
        if change is not None:
            return Change(signed_percent(change), change < 0, _change_detail(row, which))
    return None


def _change_detail(row: Mapped, which: str) -> str:
    this, before = text(row, "month"), text(row, "previous_month")
    days = int(number(row, "days") or 0)
    now, then = mass(number(row, "emissions_g")), mass(number(row, "previous_emissions_g"))
    first = f" (first {counted(days, 'day')})" if which == "so far" else ""
    begun = "" if row.get("previous_is_whole", True) else "; records begin within that month"
    return f"{this}{first}: {now} CO2e; {before}{first}: {then} CO2e{begun}"


def savings(model: Mapped) -> list[Saving]:
    """Return what could be saved, the most first: idle reservations, unallocated nodes, regions."""
    return _ranked([_reserved(child(model, "total")), _unallocated(model), _elsewhere(model)])


def project_savings(project: Mapped, names: Mapping[str, str]) -> list[Saving]:
    """Return what one project could save, the most first; `names` are display names of regions."""
    found = [_reserved(project)]
    best = child(child(project, "best_region"), "same_geography")
    difference_g = number(best, "difference_g")
    if difference_g is not None:
        where = names.get(text(best, "region")) or text(best, "region")
        how = f"The same energy there would have come to {_bounded_mass(best, 'emissions')}"
        found.append(Saving(-difference_g, f"Work in {where}", how, "regions"))
    return _ranked(found)


def _ranked(found: Sequence[Saving | None]) -> list[Saving]:
    known = [saving for saving in found if saving is not None and saving.emissions_g > 0]
    return sorted(known, key=lambda saving: -saving.emissions_g)


def _reserved(measures: Mapped) -> Saving | None:
    share = ratio(idle_energy_kwh(measures), number(measures, "energy_kwh"))
    emissions_g = number(measures, "emissions_g")
    if share is None or emissions_g is None:
        return None
    how = (
        f"{percent(share)} of the energy went to CPUs and GPUs that pods had reserved and not used"
    )
    return Saving(share * emissions_g, "Reservations that stood idle", how, "idle")


def _unallocated(model: Mapped) -> Saving | None:
    balance = child(model, "balance")
    emissions_g = number(balance, "unallocated_emissions_g")
    if emissions_g is None:
        return None
    kwh = energy(number(balance, "unallocated_energy_kwh"))
    how = f"{kwh} of the nodes' energy was used by no pod with records"
    return Saving(emissions_g, "Nodes without work", how, "idle")


def _elsewhere(model: Mapped) -> Saving | None:
    own = number(child(model, "total"), "emissions_g")
    known = [row for row in what_if_rows(model) if is_open(row)]
    near = [row for row in known if row.get("is_same_geography")] or known
    best = min(near, key=lambda row: number(row, "emissions_g") or 0.0, default=None)
    if best is None or own is None:
        return None
    where = text(best, "display_name") or text(best, "region")
    how = f"The same energy in {where} would have come to {_bounded_mass(best, 'emissions')}"
    return Saving(own - (number(best, "emissions_g") or 0.0), f"Work in {where}", how, "regions")


def what_if_rows(model: Mapped) -> list[Mapped]:
    """Return the regions of the comparison."""
    return rows(child(model, "what_if_regions"), "regions")


def is_open(row: Mapped) -> bool:
    """Whether anybody may use the region, and its emissions are known."""
    return number(row, "emissions_g") is not None and row.get("is_open") is True


def budget_bar(budget: Mapped, project: str, href: str | None) -> BudgetBar | None:
    """Return a budget as a bar; None where there is no limit."""
    unit, spell = ("kwh", energy) if text(budget, "measure") == "energy_kwh" else ("g", mass)
    limit = number(budget, f"budget_{unit}")
    if not limit:
        return None
    used = number(budget, f"used_{unit}")
    forecast = number(budget, f"forecast_{unit}")
    length = max(limit, used or 0.0, forecast or 0.0) * 1.04
    status = text(budget, "status", "unknown")
    low, high = number(budget, f"forecast_low_{unit}"), number(budget, f"forecast_high_{unit}")
    between = (
        f", between {spell(low)} and {spell(high)}" if low is not None and high is not None else ""
    )
    facts = (
        Fact("Used", spell(used)),
        Fact("Left", spell(number(budget, f"left_{unit}"))),
        Fact("Forecast for the month", f"{spell(forecast)}{between}"),
        Fact("Rate", f"{spell(number(budget, f'burn_rate_{unit}_per_day'))} a day"),
        Fact("Used up on", text(budget, "exhausted_on", "not this month at this rate")),
        Fact("Method", _prose(budget, "forecast_method", "not stated")),
    )
    return BudgetBar(
        project=project,
        href=href,
        used_percent=100 * (used or 0.0) / length,
        forecast_percent=100 * max(forecast or 0.0, used or 0.0) / length,
        limit_percent=100 * limit / length,
        status=status,
        is_bad=status in {"exceeded", "at risk"},
        summary=f"{spell(used)} of {spell(limit)} in {text(budget, 'month', 'the month')}, "
        f"forecast {spell(forecast)}",
        facts=facts,
    )


def coverage_lines(model: Mapped) -> list[str]:
    """Return what the report does not hold, plainly."""
    sources, measures = _sources(model), child(model, "total")
    records = int(number(sources, "records") or number(measures, "records") or 0)
    files = int(number(sources, "files") or 0)
    lines = [f"{records:,} records were read from {files:,} files."]
    duplicates = int(number(sources, "duplicates") or 0)
    if duplicates:
        lines.append(f"{duplicates:,} records came twice and were counted once.")
    left_out = child(sources, "left_out")
    lines += [
        f"{int(number(left_out, name) or 0):,} lines were left out: {name[:160]}."
        for name in sorted(left_out)
    ]
    late = int(number(sources, "late") or 0)
    if late:
        lines.append(f"{late:,} records came after their day was closed.")
    missing = int(number(measures, "records_without_emissions") or 0)
    if missing:
        lines.append(
            f"{missing:,} records know no emissions: the totals are at least what they say."
        )
    lines += _budget_lines(model)
    taken_kwh = number(measures, "energy_taken_off_kwh")
    if taken_kwh:
        lines.append(
            f"{energy(taken_kwh)} were taken off where the pods of a node claimed more than it had."
        )
    return lines + _tracked_lines(model)


def _budget_lines(model: Mapped) -> list[str]:
    """Return the budgets that were not understood."""
    found = ((row, _prose(child(row, "budget"), "reason", "")) for row in rows(model, "projects"))
    unread = [(text(row, "project"), reason) for row, reason in found if reason]
    return [
        f"The budget of {name} is not known: {reason}." for name, reason in unread[:_PODS_SHOWN]
    ]


def _tracked_lines(model: Mapped) -> list[str]:
    """Return which pods asked to be tracked and left nothing, if that was looked up."""
    coverage = child(model, "coverage")
    count = number(coverage, "pods_without_records_count")
    if count is None:
        return ["Whether every pod that asked to be tracked has records was not looked up."]
    if count == 0:
        return ["Every pod that asked to be tracked has records."]
    pods = rows(coverage, "pods_without_records")[:_PODS_SHOWN]
    names = ", ".join(f"{text(pod, 'namespace')}/{text(pod, 'pod')}" for pod in pods)
    more = f" and {int(count) - len(pods):,} more" if count > len(pods) else ""
    asked = counted(int(count), "pod")
    return [f"{asked} asked to be tracked and left no records: {names}{more}."]


def _sources(model: Mapped) -> Mapped:
    """Return how much was read; the first schema kept it at the top."""
    sources = child(model, "sources")
    return sources or model


def weekday_hour_rows(found: Sequence[Mapped]) -> list[dict[str, float | int | None]]:
    """Return the cells of the heat map whose place is known."""
    cells: list[dict[str, float | int | None]] = []
    for row in found:
        weekday, hour = number(row, "weekday"), number(row, "hour")
        if weekday is None or hour is None or not (0 <= weekday <= 6 and 0 <= hour <= 23):
            continue
        cells.append(
            {
                "weekday": int(weekday),
                "hour": int(hour),
                "energy_kwh": number(row, "energy_kwh"),
                "emissions_g": number(row, "emissions_g"),
            }
        )
    return cells


def hour_lines(what_if: Mapped) -> list[str]:
    """Return for each region with a varying intensity what its best hour would have come to."""
    lines = []
    for row in rows(what_if, "regions"):
        best, gain = number(row, "best_hour"), number(row, "difference_at_best_g")
        if best is not None and gain is not None:
            lines.append(
                f"{text(row, 'region')}: all of it at {int(best):02d}:00 UTC would have come to "
                f"{mass(abs(gain))} CO2e {'less' if gain <= 0 else 'more'} "
                f"than {mass(number(row, 'emissions_g'))}."
            )
    return lines


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
            f"factor {amount(number(row, 'factor'))} (shown, not applied)."
        )
    differs = reconciliation.get("differs")
    return lines + (list(map(str, differs[:10])) if isinstance(differs, list) else [])


def _grams(row: Mapped, key: str) -> float | None:
    kilograms = number(row, key)
    return None if kilograms is None else kilograms * 1000


def _prose(row: Mapped, key: str, otherwise: str) -> str:
    return text(row, key, otherwise, at_most=PROSE_CHARACTERS_MAX)
