"""OpenTelemetry metrics, pushed with the real client to a receiver that reads the protobuf."""

import re

import pytest

from sidecar.exporters.otlp import INSTRUMENTS, RESOURCE, metrics_data, otlp_opener
from sidecar.record import EmissionRecord
from tests.exporters.tracked_windows import tracked
from tests.fakes.otlp import OtlpReceiver, metrics_of, points_of, resource_of

J_PER_KWH = 3.6e6


@pytest.fixture
def receiver(monkeypatch):
    with OtlpReceiver() as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
        yield server


def pushed(receiver, windows):
    tracker = otlp_opener({}, owns_process=True).open()
    try:
        tracker.log(windows)
    finally:
        tracker.close()
    return receiver.requests[-1]


def test_sums_are_the_totals_of_the_records_in_base_units(receiver):
    windows = tracked(4)
    totals, points = windows[-1].totals, points_of(pushed(receiver, windows))
    assert points["emissions.energy", "cpu"] == totals.cpu_energy_kwh * J_PER_KWH
    assert points["emissions.energy", "ram"] == totals.ram_energy_kwh * J_PER_KWH
    assert points["emissions.facility.energy", None] == totals.facility_energy_kwh * J_PER_KWH
    assert points["emissions.co2e", None] == totals.emissions_g
    assert points["emissions.time", None] == 60.0
    assert points["emissions.power", None] == pytest.approx(
        windows[-1].record.energy_kwh * J_PER_KWH / 15
    )


def test_what_is_unknown_is_not_pushed(receiver):
    points = points_of(pushed(receiver, tracked(1, emissions_g=None, cpu_energy_kwh=None)))
    names = {name for name, _ in points}
    assert "emissions.co2e" not in names
    assert ("emissions.energy", "cpu") not in points
    assert ("emissions.energy", "gpu") not in points
    assert "emissions.gpu.utilization" not in names


def test_a_sum_is_cumulative_from_the_begin_of_the_run_to_the_end_of_the_window(receiver):
    request = pushed(receiver, tracked(2))
    metric = metrics_of(request)["emissions.co2e"]
    (point,) = metric.sum.data_points
    assert metric.sum.is_monotonic
    assert metric.sum.aggregation_temporality == 2  # AGGREGATION_TEMPORALITY_CUMULATIVE
    assert point.start_time_unix_nano == 1795334400_000_000_000
    assert point.time_unix_nano == 1795334430_000_000_000


def test_names_follow_the_conventions_with_units_beside_them(receiver):
    for metric in metrics_of(pushed(receiver, tracked(1))).values():
        assert re.fullmatch(r"emissions(\.[a-z0-9_]+)+", metric.name)
        assert metric.unit
        assert metric.description
        assert not re.search(r"(_joules|_kwh|_grams|_total|_watts)$", metric.name)


def test_the_resource_says_who_it_is_and_the_users_variables_go_before(receiver, monkeypatch):
    changes = {"pod": "p-1", "pod_uid": "uid-1", "namespace": "team"}
    attributes = resource_of(pushed(receiver, tracked(1, **changes)))
    assert attributes["service.name"] == "emissions-sidecar"
    assert attributes["service.instance.id"] == "run-1"
    assert attributes["cloud.region"] == "westeurope"
    assert attributes["k8s.pod.name"] == "p-1"
    assert "host.type" not in attributes
    monkeypatch.setenv("OTEL_SERVICE_NAME", "my-training")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=vision,cloud.region=mars")
    attributes = resource_of(pushed(receiver, tracked(1)))
    assert attributes["service.name"] == "my-training"
    assert (attributes["team"], attributes["cloud.region"]) == ("vision", "mars")


def test_hostile_names_arrive_on_one_line_and_make_no_series_of_their_own(receiver):
    hostile = 'a"b\n{}\x00' + "x" * 1_000 + "\udcff"
    request = pushed(receiver, tracked(1, project=hostile, pod=hostile))
    shown = resource_of(request)["emissions.project"]
    assert "\n" not in shown
    assert len(shown) <= 250
    components = {component for _, component in points_of(request)}
    assert components <= {None, "cpu", "ram", "gpu"}


def test_the_users_headers_are_sent(receiver, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=vision")
    pushed(receiver, tracked(1))
    assert receiver.headers[-1]["x-team"] == "vision"


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_receiver_that_refuses_is_an_error(monkeypatch, status):
    with OtlpReceiver(status) as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
        tracker = otlp_opener({}, owns_process=True).open()
        with pytest.raises(ConnectionError):
            tracker.log(tracked(1))
        tracker.close()


def test_every_field_is_one_of_the_record():
    assert set(RESOURCE.values()) <= set(EmissionRecord.__slots__)
    assert len({item.name for item in INSTRUMENTS}) == len(INSTRUMENTS)
    assert metrics_data(tracked(1)[0]).resource_metrics
