"""What a page says in words and figures: pure functions from the report model to its parts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidecar.amounts import amount, counted
from sidecar.report.page.citing import Cited, Numbers
from sidecar.report.page.numbers import (
    energy,
    mass,
    mass_between,
    percent,
    signed_percent,
)
from sidecar.report.page.reading import (
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


@dataclass(frozen=True, slots=True)
class Fact:
    """A name, what is to be said of it, and the numbers of the sources it rests on."""

    name: str
    text: str
    sources: Numbers = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a whole: its amount as text, its share of 0 to 1, and what it means."""

    name: str
    text: str
    share: float
    meaning: str


@dataclass(frozen=True, slots=True)
class Change:
    """A change against the month before."""

    text: str
    is_less: bool
    detail: str


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


def measures_facts(measures: Mapped, cited: Cited = Cited()) -> list[Fact]:  # noqa: B008 - frozen
    """Return every figure of a sum with its bounds, how it was obtained, and its sources."""
    idle = child(measures, "idle")
    idle_kwh = idle_energy_kwh(measures)
    obtained = ", ".join(f"{part.name} {part.text}" for part in qualities(measures))
    whole_kwh = number(measures, "energy_kwh")
    facts = [
        Fact("Emissions, location-based", bounded_mass(measures, "emissions"), cited.intensity),
        Fact("How the energy was obtained", obtained or "not known", cited.power),
        Fact("Energy of the pods", energy(whole_kwh)),
        Fact("Facility energy", facility_text(measures, cited.pue_share), cited.pue),
        *_component_facts(measures),
        Fact(
            "Reserved but idle",
            f"{energy(idle_kwh)} ({_share(idle_kwh, measures)} of the energy), "
            f"{bounded_mass(idle, 'emissions')}",
        ),
        Fact("Carbon intensity, weighted by energy", _intensity(measures, ""), cited.intensity),
        Fact("Carbon intensity, weighted by time", _intensity(measures, "time_weighted_")),
        Fact("Embodied, not in the emissions", _embodied(measures), cited.embodied),
        Fact("Water", _with_unit(number(measures, "water_l"), "L"), cited.water),
        Fact("GPU-hours", amount(number(measures, "gpu_hours"))),
        Fact("Mean CPU utilisation", percent(number(measures, "cpu_utilization"))),
        Fact("Mean GPU utilisation", percent(number(measures, "gpu_utilization"))),
        Fact("Time metered, and gaps in it", _gaps(measures)),
        Fact("Runs and records", _counts(measures)),
    ]
    return facts + _sci_facts(child(measures, "sci"))


def _component_facts(measures: Mapped) -> Iterator[Fact]:
    """Yield what each component used; its part of the emissions is that of the energy."""
    for name, stem in (("GPU", "gpu"), ("CPU", "cpu"), ("RAM", "ram")):
        kwh = number(measures, f"{stem}_energy_kwh")
        part = ratio(kwh, number(measures, "energy_kwh"))
        said = energy(kwh)
        if part is not None:
            said = f"{said} ({percent(part)}), {part_of_emissions(measures, part)}"
        yield Fact(name, said)


def part_of_emissions(measures: Mapped, part: float) -> str:
    """Return a part of the emissions, with its bounds: as much as of the energy."""
    value, low, high = emissions_of_part(measures, part)
    return f"{mass(value)} CO₂e, {mass_between(low, high)}"


def emissions_of_part(measures: Mapped, part: float) -> list[float | None]:
    """Return a part of the emissions, and of their low and high bound, g."""
    grams = [number(measures, f"emissions{bound}_g") for bound in ("", "_low", "_high")]
    return [None if item is None else item * part for item in grams]


def facility_text(measures: Mapped, pue_share: float | None) -> str:
    """Return the facility energy, and whether a PUE is in it."""
    said = energy(number(measures, "facility_energy_kwh"))
    if pue_share == 0:
        return f"{said}: no PUE was applied, the region is not known"
    if pue_share is not None and pue_share < _NEARLY_ALL:
        return f"{said} with cooling and losses (PUE), known for {percent(pue_share)} of the energy"
    return f"{said} with cooling and losses (PUE)"


_NEARLY_ALL: Final = 0.9995


def _share(part: float | None, measures: Mapped) -> str:
    return percent(ratio(part, number(measures, "energy_kwh")))


def bounded_mass(row: Mapped, stem: str) -> str:
    """Return a mass of a row with its bounds."""
    low, high = number(row, f"{stem}_low_g"), number(row, f"{stem}_high_g")
    return f"{mass(number(row, f'{stem}_g'))} CO₂e, {mass_between(low, high)}"


def _intensity(measures: Mapped, weighted: str) -> str:
    return _with_unit(number(measures, f"carbon_intensity_{weighted}g_per_kwh"), "g CO₂e/kWh")


def _embodied(measures: Mapped) -> str:
    """Return the embodied emissions; their bounds are half and double (Teads, as SCI takes them)."""
    grams = number(measures, "embodied_g")
    if grams is None:
        return "not known"
    return f"{mass(grams)} CO₂e, {mass_between(grams / 2, grams * 2)}"


def _gaps(measures: Mapped) -> str:
    """Return the time of all windows, and what is missing between them."""
    duration_s, gap_s = number(measures, "duration_s"), number(measures, "gap_s")
    if duration_s is None:
        return "not known"
    missing = (
        f"{duration(gap_s)} ({percent(ratio(gap_s, duration_s + gap_s))})" if gap_s else "none"
    )
    return f"{duration(duration_s)} of pods, gaps {missing}"


def duration(seconds: float | None) -> str:
    """Spell a duration out: seconds, minutes or hours."""
    if seconds is None:
        return "not known"
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{amount(seconds / size)} {unit}"
    return f"{amount(seconds)} s"


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
            facts.append(Fact(f"SCI per {name}", f"{mass(value)} CO₂e, {bounds}, with embodied"))
    return facts


def equivalents(row: Mapped, model: Mapped) -> list[dict[str, Any]]:
    """Return the first equivalents that are known, in words, with bounds and their source."""
    table = {text(item, "item"): item for item in rows(model, "equivalents")}
    low_g, high_g = number(row, "emissions_low_g"), number(row, "emissions_high_g")
    found = []
    for item in rows(row, "equivalents"):
        factor = table.get(text(item, "item"), {})
        low = ratio(low_g, _grams_of_one(factor, "high"))
        high = ratio(high_g, _grams_of_one(factor, "low"))
        between = f"{amount(low, 2)} to {amount(high, 2)}" if None not in (low, high) else ""
        source = int(number(factor, "emissions_source") or 0)
        if text(item, "words"):
            found.append({"words": text(item, "words"), "between": between, "source": source})
    return found[:_EQUIVALENTS_SHOWN]


def _grams_of_one(factor: Mapped, bound: str) -> float | None:
    kilograms = number(factor, f"emissions_{bound}_kg_co2e")
    return None if kilograms is None else kilograms * 1000


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
    return f"{this}{first}: {now} CO₂e; {before}{first}: {then} CO₂e{begun}"
