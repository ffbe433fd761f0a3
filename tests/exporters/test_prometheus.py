"""Metrics as Prometheus reads them."""

import subprocess
from dataclasses import fields, replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidecar.exporters.prometheus import Sample, prometheus_text
from sidecar.outbox import OutboxState, samples

STATE = OutboxState(
    waiting_records=1,
    write_failure="No space left on device",
    volume_size=2,
    unshipped_segments=3,
    unshipped_records=4,
    refused_segments=5,
    shipped_segments=6,
    shipped_records=7,
    shipped_size=8,
    ship_failures=9,
    ship_failure=None,
    ships=True,
)


def text_of(state):
    return prometheus_text(samples(state))[0].decode()


def values(text):
    """Each metric's value, as Prometheus' own parser reads it."""
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation for family in families)
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_each_field_of_the_state_has_its_metric():
    assert values(text_of(STATE)) == {
        "emissions_journal_waiting_records": 1,
        "emissions_journal_failing": 1,
        "emissions_journal_bytes": 2,
        "emissions_unshipped_segments": 3,
        "emissions_unshipped_records": 4,
        "emissions_refused_segments_total": 5,
        "emissions_shipped_segments_total": 6,
        "emissions_shipped_records_total": 7,
        "emissions_shipped_bytes_total": 8,
        "emissions_shipping_failures_total": 9,
        "emissions_shipping_failing": 0,
    }


@pytest.mark.parametrize(
    "name", [item.name for item in fields(OutboxState) if item.name != "ships"]
)
def test_no_field_is_left_out(name):
    """One that changes changes a metric."""
    value = getattr(STATE, name)
    other = value + 100 if isinstance(value, int) else (None if value else "why")
    assert values(text_of(replace(STATE, **{name: other}))) != values(text_of(STATE))


def test_counters_and_gauges_are_declared_as_such():
    text = text_of(STATE)
    assert "# TYPE emissions_shipped_records_total counter" in text
    assert "# TYPE emissions_unshipped_records gauge" in text


def test_no_text_of_a_failure_is_told():
    """The address may be open to the whole cluster."""
    assert "No space" not in text_of(STATE)


def test_a_large_count_is_exact():
    assert values(text_of(replace(STATE, shipped_size=2**53 - 1)))[
        "emissions_shipped_bytes_total"
    ] == (2**53 - 1)


def test_no_samples_are_an_empty_text():
    assert prometheus_text(()) == (b"", prometheus_text(samples(STATE))[1])


def test_help_may_hold_anything():
    help_text = 'a "b" \\ c\nd'
    text = prometheus_text([Sample("emissions_x", help_text, 1.5)])[0].decode()
    (family,) = text_string_to_metric_families(text)
    assert (family.name, family.documentation) == ("emissions_x", help_text)


@pytest.mark.needs("promtool")
def test_promtool_finds_nothing_to_complain_about():
    text = prometheus_text(samples(STATE))[0]
    run = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    assert not run.stdout + run.stderr
