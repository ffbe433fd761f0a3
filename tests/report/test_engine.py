"""The engine: what DuckDB adds up is what the obvious Python adds up, and Spark what DuckDB does."""

import gzip
import math
from dataclasses import fields, replace

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sidecar.record import GpuRecord, to_ndjson
from sidecar.report.dataset import Dataset
from sidecar.report.duckdb_engine import DuckDBEngine
from sidecar.report.engine import totals
from sidecar.report.measures import GROUPINGS
from sidecar.report.places import DirectoryPlace
from sidecar.report.read import ReadReport
from sidecar.report.selection import Selection
from sidecar.report.tables import Tables
from sidecar.windows import rfc3339
from tests.report import oracle
from tests.report.histories import START_S, add_up, start, window
from tests.report.reading import read_records

ALL = Selection()
DAY_S = 86_400.0
MIDNIGHT_S = START_S - START_S % DAY_S


def computed(root, selection=ALL, resources=None):
    """(tables, nodes, what was seen) of a directory, by DuckDB."""
    with Dataset.open([DirectoryPlace(root)], resources) as dataset:
        found = totals(dataset, selection, DuckDBEngine(dataset.connection))
        return in_memory(found.tables), found.nodes, dataset.seen


def in_memory(tables):
    return Tables({name: tuple(tables.first(name)) for name in GROUPINGS})


def expected(root, selection=ALL):
    seen = ReadReport()
    found, nodes = oracle.tables(read_records(DirectoryPlace(root), seen), selection)
    return found, nodes, seen


def near(value, other):
    if isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, rel_tol=1e-12, abs_tol=1e-21)
    return value == other


def assert_same_tables(tables, wanted):
    assert tables.rows.keys() == wanted.keys()
    for name, rows in tables.rows.items():
        found = {tuple(row.keys.values()): row.measures for row in rows}
        assert len(found) == len(rows)
        assert found.keys() == wanted[name].keys(), name
        for key, measures in found.items():
            for item in fields(measures):
                value, other = getattr(measures, item.name), getattr(wanted[name][key], item.name)
                assert near(value, other), (name, key, item.name, value, other)


def assert_same_nodes(nodes, wanted):
    if wanted is None:
        assert nodes is None
        return
    assert sorted(item.node for item in nodes) == sorted(name for _, name in wanted)
    for item, other in zip(
        sorted(nodes, key=_place), sorted(wanted.values(), key=_place), strict=True
    ):
        for name in ("node_energy_kwh", "claimed_energy_kwh", "pods_energy_kwh"):
            assert near(getattr(item, name), getattr(other, name)), name
        assert near(item.untracked_energy_kwh, other.untracked_energy_kwh)
        assert near(item.unallocated_emissions_g, other.unallocated_emissions_g)
        assert (item.start_s, item.end_s) == (other.start_s, other.end_s)
        for name, energy in item.unallocated_energy_kwh.items():
            assert math.isclose(
                energy, other.unallocated_energy_kwh[name], rel_tol=1e-9, abs_tol=1e-16
            )


def _place(balance):
    return balance.node, balance.start_s, balance.node_energy_kwh


def assert_same_rows(wanted, found, wanted_nodes, nodes):
    """The same tables and balances, of two runs."""
    wanted, found = in_memory(wanted), in_memory(found)
    assert_same_tables(
        found,
        {
            name: {tuple(row.keys.values()): row.measures for row in rows}
            for name, rows in wanted.rows.items()
        },
    )
    if wanted_nodes is not None:
        assert_same_nodes(nodes, {(n, item.node): item for n, item in enumerate(wanted_nodes)})


def check(root, selection=ALL):
    found, nodes, seen = computed(root, selection)
    wanted, wanted_nodes, wanted_seen = expected(root, selection)
    assert_same_tables(found, wanted)
    assert_same_nodes(nodes, wanted_nodes)
    assert (seen.records, seen.duplicates) == (wanted_seen.records, wanted_seen.duplicates)
    assert +seen.left_out == +wanted_seen.left_out
    assert seen.files == wanted_seen.files
    return found


