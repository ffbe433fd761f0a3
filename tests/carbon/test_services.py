"""Electricity Maps, Carbon Aware SDK, the British API: what is documented, and whatever else comes."""

import math
from urllib.parse import parse_qs, urlsplit

import pytest

from sidecar.carbon import api
from sidecar.carbon.api import NoIntensityError
from sidecar.carbon.carbon_aware import CarbonAware
from sidecar.carbon.electricity_maps import ElectricityMaps
from sidecar.carbon.series import matched
from sidecar.carbon.uk import Uk, region_id
from tests.carbon.conftest import NOW_S
from tests.fakes.collector import drip, drip_headers, flood, hang, respond_raw, wire
from tests.fakes.intensity import EM_TOKEN

HOUR_S = NOW_S // 3600 * 3600
SERVICES = ("electricity-maps", "carbon-aware", "uk")


@pytest.fixture
def service(fake, token_file):
    """Open a service by its word; the fake is all of them."""

    def opened(name="electricity-maps"):
        made = {
            "electricity-maps": lambda: ElectricityMaps(token_file, fake.url),
            "carbon-aware": lambda: CarbonAware(fake.url),
            "uk": lambda: Uk(fake.url),
        }
        return made[name]()

    return opened


def zone_of(name):
    return {"electricity-maps": "NL", "carbon-aware": "westeurope", "uk": "GB"}[name]


def query_of(path):
    return {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}


# --- what is asked, what is taken ---------------------------------------------------------------


def test_electricity_maps_tells_the_hours_up_to_this_one(service, fake):
    series = service().observed("NL", NOW_S)
    assert matched(series, NOW_S, NOW_S + 15).g_per_kwh == 280
    assert (len(series.known), series.known[0].start_s) == (24, HOUR_S - 23 * 3600)
    assert {span.kind for span in series.known} == {"observed"}
    assert (series.level, series.asked_at_s) == ("zone", NOW_S)
    assert series.source == "Electricity Maps API v3, zone NL, hourly, life cycle"


def test_electricity_maps_is_asked_for_life_cycle_hours_of_this_zone_alone(service, fake):
    service().observed("NL", NOW_S)
    (request,) = fake.requests
    assert request.headers["auth-token"] == EM_TOKEN
    assert query_of(request.path) == {
        "zone": "NL",
        "emissionFactorType": "lifecycle",
        "temporalGranularity": "hourly",
        "disableCallerLookup": "true",
    }


def test_what_electricity_maps_estimated_is_told(service, fake):
    fake.estimated = True
    assert {span.kind for span in service().observed("NL", NOW_S).known} == {"estimated"}


def test_a_plan_without_history_tells_the_latest_hour(service, fake):
    fake.faults.append(respond_raw(403, b'{"error": "not in your plan"}'))
    electricity_maps = service()
    for _ in range(2):
        (span,) = electricity_maps.observed("NL", NOW_S).known
        assert (span.start_s, span.end_s) == (HOUR_S, HOUR_S + 3600)
    assert [path.partition("?")[0] for path in fake.asked()] == [
        "/carbon-intensity/history", "/carbon-intensity/latest", "/carbon-intensity/latest",
    ]  # fmt: skip


def test_electricity_maps_foresees(service):
    series = service().forecast("NL", NOW_S)
    assert len(series.foreseen) == 24
    assert matched(series, HOUR_S + 7200, HOUR_S + 7300).kind == "forecast"
    assert (series.asked_at_s, series.forecast_asked_at_s) == (None, NOW_S)


def test_the_sdk_tells_what_was_observed_at_an_azure_location(service, fake):
    series = service("carbon-aware").observed("westeurope", NOW_S)
    assert matched(series, NOW_S, NOW_S + 15).g_per_kwh == 280
    query = query_of(fake.requests[0].path)
    assert query["location"] == "westeurope"
    assert (query["time"], query["toTime"]) == ("2027-01-14T09:15:00Z", "2027-01-15T08:15:00Z")
    assert "average or marginal" in series.source


