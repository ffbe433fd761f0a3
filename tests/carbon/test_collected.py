"""The collector as a sidecar asks it for intensity: whoever answers is not trusted."""

import json

import pytest

from sidecar.carbon.api import NoIntensityError
from sidecar.carbon.collected import Collected
from sidecar.carbon.encoding import encoded
from sidecar.carbon.series import Series, Span
from sidecar.collector_client import CollectorClient
from tests.carbon.conftest import NOW_S
from tests.fakes.collector import TOKEN, FakeCollector, respond, respond_raw

SERIES = Series(
    "uk", "GB", "the API", "zone", (Span(NOW_S, NOW_S + 1800, 231.5, "observed"),), asked_at_s=NOW_S
)


@pytest.fixture
def collector():
    with FakeCollector() as collector:
        yield collector


@pytest.fixture
def service(collector, tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    return Collected(CollectorClient(collector.url, tmp_path / "token"), "uk")


def changed(**changes):
    return json.dumps({**json.loads(encoded(SERIES)), **changes}).encode()


def test_it_is_asked_for_the_zone_with_the_pods_token(service, collector):
    collector.always = respond_raw(200, encoded(SERIES))
    assert service.observed("GB", NOW_S) == SERIES
    (request,) = collector.requests
    assert request.path == "/v1/intensity?zone=GB"
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"


def test_a_forecast_is_asked_for_where_one_is_wanted(service, collector):
    collector.always = respond_raw(200, encoded(SERIES))
    service.forecast("GB", NOW_S)
    assert collector.requests[0].path == "/v1/intensity?zone=GB&forecast=true"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (changed(zone="GB-13"), "told of uk and zone GB-13, this sidecar wants uk and GB"),
        (changed(provider="schedule"), "told of schedule and zone GB"),
        (changed(format=7), "its answer is not used: it has format 7"),
        (changed(known=[[1, 2, -3, "observed"]]), "outside 0 to 5000"),
        (b"<html>", "its answer is not used"),
        (b"", "its answer is not used"),
        (b" " * 70_000, "its answer is not used"),
    ],
)
def test_an_answer_that_cannot_be_right_is_none(service, collector, content, told):
    collector.always = respond_raw(200, content)
    with pytest.raises(NoIntensityError, match=told):
        service.observed("GB", NOW_S)


@pytest.mark.parametrize(
    ("status", "is_final"), [(400, True), (403, True), (404, True), (429, False), (503, False)]
)
def test_a_refusal_is_told_with_its_reason_and_when_to_come_again(
    service, collector, status, is_final
):
    collector.always = respond(status, error="code", detail="the reason", Retry_After="600")
    with pytest.raises(NoIntensityError, match=f"answered {status}: code: the reason") as caught:
        service.observed("GB", NOW_S)
    assert (caught.value.is_final, caught.value.retry_after_s) == (is_final, 600)


def test_without_a_token_it_is_not_asked(service, collector, tmp_path):
    (tmp_path / "token").unlink()
    with pytest.raises(NoIntensityError, match="token file"):
        service.observed("GB", NOW_S)
    assert collector.requests == []
