"""Settle a dataset: what its records keep, and what became of the energy of its nodes.

The expressions find the stretches of nodes whose pods claim more than they had, or whose windows differ;
only these go through `sidecar.report.settle`, record by record. Compacted days are settled already: they
are looked at again only where records came late, or where a selection cuts through the day.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import ibis.expr.types as ir
import pyarrow as pa

from sidecar.record import EmissionRecord, GpuRecord
from sidecar.report.balance import Balance
from sidecar.report.claims import Claims, Nodes, Place
from sidecar.report.columns import GPU_COLUMNS, KEPT
from sidecar.report.dataset import Dataset
from sidecar.report.expressions import (
    BALANCES,
    WORKING,
    Times,
    balances,
    claims,
    devices,
    stretched,
    stretches,
)
from sidecar.report.settle import COMPONENTS, Stretch, settle
from sidecar.windows import rfc3339

if TYPE_CHECKING:
    from sidecar.report.engine import Engine


@dataclass(slots=True)
class Settlement:
    """What settling found: what records keep that keep not all, and balances by node and day.

    `days` are those with records that are not compacted, `touched` these with their nodes, `edges` the
    days that a selection cuts through.
    """

    kept: dict[str, list[Any]] = field(
        default_factory=lambda: {name: [] for name in ("record_id", *KEPT)}
    )
    found: list[Mapping[str, Any]] = field(default_factory=list)
    days: frozenset[str] = frozenset()
    touched: frozenset[tuple[str, str]] = frozenset()
    edges: frozenset[str] = frozenset()

    def kept_rows(self) -> pa.Table:
        """Return what records keep that keep not all."""
        return pa.table(
            self.kept,
            schema=pa.schema(
                [("record_id", pa.string()), *((name, pa.float64()) for name in KEPT)]
            ),
        )


def settle_dataset(dataset: Dataset, times: Times, engine: "Engine") -> Settlement:
    """Settle the records that are not compacted, with those compacted of the same nodes and days."""
    edges = frozenset(_edges(times))
    if not dataset.staged:
        again = [item for item in dataset.days if item.day in edges]
        paths = dataset.paths_of(again)
        working = engine.scanned("again", paths, WORKING) if again else None
        settlement = Settlement(edges=edges)
    else:
        working, settlement = _working(dataset, edges, engine)
    if working is not None:
        _settle(working.filter(working.node_key.notnull()), settlement, times, engine)
    return settlement


def _working(
    dataset: Dataset, edges: frozenset[str], engine: "Engine"
) -> tuple[ir.Table, Settlement]:
    staged = engine.scanned("staged_working", dataset.staged, WORKING)
    pairs = staged.filter(staged.node_key.notnull()).select("node_key", "day").distinct()
    touched = frozenset(
        (str(row["node_key"]), str(row["day"]))
        for batch in engine.batches(pairs)
        for row in batch.to_pylist()
    )
    days = frozenset(day for _, day in touched)
    again = [item for item in dataset.days if item.day in days | edges]
    settlement = Settlement(days=days, touched=touched, edges=edges)
    if not again:
        return staged, settlement
    compacted = engine.scanned("again", dataset.paths_of(again), WORKING)
    beside = marked(compacted, settlement, engine)
    wanted = beside.filter(beside.is_touched | beside.day.isin(sorted(edges)))
    return staged.union(wanted.select(*WORKING)), settlement


def marked(compacted: ir.Table, settlement: Settlement, engine: "Engine") -> ir.Table:
    """Add `is_touched`: whether records of the same node and day are not compacted."""
    pairs = sorted(settlement.touched)
    rows = pa.table(
        {"touched_node": [node for node, _ in pairs], "touched_day": [day for _, day in pairs]},
        schema=pa.schema([("touched_node", pa.string()), ("touched_day", pa.string())]),
    )
    touched = engine.loaded("touched", rows, {"touched_node": "string", "touched_day": "string"})
    joined = compacted.left_join(
        touched,
        [compacted.node_key == touched.touched_node, compacted.day == touched.touched_day],
    )
    return joined.mutate(is_touched=joined.touched_node.notnull()).drop(
        "touched_node", "touched_day"
    )


def _settle(working: ir.Table, settlement: Settlement, times: Times, engine: "Engine") -> None:
    claimed = engine.stored("claimed", claims(stretched(working)))
    judged = engine.stored("judged", stretches(claimed, devices(claimed)))
    simple = judged.filter(judged.is_simple & times.takes(judged.start_us))
    for batch in engine.batches(balances(simple)):
        settlement.found += batch.to_pylist()
    hard = judged.filter(~judged.is_simple).select("node_key", "stretch")
    contested = claimed.semi_join(hard, ["node_key", "stretch"]).select(*WORKING)
    for key, records in _by_node(engine.batches(contested.order_by("node_key"))):
        _settle_node(key, records, settlement, times)


def _by_node(
    batches: Iterator[pa.RecordBatch],
) -> Iterator[tuple[str, Iterator[Mapping[str, Any]]]]:
    rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
    yield from itertools.groupby(rows, key=lambda row: row["node_key"])


_CLAIMED: Final = (
    "record_id", "window_start", "window_end", "duration_s", "cluster", "node", "vm_id",
    "pod_method", "cpu_power_method", "gpu_method", "pue", "carbon_intensity_g_per_kwh",
    *(f"{whose}{name}_energy_kwh" for whose in ("", "node_") for name in COMPONENTS),
)  # fmt: skip


def _settle_node(
    key: str, rows: Iterator[Mapping[str, Any]], settlement: Settlement, times: Times
) -> None:
    """Settle stretches of one node with the pure module; they are whole, others are not among them."""
    nodes = Nodes()
    store = Claims(nodes)
    ids: list[str] = []
    grams: list[float] = []
    for row in rows:
        gpus = tuple(
            GpuRecord(**{item.name: gpu[item.name] for item in GPU_COLUMNS}) for gpu in row["gpus"]
        )
        record = EmissionRecord(gpus=gpus, **{name: row[name] for name in _CLAIMED})
        store.add(record, Place.of(record))
        ids.append(record.record_id)
        grams.append(_grams_per_kwh(record))
    for number in store.node_numbers():
        days: dict[str, Balance] = {}
        for stretch in settle(store.of_node(number)):
            _keep(stretch, ids, settlement.kept)
            if _takes(times, stretch.start_s):
                day = rfc3339(math.floor(stretch.start_s))[:10]
                balance = days.setdefault(day, Balance(nodes.names[number]))
                known = [amount for item in stretch.claims if (amount := grams[item.row]) >= 0]
                balance.add_stretch(stretch, math.fsum(known) / len(known) if known else None)
        settlement.found += [_balance_row(key, day, balance) for day, balance in days.items()]


def _grams_per_kwh(record: EmissionRecord) -> float:
    pue, intensity = record.pue, record.carbon_intensity_g_per_kwh
    return math.nan if pue is None or intensity is None or not 0 <= pue <= 100 else pue * intensity


def _keep(stretch: Stretch, ids: Sequence[str], kept: dict[str, list[Any]]) -> None:
    for item, parts in zip(stretch.claims, stretch.kept or (), strict=False):
        if parts != (1.0, 1.0, 1.0):
            kept["record_id"].append(ids[item.row])
            for name, part in zip(KEPT, parts, strict=True):
                kept[name].append(part)


def _takes(times: Times, start_s: float) -> bool:
    start_us = round(start_s * 1e6)
    if times.since_us is not None and start_us < times.since_us:
        return False
    return times.until_us is None or start_us < times.until_us


def _balance_row(key: str, day: str, balance: Balance) -> Mapping[str, Any]:
    unallocated = balance.unallocated_energy_kwh
    return {
        "node_key": key,
        "node_name": balance.node,
        "day": day,
        "start_s": balance.start_s,
        "end_s": balance.end_s,
        "node_kwh": balance.node_energy_kwh,
        "claimed_kwh": balance.claimed_energy_kwh,
        "pods_kwh": balance.pods_energy_kwh,
        "untracked_kwh": balance.untracked_energy_kwh,
        **{f"unallocated_{name}_kwh": energy for name, energy in unallocated.items()},
        "unallocated_emissions_g": balance.unallocated_emissions_g,
    }


def _edges(times: Times) -> Iterator[str]:
    """Yield the days that a selection cuts through."""
    for bound in (times.since_us, times.until_us):
        if bound is not None and bound % 86_400_000_000:
            yield _day(bound)


def _day(moment_us: int) -> str:
    """Return the day of a moment, never rounded up to the next."""
    return rfc3339(moment_us // 1_000_000)[:10]


# -- what became of the nodes' energy ------------------------------------------------------------------


def nodes_of(
    dataset: Dataset, settlement: Settlement, times: Times, engine: "Engine"
) -> list[Balance]:
    """Add balances up by node: those of compacted days as they were stored, and those found here."""
    of_nodes: dict[str, Balance] = {}
    rows = itertools.chain(_stored_balances(dataset, settlement, times, engine), settlement.found)
    for row in rows:
        if not row["end_s"] > row["start_s"]:
            continue
        balance = of_nodes.setdefault(row["node_key"], Balance(row["node_name"]))
        balance.start_s = min(balance.start_s, row["start_s"])
        balance.end_s = max(balance.end_s, row["end_s"])
        balance.node_energy_kwh += row["node_kwh"]
        balance.claimed_energy_kwh += row["claimed_kwh"]
        balance.pods_energy_kwh += row["pods_kwh"]
        balance.untracked_energy_kwh += row["untracked_kwh"]
        for name in COMPONENTS:
            balance.unallocated_energy_kwh[name] += row[f"unallocated_{name}_kwh"]
        grams = row["unallocated_emissions_g"]
        if grams is not None:
            balance.unallocated_emissions_g = (balance.unallocated_emissions_g or 0.0) + grams
    return [of_nodes[key] for key in sorted(of_nodes)]


def _stored_balances(
    dataset: Dataset, settlement: Settlement, times: Times, engine: "Engine"
) -> Iterator[Mapping[str, Any]]:
    first = "" if times.since_us is None else _day(times.since_us)
    last = "9" if times.until_us is None else _day(times.until_us - 1)
    files = [
        item.balances
        for item in dataset.days
        if first <= item.day <= last and item.day not in settlement.edges
    ]
    if not files:
        return
    stored = engine.scanned("stored_balances", dataset.fetched(files), BALANCES)
    for batch in engine.batches(stored):
        for row in batch.to_pylist():
            if (row["node_key"], row["day"]) not in settlement.touched:
                yield row
