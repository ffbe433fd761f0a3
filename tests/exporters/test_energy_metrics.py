"""What a run has used so far, as metrics: final, never falling, the records' own sums."""

import math
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.exporters.energy_metrics import METRICS, Standing, energy_samples
from sidecar.exporters.prometheus import prometheus_text
from sidecar.exporters.summary import totals_of
from sidecar.record import EmissionRecord

START = EmissionRecord(
    record_id="u.b.0",
    event="start",
    project="vision",
    region="westeurope",
    window_start="2026-01-01T00:00:00Z",
    window_end="2026-01-01T00:00:00Z",
    carbon_intensity_g_per_kwh=360.0,
    pue=1.2,
)
WINDOW = replace(
    START,
    record_id="u.b.1",
    event="window",
    window_end="2026-01-01T00:00:15Z",
    duration_s=15.0,
    cpu_energy_kwh=0.5,
    ram_energy_kwh=0.25,
    gpu_energy_kwh=2.0,
    energy_kwh=2.75,
    facility_energy_kwh=3.3,
    emissions_g=1188.0,
    emissions_low_g=600.0,
    emissions_high_g=2400.0,
    node_cpu_energy_kwh=1.0,
    node_ram_energy_kwh=0.5,
    node_gpu_energy_kwh=4.0,
    cpu_reserved_idle_energy_kwh=0.1,
    gpu_reserved_idle_energy_kwh=0.2,
    pod_cpu_seconds=12.5,
    water_l=0.3,
    embodied_g=7.0,
    cpu_utilization=0.5,
    gpu_utilization=0.25,
    share_cpu=0.5,
    share_idle=0.4,
    share_ram=0.3,
    share_gpu=0.2,
    cpu_power_method="vm-share",
    pod_method="cgroup",
    quality="estimated",
    carbon_intensity_level="zone",
)
KWH = 3.6e6


def told(standing):
    """Values by name and labels' values."""
    return {(one.metric.name, *one.labels): one.value for one in energy_samples(standing)}


def standing_of(*records, is_final=True):
    totals = totals_of(START)
    for record in records:
        totals = totals.plus(record)
    return Standing(totals, records[-1] if records else None, is_final)


def counters(standing):
    return {key: value for key, value in told(standing).items() if key[0].endswith("_total")}


def test_totals_are_told_in_base_units():
    assert counters(standing_of(WINDOW)) == {
        ("emissions_energy_joules_total", "cpu"): 0.5 * KWH,
        ("emissions_energy_joules_total", "ram"): 0.25 * KWH,
        ("emissions_energy_joules_total", "gpu"): 2.0 * KWH,
        ("emissions_reserved_idle_energy_joules_total", "cpu"): 0.1 * KWH,
        ("emissions_reserved_idle_energy_joules_total", "gpu"): 0.2 * KWH,
        ("emissions_facility_energy_joules_total",): 3.3 * KWH,
        ("emissions_co2e_grams_total",): 1188.0,
        ("emissions_co2e_low_grams_total",): 600.0,
        ("emissions_co2e_high_grams_total",): 2400.0,
        ("emissions_embodied_co2e_grams_total",): 7.0,
        ("emissions_water_litres_total",): 0.3,
        ("emissions_node_energy_joules_total", "cpu"): 1.0 * KWH,
        ("emissions_node_energy_joules_total", "ram"): 0.5 * KWH,
        ("emissions_node_energy_joules_total", "gpu"): 4.0 * KWH,
        ("emissions_pod_cpu_seconds_total",): 12.5,
        ("emissions_metered_seconds_total",): 15.0,
        ("emissions_gap_seconds_total",): 0.0,
        ("emissions_windows_total",): 1.0,
    }