def test_the_sdk_foresees_and_may_name_the_place_as_its_source_does(service):
    series = service("carbon-aware").forecast("westeurope", NOW_S)
    assert len(series.foreseen) == 24
    assert series.foreseen[-1].end_s == HOUR_S + 24 * 3600


def test_a_rating_of_minus_one_is_a_missing_one(service, fake):
    fake.value = lambda at_s: -1 if at_s == HOUR_S else 100
    series = service("carbon-aware").observed("westeurope", NOW_S)
    assert len(series.known) == 23


def test_an_sdk_without_data_says_so(service, fake):
    fake.faults.append(respond_raw(204))
    with pytest.raises(NoIntensityError, match="none of 0 values"):
        service("carbon-aware").observed("westeurope", NOW_S)


def test_the_nation_has_actual_values_and_a_forecast_beyond(service, fake):
    series = service("uk").observed("GB", NOW_S)
    assert fake.asked() == ["/intensity/2027-01-14T08:00Z/2027-01-17T08:00Z"]
    assert matched(series, NOW_S - 3600, NOW_S - 3590).kind == "observed"
    assert matched(series, NOW_S - 3600, NOW_S - 3590).g_per_kwh == 271  # the actual value
    assert matched(series, NOW_S, NOW_S + 15).kind == "forecast"
    assert series.foreseen[-1].end_s == HOUR_S + 48 * 3600
    assert "not life cycle" in series.source


def test_a_region_has_forecasts_alone(service, fake):
    series = service("uk").observed("GB-13", NOW_S)
    assert fake.asked()[0].endswith("/regionid/13")
    assert series.known == ()
    assert matched(series, NOW_S - 3600, NOW_S - 3590).kind == "forecast"


def test_a_region_may_stand_in_a_list(service, fake):
    row = '{"from": "2027-01-15T08:00Z", "to": "2027-01-15T08:30Z", "intensity": {"forecast": 99}}'
    body = f'{{"data": [{{"regionid": 13, "data": [{row}]}}]}}'
    fake.faults.append(respond_raw(200, body.encode()))
    assert service("uk").observed("GB-13", NOW_S).foreseen[0].g_per_kwh == 99


@pytest.mark.parametrize("zone", ["GB-0", "GB-18", "NL", "GB-1x", "gb"])
def test_the_british_api_has_no_other_zone(zone):
    with pytest.raises(ValueError, match="neither GB nor one of its regions"):
        region_id(zone)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize(
    "value", [-5, 5001, 1e300, math.nan, math.inf, "200", None, True, {"mean": 3}, 10**400],
)  # fmt: skip
def test_a_value_that_cannot_be_is_left_out(service, fake, name, value):
    fake.value = lambda at_s: value if at_s >= HOUR_S - 7200 else 150
    series = service(name).observed(zone_of(name), NOW_S)
    taken = {span.g_per_kwh for span in (*series.known, *series.foreseen)}
    assert taken <= {150, 151}


@pytest.mark.parametrize("name", SERVICES)
def test_an_answer_without_any_usable_value_is_none(service, fake, name):
    fake.value = lambda _: -5
    with pytest.raises(NoIntensityError, match="can be taken"):
        service(name).observed(zone_of(name), NOW_S)


@pytest.mark.parametrize("name", ["electricity-maps", "carbon-aware"])
def test_values_for_a_time_long_ago_are_left_out(service, clock, name):
    clock.now_s -= 90 * 86400
    with pytest.raises(NoIntensityError, match="near now"):
        service(name).observed(zone_of(name), NOW_S)


def test_half_hours_of_another_length_are_left_out(service, fake):
    row = '{"from": "2027-01-15T08:00Z", "to": "2027-01-19T08:30Z", "intensity": {"forecast": 99}}'
    fake.always = respond_raw(200, f'{{"data": [{row}]}}'.encode())
    with pytest.raises(NoIntensityError, match="none of 0 values"):
        service("uk").observed("GB", NOW_S)


