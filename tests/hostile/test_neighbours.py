"""A pod that lies about its node, to take figures from its neighbours: what tells, and what helps."""

from dataclasses import replace

import pytest

from sidecar.report.verify import verify
from tests.report.histories import add_up, window

HONEST = [window(0, stem=f"pod-{n}.boot", share=0.25, event="end") for n in range(3)]


def lying(record, **changes):
    return add_up(replace(record, **changes))


def told_of(records):
    verdict = verify(("records.ndjson", record) for record in records)
    return {item.kind.name: item for item in (*verdict.violations, *verdict.notices)}, verdict


@pytest.mark.parametrize("method", ["node-meter", "requests"])
def test_a_pod_that_says_its_node_used_little_is_told_of(method):
    """It claims to have a counter, and nothing for itself: what its neighbours claim was cut to that."""
    liar = lying(
        window(0, stem="liar.boot", share=0.0, event="end"),
        cpu_power_method="rapl",
        node_cpu_energy_kwh=1e-9,
        cpu_energy_kwh=0.0,
    )
    records = [replace(record, pod_method=method) for record in (*HONEST, liar)]
    found, _ = told_of(records)
    disputed = found["disputed"]
    assert not disputed.kind.is_violation
    (example,) = disputed.examples
    assert (example["node"], example["pods"]) == ("aks-gpu-0", 4)
    assert example["kept_kwh"] < example["claimed_kwh"] <= example["told_kwh"]


def test_pods_that_tell_the_same_of_their_node_are_not_told_of():
    assert "disputed" not in told_of(HONEST)[0]


def test_where_the_node_meter_tells_what_the_node_used_nobody_disputes_it():
    own = lying(
        window(0, stem="meter.boot", share=0.0, event="end"),
        pod_method="unallocated",
        node_cpu_energy_kwh=HONEST[0].node_cpu_energy_kwh / 4,
        cpu_energy_kwh=0.0,
    )
    assert "disputed" not in told_of([*HONEST, own])[0]
