"""What a report's model is made from, beside the tables: what the engine and the caller hand over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Self

from sidecar.catalogue.lookup import Catalogue
from sidecar.report.balance import Balance

if TYPE_CHECKING:
    from sidecar.report.figures.budget import Budget
    from sidecar.report.figures.reconcile import AzureExport
    from sidecar.report.read import ReadReport
    from sidecar.report.selection import Selection
    from sidecar.report.tables import ReportTables


@dataclass(frozen=True, slots=True)
class FactorUse:
    """Factors behind a part of a project's energy: one region, one source of each factor.

    `carbon_intensity_g_per_kwh` is the mean (emissions / facility energy); least and greatest differ
    where the source varies with time.
    """

    project: str
    region: str | None = None
    carbon_intensity_g_per_kwh: float | None = None
    carbon_intensity_least_g_per_kwh: float | None = None
    carbon_intensity_greatest_g_per_kwh: float | None = None
    carbon_intensity_source: str | None = None
    carbon_intensity_year: int | None = None
    carbon_intensity_level: str | None = None
    pue: float | None = None
    pue_source: str | None = None
    cpu_power_source: str | None = None
    energy_kwh: float | None = None


@dataclass(frozen=True, slots=True)
class HourOfRegion:
    """Windows that began in one hour of the day (UTC), with intensities of one origin.

    `carbon_intensity_g_per_kwh` is the mean weighted by duration. Facility energy in kWh is that of the
    emissions, in g.
    """

    region: str
    hour: int
    carbon_intensity_source: str | None = None
    carbon_intensity_level: str | None = None
    carbon_intensity_g_per_kwh: float | None = None
    carbon_intensity_least_g_per_kwh: float | None = None
    carbon_intensity_greatest_g_per_kwh: float | None = None
    duration_s: float | None = None
    facility_energy_kwh: float | None = None
    emissions_g: float | None = None


@dataclass(frozen=True, slots=True)
class SubscriptionMonth:
    """Our sums for one Azure subscription and calendar month (`YYYY-MM`), in g CO2e."""

    subscription_id: str | None
    month: str
    emissions_g: float | None
    embodied_g: float | None


PodKind = Literal["never injected", "skipped", "silent", "starting", "incomplete"]
"""Why something of a pod is missing: it got no sidecar, could get none, its sidecar sent nothing, began
only now, or ended before it had sent all."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """Energy and emissions that a sidecar told at its end and that did not arrive; in no sum."""

    energy_kwh: float | None = None
    emissions_g: float | None = None
    emissions_low_g: float | None = None
    emissions_high_g: float | None = None


@dataclass(frozen=True, slots=True)
class MissingPod:
    """A pod that asked to be tracked and of which records are missing: all, or its last ones."""

    namespace: str
    pod: str
    kind: PodKind
    reason: str
    project: str | None = None
    records: int | None = None
    amounts: Amounts = field(default_factory=Amounts)


@dataclass(frozen=True, slots=True)
class PodsLookedUp:
    """What Kubernetes says of the pods that asked to be tracked; `failure` says why it said nothing."""

    asked: int = 0
    missing: Sequence[MissingPod] = ()
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What records say of a run beyond its sums: one value where all agree, else None."""

    region: str | None = None
    vm_size: str | None = None
    vms: int | None = None
    gpu_model: str | None = None
    cpu_power_method: str | None = None
    gpu_method: str | None = None
    provider: str | None = None
    carbon_intensity_source: str | None = None
    carbon_intensity_year: int | None = None
    pue_source: str | None = None
    cpu_power_source: str | None = None


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums of a short report by project and moment: `start` (RFC 3339) and the measures of a cell.

    A project of None stands for all, where there are too many to be told apart.
    """

    step_s: int
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ReadFacts:
    """What was read, and what was left out for which reason.

    `late` records came after their day was compacted; None where no day is, and none can be late.
    """

    files: int = 0
    records: int = 0
    duplicates: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    late: int | None = None
    source: str | None = None

    @classmethod
    def of(cls, seen: "ReadReport", source: str | None = None) -> Self:
        """Take them from a read report; `source` is its address, without a secret."""
        return cls(
            seen.files, seen.records, seen.duplicates, dict(seen.left_out), seen.late, source
        )


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """Everything a model is made from. `now` must have a time zone.

    None says that something was not looked at: `nodes` (only some projects were asked for), `factors`,
    `hours`,
    `subscriptions`, `pods`, `azure` (no export was given). `annotated_budgets` are the
    latest `emissions/budget` of each project, as written.
    """

    tables: "ReportTables"
    catalogue: Catalogue
    now: datetime
    read: ReadFacts = field(default_factory=ReadFacts)
    selection: "Selection | None" = None
    nodes: Sequence[Balance] | None = None
    budgets: Mapping[str, "Budget"] = field(default_factory=dict)
    annotated_budgets: Mapping[str, str] = field(default_factory=dict)
    factors: Sequence[FactorUse] | None = None
    hours: Sequence[HourOfRegion] | None = None
    subscriptions: Sequence[SubscriptionMonth] | None = None
    azure: "AzureExport | None" = None
    pods: PodsLookedUp | None = None
    moments: Moments | None = None
    title: str | None = None
    note: str | None = None
