"""What settling computes, as ibis expressions: written once, run by DuckDB or by Spark.

Where all windows of a stretch are the same (`stretched`, `stretches`), `sidecar.report.settle` comes
down to sums, and where these fit no pod is cut. What is left goes to that module itself.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ibis
import ibis.expr.types as ir

from sidecar.estimate.attribution import LATE, MEASURED
from sidecar.report.claims import NODES_OWN
from sidecar.report.columns import BY_RESERVATION, COLUMNS, DERIVED, KEPT, SHARE_MAX
from sidecar.report.settle import (
    COMPONENTS,
    LATE_SPAN_S,
    LEAST_KWH,
    LEAST_SHARE,
    ROUNDING,
    TOUCH_S,
)
from sidecar.windows import GAP_TOLERANCE_S

_TYPES: Final = {
    "VARCHAR": "string",
    "DOUBLE": "float64",
    "BIGINT": "int64",
    "MAP(VARCHAR, VARCHAR)": "map<string, string>",
    "MAP(VARCHAR, DOUBLE)": "map<string, float64>",
}
_ALL: Final = {
    **{item.name: _TYPES.get(item.sql_type, "") for item in COLUMNS},
    **{name: _TYPES[sql_type] for name, sql_type in DERIVED.items()},
    **dict.fromkeys(KEPT, "float64"),
    "gpus": (
        "array<struct<uuid: string, model: string, energy_kwh: float64, share: float64, "
        "method: string, share_method: string>>"
    ),
}

_PARTS: Final = tuple(f"{name}_energy_kwh" for name in COMPONENTS)
_NODES: Final = tuple(f"node_{name}" for name in _PARTS)

Schema = Mapping[str, str]


def schema(names: Sequence[str]) -> dict[str, str]:
    """Return the types of these columns."""
    return {name: _ALL[name] for name in names}


WORKING: Final[Schema] = schema(
    ("record_id", "boot", "sequence", "node_key", "node_name", "start_us", "day", "start_s", "until_s",
     "pod_method", "cpu_power_method", "gpu_method", "pue", "carbon_intensity_g_per_kwh",
     "duration_s", "window_start", "window_end", "cluster", "node", "vm_id", "gpus",
     "gpu_measured_part", *_PARTS, *_NODES)
)  # fmt: skip
"""What settling looks at."""

BALANCES: Final[Schema] = {
    "node_key": "string",
    "node_name": "string",
    "day": "string",
    "start_s": "float64",
    "end_s": "float64",
    **dict.fromkeys(
        (
            "node_kwh",
            "claimed_kwh",
            "pods_kwh",
            "untracked_kwh",
            *(f"unallocated_{name}_kwh" for name in COMPONENTS),
            "unallocated_emissions_g",
        ),
        "float64",
    ),
}
"""What became of a node's energy on a day: `sidecar.report.balance`."""

KEPT_COLUMNS: Final[Schema] = {"record_id": "string", **dict.fromkeys(KEPT, "float64")}

STRETCH: Final = ("node_key", "stretch")


@dataclass(frozen=True, slots=True)
class Times:
    """Microseconds since the epoch, from (included) and until (excluded); None = unbounded."""

    since_us: int | None = None
    until_us: int | None = None

    def takes(self, start_us: ir.IntegerColumn) -> ir.BooleanValue:
        """Tell of a start whether it is asked for; without bounds, also where it is not known."""
        tests: list[ir.BooleanValue] = [ibis.literal(True)]  # noqa: FBT003 - a value
        if self.since_us is not None:
            tests.append((start_us >= self.since_us).fill_null(False))  # noqa: FBT003
        if self.until_us is not None:
            tests.append((start_us < self.until_us).fill_null(False))  # noqa: FBT003
        return functools.reduce(lambda one, other: one & other, tests)


def true_only(test: Any) -> Any:  # noqa: ANN401 - ibis columns
    """Return a test that is false, not null, where it cannot be told."""
    return test.fill_null(False)  # noqa: FBT003


def known(column: Any, otherwise: Any = 0.0) -> Any:  # noqa: ANN401
    """Return a column with this where it is not known."""
    return column.fill_null(otherwise)


# -- settling ----------------------------------------------------------------------------------------


def stretched(working: ir.Table) -> ir.Table:
    """Give the stretches of each node numbers, as `settle.stretches` parts them.

    `is_set_back` is of nodes where a process's windows do not follow each other: their true times, and
    so their stretches, are the matter of `sidecar.report.claims`.
    """
    in_process = ibis.window(group_by=["node_key", "boot"], order_by=["sequence", "record_id"])
    in_node = ["start_s", "until_s", "record_id"]
    before = ibis.window(group_by="node_key", order_by=in_node, preceding=(None, 1))
    until_here = ibis.window(group_by="node_key", order_by=in_node, preceding=None, following=0)
    ahead = working.mutate(
        ahead_s=working.start_s - working.until_s.lag().over(in_process),
        before_s=working.until_s.max().over(before),
    )
    begun = ahead.mutate(
        is_behind=true_only(ahead.ahead_s < -GAP_TOLERANCE_S).cast("int64"),
        begins=(ahead.before_s.isnull() | true_only(ahead.start_s > ahead.before_s - TOUCH_S)).cast(
            "int64"
        ),
    )
    numbered = begun.mutate(
        is_set_back=begun.is_behind.max().over(group_by="node_key") > 0,
        stretch=begun.begins.sum().over(until_here).cast("int64"),
    )
    return numbered.drop("ahead_s", "before_s", "is_behind", "begins")


