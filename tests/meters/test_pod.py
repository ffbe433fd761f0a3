import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters.pod.requests import RequestsSource, Reservation, parse_quantity
from sidecar.meters.pod.source import PodSource
from sidecar.meters.pod.whole_node import WholeNodeSource
from sidecar.meters.reading import PodReading


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("2", 2),
        ("+2", 2),
        ("1.5", 1.5),
        (".5", 0.5),
        ("3.", 3),
        ("500m", 0.5),
        ("250000u", 0.25),
        ("100n", 1e-7),
        ("1k", 1000),
        ("2M", 2e6),
        ("2G", 2e9),
        ("2T", 2e12),
        ("1Ki", 1024),
        ("2Mi", 2 * 1024**2),
        ("64Gi", 64 * 1024**3),
        ("1.5Ti", 1.5 * 1024**4),
        ("1e3", 1000),
        ("1E3", 1000),
        ("12e-1", 1.2),
        ("1E", 1e18),
        (" 4 ", 4),
    ],
)
def test_a_quantity_is_read_as_kubernetes_reads_it(text: str, value: float):
    assert parse_quantity(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "nan",
        "NaN",
        "inf",
        "1 Gi",
        "1K",
        "1ki",
        "1gi",
        "1e",
        "1e3Gi",
        "0x10",
        "1_000",
        "٣",
    ],
)
def test_nonsense_is_no_quantity(text: str):
    with pytest.raises(ValueError, match="is no Kubernetes quantity"):
        parse_quantity(text)


def test_a_quantity_beyond_all_numbers_is_refused():
    with pytest.raises(ValueError, match="too large"):
        parse_quantity("9e999")


@given(st.text())
def test_any_text_is_a_quantity_of_zero_or_more_or_a_value_error(text: str):
    try:
        value = parse_quantity(text)
    except ValueError:
        return
    assert math.isfinite(value)
    assert value >= 0


@given(st.integers(0, 10**12), st.sampled_from(["m", "", "k", "Ki", "M", "Mi", "G", "Gi"]))
def test_a_suffix_scales_the_number(number: int, suffix: str):
    scale = {"m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9}
    scale |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    assert parse_quantity(f"{number}{suffix}") == pytest.approx(number * scale[suffix])


def test_a_reservation_is_read_from_the_environment():
    environment = {
        "EMISSIONS_REQUESTS_CPU": "3500m",
        "EMISSIONS_REQUESTS_MEMORY": "64Gi",
        "EMISSIONS_REQUESTS_GPU": "1",
    }
    assert Reservation.from_environment(environment) == Reservation(3.5, 64.0, 1.0)


def test_decimal_memory_is_smaller_than_binary():
    reservation = Reservation.from_environment({"EMISSIONS_REQUESTS_MEMORY": "1G"})
    assert reservation.memory_gib == pytest.approx(0.931322574615)


def test_a_bad_request_names_its_variable():
    with pytest.raises(ValueError, match=r"EMISSIONS_REQUESTS_CPU: 'two' is no Kubernetes"):
        Reservation.from_environment({"EMISSIONS_REQUESTS_CPU": "two"})


def test_empty_variables_are_no_reservation():
    assert not Reservation.from_environment({"EMISSIONS_REQUESTS_CPU": " "}).is_known


def test_a_request_of_zero_is_a_reservation():
    assert Reservation.from_environment({"EMISSIONS_REQUESTS_GPU": "0"}).is_known


@pytest.mark.parametrize("source", [WholeNodeSource(), RequestsSource(Reservation(cpus=2))])
def test_sources_that_measure_nothing_say_none(source: PodSource):
    assert source.read() == PodReading(None, None, method=source.name)
    assert source.status()[0].available
