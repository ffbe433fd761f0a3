"""Spark adds up what DuckDB does, with the same expressions. Starting it takes some ten seconds."""

import random
import warnings
from dataclasses import replace

import pytest

from sidecar.report.compact import compact
from sidecar.report.dataset import Dataset
from sidecar.report.duckdb_engine import DuckDBEngine
from sidecar.report.engine import totals
from sidecar.report.places import DirectoryPlace
from sidecar.report.selection import Selection
from sidecar.report.spark_engine import SparkEngine, spark_session
from sidecar.report.stores import DirectoryStore
from sidecar.windows import rfc3339
from tests.report import test_compact
from tests.report.histories import START_S, history, window, with_gpus
from tests.report.records import write
from tests.report.test_engine import ALL, MIDNIGHT_S, assert_same_rows

pytestmark = pytest.mark.needs("java")


@pytest.fixture(scope="module")
def session():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pyspark's own: pandas 3, sockets left to the collector
        made = spark_session(memory_mib=1024)
        yield made
        made.stop()


def empty(root):
    """Nothing at all."""


def one(root):
    write(root / "a.ndjson", *history(1))


def mixed(root):
    """Methods that claim too much together, hostile names, GPUs, gaps."""
    rng = random.Random(7)
    for pod in range(6):
        records = []
        for n in range(1, 20):
            item = window(n, START_S + 15.0 * n, share=rng.random(), stem=f"pod-{pod}.b")
            item = with_gpus(item, *(rng.random() * 1e-4 for _ in range(pod % 3)))
            item = replace(
                item,
                project=rng.choice(["a", "<script>", "=x", "../", "Ünï"]),
                pod_method=rng.choice(["cgroup", "requests", "cgroup + kubelet", None]),
                experiment=rng.choice([None, "", "e"]),
                cpu_utilization=rng.choice([None, 0.5, 0.25]),
                vm_scale_set="aks-gpu-3-vmss",
            )
            records.append(item)
        write(root / f"{pod}.ndjson", *records, tail='{"torn')


def closed_days(root):
    """Compacted days, with records that came late."""
    test_compact.fleet(root)
    compact(DirectoryStore(DirectoryPlace(root)), test_compact.TODAY)
    write(root / "late.ndjson", window(1, MIDNIGHT_S, share=0.9, cluster="c"))


def facts(tables):
    """What is said of each run."""
    return {tuple(row.keys.values()): known for row, known in tables.runs()}


PART_OF_A_DAY = Selection(since=rfc3339(MIDNIGHT_S + 30), until=rfc3339(MIDNIGHT_S + 86_400 * 2))


@pytest.mark.parametrize(
    ("make", "selection"),
    [
        (empty, ALL),
        (one, ALL),
        (mixed, Selection(frozenset({"=x", "../"}))),
        (mixed, ALL),
        (closed_days, PART_OF_A_DAY),
    ],
)
def test_spark_adds_up_what_duckdb_does(session, tmp_path, make, selection):
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    with Dataset.open([DirectoryPlace(root)]) as dataset:
        wanted = totals(dataset, selection, DuckDBEngine(dataset.connection))
        found = totals(dataset, selection, SparkEngine(session, dataset.directory))
        assert_same_rows(wanted.tables, found.tables, wanted.nodes, found.nodes)
        assert facts(found.tables) == facts(wanted.tables)
