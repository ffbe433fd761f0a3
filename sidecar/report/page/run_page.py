"""The page of one run."""

from collections.abc import Mapping
from typing import Final

from sidecar.amounts import amount
from sidecar.report.page import contexts, view
from sidecar.report.page.comparisons import region_names
from sidecar.report.page.numbers import energy, mass, percent
from sidecar.report.page.reading import NAMELESS, Mapped, key_of, number, ratio, rows, text, total
from sidecar.report.page.site import Site

_SECTIONS: Final[tuple[tuple[str, str], ...]] = (
    ("headline", "Emissions"),
    ("where", "Where and when"),
    ("components", "Components"),
    ("phases", "Phases"),
    ("coverage", "Trust"),
    ("sources", "Sources"),
)

_ROUNDING: Final = 1e-6
"""Phases whose energies do not sum to the run's are not all that there are."""

_HARDWARE: Final = (
    ("Region", "region"),
    ("VM size", "vm_size"),
    ("VMs", "vms"),
    ("GPU", "gpu_model"),
    ("How the CPU’s power was obtained", "cpu_power_method"),
    ("How the GPUs’ was", "gpu_method"),
)
"""What all records of a run agree on."""


def run_page(site: Site, place: int) -> str:
    """Return the page of the run at a place, as HTML."""
    row, model = site.runs[place], site.model
    project_place = site.place_of(row)
    project = site.projects[project_place] if project_place is not None else {}
    cited = site.sources.of_run(row, project)
    equivalents: list[dict[str, object]] = []
    name = text(row, "run", NAMELESS)
    slug = site.run_pages[place]
    phases = _phases(model, row)
    shown = contexts.common(model, row, cited)
    shown |= {
        "title": f"{name} · {contexts.report_name(model)}",
        "name": name,
        "sections": [one for one in _SECTIONS if phases or one[0] != "phases"],
        "reserved": _reserved(row),
        "used": _used(row),
        "project": text(row, "project", NAMELESS),
        "project_href": site.project_href(project_place, "../"),
        "place": _place(row, project, region_names(model)),
        "components": contexts.component_rows(row),
        "phases": phases,
        "boamps": f"../boamps/{slug}.json" if f"boamps/{slug}.json" in site.files else "",
        "factors": site.sources.entries(contexts.cited_numbers(cited, equivalents)),
    }
    return site.renderer.page("run", "plain", shown)


def _phases(model: Mapped, run: Mapped) -> list[dict[str, str]]:
    """Return what each phase used; none where none was marked, or the document has no room for all."""
    keys = key_of(run, "project"), key_of(run, "run")
    found = [
        phase
        for phase in rows(model, "phases")
        if (key_of(phase, "project"), key_of(phase, "run")) == keys
    ]
    whole_kwh = number(run, "energy_kwh")
    told_kwh = total([number(phase, "energy_kwh") for phase in found])
    if not whole_kwh or told_kwh is None or abs(told_kwh - whole_kwh) > _ROUNDING * whole_kwh:
        return []
    return [
        {
            "name": text(phase, "phase", "in no phase"),
            "time": view.duration(number(phase, "duration_s")),
            "energy": energy(number(phase, "energy_kwh")),
            "share": percent(ratio(number(phase, "energy_kwh"), whole_kwh)),
            "emissions": mass(number(phase, "emissions_g")),
        }
        for phase in found
        if key_of(phase, "phase") is not None or number(phase, "energy_kwh")
    ]


def _reserved(run: Mapped) -> dict[str, str] | None:
    """Return what stood idle; None where it is not known."""
    kwh = view.idle_energy_kwh(run)
    share = ratio(kwh, number(run, "energy_kwh"))
    if share is None:
        return None
    return {
        "share": percent(share),
        "detail": f"{energy(kwh)}, {view.part_of_emissions(run, share)}",
    }


def _used(run: Mapped) -> dict[str, str] | None:
    """Return how long it ran, and how busy its GPUs were."""
    seconds, gpu_hours = number(run, "duration_s"), number(run, "gpu_hours")
    if seconds is None:
        return None
    busy = percent(number(run, "gpu_utilization"))
    detail = f"{amount(gpu_hours)} GPU-hours, busy {busy}" if gpu_hours else "no GPU"
    return {"time": view.duration(seconds), "detail": detail}


def _place(run: Mapped, project: Mapped, names: Mapping[str, str]) -> list[view.Fact]:
    """Return when it ran and on what, and its part of its project; `names` are those of regions."""
    begin, end = text(run, "window_start"), text(run, "window_end")
    facts = [
        view.Fact("Began (UTC)", contexts.moment(begin) or "not known"),
        view.Fact("Ended (UTC)", contexts.moment(end) or "not known"),
        view.Fact("Time metered", view.duration(number(run, "duration_s"))),
    ]
    known = {key: text(run, key) for _, key in _HARDWARE}
    known["region"] = names.get(known["region"]) or known["region"]
    facts += [view.Fact(name, known[key]) for name, key in _HARDWARE if known[key]]
    share = ratio(number(run, "emissions_g"), number(project, "emissions_g"))
    if share is not None:
        facts.append(view.Fact("Of its project’s emissions", percent(share)))
    return facts
