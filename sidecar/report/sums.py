"""What a report adds up, as ibis expressions: written once, run by DuckDB or by Spark.

First the sums of what settled records keep, for each pod and hour by all that is told of them
(`finest`). Tables and facts are made of these alone, so records are read once; and since the sums of two
sets of records are the sums of both together, compaction stores them for each day it closes. Whoever
changes what they are raises `sidecar.report.commits.SUMS_VERSION`.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from sidecar.report.claims import NODES_OWN
from sidecar.report.columns import KEPT, SHARE_MAX
from sidecar.report.expressions import Schema, known, schema, true_only
from sidecar.report.figures.numbers import AMOUNTS, LARGEST
from sidecar.report.measures import Measures
from sidecar.report.settle import COMPONENTS

BUDGET: Final = "emissions/budget"

_PARTS: Final = tuple(f"{name}_energy_kwh" for name in COMPONENTS)
_IN_PROPORTION: Final = (
    "facility_energy_kwh", "water_l", "emissions_g", "emissions_low_g", "emissions_high_g",
)  # fmt: skip
_AS_THEY_ARE: Final = ("duration_s", "gap_s", "embodied_g", "gpu_hours")
_NAMES: Final = (
    "project", "experiment", "namespace", "workload", "pool", "region", "quality",
    "carbon_intensity_source", "carbon_intensity_year", "pue", "cpu_power_source", "subscription_id",
    "vm_size", "vm_id", "provider", "cpu_power_method", "gpu_method",
)  # fmt: skip
"""What is told of a record, under its own name."""

SUMMED_COLUMNS: Final[Schema] = schema(
    (*_NAMES, "record_id", "run_id", "pod_key", "carbon_intensity_level", "pod_method", "event", "day",
     "start_us", "end_us", "node_key", *_PARTS, "energy_kwh", *_IN_PROPORTION, *_AS_THEY_ARE,
     "cpu_reserved_idle_energy_kwh", "gpu_reserved_idle_energy_kwh", "cpu_utilization",
     "gpu_utilization", "carbon_intensity_g_per_kwh", "identity_source", "annotations", "gpus",
     "phases")
)  # fmt: skip
"""The columns of records that are looked at, with what settling changes."""

KEYS: Final = (
    *_NAMES, "phase", "run", "pod", "level", "pue_source", "budget", "gpu_model", "has_gpus", "hours",
)  # fmt: skip
"""What the finest sums are told apart by; `hours` are since the epoch, cheaper than day and hour."""

_SUMMED: Final = (
    *_PARTS, "energy_kwh", *_IN_PROPORTION, "cpu_reserved_idle_energy_kwh",
    "gpu_reserved_idle_energy_kwh", *_AS_THEY_ARE, "energy_taken_off_kwh",
)  # fmt: skip
_COUNTED: Final = (
    "records", "records_without_emissions", "records_without_bounds", "records_without_embodied",
)  # fmt: skip
ADDED: Final = (
    *_COUNTED, *_SUMMED, "energy_with_emissions_kwh", "facility_energy_with_emissions_kwh",
    "cpu_use", "cpu_use_weight", "gpu_use", "gpu_use_weight", "intensity", "intensity_time",
    "intensity_time_weight",
)  # fmt: skip
"""What is summed; `facility_energy_with_emissions_kwh` is the weight of `intensity`."""

_DEFAULTS: Final = {item.name: item.default for item in fields(Measures)}
_MEASURES: Final = tuple(_DEFAULTS)

_TIMES: Final = ("start_us", "last_start_us", "end_us")
_EXTREMES: Final = (*_TIMES, "intensity_least", "intensity_greatest")

_KINDS: Final[Schema] = {
    **{name: SUMMED_COLUMNS[name] for name in _NAMES},
    **dict.fromkeys(
        ("phase", "run", "pod", "level", "pue_source", "budget", "gpu_model"), "string"
    ),
    "has_gpus": "boolean",
    "hours": "int64",
    **dict.fromkeys(ADDED, "float64"),
    **dict.fromkeys(_COUNTED, "int64"),
    **dict.fromkeys(_EXTREMES, "int64"),
    **dict.fromkeys(("intensity_least", "intensity_greatest"), "float64"),
}
FINEST: Final[Schema] = {name: _KINDS[name] for name in (*KEYS, *ADDED, *_EXTREMES)}
"""The columns of the finest sums."""


def settled(records: ir.Table) -> ir.Table:
    """Apply what is kept (`kept_cpu`, …; null = all) to the columns that follow from it."""
    kept = {
        name: known(records[column], 1.0) for name, column in zip(COMPONENTS, KEPT, strict=True)
    }
    energies = {name: records[f"{name}_energy_kwh"] for name in COMPONENTS}
    cuts = [known(energies[name]) * (1.0 - kept[name]) for name in COMPONENTS]
    taken_off = cuts[0] + cuts[1] + cuts[2]
    whole_kwh = known(energies["cpu"]) + known(energies["ram"]) + known(energies["gpu"])
    left = ibis.ifelse(
        taken_off > 0, ibis.greatest(0.0, 1.0 - taken_off / whole_kwh.nullif(0.0)), 1.0
    )
    columns = {f"{name}_energy_kwh": energies[name] * kept[name] for name in COMPONENTS}
    columns["energy_kwh"] = ibis.ifelse(
        taken_off > 0, ibis.greatest(0.0, records.energy_kwh - taken_off), records.energy_kwh
    )
    columns |= {name: records[name] * left for name in _IN_PROPORTION}
    for name in ("cpu", "gpu"):
        idle = f"{name}_reserved_idle_energy_kwh"
        columns[idle] = records[idle] * kept[name]
    return records.mutate(**columns, energy_taken_off_kwh=taken_off).drop(*KEPT)


def whole(records: ir.Table) -> ir.Table:
    """Return records that keep all, in the form of `settled`."""
    return records.mutate(energy_taken_off_kwh=ibis.literal(0.0))


def finest(records: ir.Table) -> ir.Table:
    """Add settled records up by `KEYS`; `…_weight` are those of the means.

    What the node meter says no pod used is not among them. The first records of processes metered
    nothing, whatever they say: they count for names and times alone.
    """
    named = _named(records.filter(known(records.pod_method, "") != NODES_OWN))
    metered = by_phase(named.filter(named.event != "start"))
    begun = named.filter(named.event == "start").mutate(phase=ibis.null("string"))
    summed = metered.group_by(KEYS).agg(**_added(metered), **_times(metered))
    nothing = {
        name: ibis.literal(0, "int64") if name in _COUNTED else ibis.null(kind)
        for name, kind in FINEST.items()
        if name not in (*KEYS, *_TIMES)
    }
    return _typed(summed).union(_typed(begun.group_by(KEYS).agg(**_times(begun)).mutate(**nothing)))


def by_moment(records: ir.Table, step_us: int) -> ir.Table:
    """Add settled records up by project, quality, and the step of so many microseconds they begin in."""
    named = _named(records.filter(known(records.pod_method, "") != NODES_OWN))
    metered = named.filter(named.event != "start").mutate(
        moment_us=(named.start_us // step_us).cast("int64") * step_us,
        counts=ibis.literal(1, "int64"),
    )
    return metered.group_by("project", "quality", "moment_us").agg(**_added(metered))


def by_phase(metered: ir.Table) -> ir.Table:
    """Split records by the phases that were marked, by time, as `sidecar.phases.phase_shares` has it.

    What is in no phase is a row of each record, too, and that one is counted (`counts`): so all sums are
    what they were.
    """
    is_marked = true_only(metered.phases.length() > 0)
    plain, marked = metered.filter(~is_marked), metered.filter(is_marked)
    spent_s = known(marked.phases.values().sums())
    marked = marked.mutate(
        spent_s=spent_s, whole_s=ibis.greatest(known(marked.duration_s), spent_s)
    )
    none = ibis.array([ibis.null("string")])
    split = marked.mutate(phase=marked.phases.keys().concat(none).unnest())
    is_rest = split.phase.isnull()
    part_s = ibis.ifelse(is_rest, split.whole_s - split.spent_s, split.phases[split.phase])
    part = ibis.ifelse(split.whole_s > 0, part_s / split.whole_s, is_rest.cast("float64"))
    split = split.mutate(part=part, counts=is_rest.cast("int64"))
    split = split.mutate(**{name: split[name] * split.part for name in _SUMMED})
    columns = (*metered.columns, "phase", "counts")
    whole_ones = plain.mutate(phase=ibis.null("string"), counts=ibis.literal(1, "int64"))
    return whole_ones.select(*columns).union(split.select(*columns))


def _times(named: ir.Table) -> dict[str, Any]:
    times = (named.start_us.min(), named.start_us.max(), named.end_us.max())
    return dict(zip(_TIMES, times, strict=True))


def _typed(table: ir.Table) -> ir.Table:
    return table.select(
        **{
            name: table[name] if table[name].type() == dt.dtype(kind) else table[name].cast(kind)
            for name, kind in FINEST.items()
        }
    )


def _named(records: ir.Table) -> ir.Table:
    """Say the keys, and only those columns that are added up."""
    names = {name: records[name] for name in (*_NAMES, *_SUMMED)}
    others = ("cpu_utilization", "gpu_utilization", "carbon_intensity_g_per_kwh")
    return records.select(
        **names,
        **{name: records[name] for name in (*others, "event", "start_us", "end_us", "phases")},
        run=records.run_id.nullif(""),
        pod=records.pod_key,
        level=known(records.carbon_intensity_level, "set"),
        pue_source=records.identity_source["pue"],
        budget=records.annotations[BUDGET],
        gpu_model=ibis.ifelse(
            records.gpus.length() > 0, records.gpus[0]["model"], ibis.null("string")
        ),
        has_gpus=true_only(records.gpu_hours > 0),
        hours=(records.start_us // 3_600_000_000).cast("int64"),
    )


def _added(metered: ir.Table) -> dict[str, Any]:
    duration_s, intensity = metered.duration_s, metered.carbon_intensity_g_per_kwh
    grams, facility = metered.emissions_g, metered.facility_energy_kwh
    low_g, high_g = metered.emissions_low_g, metered.emissions_high_g
    columns: dict[str, Any] = {name: metered[name].sum() for name in _SUMMED}
    for name in ("cpu", "gpu"):
        use = metered[f"{name}_utilization"]
        is_one = true_only(use.between(0.0, SHARE_MAX))
        columns[f"{name}_use"] = (use * duration_s).sum(where=is_one)
        columns[f"{name}_use_weight"] = duration_s.sum(where=is_one)
    columns["intensity"] = grams.sum(where=facility.notnull())
    columns["intensity_time"] = (intensity * duration_s).sum()
    columns["intensity_time_weight"] = duration_s.sum(where=intensity.notnull())
    columns["intensity_least"], columns["intensity_greatest"] = intensity.min(), intensity.max()
    for name in ("energy", "facility_energy"):
        columns[f"{name}_with_emissions_kwh"] = metered[f"{name}_kwh"].sum(where=grams.notnull())
    for name, bound in (
        ("low", ibis.least(grams, ibis.coalesce(low_g, grams))),
        ("high", ibis.greatest(grams, ibis.coalesce(high_g, grams))),
    ):
        columns[f"emissions_{name}_g"] = bound.sum(where=grams.notnull())
    columns["records"] = metered.counts.sum()
    for name, test in (
        ("emissions", grams.isnull()),
        ("embodied", metered.embodied_g.isnull()),
        ("bounds", grams.notnull() & (low_g.isnull() | high_g.isnull())),
    ):
        columns[f"records_without_{name}"] = known(metered.counts.sum(where=test), 0)
    return columns


# -- of the finest sums --------------------------------------------------------------------------------


def dated(fine: ir.Table) -> ir.Table:
    """Say days and hours by name: the first day of the epoch was a Thursday."""
    days = fine.hours // 24
    moment = (fine.hours * 3600).as_timestamp("s")
    return fine.mutate(
        day=moment.strftime("%Y-%m-%d"),
        weekday=((days + 3) % 7).cast("int64"),
        hour=(fine.hours % 24).cast("int64"),
    )


def rolled_up(fine: ir.Table, keys: Sequence[str]) -> ir.Table:
    """Add the finest sums, dated, up by fewer keys."""
    energy = known(fine.energy_kwh)
    split = {
        f"energy_{name}_kwh": energy.sum(where=fine.quality == name)
        for name in ("measured", "estimated", "modelled")
    } | {
        f"energy_{name}_kwh": energy.sum(where=fine.level == name)
        for name in ("zone", "country", "world", "set")
    }
    for part, takes in (("of_runs", fine.run.notnull()), ("of_gpus", fine.has_gpus)):
        for name in ("emissions", "emissions_low", "emissions_high", "embodied"):
            split[f"{name}_{part}_g"] = fine[f"{name}_g"].sum(where=takes)
    columns = {
        "runs": (fine.run if "project" in keys else _run_of_project(fine)).nunique(),
        "pods": fine.pod.nunique(),
        "start_us": fine.start_us.min(),
        "end_us": fine.end_us.max(),
        **{name: fine[name].sum().cast(FINEST[name]) for name in ADDED},
        **split,
    }
    return fine.group_by(list(keys)).agg(**columns) if keys else fine.agg(**columns)


def of_marked_runs(phases: ir.Table) -> ir.Table:
    """Keep the runs of which any phase was marked, with what is in none of them."""
    any_marked = phases.phase.notnull().any().over(group_by=["project", "run"])
    marked = phases.mutate(is_marked=any_marked)
    return marked.filter(marked.is_marked).drop("is_marked")


def _run_of_project(fine: ir.Table) -> Any:  # noqa: ANN401 - an ibis column
    """Return a text that no run of another project has."""
    return fine.project.length().cast("string") + ":" + fine.project + fine.run


def told(rolled: ir.Table, keys: Sequence[str]) -> ir.Table:
    """Return the measures of a table by their names (`Measures`); times in microseconds."""
    counted = rolled.records - rolled.records_without_emissions
    unbounded = (counted > 0) & (counted == rolled.records_without_bounds)
    columns: dict[str, Any] = {
        name: rolled[name] for name in _MEASURES if name in rolled.columns
    } | {
        "window_start": rolled.start_us,
        "window_end": rolled.end_us,
        "cpu_utilization": _mean(rolled.cpu_use, rolled.cpu_use_weight),
        "gpu_utilization": _mean(rolled.gpu_use, rolled.gpu_use_weight),
        "carbon_intensity_g_per_kwh": _mean(
            rolled.intensity, rolled.facility_energy_with_emissions_kwh
        ),
        "carbon_intensity_time_weighted_g_per_kwh": _mean(
            rolled.intensity_time, rolled.intensity_time_weight
        ),
        "emissions_low_g": ibis.ifelse(unbounded, ibis.null("float64"), rolled.emissions_low_g),
        "emissions_high_g": ibis.ifelse(unbounded, ibis.null("float64"), rolled.emissions_high_g),
    }
    for name in AMOUNTS:
        absent = ibis.null("float64") if _DEFAULTS[name] is None else 0.0
        is_sound = true_only(columns[name].abs() <= LARGEST)
        columns[name] = ibis.ifelse(is_sound, columns[name], absent)
    for name in _MEASURES:
        if _DEFAULTS[name] == 0 and name not in AMOUNTS:
            columns[name] = known(columns[name], 0).cast("int64")
    table = rolled.select(*keys, **{name: columns[name] for name in _MEASURES})
    if not keys:  # of nothing, too, there is a row
        table = table.filter((table.records > 0) | table.window_start.notnull())
    return table.order_by(
        ibis.desc(known(table.emissions_g)), *(ibis.asc(key, nulls_first=False) for key in keys)
    )


def _mean(total: Any, weight: Any) -> Any:  # noqa: ANN401 - ibis columns
    return total / weight.nullif(0.0)
