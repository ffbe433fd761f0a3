"""Metrics as Prometheus reads them."""

import re
import subprocess
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from sidecar.exporters.instruments import Instruments, registry_text
from sidecar.exporters.prometheus import (
    LABEL_CHARACTERS_MAX,
    Label,
    Metric,
    Sample,
    counter,
    gauge,
    label_text,
    prometheus_text,
)
from sidecar.outbox import METRICS, OutboxState, samples
from sidecar.version import VERSION

STATE = OutboxState(
    waiting_records=1,
    write_failure="No space left on device",
    write_failures=10,
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
NAMED = Metric("emissions_x", "gauge", "Something.", (Label("name", "a name"),))


def text_of(state):
    return prometheus_text(samples(state))[0].decode()


def values(text):
    """Each metric's value, as Prometheus' own parser reads it; without what every process tells."""
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation for family in families)
    told = {sample.name: sample.value for family in families for sample in family.samples}
    return {name: value for name, value in told.items() if not re.match("process_|.*build", name)}


def test_each_field_of_the_state_has_its_metric():
    assert values(text_of(STATE)) == {
        "emissions_journal_waiting_records": 1,
        "emissions_journal_failing": 1,
        "emissions_journal_failures_total": 10,
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
    assert set(values(text_of(STATE))) == {metric.name for metric in METRICS}


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


def test_without_samples_there_are_the_version_and_what_the_process_itself_uses():
    text = prometheus_text(())[0].decode()
    assert f'emissions_build_info{{version="{VERSION}"}} 1.0\n' in text
    families = {family.name for family in text_string_to_metric_families(text)}
    assert {"process_cpu_seconds", "process_resident_memory_bytes"} < families
    assert all(re.match("process_|emissions_build_info", name) for name in families)


def test_help_may_hold_anything():
    help_text = 'a "b" \\ c\nd'
    text = prometheus_text([Sample(gauge("x", help_text), 1.5)])[0].decode()
    family = next(one for one in text_string_to_metric_families(text) if one.name == "emissions_x")
    assert family.documentation == help_text


def test_samples_of_a_metric_stand_together_wherever_they_come_from():
    other = counter("y", "Other.")
    told = [Sample(NAMED, 1, ("a",)), Sample(other, 2), Sample(NAMED, 3, ("b",))]
    text = prometheus_text(told)[0].decode()
    assert text.count("# TYPE emissions_x gauge\n") == 1
    assert 'emissions_x{name="a"} 1.0\nemissions_x{name="b"} 3.0\n' in text


@given(st.text(st.characters(codec=None), max_size=300))
def test_a_label_may_come_from_anybody(value):
    """Whatever stands in it, one line of text comes out that is read as one value, not too long."""
    content = prometheus_text([Sample(NAMED, 1, (value,))])[0]
    (line,) = (one for one in content.split(b"\n") if one.startswith(b"emissions_x"))
    assert line.endswith(b'"} 1.0')
    (told,) = (
        sample.labels["name"]
        for family in text_string_to_metric_families(content.decode())
        for sample in family.samples
        if sample.name == "emissions_x"
    )
    assert told == label_text(value)
    assert len(told) <= LABEL_CHARACTERS_MAX
    assert told.isprintable()


def test_a_printable_label_is_told_as_it_is_and_an_unknown_one_is_empty():
    assert label_text('vision "é" \\ 1') == 'vision "é" \\ 1'
    assert label_text("a\nb\x00c\ud800") == "a?b?c?"
    assert label_text(None) == ""


def test_a_service_counts_what_is_declared_and_tells_no_moment_of_creation():
    instruments = Instruments()
    instruments.counter(counter("y", "Other.")).inc(2)
    instruments.gauge(NAMED).labels("a").set(3)
    instruments.histogram(Metric("emissions_z", "histogram", "Time."), (1, 2)).observe(1.5)
    text = registry_text(instruments.registry)[0].decode()
    for line in ("emissions_y_total 2.0", 'emissions_x{name="a"} 3.0', "emissions_z_count 1.0"):
        assert line in text.splitlines()
    assert "_created" not in text
    assert f'emissions_build_info{{version="{VERSION}"}} 1.0' in text


@pytest.mark.needs("promtool")
def test_promtool_finds_nothing_to_complain_about():
    text = prometheus_text(samples(STATE))[0]
    run = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    assert not run.stdout + run.stderr
