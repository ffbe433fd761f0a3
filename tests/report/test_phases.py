"""What the phases of a run used: split by time, and not a joule more or less than the run."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.phases import phase_shares
from sidecar.record import SUMMED
from sidecar.report.selection import Selection
from tests.report.histories import START_S, start, window
from tests.report.records import write
from tests.report.test_engine import computed

AMOUNTS = (
    "duration_s", "energy_kwh", "facility_energy_kwh", "emissions_g", "cpu_energy_kwh", "ram_energy_kwh",
)  # fmt: skip


def run_of(*phases, run="run-1", stem="11111111-aaaa.boot"):
    """A run whose windows have these phases."""
    records = [start(stem, run_id=run)]
    for number, marked in enumerate(phases, start=1):
        record = window(number, START_S + 15 * (number - 1), stem=stem, run_id=run)
        records.append(replace(record, phases=marked))
    return records


def by_phase(tables, run="run-1"):
    rows = [row for row in tables.rows["phases"] if row.keys["run"] == run]
    assert len(rows) == len({row.keys["phase"] for row in rows})
    return {row.keys["phase"]: row.measures for row in rows}


def total(tables, name="runs"):
    (row,) = tables.rows[name]
    return row.measures


def test_a_run_is_split_by_its_phases_and_what_is_in_none(tmp_path):
    write(tmp_path / "a.ndjson", *run_of({"load": 15.0}, {"load": 3.0, "train": 9.0}, None))
    tables, _, _ = computed(tmp_path)
    found = by_phase(tables)
    seconds = {name: measures.duration_s for name, measures in found.items()}
    assert seconds == pytest.approx({"load": 18.0, "train": 9.0, None: 18.0})
    one = total(tables).energy_kwh / 45
    assert found["train"].energy_kwh == pytest.approx(9 * one)
    assert found["load"].emissions_g == pytest.approx(total(tables).emissions_g * 18 / 45)


@pytest.mark.parametrize("name", ["total", "projects", "runs"])
def test_all_other_tables_are_what_they_are_without_phases(tmp_path, name):
    marked = run_of({"load": 15.0}, {"load": 3.0, "train": 9.0}, {"train": 99.0}, {})
    write(tmp_path / "with" / "a.ndjson", *marked)
    write(tmp_path / "without" / "a.ndjson", *(replace(one, phases=None) for one in marked))
    ours, _, _ = computed(tmp_path / "with")
    plain, _, _ = computed(tmp_path / "without")
    for column in plain.rows[name][0].measures.__dataclass_fields__:
        value, other = (getattr(total(tables, name), column) for tables in (ours, plain))
        assert value == (pytest.approx(other) if isinstance(other, float) else other), column


def test_a_run_without_phases_has_no_rows(tmp_path):
    write(tmp_path / "a.ndjson", *run_of({"train": 15.0}))
    write(tmp_path / "b.ndjson", *run_of(None, {}, run="run-2", stem="22222222-bbbb.boot"))
    tables, _, _ = computed(tmp_path)
    assert by_phase(tables, "run-2") == {}
    assert set(by_phase(tables)) == {"train", None}
    assert by_phase(tables)[None].energy_kwh == pytest.approx(0.0)


def test_a_phase_is_there_in_each_run_that_marks_it(tmp_path):
    write(tmp_path / "a.ndjson", *run_of({"train": 15.0}))
    write(tmp_path / "b.ndjson", *run_of({"train": 5.0}, run="run-2", stem="22222222-bbbb.boot"))
    tables, _, _ = computed(tmp_path)
    seconds = {run: by_phase(tables, run)["train"].duration_s for run in ("run-1", "run-2")}
    assert seconds == pytest.approx({"run-1": 15.0, "run-2": 5.0})


def test_a_selection_selects_phases_too(tmp_path):
    write(tmp_path / "a.ndjson", *run_of({"load": 15.0}, {"train": 15.0}))
    until = "2026-11-18T08:26:55Z"
    selection = Selection(until=until)
    tables, _, _ = computed(tmp_path, selection)
    whole, _, _ = computed(tmp_path)
    assert set(by_phase(whole)) == {"load", "train", None}
    assert set(by_phase(tables)) <= {"load", None}


def test_names_in_any_script_and_with_quotes_are_names(tmp_path):
    names = {"évaluation": 5.0, "it's; DROP TABLE fine--": 5.0, '"a", \\b': 5.0}
    write(tmp_path / "a.ndjson", *run_of(names))
    tables, _, _ = computed(tmp_path)
    assert set(by_phase(tables)) == {*names, None}


def test_lines_of_sidecars_that_knew_no_phases_are_read(tmp_path):
    path = write(tmp_path / "a.ndjson", *run_of(None))
    text = path.read_text().replace(',"phases":null', "")
    assert "phases" not in text
    path.write_text(text)
    tables, _, seen = computed(tmp_path)
    assert (seen.records, total(tables).records) == (2, 1)


marked = st.none() | st.dictionaries(
    st.sampled_from(["load", "train", "évaluation", "x y"]),
    st.floats(0, 1e6, allow_subnormal=False),
    max_size=4,
)


@given(st.lists(marked, min_size=1, max_size=12))
@settings(max_examples=10)
def test_the_sum_over_phases_is_the_run(tmp_path_factory, phases):
    root = tmp_path_factory.mktemp("phases")
    records = run_of(*phases)
    write(root / "a.ndjson", *records)
    tables, _, _ = computed(root)
    found = by_phase(tables)
    wanted: dict[str | None, dict[str, list[float]]] = {}
    for record in records[1:]:
        for name, share in phase_shares(record.phases, record.duration_s).items():
            parts = wanted.setdefault(name, {column: [] for column in AMOUNTS})
            for column in AMOUNTS:
                parts[column].append(getattr(record, column) * share)
    if not any(record.phases for record in records):
        assert found == {}
        return
    for column in AMOUNTS:
        assert column in SUMMED
        whole = getattr(total(tables), column)
        assert math.fsum(getattr(m, column) for m in found.values()) == pytest.approx(
            whole, rel=1e-9
        )
        for name, parts in wanted.items():
            near = pytest.approx(math.fsum(parts[column]), rel=1e-6, abs=1e-7 * whole)
            assert getattr(found[name], column) == near
