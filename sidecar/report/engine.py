"""From a dataset to its tables: settle what has to be, add up what is kept.

The expressions find the stretches of nodes whose pods claim more than they had, or whose windows differ;
only these go through `sidecar.report.settle`, record by record. Compacted days are settled already: they
are looked at again only where records came late, or where a selection cuts through the day.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, get_type_hints

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from sidecar.record import EmissionRecord, GpuRecord
from sidecar.report.aggregate import Selection
from sidecar.report.balance import Balance
from sidecar.report.claims import NODES_OWN, Claims, Nodes, Place
from sidecar.report.columns import GPU_COLUMNS, KEPT
from sidecar.report.dataset import CompactedPart, Dataset
from sidecar.report.expressions import (
    BALANCES,
    KEPT_COLUMNS,
    MEASURED_COLUMNS,
    WORKING,
    Times,
    balances,
    claims,
    devices,
    finest,
    rolled_up,
    schema,
    settled,
    stretched,
    stretches,
    whole,
)
from sidecar.report.facts import FACT_COLUMNS, Facts, facts_of
from sidecar.report.measures import GROUPINGS, Dimension, Measures, Row, Tables
from sidecar.report.settle import COMPONENTS, Stretch, settle
from sidecar.report.staging import Progress, no_progress
from sidecar.windows import rfc3339


class Engine(Protocol):
    """What runs expressions. Names of tables are the caller's; one of a name at a time."""

    def scanned(self, name: str, paths: Sequence[Path], columns: Mapping[str, str]) -> ir.Table:
        """Return files of Parquet as a table of these columns (ibis types by name)."""
        ...

    def stored(self, name: str, table: ir.Table) -> ir.Table:
        """Run an expression and keep what it gives."""
        ...

    def loaded(self, name: str, rows: pa.Table, columns: Mapping[str, str]) -> ir.Table:
        """Make a table of rows from Python."""
        ...

    def batches(self, table: ir.Table) -> Iterator[pa.RecordBatch]:
        """Run an expression and yield its rows, in its order."""
        ...

    def close(self) -> None:
        """Drop what was made."""
        ...


@dataclass(frozen=True, slots=True)
class Totals:
    """What a report rests on. `nodes` is None where only some projects were asked for."""

    tables: Tables
    nodes: list[Balance] | None
    facts: Facts = field(default_factory=Facts)


def totals(
    dataset: Dataset, selection: Selection, engine: Engine, progress: Progress = no_progress
) -> Totals:
    """Return all tables of `GROUPINGS`, and what became of each node's energy.

    Raises the engine's errors where memory or disk do not suffice.
    """
    times = _times(selection)
    steps = len(GROUPINGS) + 2
    try:
        settlement = settle_dataset(dataset, times, engine)
        progress("settled", 1, steps)
        rows = _selected(_records(dataset, settlement, engine), selection, times)
        fine = engine.stored("fine", finest(rows))
        progress("added up", 2, steps)
        tables: dict[str, tuple[Row, ...]] = {}
        for name, keys in GROUPINGS.items():
            tables[name] = _rows(engine, rolled_up(fine, keys), keys)
            progress("grouped", 2 + len(tables), steps)
        nodes = None if selection.projects else _nodes(dataset, settlement, times, engine)
        detailed = _selected(_records(dataset, settlement, engine, FACT_COLUMNS), selection, times)
        return Totals(Tables(tables), nodes, facts_of(detailed, engine))
    finally:
        engine.close()


def tables(dataset: Dataset, selection: Selection, engine: Engine) -> Tables:
    """Return all tables of `GROUPINGS`."""
    return totals(dataset, selection, engine).tables


def _times(selection: Selection) -> Times:
    """Read the bounds of a selection. Raises ValueError where they are no times."""

    def us(text: str) -> int | None:
        if not text:
            return None
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return round(moment.timestamp() * 1e6)

    return Times(us(selection.since), us(selection.until))


