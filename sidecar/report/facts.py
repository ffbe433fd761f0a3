"""What figures need of the records beside their sums, as ibis expressions: factors, budgets, runs.

All of settled records (`expressions.settled`), which say what they keep.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import ibis
import ibis.expr.types as ir

from sidecar.report.expressions import MEASURED_COLUMNS, Schema, schema
from sidecar.report.figures.inputs import FactorUse, HourOfRegion, RunFacts, SubscriptionMonth

if TYPE_CHECKING:
    from sidecar.report.engine import Engine

BUDGET: Final = "emissions/budget"

FACT_COLUMNS: Final[Schema] = {
    **MEASURED_COLUMNS,
    **schema(
        ("carbon_intensity_source", "carbon_intensity_year", "pue", "identity_source",
         "cpu_power_source", "subscription_id", "annotations", "vm_size", "vm_id", "provider",
         "cpu_power_method", "gpu_method", "gpus")
    ),
}  # fmt: skip
"""What is looked at for them, with what settling changes."""

FACTORS_MAX: Final = 20_000
"""Groups of factors; the largest energies come first."""

_SOURCES: Final = (
    "project", "region", "carbon_intensity_source", "carbon_intensity_year", "carbon_intensity_level",
    "pue", "pue_source", "cpu_power_source",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """`budgets` are the latest annotation per project; `runs` by project and run id."""

    factors: Sequence[FactorUse] = ()
    hours: Sequence[HourOfRegion] = ()
    subscriptions: Sequence[SubscriptionMonth] = ()
    budgets: Mapping[str, str] | None = None
    runs: Mapping[tuple[str | None, str | None], RunFacts] | None = None


def facts_of(rows: ir.Table, engine: "Engine") -> Facts:
    """Run the expressions on settled records."""
    metered = rows.filter(rows.event != "start")
    return Facts(
        factors=[FactorUse(**row) for row in _listed(engine, factor_uses(metered))],
        hours=[HourOfRegion(**row) for row in _listed(engine, hours_of_regions(metered))],
        subscriptions=[
            SubscriptionMonth(**row) for row in _listed(engine, subscription_months(metered))
        ],
        budgets={row["project"]: row["budget"] for row in _listed(engine, latest_budgets(rows))},
        runs={
            (row.pop("project"), row.pop("run_id")): RunFacts(**row)
            for row in _listed(engine, run_facts(metered))
        },
    )


def factor_uses(metered: ir.Table) -> ir.Table:
    """Group by region and source of each factor, never by the value of the intensity."""
    named = metered.mutate(pue_source=metered.identity_source["pue"])
    knows = named.emissions_g.notnull() & named.facility_energy_kwh.notnull()
    facility = named.facility_energy_kwh.sum(where=knows)
    intensity = named.carbon_intensity_g_per_kwh
    grouped = named.group_by(_SOURCES).agg(
        carbon_intensity_g_per_kwh=ibis.ifelse(
            intensity.min() == intensity.max(),
            intensity.min(),
            ibis.coalesce(
                named.emissions_g.sum(where=knows) / facility.nullif(0.0), intensity.mean()
            ),
        ),
        carbon_intensity_least_g_per_kwh=intensity.min(),
        carbon_intensity_greatest_g_per_kwh=intensity.max(),
        energy_kwh=named.energy_kwh.sum(),
    )
    return grouped.order_by(ibis.desc(grouped.energy_kwh), *_SOURCES).limit(FACTORS_MAX)


def hours_of_regions(metered: ir.Table) -> ir.Table:
    """Say what the intensities of a region were in each hour of the day, by their source and level."""
    intensity = metered.carbon_intensity_g_per_kwh
    named = metered.filter(metered.region.notnull() & intensity.notnull() & metered.hour.notnull())
    intensity, duration_s = named.carbon_intensity_g_per_kwh, named.duration_s
    keys = ("region", "hour", "carbon_intensity_source", "carbon_intensity_level")
    grouped = named.group_by(keys).agg(
        carbon_intensity_g_per_kwh=(intensity * duration_s).sum() / duration_s.sum().nullif(0.0),
        carbon_intensity_least_g_per_kwh=intensity.min(),
        carbon_intensity_greatest_g_per_kwh=intensity.max(),
        duration_s=duration_s.sum(),
        facility_energy_kwh=named.facility_energy_kwh.sum(where=named.emissions_g.notnull()),
        emissions_g=named.emissions_g.sum(),
    )
    return grouped.order_by(*keys)


def subscription_months(metered: ir.Table) -> ir.Table:
    """Add emissions up by Azure subscription and calendar month."""
    named = metered.filter(metered.day.notnull()).mutate(month=metered.day.substr(0, 7))
    grouped = named.group_by("subscription_id", "month").agg(
        emissions_g=named.emissions_g.sum(), embodied_g=named.embodied_g.sum()
    )
    return grouped.order_by("subscription_id", "month")


def latest_budgets(rows: ir.Table) -> ir.Table:
    """Take the annotation of each project's latest record that has one."""
    named = rows.mutate(budget=rows.annotations[BUDGET])
    named = named.filter(named.budget.notnull() & named.start_us.notnull())
    return named.group_by("project").agg(budget=named.budget.argmax(named.start_us))


def run_facts(metered: ir.Table) -> ir.Table:
    """Say of each run what all its records agree on."""
    named = metered.filter(metered.run_id.notnull()).mutate(
        gpu_model=ibis.ifelse(
            metered.gpus.length() > 0, metered.gpus[0]["model"], ibis.null("string")
        )
    )
    agreed = {
        name: ibis.ifelse(named[name].nunique() == 1, named[name].max(), ibis.null("string"))
        for name in ("region", "vm_size", "gpu_model", "cpu_power_method", "gpu_method", "provider")
    }
    return named.group_by("project", "run_id").agg(
        **agreed, vms=named.vm_id.nunique().cast("int64").nullif(0)
    )


def _listed(engine: "Engine", table: ir.Table) -> Iterator[dict[str, Any]]:
    for batch in engine.batches(table):
        yield from batch.to_pylist()
