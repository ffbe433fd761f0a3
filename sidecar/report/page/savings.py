"""What could be saved, and by what: pure functions from the report model to words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sidecar.report.page.numbers import energy, mass, mass_between, percent
from sidecar.report.page.reading import Mapped, child, number, ratio, rows, text
from sidecar.report.page.view import bounded_mass, idle_energy_kwh


@dataclass(frozen=True, slots=True)
class Saving:
    """Something that could be saved, g CO₂e, and the section of the page that tells more."""

    emissions_g: float
    what: str
    how: str
    section: str
    low_g: float | None = None
    high_g: float | None = None

    @property
    def text(self) -> str:
        """Return the amount."""
        return mass(self.emissions_g)

    @property
    def between(self) -> str:
        """Return its bounds, as the beginning of a sentence."""
        said = mass_between(self.low_g, self.high_g)
        return said[:1].upper() + said[1:]


def savings(model: Mapped) -> list[Saving]:
    """Return what could be saved, the most first: idle reservations, unallocated nodes, regions."""
    total_ = child(model, "total")
    names = {text(row, "region"): text(row, "display_name") for row in rows(model, "map")}
    within = child(child(model, "what_if_regions"), "within_geographies")
    return _ranked([_reserved(total_), _unallocated(model), _elsewhere(within, names)])


def project_savings(project: Mapped, names: Mapping[str, str]) -> list[Saving]:
    """Return what one project could save, the most first; `names` are display names of regions."""
    within = child(child(project, "best_region"), "within_geographies")
    return _ranked([_reserved(project), _elsewhere(within, names)])


def _ranked(found: Sequence[Saving | None]) -> list[Saving]:
    known = [saving for saving in found if saving is not None and saving.emissions_g > 0]
    return sorted(known, key=lambda saving: -saving.emissions_g)


def _reserved(measures: Mapped) -> Saving | None:
    share = ratio(idle_energy_kwh(measures), number(measures, "energy_kwh"))
    emissions_g = number(measures, "emissions_g")
    if share is None or emissions_g is None:
        return None
    low, high = (number(measures, f"emissions_{bound}_g") for bound in ("low", "high"))
    how = (
        f"{percent(share)} of the energy went to CPUs and GPUs that pods had reserved and not used"
    )
    return Saving(
        share * emissions_g,
        "Reservations that stood idle",
        how,
        "idle",
        None if low is None else share * low,
        None if high is None else share * high,
    )


def _unallocated(model: Mapped) -> Saving | None:
    balance = child(model, "balance")
    emissions_g = number(balance, "unallocated_emissions_g")
    if emissions_g is None:
        return None
    kwh = energy(number(balance, "unallocated_energy_kwh"))
    how = f"{kwh} of the nodes’ energy was used by no pod with records"
    return Saving(emissions_g, "Nodes without work", how, "idle")


def _elsewhere(within: Mapped, names: Mapping[str, str]) -> Saving | None:
    """Return what the best region of each geography would save: data may have to stay there."""
    difference_g = number(within, "difference_g")
    moves = [move for move in rows(within, "moves") if (number(move, "energy_kwh") or 0.0) > 0]
    if difference_g is None or not moves:
        return None
    low, high = number(within, "difference_low_g"), number(within, "difference_high_g")
    regions = [names.get(text(move, "region")) or text(move, "region") for move in moves]
    listed = regions[0] if len(regions) == 1 else f"{', '.join(regions[:-1])} and {regions[-1]}"
    what = f"Work in {listed}" if len(regions) == 1 else "Work in the best region nearby"
    where = "there" if len(regions) == 1 else f"in {listed}"
    how = f"The same energy {where} comes to {bounded_mass(within, 'emissions')}"
    return Saving(
        -difference_g,
        what,
        how,
        "regions",
        None if high is None else -high,
        None if low is None else -low,
    )
