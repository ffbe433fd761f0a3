"""Tables on disk: the same rows as in memory, and gone when they are."""

from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidecar.report.figures.inputs import RunFacts
from sidecar.report.measures import GROUPINGS, Row
from sidecar.report.tables import RUN_FACTS, TIMES, StoredTables, Tables, row_schema
from tests.report.figures.rows import measures

FACTS = {("a", "r1"): RunFacts(region="westeurope", vms=2)}


def rows():
    """Three projects over days and regions; one whose bounds nobody knows."""
    found = {name: [] for name in GROUPINGS}
    for project, grams in (("a", 50.0), ("b", 20.0), ("='c", 10.0)):
        known = measures(emissions_g=grams, emissions_low_g=grams / 2, emissions_high_g=grams * 2)
        if project == "b":
            known = replace(known, emissions_low_g=None, emissions_high_g=None)
        found["projects"].append(Row({"project": project}, known))
        found["runs"] += [Row({"project": project, "run": run}, known) for run in ("r1", None)]
        found["project_day_regions"] += [
            Row({"project": project, "day": day, "region": region}, known)
            for day in ("2026-11-01", "2026-11-02", None)
            for region in ("westeurope", None)
        ]
    return {name: tuple(some) for name, some in found.items()}


@pytest.fixture
def both(tmp_path):
    """The same tables in memory and on disk."""
    memory = Tables(rows(), FACTS)
    stored = StoredTables(256, tmp_path)
    for name in GROUPINGS:
        batches = [_with_numbers(batch) for batch in memory.batches(name)]
        schema = batches[0].schema if batches else _numbered(row_schema(name))
        pq.write_table(pa.Table.from_batches(batches, schema), stored.path(name))
    facts = [
        {"project": project, "run": run, **{n: getattr(of, n) for n in RunFacts.__slots__}}
        for (project, run), of in FACTS.items()
    ]
    pq.write_table(pa.Table.from_pylist(facts), stored.path(RUN_FACTS))
    yield memory, stored
    stored.close()


def _numbered(schema):
    return pa.schema([(f.name, pa.int64() if f.name in TIMES else f.type) for f in schema])


def _with_numbers(batch):
    """Times as they are on disk."""
    columns = {
        name: [
            round(datetime.fromisoformat(text).timestamp() * 1e6) if text else None
            for text in batch[name].to_pylist()
        ]
        if name in TIMES
        else batch[name]
        for name in batch.schema.names
    }
    schema = _numbered(batch.schema)
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[f.name], f.type) for f in schema], schema=schema
    )


def test_rows_come_in_the_same_order(both):
    memory, stored = both
    for name in GROUPINGS:
        assert stored.count(name) == memory.count(name)
        assert list(stored.first(name, 4)) == list(memory.first(name, 4))
        assert pa.Table.from_batches(stored.batches(name), row_schema(name)).equals(
            pa.Table.from_batches(memory.batches(name), row_schema(name))
        )


@pytest.mark.parametrize("projects", [[], ["='c", "nobody", "a"], ["a", "b", "='c"]])
def test_rows_of_projects_and_sums_of_the_others_are_the_same(both, projects):
    memory, stored = both
    table, keys = "project_day_regions", ("day", "region")
    assert list(stored.of(table, projects)) == list(memory.of(table, projects))
    found, wanted = (list(one.others(table, keys, projects)) for one in both)
    assert [key for key, _ in found] == [key for key, _ in wanted]
    for (_, amounts), (_, others) in zip(found, wanted, strict=True):
        assert amounts == pytest.approx(others)


def test_two_tables_are_gone_through_side_by_side(both):
    _, stored = both
    pairs = zip(stored.of("projects", ["b", "a"]), stored.of("runs", ["b", "a"]), strict=False)
    assert [(one[0], other[0]) for one, other in pairs] == [(0, 0), (1, 0)]


def test_runs_come_with_what_is_known_of_them(both):
    memory, stored = both
    assert list(stored.runs()) == list(memory.runs())
    assert next(facts for _, facts in stored.runs()).vms == 2


def test_counts_are_whole_whatever_sums_made_of_them(tmp_path):
    stored = StoredTables(256, tmp_path)
    (batch,) = map(_with_numbers, Tables(rows()).batches("projects"))
    place = batch.schema.get_field_index("records")
    as_sum = batch.set_column(place, "records", batch["records"].cast(pa.float64()))
    pq.write_table(pa.Table.from_batches([as_sum]), stored.path("projects"))
    (row, *_) = stored.first("projects")
    assert isinstance(row.measures.records, int)
    stored.close()


def test_they_are_gone_when_nobody_has_them(tmp_path):
    stored = StoredTables(256, tmp_path)
    assert stored.directory.is_dir()
    del stored
    assert list(tmp_path.iterdir()) == []
