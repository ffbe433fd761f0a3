"""What the keys of the report's document mean, for the reference page."""

from typing import Final

DOCUMENT_KEYS: Final = {
    "schema": "version of this schema; 1 had `files` to `left_out`, `projects` and `balance` alone",
    "tool_version": "version of emissions-sidecar that wrote the report",
    "generated_at": "when, RFC 3339, UTC",
    "title": "name of the report; null where none was given",
    "note": "what stands at the top of its pages",
    "selection": "`projects`, `since` and `until` that were asked for; empty or null: all",
    "files": "files read",
    "records": "records read, each once",
    "duplicates": "records that were there more than once",
    "left_out": "lines that are no records, by reason",
    "sources": "where records were read from, the four numbers above, and how many came late",
    "total": "the measures of all records, with SCI, reserved-but-idle, months and month on month",
    "projects": "a row for each project, the largest and those with a budget: measures, slug, share, "
    "SCI, idle, budget, months, regions, equivalents, best region, best hours",
    "project_day_regions": "sums by project, UTC day and region, in `columns` and `rows`: `project` is "
    "a place in `projects`, the first `told_apart` of which have rows of their own; null is all others "
    "together, so that the rows sum to the total",
    "project_hours": "the same by project, weekday (0 is Monday) and hour of the day, UTC",
    "runs": "a row for each run of a project: on what it ran and by which `sources` (numbers of "
    "`factors`) where all its records agree, measures, slug, SCI, idle",
    "phases": "measures by project, run and phase, of runs of which any phase was marked; null is what "
    "was in none, and that row alone counts records",
    "experiments": "measures by project and experiment",
    "namespaces": "measures by namespace",
    "workloads": "measures by namespace and workload",
    "pools": "measures by AKS node pool",
    "days": "measures by day, UTC",
    "hours": "measures by weekday (0 is Monday) and hour of the day, UTC",
    "regions": "measures by Azure region",
    "moments": "of a report of less than two days: sums by project (a place in `projects`; null is all) "
    "and step of `step_s` seconds, in `columns` and `rows`; else null",
    "rows_left_out": "rows of each table that the document has no room for; the files have all",
    "what_if_regions": "what each region of the catalogue would have come to",
    "what_if_hours": "what each hour of the day would have come to, where intensities vary",
    "map": "each region of the catalogue: place, intensity, PUE, WUE, and what was used there",
    "equivalents": "the emissions as everyday things",
    "reconciliation": "an export of Azure Carbon Optimization beside our figures",
    "balance": "energy of the nodes: of pods, untracked, unallocated; null for a selection of projects",
    "coverage": "what is missing from the figures",
    "quality": "energy and share by how it was obtained",
    "factors_used": "sources behind the records, by number, with the energy they were used for; "
    "`embodied` is the method of all embodied emissions",
    "factors": "every source once: number, text, year, and the works it cites with licence and address",
}
"""Keys of `summary.json`, in its order."""

MEASURES: Final = {
    "records": "windows added up (start records are not)",
    "records_without_emissions": "of them, those whose emissions are not known",
    "records_without_bounds": "of those whose emissions are known, those without bounds: the bounds of "
    "the sum take the emissions themselves",
    "records_without_embodied": "of them, those whose embodied emissions are not known",
    "runs": "different `run_id` of a project",
    "pods": "different pods",
    "window_start": "start of the first window",
    "window_end": "end of the last window",
    "duration_s": "seconds metered, of all pods together",
    "gap_s": "seconds not metered",
    "cpu_energy_kwh": "CPU energy, settled: less `energy_taken_off_kwh`",
    "ram_energy_kwh": "RAM energy",
    "gpu_energy_kwh": "GPU energy",
    "energy_kwh": "their sum: energy of the IT",
    "energy_with_emissions_kwh": "`energy_kwh` of the windows whose emissions are known",
    "facility_energy_kwh": "`energy_kwh` · PUE",
    "facility_energy_with_emissions_kwh": "the same of the windows whose emissions are known",
    "water_l": "water, litres",
    "emissions_g": "g CO2e",
    "emissions_low_g": "lower bound",
    "emissions_high_g": "upper bound",
    "embodied_g": "embodied emissions, not in `emissions_g`",
    "cpu_reserved_idle_energy_kwh": "of `cpu_energy_kwh`: reserved and not used",
    "gpu_reserved_idle_energy_kwh": "of `gpu_energy_kwh`: reserved and not used",
    "energy_taken_off_kwh": "kWh taken off because the pods of a node claimed more than it had; the "
    "energies above are without it",
    "gpu_hours": "Σ over GPUs share · hours",
    "cpu_utilization": "mean utilisation of the nodes' CPUs, weighted by duration, 0 to 1",
    "gpu_utilization": "the same of GPUs",
    "carbon_intensity_g_per_kwh": "mean, weighted by facility energy",
    "carbon_intensity_time_weighted_g_per_kwh": "mean, weighted by duration",
    "energy_measured_kwh": "`energy_kwh` that was measured",
    "energy_estimated_kwh": "estimated: a model fed with measured use",
    "energy_modelled_kwh": "modelled: from tables alone",
    "energy_zone_kwh": "`energy_kwh` with an intensity of the grid zone",
    "energy_country_kwh": "of the country",
    "energy_world_kwh": "of the world",
    "energy_set_kwh": "that was set",
}
"""Measures of the tables, in their order."""
