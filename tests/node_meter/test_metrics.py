"""What the node meter tells of the node: the sums of its own records, in base units."""

from dataclasses import replace

from sidecar.exporters.energy_metrics import Standing
from sidecar.exporters.summary import totals_of
from sidecar.node_meter.metrics import METRICS, node_samples, pods_samples
from sidecar.node_meter.pods import PodsUse
from sidecar.record import EmissionRecord

START = EmissionRecord(
    record_id="u.b.0", event="start", node="node-1", cluster="aks-1", region="westeurope"
)
WINDOW = replace(
    START,
    event="window",
    duration_s=10.0,
    node_cpu_energy_kwh=1.0,
    node_ram_energy_kwh=0.5,
    cpu_energy_kwh=0.25,
    ram_energy_kwh=0.125,
    emissions_g=7.0,
)
KWH = 3.6e6


def told(*records, is_final=True):
    totals = totals_of(START)
    for record in records:
        totals = totals.plus(record)
    standing = Standing(totals, records[-1] if records else None, is_final)
    return {(one.metric.name, *one.labels): one.value for one in node_samples(standing)}


def test_the_node_and_what_no_pod_used_are_told_by_component():
    name = "emissions_node_meter"
    assert told(WINDOW, WINDOW) == {
        (f"{name}_energy_joules_total", "cpu"): 2 * KWH,
        (f"{name}_energy_joules_total", "ram"): KWH,
        (f"{name}_unallocated_energy_joules_total", "cpu"): 0.5 * KWH,
        (f"{name}_unallocated_energy_joules_total", "ram"): 0.25 * KWH,
        (f"{name}_unallocated_co2e_grams_total",): 14.0,
        (f"{name}_power_watts", "cpu"): KWH / 10,
        (f"{name}_power_watts", "ram"): 0.5 * KWH / 10,
        (f"{name}_unallocated_power_watts", "cpu"): 0.25 * KWH / 10,
        (f"{name}_unallocated_power_watts", "ram"): 0.125 * KWH / 10,
        (f"{name}_info", "aks-1", "node-1", "", "westeurope"): 1.0,
    }


def test_until_it_is_settled_where_the_node_is_nothing_counts():
    values = told(WINDOW, is_final=False)
    assert values
    assert set(values.values()) == {0.0}
    assert all(name.endswith("_total") for name, *_ in values)


def test_before_the_first_look_no_number_of_pods_is_told():
    assert list(pods_samples(None)) == []
    use = PodsUse(cpu_s=1.5, memory_byte_s=0, reserved_cpu_s=0, working_set_bytes=0, pods=3)
    values = {one.metric.name: one.value for one in pods_samples(use)}
    assert values == {
        "emissions_node_meter_pods": 3.0,
        "emissions_node_meter_pods_cpu_seconds_total": 1.5,
    }
    assert values.keys() <= {metric.name for metric in METRICS}