def test_another_zone_than_asked_for_is_refused(service, fake):
    fake.zone_told = "DE"
    with pytest.raises(NoIntensityError, match="asked for zone NL, the answer is about 'DE'"):
        service().observed("NL", NOW_S)
    with pytest.raises(NoIntensityError, match="asked for location westeurope"):
        service("carbon-aware").forecast("westeurope", NOW_S)
    fake.zone_told = "7"
    with pytest.raises(NoIntensityError, match=r"asked for region 13, the answer is about \[7\]"):
        service("uk").observed("GB-13", NOW_S)


def test_values_of_several_places_are_refused(service, fake):
    row = '{{"location": "{}", "time": "2027-01-15T08:00:00Z", "rating": 5}}'
    fake.faults.append(respond_raw(200, f"[{row.format('IE')}, {row.format('NL')}]".encode()))
    with pytest.raises(NoIntensityError, match="several places: IE, NL"):
        service("carbon-aware").observed("westeurope", NOW_S)


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"null", b"3", b"[]", b"{}", b'{"data": 3}', b'"x"', b"[[[[", b"[" * 99_999,
             b'{"zone": "NL", "history": [1, null, {"datetime": 5, "carbonIntensity": 3}]}',
             b'[{"time": "2027-01-15T08:00:00", "rating": 3}]', b"\xff\xfe\x00"],
)  # fmt: skip
def test_a_body_that_is_something_else_is_refused_in_one_line(service, fake, name, body):
    fake.always = respond_raw(200, body)
    with pytest.raises(NoIntensityError) as caught:
        service(name).observed(zone_of(name), NOW_S)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "is_final"),
    [(302, True), (400, True), (401, True), (404, True), (429, False), (500, False), (503, False)],
)  # fmt: skip
def test_an_error_is_told_with_its_words(service, fake, status, is_final):
    body = b'{"error": {"code": "x", "message": "what is wrong"}}'
    fake.always = respond_raw(status, body, Retry_After="120")
    with pytest.raises(NoIntensityError, match=f"answered {status}: what is wrong") as caught:
        service("uk").observed("GB", NOW_S)
    assert (caught.value.is_final, caught.value.retry_after_s) == (is_final, 120)


def test_a_wrong_token_is_refused_and_never_told(service, fake, token_file):
    token_file.write_text("another-token")
    fake.always = respond_raw(401, b'{"message": "another-token is not known"}')
    with pytest.raises(NoIntensityError, match="401: \\[secret\\] is not known") as caught:
        service().observed("NL", NOW_S)
    assert "another-token" not in repr(caught.value)


def test_a_token_that_is_replaced_is_read_anew(service, fake, token_file):
    electricity_maps = service()
    electricity_maps.observed("NL", NOW_S)
    fake.token = "the-next"
    token_file.write_text("the-next")
    assert electricity_maps.observed("NL", NOW_S).known


def test_without_a_token_nobody_is_asked(service, fake, token_file):
    token_file.unlink()
    with pytest.raises(NoIntensityError, match="check EMISSIONS_INTENSITY_TOKEN_FILE"):
        service().observed("NL", NOW_S)
    assert fake.requests == []


@pytest.mark.parametrize(
    "fault",
    [
        hang, drip, drip_headers, flood(200), wire(b"SSH-2.0-x\r\n"), wire(b""),
        wire(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"),
    ],
)  # fmt: skip
def test_a_server_that_misbehaves_ends_in_time_and_in_one_line(service, fake, monkeypatch, fault):
    limits = api.Limits(timeout_s=0.3, connect_timeout_s=0.3, body_bytes_max=100_000)
    monkeypatch.setattr(api, "LIMITS", limits)
    fake.always = fault
    with pytest.raises(NoIntensityError, match=fake.url) as caught:
        service("uk").observed("GB", NOW_S)
    assert "\n" not in str(caught.value)


def test_nobody_listening_is_told(service, token_file):
    with pytest.raises(NoIntensityError, match=r"127\.0\.0\.1:9"):
        ElectricityMaps(token_file, "http://127.0.0.1:9").observed("NL", NOW_S)