# -- settling ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Settlement:
    """What settling found: what records keep that keep not all, and balances by node and day.

    `days` are those that were settled here, `touched` the nodes and days of records not compacted.
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


def settle_dataset(dataset: Dataset, times: Times, engine: Engine) -> Settlement:
    """Settle the records that are not compacted, with those compacted of the same nodes and days."""
    edges = frozenset(_edges(times))
    if not dataset.staged:
        again = [item for item in dataset.compacted if item.part.day in edges]
        working = _scanned(engine, "again", again, WORKING) if again else None
        settlement = Settlement(days=frozenset(item.part.day for item in again), edges=edges)
    else:
        working, settlement = _working(dataset, edges, engine)
    if working is not None:
        _settle(working.filter(working.node_key.notnull()), settlement, times, engine)
    return settlement


def _working(
    dataset: Dataset, edges: frozenset[str], engine: Engine
) -> tuple[ir.Table, Settlement]:
    staged = engine.scanned("staged_working", dataset.staged, WORKING)
    pairs = staged.filter(staged.node_key.notnull()).select("node_key", "day").distinct()
    touched = frozenset(
        (str(row["node_key"]), str(row["day"]))
        for batch in engine.batches(pairs)
        for row in batch.to_pylist()
    )
    days = frozenset(day for _, day in touched)
    again = [item for item in dataset.compacted if item.part.day in days | edges]
    settlement = Settlement(days=days, touched=touched, edges=edges)
    if not again:
        return staged, settlement
    compacted = _scanned(engine, "again", again, WORKING)
    marked = _marked(compacted, settlement, engine)
    wanted = marked.filter(marked.is_touched | marked.day.isin(sorted(edges)))
    return staged.union(wanted.select(*WORKING)), settlement


def _marked(compacted: ir.Table, settlement: Settlement, engine: Engine) -> ir.Table:
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


def _settle(working: ir.Table, settlement: Settlement, times: Times, engine: Engine) -> None:
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
        for stretch in settle(store.of_node(number)):
            _keep(stretch, ids, settlement.kept)
            if _takes(times, stretch.start_s):
                known = [grams[item.row] for item in stretch.claims]
                settlement.found.append(_balance_row(key, nodes.names[number], stretch, known))


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


def _balance_row(
    key: str, node: str, stretch: Stretch, grams_per_kwh: Sequence[float]
) -> Mapping[str, Any]:
    known = [grams for grams in grams_per_kwh if not math.isnan(grams)]
    balance = Balance(node)
    balance.add_stretch(stretch, math.fsum(known) / len(known) if known else None)
    unallocated = balance.unallocated_energy_kwh
    return {
        "node_key": key,
        "node_name": node,
        "day": rfc3339(stretch.start_s)[:10],
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
            yield rfc3339(bound / 1e6)[:10]


# -- what became of the nodes' energy ------------------------------------------------------------------


def _nodes(dataset: Dataset, settlement: Settlement, times: Times, engine: Engine) -> list[Balance]:
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
    dataset: Dataset, settlement: Settlement, times: Times, engine: Engine
) -> Iterator[Mapping[str, Any]]:
    first = rfc3339(times.since_us / 1e6)[:10] if times.since_us is not None else ""
    last = rfc3339((times.until_us - 1) / 1e6)[:10] if times.until_us is not None else "9"
    paths = [
        path
        for day, path in dataset.balances
        if first <= day <= last and day not in settlement.edges
    ]
    if not paths:
        return
    for batch in engine.batches(engine.scanned("stored_balances", paths, BALANCES)):
        for row in batch.to_pylist():
            if (row["node_key"], row["day"]) not in settlement.touched:
                yield row


# -- what is added up --------------------------------------------------------------------------------


def _records(
    dataset: Dataset,
    settlement: Settlement,
    engine: Engine,
    wanted: Mapping[str, str] = MEASURED_COLUMNS,
) -> ir.Table:
    """Return these columns of all records, settled."""
    columns = {**wanted, **schema(KEPT)}
    found: list[ir.Table] = []
    again = [item for item in dataset.compacted if item.part.day in settlement.days]
    others = [item for item in dataset.compacted if item.part.day not in settlement.days]
    kept = engine.loaded("kept", settlement.kept_rows(), KEPT_COLUMNS)
    if dataset.staged:
        staged = engine.scanned("staged", dataset.staged, wanted)
        found.append(
            settled(_with_kept(staged, kept)) if settlement.kept["record_id"] else whole(staged)
        )
    if again:
        marked = _marked(_scanned(engine, "late", again, columns), settlement, engine)
        stored = {
            name: ibis.ifelse(marked.is_touched, ibis.null("float64"), marked[name])
            for name in KEPT
        }
        late = _with_kept(marked.mutate(**stored), kept, keeps_own=True)
        found.append(settled(late.drop("is_touched")))
    for name, is_cut in (("cut", True), ("uncut", False)):
        some = [item for item in others if bool(item.part.cut) is is_cut]
        if some:
            table = _scanned(engine, name, some, columns if is_cut else wanted)
            found.append(settled(table) if is_cut else whole(table))
    if not found:
        empty = pa.table(
            {name: pa.array([], ibis.dtype(kind).to_pyarrow()) for name, kind in columns.items()}
        )
        found.append(settled(engine.loaded("empty", empty, columns)))
    same = [table.select(*wanted, "energy_taken_off_kwh") for table in found]
    return ibis.union(*same) if len(same) > 1 else same[0]


def _with_kept(records: ir.Table, kept: ir.Table, *, keeps_own: bool = False) -> ir.Table:
    """Join what was found to be kept; where nothing was, it is what the records say already."""
    renamed = kept.rename({"kept_id": "record_id", **{f"new_{name}": name for name in KEPT}})
    joined = records.left_join(renamed, [records.record_id == renamed.kept_id])
    columns = {
        name: ibis.coalesce(joined[f"new_{name}"], joined[name])
        if keeps_own
        else joined[f"new_{name}"]
        for name in KEPT
    }
    return joined.mutate(**columns).drop("kept_id", *(f"new_{name}" for name in KEPT))


def _selected(records: ir.Table, selection: Selection, times: Times) -> ir.Table:
    taken = records.filter(
        (records.pod_method.fill_null("") != NODES_OWN) & times.takes(records.start_us)
    )
    if not selection.projects:
        return taken
    return taken.filter(taken.project.isin(sorted(selection.projects)))


def _scanned(
    engine: Engine, name: str, parts: Sequence[CompactedPart], columns: Mapping[str, str]
) -> ir.Table:
    return engine.scanned(f"compacted_{name}", [item.path for item in parts], columns)


# -- rows --------------------------------------------------------------------------------------------

_AS_THEY_ARE: Final = tuple(
    name
    for name in Measures.__dataclass_fields__
    if not name.endswith("_utilization") and not name.startswith(("window_", "carbon_intensity_"))
)


_COUNTS: Final = tuple(
    item.name for item in fields(Measures) if get_type_hints(Measures)[item.name] is int
)


def _rows(engine: Engine, table: ir.Table, keys: Sequence[Dimension]) -> tuple[Row, ...]:
    rows = [
        Row({key: row[key] for key in keys}, _measures(row))
        for batch in engine.batches(table)
        for row in batch.to_pylist()
        if keys or row["start_us"] is not None or row["records"]
    ]
    return tuple(sorted(rows, key=_order))


def _order(row: Row) -> tuple[float, list[tuple[bool, str]]]:
    """Order by emissions, largest first, then by keys."""
    keys = [
        (value is None, f"{value:03d}" if isinstance(value, int) else str(value))
        for value in row.keys.values()
    ]
    return -(row.measures.emissions_g or 0.0), keys


def _measures(row: Mapping[str, Any]) -> Measures:
    values = {name: row[name] for name in _AS_THEY_ARE if row[name] is not None}
    # DuckDB adds whole numbers up in 128 bits, which come as decimals.
    values |= {name: int(values[name]) for name in _COUNTS if name in values}
    known = values["records"] - values["records_without_emissions"]
    if known == values["records_without_bounds"]:
        values |= dict.fromkeys(("emissions_low_g", "emissions_high_g"))
    return Measures(
        **values,
        window_start=_time(row["start_us"]),
        window_end=_time(row["end_us"]),
        cpu_utilization=_mean(row["cpu_use"], row["cpu_use_weight"]),
        gpu_utilization=_mean(row["gpu_use"], row["gpu_use_weight"]),
        carbon_intensity_g_per_kwh=_mean(
            row["intensity"], row["facility_energy_with_emissions_kwh"]
        ),
        carbon_intensity_time_weighted_g_per_kwh=_mean(
            row["intensity_time"], row["intensity_time_weight"]
        ),
    )


def _time(us: int | None) -> str | None:
    return None if us is None else rfc3339(us / 1e6)


def _mean(total: float | None, weight: float | None) -> float | None:
    return None if total is None or not weight else total / weight
