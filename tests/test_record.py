"""The schema, its encoding, and what merging keeps."""

import json
import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from sidecar.record import EmissionRecord, GpuRecord, merge_records, to_mapping, to_ndjson

CONTRACT = [
    "schema",
    "record_id",
    "tool_version",
    "project",
    "experiment",
    "run_id",
    "cluster",
    "namespace",
    "pod",
    "pod_uid",
    "workload",
    "labels",
    "annotations",
    "event",
    "end_reason",
    "node",
    "provider",
    "vm_size",
    "vm_id",
    "region",
    "zone",
    "country_iso3",
    "subscription_id",
    "resource_group",
    "vm_scale_set",
    "priority",
    "identity_source",
    "window_start",
    "window_end",
    "duration_s",
    "gap_s",
    "cpu_utilization",
    "gpu_utilization",
    "ram_used_gib",
    "pod_cpu_seconds",
    "gpus",
    "node_cpu_energy_kwh",
    "node_ram_energy_kwh",
    "node_gpu_energy_kwh",
    "node_energy_kwh",
    "share_cpu",
    "share_idle",
    "share_ram",
    "share_gpu",
    "cpu_energy_kwh",
    "ram_energy_kwh",
    "gpu_energy_kwh",
    "energy_kwh",
    "pue",
    "facility_energy_kwh",
    "water_l",
    "carbon_intensity_g_per_kwh",
    "carbon_intensity_source",
    "carbon_intensity_year",
    "carbon_intensity_level",
    "emissions_g",
    "embodied_g",
    "cpu_power_method",
    "cpu_power_source",
    "gpu_method",
    "pod_method",
    "quality",
    "emissions_low_g",
    "emissions_high_g",
    "cpu_reserved_idle_energy_kwh",
    "gpu_reserved_idle_energy_kwh",
    "node_pods_energy_kwh",
    "phases",
    "carbon_intensity_at",
    "carbon_intensity_kind",
]


def record(**changes):
    base = EmissionRecord(
        record_id="uid.boot.1",
        tool_version="0.1.0",
        window_start="2026-11-22T08:00:00.000Z",
        window_end="2026-11-22T08:00:15.000Z",
        duration_s=15.0,
    )
    return replace(base, **changes)


def test_the_fields_are_those_of_schema_1_in_its_order():
    assert [item.name for item in fields(EmissionRecord)] == CONTRACT


def test_every_field_is_described():
    for schema in (EmissionRecord, GpuRecord):
        assert all(item.metadata["description"] for item in fields(schema))


def test_a_record_is_one_line_of_json():
    line = to_ndjson(record(project="two\nlines"))
    assert line.count("\n") == 1
    assert json.loads(line)["project"] == "two\nlines"


def test_missing_is_null_never_zero():
    row = to_mapping(record())
    assert row["energy_kwh"] is None
    assert row["emissions_g"] is None


def test_not_a_number_never_reaches_a_file():
    with pytest.raises(ValueError, match="JSON"):
        to_ndjson(record(energy_kwh=math.nan))


def test_a_lone_surrogate_still_makes_a_line_of_utf_8():
    line = to_ndjson(record(project="caf\udce9"))
    assert json.loads(line.encode())["project"] == "caf?"
    assert TypeAdapter(EmissionRecord).validate_json(line.encode()).project == "caf?"


def test_the_reader_understands_what_the_writer_wrote():
    written = record(
        gpus=(GpuRecord(uuid="GPU-1", model="A100", energy_kwh=0.1, share=1.0, method="table"),),
        labels={"a": "b"},
        carbon_intensity_level="zone",
    )
    assert TypeAdapter(EmissionRecord).validate_json(to_ndjson(written)) == written


