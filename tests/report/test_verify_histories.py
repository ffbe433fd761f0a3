"""Whatever happens to a sidecar, its records verify; whatever happens to its records is found."""

from dataclasses import replace
from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from sidecar.report.verify import verify
from sidecar.windows import rfc3339
from tests.report.histories import POD, Clock, Process

STEPS = st.sampled_from(
    ["meter"] * 6 + ["merge", "merge", "suspended", "set back", "set ahead", "killed"]
)
SHORT_S = st.lists(st.floats(0.1, 3.0), max_size=4)


@st.composite
def histories(draw):
    """Processes of one pod, one after the other; each but the last was killed."""
    process = Process(f"{POD}.boot0", Clock()).begin()
    processes = [process]
    for step in draw(st.lists(STEPS, max_size=30)):
        if step == "merge":
            process.merge_if_joined()
        elif step == "killed":
            # Later than all before: a clock set back just then leaves no trace in any record.
            process.clock.wall_s = max(process.clock.wall_s, *ends_s(processes)) + 5
            process = Process(f"{POD}.boot{len(processes)}", process.clock).begin()
            processes.append(process)
        else:
            step_s = {"suspended": 600, "set ahead": 86_400, "set back": -3600}.get(step, 0)
            process.meter(step_s=float(step_s))
    process.meter()  # what a merge leaves is never the last: the latest record stays apart
    for seconds in draw(SHORT_S):
        process.meter(seconds)
    process.end()
    for killed in processes[:-1]:
        while killed.records and is_merged(killed.records[-1]):
            killed.records.pop()
    return [item.records for item in processes if item.records]


def ends_s(processes):
    ends = (record.window_end for item in processes for record in item.records)
    return [datetime.fromisoformat(end).timestamp() for end in ends]


def is_merged(record):
    return record.duration_s > 20 or (record.record_id.endswith(".0") and record.event != "start")


def verdict_of(processes):
    return verify(("a.ndjson", record) for records in processes for record in records)


def kinds(processes):
    return {item.kind.name for item in verdict_of(processes).violations}


@given(histories())
def test_what_sidecars_leave_is_in_order(processes):
    assert kinds(processes) == set()


@given(histories(), st.data())
def test_a_record_that_is_lost_is_found(processes, data):
    records = data.draw(st.sampled_from([records for records in processes if len(records) > 1]))
    # The last may as well never have been written.
    del records[data.draw(st.integers(0, len(records) - 2))]
    assert "gap" in kinds(processes)


@given(histories(), st.data())
def test_a_record_that_is_doubled_is_found(processes, data):
    records = data.draw(st.sampled_from(processes))
    doubled = data.draw(st.sampled_from(records))
    totals = verdict_of(processes).totals
    records.append(doubled)
    verdict = verdict_of(processes)
    assert [(item.kind.name, item.count) for item in verdict.violations] == [("duplicate", 1)]
    assert verdict.totals == totals


SUMS = ("energy_kwh", "cpu_energy_kwh", "ram_energy_kwh", "node_energy_kwh", "node_cpu_energy_kwh")
PRODUCTS = ("facility_energy_kwh", "emissions_g", "pue", "carbon_intensity_g_per_kwh")


@given(histories(), st.floats(0.5, 2.0).filter(lambda f: abs(f - 1) > 1e-6), st.data())
def test_an_amount_that_is_changed_is_found(processes, factor, data):
    records = data.draw(st.sampled_from(processes))
    place = data.draw(st.integers(0, len(records) - 1))
    record = records[place]
    if record.event == "start":
        return
    column = data.draw(st.sampled_from(SUMS if is_merged(record) else SUMS + PRODUCTS))
    records[place] = replace(record, **{column: getattr(record, column) * factor})
    assert kinds(processes)


@given(histories(), st.floats(2.0, 1e6), st.sampled_from(["duration_s", "window_end"]), st.data())
def test_a_window_that_is_stretched_is_found(processes, seconds, column, data):
    records = data.draw(st.sampled_from(processes))
    place = data.draw(st.integers(0, len(records) - 1))
    record = records[place]
    if is_merged(record):
        return
    longer = record.duration_s + seconds
    later = rfc3339(datetime.fromisoformat(record.window_end).timestamp() + seconds)
    change = {"duration_s": longer, "window_end": later}[column]
    records[place] = replace(record, **{column: change})
    assert "duration" in kinds(processes)