# -- histories of fleets -----------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        "demo",
        "",
        "<script>alert(1)</script>",
        "=cmd()",
        "../..",
        "a'b\"c",
        "Ünïcode\u2028",
        "\x00",
        "%41",
    ]
)
METHODS = st.sampled_from(
    [
        "cgroup", "requests", "whole-node", "kubelet", "metrics-api", "cgroup + requests",
        "kubelet + cgroup", None, "unallocated",
    ]
)  # fmt: skip
ENERGY = st.one_of(st.none(), st.floats(0, 1e-3), st.sampled_from([0.0, 1e-4, 2e9]))
USE = st.one_of(st.none(), st.floats(0, 1), st.sampled_from([-1.0, 1e300]))


@st.composite
def gpus(draw):
    devices = draw(st.lists(st.sampled_from(["GPU-0", "GPU-1", "GPU-2", None]), max_size=3))
    return tuple(
        GpuRecord(
            uuid=uuid,
            model="A100",
            energy_kwh=draw(st.one_of(st.none(), st.floats(0, 1e-3))),
            share=draw(st.one_of(st.none(), st.floats(0, 1), st.just(7.0))),
            share_method=draw(st.sampled_from(["node-meter", "requests", None])),
        )
        for uuid in devices
    )


@st.composite
def processes(draw, number):
    """The records of one sidecar."""
    stem = f"pod-{number}.boot-{draw(st.integers(0, 1))}"
    step_s = draw(st.sampled_from([15.0, 15.0, 15.0, 60.0]))
    at_s = MIDNIGHT_S + DAY_S + draw(st.sampled_from([-30.0, -15.0, 0.0, 0.0, 3600.0]))
    about = {
        "project": draw(NAMES),
        "experiment": draw(st.none() | NAMES),
        "run_id": draw(st.none() | NAMES),
        "namespace": draw(st.none() | NAMES),
        "workload": draw(st.none() | NAMES),
        "cluster": draw(st.sampled_from([None, "c"])),
        "node": draw(
            st.sampled_from(
                ["aks-gpu-1-vmss00000a", "aks-gpu-1-vmss00000a", "aks-cpu-2-vmss0", None]
            )
        ),
        "vm_scale_set": draw(st.sampled_from([None, "aks-train-7-vmss", "x"])),
        "vm_id": draw(st.sampled_from([None, "vm-1"])),
        "region": draw(st.sampled_from([None, "westeurope"])),
        "pod_method": draw(METHODS),
        "cpu_power_method": draw(st.sampled_from(["rapl", "vm-share"])),
        "gpu_method": draw(st.sampled_from([None, "energy-counter", "table", "utilization"])),
        "quality": draw(st.sampled_from(["measured", "estimated", "modelled"])),
        "carbon_intensity_level": draw(st.sampled_from([None, "zone", "country", "world"])),
    }
    found = [start(stem, at_s, **{k: about[k] for k in ("project", "run_id", "node")})]
    for sequence in range(1, draw(st.integers(1, 6))):
        share = draw(st.floats(0, 1))
        item = window(sequence, at_s, step_s, share, stem=stem, **about)
        node_gpu = draw(ENERGY)
        item = replace(
            item,
            gpus=draw(gpus()),
            gpu_energy_kwh=draw(ENERGY),
            node_gpu_energy_kwh=node_gpu,
            cpu_utilization=draw(USE),
            gpu_utilization=draw(USE),
            embodied_g=draw(st.none() | st.floats(0, 10)),
            water_l=draw(st.none() | st.floats(0, 10)),
            cpu_reserved_idle_energy_kwh=draw(st.none() | st.floats(0, 1e-6)),
        )
        item = add_up(item)
        item = draw(
            st.sampled_from(
                [
                    item,
                    item,
                    item,
                    replace(item, node_cpu_energy_kwh=None),
                    replace(item, emissions_g=None, pue=None),
                    replace(item, emissions_low_g=None, emissions_high_g=None),
                    replace(item, emissions_low_g=None, facility_energy_kwh=None),
                    replace(item, emissions_high_g=0.0),
                ]
            )
        )
        found.append(item)
        at_s += step_s + draw(st.sampled_from([0.0] * 8 + [-40.0, 3600.0, 0.001, 0.002]))
    return found