def test_the_last_window_is_told_as_power_and_ratios():
    values = told(standing_of(replace(WINDOW, cpu_energy_kwh=9.9), WINDOW))
    assert values[("emissions_power_watts", "gpu")] == 2.0 * KWH / 15
    assert values[("emissions_utilization_ratio", "cpu")] == 0.5
    assert values[("emissions_share_ratio", "cpu_idle")] == 0.4
    assert values[("emissions_carbon_intensity_grams_per_joule",)] == pytest.approx(1e-4)
    assert values[("emissions_pue_ratio",)] == 1.2
    assert values[("emissions_window_seconds",)] == 15.0
    assert values[("emissions_window_end_timestamp_seconds",)] == 1767225615.0
    methods = ("estimated", "vm-share", "", "cgroup", "zone")
    assert values[("emissions_method_info", *methods)] == 1


def test_what_is_not_known_is_not_told():
    unknown = replace(WINDOW, gpu_energy_kwh=None, water_l=None, gpu_utilization=None)
    names = told(standing_of(unknown)).keys()
    assert not names & {
        ("emissions_energy_joules_total", "gpu"),
        ("emissions_power_watts", "gpu"),
        ("emissions_water_litres_total",),
        ("emissions_utilization_ratio", "gpu"),
    }


def test_before_the_first_window_the_sums_are_0_so_that_its_energy_is_a_rise():
    values = told(standing_of())
    assert values[("emissions_energy_joules_total", "cpu")] == 0
    assert values[("emissions_co2e_grams_total",)] == 0
    assert values[("emissions_windows_total",)] == 0
    assert ("emissions_energy_joules_total", "gpu") not in values
    assert not any(name[0] == "emissions_power_watts" for name in values)


def test_until_it_is_settled_who_and_where_the_run_is_nothing_counts():
    """Its records may still be written anew, with a smaller sum."""
    values = told(standing_of(WINDOW, is_final=False))
    sums = {key: value for key, value in values.items() if key[0].endswith("_total")}
    assert sums.keys() == counters(standing_of(WINDOW)).keys()
    assert set(sums.values()) == {0.0}
    assert {name for name, *_ in values.keys() - sums.keys()} == {
        "emissions_window_seconds",
        "emissions_window_end_timestamp_seconds",
    }


def test_a_window_that_lasted_no_time_has_no_power():
    values = told(standing_of(replace(WINDOW, duration_s=0.0)))
    assert not any(name[0] == "emissions_power_watts" for name in values)


def amounts():
    return st.none() | st.floats(0, 1e6, allow_subnormal=False)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                name: amounts()
                for name in ("cpu_energy_kwh", "gpu_energy_kwh", "emissions_g", "water_l")
            }
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(0, 30),
)
def test_no_counter_ever_falls_and_each_is_the_sum_of_the_records(windows, settled_at):
    records = [replace(WINDOW, **columns) for columns in windows]
    before = counters(standing_of(is_final=settled_at == 0))
    for count in range(1, len(records) + 1):
        now = counters(standing_of(*records[:count], is_final=count >= settled_at))
        assert all(now[key] >= value for key, value in before.items() if key in now)
        before = now
    if len(records) >= settled_at:
        for name, column, factor in (
            (("emissions_energy_joules_total", "gpu"), "gpu_energy_kwh", KWH),
            (("emissions_co2e_grams_total",), "emissions_g", 1.0),
        ):
            known = [row[column] for row in windows if row[column] is not None]
            if known:
                assert before[name] == pytest.approx(math.fsum(known) * factor, rel=1e-12)


def test_every_metric_that_is_told_is_declared_and_the_other_way_round():
    declared = {metric.name: metric for metric in METRICS}
    samples = list(energy_samples(standing_of(WINDOW)))
    assert {one.metric.name for one in samples} == set(declared)
    assert all(declared[one.metric.name] == one.metric for one in samples)
    assert all(len(one.labels) == len(one.metric.labels) for one in samples)


@pytest.mark.needs("promtool")
def test_promtool_finds_nothing_to_complain_about():
    text = prometheus_text(energy_samples(standing_of(WINDOW)))[0]
    run = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert (run.returncode, run.stdout + run.stderr) == (0, b"")