def claims(placed: ir.Table) -> ir.Table:
    """Add what each record claims, and what it tells of the node, as `settle` and `claims` have it."""
    methods = "|".join(sorted(MEASURED))
    own = true_only(placed.pod_method == NODES_OWN)
    measured = true_only(placed.pod_method.re_search(rf"^({methods})( \+ ({methods}))*$"))
    gpu_method = known(placed.gpu_method.nullif(""), "table")
    sight = ibis.cases(
        (gpu_method.contains("table"), 0), (gpu_method.contains("utilization"), 1), else_=2
    )
    late = true_only(placed.pod_method.re_search(rf"(^| )({'|'.join(sorted(LATE))})( |$)"))
    rapl = true_only(placed.cpu_power_method == "rapl")
    cpu_rank = own.cast("int64") * 10 + rapl.cast("int64") * 2 + (~late).cast("int64")
    gpus = ibis.least(placed.gpus.length(), 9_999)
    gpu_rank = own.cast("int64") * 1_000_000 + gpus * 10 + sight
    grams = ibis.ifelse(
        placed.pue.between(0.0, 100.0),
        placed.pue * placed.carbon_intensity_g_per_kwh,
        ibis.null("float64"),
    )
    table = placed.mutate(
        own=own, measured=measured, late=late, rank_of_gpus=gpu_rank, grams_per_kwh=grams
    )
    ranks = {"cpu": cpu_rank, "ram": cpu_rank, "gpu": gpu_rank}
    columns: dict[str, Any] = {}
    for name in COMPONENTS:
        energy, node = placed[f"{name}_energy_kwh"], placed[f"node_{name}_energy_kwh"]
        columns[f"told_{name}"] = ibis.coalesce(node, energy)
        columns[f"rank_{name}"] = ibis.cases(
            (node.notnull(), ranks[name]), (energy.notnull(), -1), else_=ibis.null("int64")
        )
        columns[f"wanted_{name}"] = ibis.ifelse(own, 0.0, known(energy))
        columns[f"others_{name}"] = ibis.ifelse(own, ibis.greatest(0.0, known(node - energy)), 0.0)
        columns[f"part_{name}"] = measured.cast("float64")
    columns["part_gpu"] = known(placed.gpu_measured_part, columns["part_gpu"])
    return _with_best(table.mutate(**columns))


def _with_best(table: ir.Table) -> ir.Table:
    """Add the best rank of each stretch: who knows the node best tells its energy."""
    best = {
        f"best_{name}": table[f"rank_{name}"].max().over(group_by=STRETCH) for name in COMPONENTS
    }
    return table.mutate(**best)


def devices(claimed: ir.Table) -> ir.Table:
    """Add the GPUs of each stretch up, one by one: columns `pools`, `seen` and `devices_fit`."""
    unnested = claimed.select(
        "node_key", "stretch", "boot", "own", "rank_of_gpus", gpu=claimed.gpus.unnest()
    )
    each = unnested.mutate(
        uuid=unnested.gpu["uuid"],
        energy=known(unnested.gpu["energy_kwh"]),
        share=known(unnested.gpu["share"]),
        looks=~true_only(unnested.gpu["share_method"].isin(BY_RESERVATION))
        & unnested.gpu["share_method"].notnull(),
    )
    each = each.filter(each.uuid.notnull())
    tells = each.energy.between(LEAST_KWH, 1e9) & each.share.between(LEAST_SHARE, SHARE_MAX)
    each = each.mutate(tells=tells, rank=ibis.ifelse(tells, each.rank_of_gpus, ibis.null("int64")))
    keys = [*STRETCH, "uuid"]
    each = each.mutate(best=each["rank"].max().over(group_by=keys))
    claims_it = each.tells & ~each.own
    of_device = each.group_by(keys).agg(
        pool=(each.energy / each.share).max(where=each.tells & (each["rank"] == each.best)),
        measured=each.energy.sum(where=claims_it & each.looks),
        estimated=each.energy.sum(where=claims_it & ~each.looks),
        rows=each.tells.sum().cast("int64"),
        boots=each.boot.nunique(where=each.tells),
    )
    fits = _fits(of_device.pool, known(of_device.measured), known(of_device.estimated))
    of_device = of_device.mutate(fits=fits & (of_device.rows == of_device.boots))
    return of_device.group_by(STRETCH).agg(
        pools=of_device.pool.sum(), seen=of_device.count(), devices_fit=of_device.fits.all()
    )