@st.composite
def fleets(draw):
    return [draw(processes(n)) for n in range(draw(st.integers(1, 5)))]


TAILS = st.sampled_from(
    [
        b"",
        b"",
        b'{"schema":1,"record_id":"a.b.1","proj',
        b"\n\n   \n",
        b"[1,2]\n",
        b"\xff\xfe\n",
        b'{"schema":2,"record_id":"a.b.1"}\n',
        b'{"schema":1,"record_id":"a.b.1","energy_kwh":-1}\n',
        b'{"schema":1,"record_id":"a.b.1","energy_kwh":1e400}\n',
        b'{"schema":1,"record_id":"a.b.1","energy_kwh":"12"}\n',
        b'{"schema":1,"record_id":"a.b.1","gpus":[null]}\n',
        b'{"schema":1,"record_id":"a.b.1","gpus":[{"uuid":1},{"uuid":"x"}]}\n',
        b'{"schema":1,"record_id":"a.b.1","labels":{"a":1}}\n',
        b'{"schema":1,"record_id":"","energy_kwh":1}\n',
        b'{"schema":1,"record_id":"minimal.b.1"}\n',
        b'{"schema":1,"record_id":"m.b.2","energy_kwh":1,"window_start":"2026-11-22T08:00:00+02:00","window_end":"soon"}\n',
        b'{"schema":1,"record_id":"m.b.3","quality":"perfect"}\n',
        b'{"schema":1,"record_id":"m.b.4","cpu_utilization":NaN}\n',
        b'{"schema":1,"record_id":"m.b.5","project":"\\ud800"}\n',
        b'{"schema":1,"record_id":"m.b.6",}\n',
        b'{"schema":1,"record_id":"m.b.7","unknown":{"x":[1]}}\n',
        b"{}\n{}{}\nnull\n",
    ]
)


def spread(root, fleet, data):
    """Write a fleet's records over files, as they may arrive: cut, compressed, twice."""
    for number, records in enumerate(fleet):
        place = data.draw(st.integers(0, len(records)))
        pieces = [records[:place], records[place:]]
        if data.draw(st.booleans()):
            pieces.append(records[max(0, place - 2) : place + 1])
        for n, piece in enumerate(pieces):
            content = "".join(map(to_ndjson, piece)).encode() + data.draw(TAILS)
            kind = data.draw(st.sampled_from(["", ".gz", ".gz", "cut"]))
            if kind:
                content = gzip.compress(content)
            if kind == "cut":
                content = content[: data.draw(st.integers(0, len(content)))]
            name = f"{number}-{n}.ndjson" + (".gz" if kind else "")
            (root / name).write_bytes(content)


SELECTIONS = st.sampled_from(
    [
        ALL,
        Selection(frozenset({"demo", "=cmd()"})),
        Selection(since=rfc3339(MIDNIGHT_S + DAY_S)),
        Selection(until=rfc3339(MIDNIGHT_S + DAY_S + 15)),
        Selection(since=rfc3339(MIDNIGHT_S + DAY_S - 15), until=rfc3339(MIDNIGHT_S + DAY_S + 60)),
    ]
)


@settings(
    max_examples=25,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # an example takes seconds
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(fleet=fleets(), selection=SELECTIONS, data=st.data())
def test_duckdb_adds_up_what_the_oracle_does(tmp_path_factory, fleet, selection, data):
    root = tmp_path_factory.mktemp("fleet")
    spread(root, fleet, data)
    check(root, selection)


def test_what_is_told_late_is_settled_over_ten_minutes_alike(tmp_path):
    begins_s = MIDNIGHT_S + DAY_S + 600.0
    shares = {"a": [0.9, 0.9, 0.0, 0.2] * 11, "b": [0.0, 0.6, 0.6, 0.2] * 11}
    lines = [
        to_ndjson(
            window(n + 1, begins_s + 15 * n, share=share, stem=f"{pod}.boot", pod_method="kubelet")
        )
        for pod, told in shares.items()
        for n, share in enumerate(told)
    ]
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "all.ndjson").write_text("".join(lines))
    found = check(tmp_path)
    (row,) = found.rows["total"]
    assert row.measures.energy_taken_off_kwh == 0