def test_merging_adds_energies_and_spans_both_windows():
    first = record(energy_kwh=1.0, emissions_g=100.0, gap_s=2.0)
    second = record(
        record_id="uid.boot.2",
        window_start="2026-11-22T08:00:15.000Z",
        window_end="2026-11-22T08:00:45.000Z",
        duration_s=30.0,
        energy_kwh=2.0,
        emissions_g=200.0,
        event="end",
    )
    merged = merge_records(first, second)
    assert (merged.energy_kwh, merged.emissions_g, merged.duration_s) == (3.0, 300.0, 45.0)
    assert merged.gap_s == 2.0
    assert (merged.record_id, merged.event) == ("uid.boot.1", "end")
    assert merged.window_start == first.window_start
    assert merged.window_end == second.window_end


def test_merging_weighs_utilisation_by_duration():
    first = record(cpu_utilization=1.0, duration_s=10.0)
    second = record(cpu_utilization=0.0, duration_s=30.0)
    assert merge_records(first, second).cpu_utilization == 0.25


def test_merging_unknown_with_known_keeps_the_known():
    merged = merge_records(record(energy_kwh=None), record(energy_kwh=2.0))
    assert merged.energy_kwh == 2.0


def test_merging_two_unknowns_stays_unknown():
    assert merge_records(record(), record()).energy_kwh is None


def gpu(uuid, energy_kwh):
    return GpuRecord(uuid=uuid, model="A100", energy_kwh=energy_kwh)


def test_merging_matches_gpus_and_loses_none_that_vanished():
    first = record(gpus=(gpu("GPU-1", 1.0), gpu("GPU-2", 2.0)))
    second = record(gpus=(gpu("GPU-2", 3.0), gpu("GPU-3", 4.0)))
    merged = {item.uuid: item.energy_kwh for item in merge_records(first, second).gpus}
    assert merged == {"GPU-1": 1.0, "GPU-2": 5.0, "GPU-3": 4.0}


def test_merging_matches_gpus_without_uuid_by_place():
    first = record(gpus=(gpu(None, 1.0), gpu(None, 2.0)))
    merged = merge_records(first, first)
    assert [item.energy_kwh for item in merged.gpus] == [2.0, 4.0]


amounts = st.none() | st.floats(0, 1e6, allow_nan=False)


@given(st.lists(st.tuples(amounts, st.floats(0, 1e4)), min_size=2, max_size=8))
def test_no_energy_and_no_second_is_lost_by_merging_in_any_number(rows):
    records = [record(energy_kwh=energy, duration_s=seconds) for energy, seconds in rows]
    merged = records[0]
    for item in records[1:]:
        merged = merge_records(merged, item)
    known = [energy for energy, _ in rows if energy is not None]
    assert merged.duration_s == pytest.approx(sum(seconds for _, seconds in rows))
    assert (merged.energy_kwh is None) == (not known)
    assert (merged.energy_kwh or 0.0) == pytest.approx(sum(known))


@given(project=st.text(), labels=st.dictionaries(st.text(), st.text(), max_size=3))
def test_any_text_survives_the_round_trip(project, labels):
    row = json.loads(to_ndjson(record(project=project, labels=labels)))
    assert (row["project"], row["labels"]) == (project, labels)


def test_merging_adds_phases_up_by_name():
    first, second = record(phases={"load": 2.0, "train": 3.0}), record(phases={"train": 4.0})
    assert merge_records(first, second).phases == {"load": 2.0, "train": 7.0}
    assert merge_records(first, record()).phases == first.phases
    assert merge_records(record(), record()).phases is None


def test_merging_keeps_the_weaker_quality_and_both_methods():
    first = record(quality="modelled", gpu_method="table")
    second = record(quality="measured", gpu_method="energy-counter")
    for merged in (merge_records(first, second), merge_records(second, first)):
        assert merged.quality == "modelled"
        assert merged.gpu_method == "energy-counter + table"


def test_gpus_that_show_themselves_later_are_the_ones_the_size_had():
    table = record(gpus=(gpu(None, 1.0), gpu(None, 1.0)))
    seen = record(gpus=(gpu("GPU-1", 2.0), gpu("GPU-2", 2.0)))
    for merged in (merge_records(table, seen), merge_records(seen, table)):
        assert {item.uuid: item.energy_kwh for item in merged.gpus} == {"GPU-1": 3.0, "GPU-2": 3.0}