def _fits(pool: Any, measured: Any, estimated: Any) -> Any:  # noqa: ANN401
    """Tell whether `settle.cut` cuts nothing of claims that are all of one window."""
    within = (measured <= pool * (1 + ROUNDING)) & (
        (estimated <= 0) | (estimated <= ibis.greatest(0.0, pool - measured) + pool * ROUNDING)
    )
    return (measured + estimated <= 0) | true_only(within)


def stretches(claimed: ir.Table, devices_of: ir.Table) -> ir.Table:
    """Add the stretches up, one row each; `is_simple` where nothing is cut, beyond doubt."""
    columns: dict[str, Any] = {
        "records": claimed.count(),
        "boots": claimed.boot.nunique(),
        "start_us": claimed.start_us.min(),
        "day": claimed.day.min(),
        "start_s": claimed.start_s.min(),
        "last_start_s": claimed.start_s.max(),
        "first_end_s": claimed.until_s.min(),
        "end_s": claimed.until_s.max(),
        "is_set_back": claimed.is_set_back.any(),
        "is_late": claimed.late.any(),
        "node_name": claimed.node_name.min(),
        "grams_per_kwh": claimed.grams_per_kwh.mean(),
        "most_gpus": claimed.gpus.length().max(),
    }
    for name in COMPONENTS:
        wanted, part = claimed[f"wanted_{name}"], claimed[f"part_{name}"]
        is_best = true_only(claimed[f"rank_{name}"] == claimed[f"best_{name}"])
        columns[f"node_{name}"] = claimed[f"told_{name}"].max(where=is_best)
        columns[f"measured_{name}"] = (wanted * part).sum()
        columns[f"estimated_{name}"] = (wanted * (1 - part)).sum()
        columns[f"others_{name}"] = claimed[f"others_{name}"].sum()
    summed = claimed.group_by(STRETCH).agg(**columns)
    joined = summed.left_join(devices_of, STRETCH).drop("node_key_right", "stretch_right")
    return _judged(joined)


def _judged(summed: ir.Table) -> ir.Table:
    several = (summed.boots >= 2) & true_only(summed.most_gpus > 0)
    in_part = true_only(summed.seen > summed.most_gpus) & true_only(summed.pools > summed.node_gpu)
    table = summed.mutate(node_gpu=ibis.ifelse(several & in_part, summed.pools, summed.node_gpu))
    is_simple = (
        (table.records == table.boots)
        & (table.start_s == table.last_start_s)
        & (table.first_end_s == table.end_s)
        & ~table.is_set_back
        & (~several | known(table.devices_fit, True))  # noqa: FBT003
    )
    for name in COMPONENTS:
        pool, measured = known(table[f"node_{name}"]), table[f"measured_{name}"]
        is_simple &= _fits(pool, measured, table[f"estimated_{name}"])
    return _with_blurred(table.mutate(is_simple=is_simple))


def _with_blurred(judged: ir.Table) -> ir.Table:
    """Let none of ten minutes be simple where one is not and answers are late."""
    table = judged.mutate(span=(judged.start_s / LATE_SPAN_S).floor())
    span = {"group_by": ["node_key", "span"]}
    is_late, is_hard = table.is_late.any().over(**span), (~table.is_simple).any().over(**span)
    return table.mutate(is_simple=table.is_simple & ~(is_late & is_hard)).drop("span")


def balances(simple: ir.Table) -> ir.Table:
    """Return what became of the nodes' energy, by node and day, of stretches that nothing is cut of."""
    columns: dict[str, Any] = {}
    for name in COMPONENTS:
        node = known(simple[f"node_{name}"])
        pods = simple[f"measured_{name}"] + simple[f"estimated_{name}"]
        left = ibis.greatest(0.0, node - pods)
        untracked = ibis.least(ibis.greatest(0.0, simple[f"others_{name}"] - pods), left)
        columns[f"{name}_node"], columns[f"{name}_pods"] = node, pods
        columns[f"{name}_untracked"] = untracked
        columns[f"{name}_left"] = ibis.greatest(0.0, node - pods - untracked)
    table = simple.mutate(**columns)

    def total(suffix: str) -> Any:  # noqa: ANN401
        return sum((table[f"{name}_{suffix}"] for name in COMPONENTS[1:]), table[f"cpu_{suffix}"])

    return table.group_by(["node_key", "day"]).agg(
        node_name=table.node_name.min(),
        start_s=table.start_s.min(),
        end_s=table.end_s.max(),
        node_kwh=total("node").sum(),
        claimed_kwh=total("pods").sum(),
        pods_kwh=total("pods").sum(),
        untracked_kwh=total("untracked").sum(),
        **{f"unallocated_{name}_kwh": table[f"{name}_left"].sum() for name in COMPONENTS},
        unallocated_emissions_g=(total("left") * table.grams_per_kwh).sum(),
    ).select(*BALANCES)  # fmt: skip
