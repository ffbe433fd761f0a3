"""What figures need beside the sums: factors, hours, budgets, runs. Made of the finest sums, dated."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import ibis
import ibis.expr.types as ir

from sidecar.report.figures.inputs import FactorUse, HourOfRegion, SubscriptionMonth

if TYPE_CHECKING:
    from sidecar.report.engine import Engine

FACTORS_MAX: Final = 20_000
"""Groups of factors; the largest energies come first."""

_SOURCES: Final = (
    "project", "region", "carbon_intensity_source", "carbon_intensity_year", "carbon_intensity_level",
    "pue", "pue_source", "cpu_power_source",
)  # fmt: skip

_AGREED: Final = (
    "region", "vm_size", "gpu_model", "cpu_power_method", "gpu_method", "provider",
    "carbon_intensity_source", "carbon_intensity_year", "pue_source", "cpu_power_source",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """`budgets` are the latest annotation per project."""

    factors: Sequence[FactorUse] = ()
    hours: Sequence[HourOfRegion] = ()
    subscriptions: Sequence[SubscriptionMonth] = ()
    budgets: Mapping[str, str] = field(default_factory=dict)


def facts_of(fine: ir.Table, engine: "Engine") -> Facts:
    """Run the expressions."""
    metered = fine.filter(fine.records > 0).mutate(
        carbon_intensity_level=fine.level.nullif("set"),
    )
    return Facts(
        factors=[FactorUse(**row) for row in _listed(engine, factor_uses(metered))],
        hours=[HourOfRegion(**row) for row in _listed(engine, hours_of_regions(metered))],
        subscriptions=[
            SubscriptionMonth(**row) for row in _listed(engine, subscription_months(metered))
        ],
        budgets={row["project"]: row["budget"] for row in _listed(engine, latest_budgets(fine))},
    )


def factor_uses(metered: ir.Table) -> ir.Table:
    """Group by region and source of each factor, never by the value of the intensity."""
    least, greatest = metered.intensity_least.min(), metered.intensity_greatest.max()
    grouped = metered.group_by(_SOURCES).agg(
        carbon_intensity_g_per_kwh=ibis.ifelse(
            least == greatest,
            least,
            ibis.coalesce(
                metered.intensity.sum()
                / metered.facility_energy_with_emissions_kwh.sum().nullif(0.0),
                metered.intensity_time.sum() / metered.intensity_time_weight.sum().nullif(0.0),
            ),
        ),
        carbon_intensity_least_g_per_kwh=least,
        carbon_intensity_greatest_g_per_kwh=greatest,
        energy_kwh=metered.energy_kwh.sum(),
    )
    return grouped.order_by(ibis.desc(grouped.energy_kwh), *_SOURCES).limit(FACTORS_MAX)


def hours_of_regions(metered: ir.Table) -> ir.Table:
    """Say what the intensities of a region were in each hour of the day, by their source and level."""
    named = metered.filter(
        metered.region.notnull() & metered.intensity_least.notnull() & metered.hour.notnull()
    )
    keys = ("region", "hour", "carbon_intensity_source", "carbon_intensity_level")
    duration_s = named.intensity_time_weight.sum()
    grouped = named.group_by(keys).agg(
        carbon_intensity_g_per_kwh=named.intensity_time.sum() / duration_s.nullif(0.0),
        carbon_intensity_least_g_per_kwh=named.intensity_least.min(),
        carbon_intensity_greatest_g_per_kwh=named.intensity_greatest.max(),
        duration_s=duration_s,
        facility_energy_kwh=named.facility_energy_with_emissions_kwh.sum(),
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


def latest_budgets(fine: ir.Table) -> ir.Table:
    """Take the annotation of each project's latest record that has one."""
    named = fine.filter(fine.budget.notnull() & fine.last_start_us.notnull())
    return named.group_by("project").agg(budget=named.budget.argmax(named.last_start_us))


def run_facts(fine: ir.Table) -> ir.Table:
    """Say of each run what all its records agree on: the fields of `RunFacts`."""
    named = fine.filter(fine.run.notnull() & (fine.records > 0))
    agreed = {
        name: ibis.ifelse(
            named[name].min() == named[name].max(), named[name].max(), ibis.null(named[name].type())
        )
        for name in _AGREED
    }
    return named.group_by("project", "run").agg(
        **agreed, vms=named.vm_id.nunique().cast("int64").nullif(0)
    )


def _listed(engine: "Engine", table: ir.Table) -> Iterator[dict[str, Any]]:
    for batch in engine.batches(table):
        yield from batch.to_pylist()
