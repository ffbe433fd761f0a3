"""From a dataset to its tables: settle what has to be, add up what is kept.

Compacted days are there as sums already: their records are looked at again only where some came late,
or where a selection cuts through the day.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from sidecar.report.balance import Balance
from sidecar.report.columns import KEPT
from sidecar.report.dataset import Dataset
from sidecar.report.expressions import KEPT_COLUMNS, Times, schema
from sidecar.report.facts import Facts, facts_of, run_facts
from sidecar.report.figures.inputs import Moments
from sidecar.report.measures import GROUPINGS
from sidecar.report.moments import moments_of
from sidecar.report.selection import Selection
from sidecar.report.settlement import Settlement, marked, nodes_of, settle_dataset
from sidecar.report.staging import Progress, no_progress
from sidecar.report.sums import (
    FINEST,
    SUMMED_COLUMNS,
    dated,
    finest,
    of_marked_runs,
    rolled_up,
    settled,
    told,
    whole,
)
from sidecar.report.tables import RUN_FACTS, StoredTables


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

    def write(self, table: ir.Table, path: Path) -> None:
        """Run an expression and write its rows as Parquet: to a file, or into a directory made there."""
        ...

    def close(self) -> None:
        """Drop what was made."""
        ...


@dataclass(frozen=True, slots=True)
class Totals:
    """What a report rests on. `nodes` is None where only some projects were asked for."""

    tables: StoredTables
    nodes: list[Balance] | None
    facts: Facts = field(default_factory=Facts)
    moments: Moments | None = None


def totals(
    dataset: Dataset, selection: Selection, engine: Engine, progress: Progress = no_progress
) -> Totals:
    """Return all tables of `GROUPINGS`, and what became of each node's energy.

    Raises the engine's errors where memory or disk do not suffice, and SourceUnreadable.
    """
    times = _times(selection)
    steps = len(GROUPINGS) + 3
    tables = StoredTables(dataset.resources.memory_mib, dataset.resources.directory)
    try:
        settlement = settle_dataset(dataset, times, engine)
        progress("settled", 1, steps)
        fine = engine.stored(
            "fine", dated(_finest(dataset, settlement, engine, (selection, times)))
        )
        progress("added up", 2, steps)
        facts = facts_of(fine, engine)
        engine.write(run_facts(fine), tables.path(RUN_FACTS))
        progress("factors", 3, steps)
        for done, (name, keys) in enumerate(GROUPINGS.items(), start=4):
            table = rolled_up(fine, keys)
            table = of_marked_runs(table) if name == "phases" else table
            engine.write(told(table, keys), tables.path(name))
            progress("grouped", done, steps)
        nodes = None if selection.projects else nodes_of(dataset, settlement, times, engine)
        moments = moments_of(
            fine, lambda: _again(dataset, settlement, engine, (selection, times)), engine
        )
        return Totals(tables, nodes, facts, moments)
    except BaseException:
        tables.close()
        raise
    finally:
        engine.close()


def _times(selection: Selection) -> Times:
    """Read the bounds of a selection. Raises ValueError where they are no times."""

    def us(text: str) -> int | None:
        if not text:
            return None
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return round(moment.timestamp() * 1e6)

    return Times(us(selection.since), us(selection.until))


# -- what is added up --------------------------------------------------------------------------------


def _finest(
    dataset: Dataset,
    settlement: Settlement,
    engine: Engine,
    asked: tuple[Selection, Times],
) -> ir.Table:
    """Return the finest sums of what was asked for: of records, and those that compaction stored."""
    selection, times = asked
    anew = settlement.days | settlement.edges
    stored = [item.sums for item in dataset.days if item.sums and item.day not in anew]
    found: list[ir.Table] = []
    records = _records(dataset, settlement, engine)
    if records is not None:
        taken = records.filter(times.takes(records.start_us))
        found.append(finest(_of_projects(taken, selection)))
    if stored:
        sums = engine.scanned("sums", dataset.fetched(stored), FINEST)
        # No day that a selection cuts through is among them: hours are taken whole.
        taken = sums.filter(times.takes(sums.hours * 3_600_000_000))
        found.append(_of_projects(taken, selection).select(*FINEST))
    if not found:
        return engine.loaded("nothing", _empty(FINEST), FINEST)
    return found[0].union(found[1]) if len(found) > 1 else found[0]


def _again(
    dataset: Dataset,
    settlement: Settlement,
    engine: Engine,
    asked: tuple[Selection, Times],
) -> ir.Table | None:
    """Return the records that were asked for, settled; None where some are there as sums only."""
    selection, times = asked
    if any(
        item.sums and item.day not in settlement.days | settlement.edges for item in dataset.days
    ):
        return None
    records = _records(dataset, settlement, engine)
    if records is None:
        return None
    return _of_projects(records.filter(times.takes(records.start_us)), selection)


def _of_projects(table: ir.Table, selection: Selection) -> ir.Table:
    if not selection.projects:
        return table
    return table.filter(table.project.isin(sorted(selection.projects)))


def _records(dataset: Dataset, settlement: Settlement, engine: Engine) -> ir.Table | None:
    """Return the records that are not there as sums, settled; None where all are."""
    wanted, columns = SUMMED_COLUMNS, {**SUMMED_COLUMNS, **schema(KEPT)}
    found: list[ir.Table] = []
    late = [item for item in dataset.days if item.day in settlement.days]
    others = [
        item
        for item in dataset.days
        if item.day not in settlement.days and (item.sums is None or item.day in settlement.edges)
    ]
    kept = engine.loaded("kept", settlement.kept_rows(), KEPT_COLUMNS)
    if dataset.staged:
        staged = engine.scanned("staged", dataset.staged, wanted)
        found.append(
            settled(_with_kept(staged, kept)) if settlement.kept["record_id"] else whole(staged)
        )
    if late:
        beside = marked(engine.scanned("late", dataset.paths_of(late), columns), settlement, engine)
        stored = {
            name: ibis.ifelse(beside.is_touched, ibis.null("float64"), beside[name])
            for name in KEPT
        }
        joined = _with_kept(beside.mutate(**stored), kept, keeps_own=True)
        found.append(settled(joined.drop("is_touched")))
    for name, is_cut in (("cut", True), ("uncut", False)):
        some = [item for item in others if item.is_cut is is_cut]
        if some:
            table = engine.scanned(name, dataset.paths_of(some), columns if is_cut else wanted)
            found.append(settled(table) if is_cut else whole(table))
    same = [table.select(*wanted, "energy_taken_off_kwh") for table in found]
    if not same:
        return None
    return ibis.union(*same) if len(same) > 1 else same[0]


def _empty(columns: Mapping[str, str]) -> pa.Table:
    return pa.table(
        {name: pa.array([], ibis.dtype(kind).to_pyarrow()) for name, kind in columns.items()}
    )


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
