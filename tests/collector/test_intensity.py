"""GET /v1/intensity: one question for the whole cluster, and to each pod its own zone."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from sidecar.carbon.choose import all_zones, zones_of
from sidecar.carbon.collected import Collected
from sidecar.carbon.electricity_maps import ElectricityMaps
from sidecar.carbon.encoding import decoded
from sidecar.carbon.feed import LiveFeed
from sidecar.carbon.intensity import average_intensity
from sidecar.carbon.keeper import IntensityKeeper
from sidecar.carbon.series import matched
from sidecar.catalogue.lookup import Catalogue
from sidecar.collector.intensity import IntensitySource, open_intensity
from sidecar.collector.shared_series import open_shared_series
from sidecar.collector_client import CollectorClient
from sidecar.segment import decompressed
from sidecar.settings import SettingsError, load_settings
from tests.carbon.conftest import NOW_S
from tests.collector.running import POD, CollectorProcess, stored_files
from tests.collector.test_segments import refused
from tests.e2e.commands import environment, sidecar
from tests.fakes.collector import hang, respond
from tests.fakes.intensity import EM_TOKEN, FakeIntensity
from tests.fakes.kubernetes_api import AKS_LABELS

CATALOGUE = Catalogue()
PATIENCE_S = 60
SOURCE = {"intensity_source": "electricity-maps"}


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "em-token"
    path.write_text(EM_TOKEN)
    return path


@pytest.fixture
def source(fake, clock, token_file):
    """What the collector asks; settings of the test's choice."""

    def made(**flags):
        settings = load_settings({**SOURCE, **flags}, {})
        zone_of = zones_of(settings, CATALOGUE)
        api = ElectricityMaps(token_file, fake.url)
        return IntensitySource(api, zone_of, all_zones(zone_of, CATALOGUE), settings, clock)

    return made


@pytest.fixture
def collector(start, source):
    return start(intensity=source())


def asked(collector, token, zone="NL", **query):
    more = "".join(f"&{name}={value}" for name, value in query.items())
    return collector.get(f"/v1/intensity?zone={zone}{more}", token)


def test_a_pod_is_told_the_intensity_of_its_nodes_zone(collector, api, fake) -> None:
    response = asked(collector, api.token())
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    series = decoded(response.content)
    assert (series.provider, series.zone) == ("electricity-maps", "NL")
    assert matched(series, NOW_S, NOW_S + 15).g_per_kwh == 280
    assert EM_TOKEN not in response.text


def test_a_hundred_pods_with_many_windows_cause_one_call_a_zone_and_hour(
    collector, api, fake, clock, tmp_path
) -> None:
    feeds = []
    average = average_intensity(CATALOGUE, "westeurope", None)
    zone_of = zones_of(load_settings(SOURCE, {}), CATALOGUE)
    for number in range(100):
        file = tmp_path / f"token-{number}"
        file.write_text(api.token(pod=f"train-{number}", pod_uid=f"uid-{number}"))
        service = Collected(CollectorClient(collector.url, file), "electricity-maps")
        feeds.append(LiveFeed(IntensityKeeper(service, clock=clock), zone_of, clock))
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda feed: (feed.start(), feed.aim("westeurope")), feeds))
    for feed in feeds:
        feed.wait(PATIENCE_S)
        kinds = {feed.during(NOW_S + s, NOW_S + s + 15, average).kind for s in range(0, 1800, 15)}
        assert kinds == {"observed"}
        feed.close()
    assert len(fake.requests) == 1
    assert collector.metric("emissions_collector_intensity_calls_total", outcome="answered") == 1


def test_the_next_hour_is_one_more_call(collector, api, fake, clock) -> None:
    token = api.token()
    for _ in range(3):
        assert asked(collector, token).status_code == 200
    clock.now_s += 3600
    for _ in range(3):
        assert asked(collector, token).status_code == 200
    assert len(fake.requests) == 2


def test_pods_that_ask_at_once_wait_for_one_answer(collector, api, fake) -> None:
    going = threading.Event()
    plain = fake.behave

    def slow(handler):
        going.wait(PATIENCE_S)
        plain(handler)

    fake.behave = slow
    tokens = [api.token(pod=f"p{n}", pod_uid=f"uid-{n}") for n in range(30)]
    with ThreadPoolExecutor(30) as pool:
        answers = [pool.submit(asked, collector, token) for token in tokens]
        going.set()
        assert {answer.result().status_code for answer in answers} == {200}
    assert len(fake.requests) == 1


def test_two_collectors_call_once_each(start, source, api, fake) -> None:
    for collector in (start(intensity=source()), start(intensity=source())):
        for _ in range(5):
            assert asked(collector, api.token()).status_code == 200
    assert len(fake.requests) == 2


def test_two_collectors_that_share_a_directory_call_once(
    start, source, api, fake, tmp_path
) -> None:
    shared = {"intensity_cache": str(tmp_path / "shared")}
    for collector in (start(intensity=source(**shared)), start(intensity=source(**shared))):
        for _ in range(5):
            assert asked(collector, api.token()).status_code == 200
    assert len(fake.requests) == 1


@pytest.mark.needs("azurite")
def test_two_collectors_of_one_container_call_once(  # noqa: PLR0917 - fixtures
    start, source, api, fake, azurite, container_name
) -> None:
    where = {"EMISSIONS_BLOB_CONNECTION_STRING": azurite.connection_string}
    settings = load_settings({**SOURCE, "blob_container": container_name}, where)
    sources = [replace(source(), shared=open_shared_series(settings, {})) for _ in range(2)]
    collectors = [start(intensity=one) for one in sources]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda one: asked(one, api.token()), collectors * 2))
    assert {answer.status_code for answer in answers} == {200}
    assert len(fake.requests) == 1


def test_a_pod_is_not_told_of_another_zone(collector, api, fake) -> None:
    told = refused(asked(collector, api.token(), "DE"), 403, "other_zone")
    assert told == "the pod's node is in zone 'NL', not in 'DE'"
    assert fake.requests == []


@pytest.mark.parametrize("zone", ["", "XX", "NL%26zone%3DDE", "../../admin", "N" * 5000, "%00"])
def test_what_is_no_zone_of_the_catalogue_is_never_asked_about(collector, api, fake, zone) -> None:
    refused(asked(collector, api.token(), zone), 400, "no_such_zone")
    assert fake.requests == []


def test_where_the_token_names_no_node_each_zone_of_the_catalogue_is_asked_about_once(
    collector, api, fake
) -> None:
    zones = sorted(all_zones(zones_of(load_settings(SOURCE, {}), CATALOGUE), CATALOGUE))
    for zone in zones * 2:
        assert asked(collector, api.token(node=None), zone).status_code == 200
    assert len(fake.requests) == len(zones) < 60


def test_a_node_whose_region_is_not_known_may_ask_for_a_zone_of_the_catalogue(
    collector, api
) -> None:
    api.add_node("bare", {})
    api.add_node("moon", {**AKS_LABELS, "topology.kubernetes.io/region": "moonbase"})
    assert asked(collector, api.token(node="bare"), "DE").status_code == 200
    assert asked(collector, api.token(node="moon"), "FR").status_code == 200


def test_a_zone_that_is_set_holds_for_all(start, source, api, fake) -> None:
    collector = start(intensity=source(intensity_zone="NL-PRIVATE"))
    assert asked(collector, api.token(), "NL-PRIVATE").status_code == 200
    refused(asked(collector, api.token(), "NL"), 400, "no_such_zone")


def test_nobody_is_told_without_a_token(collector, fake) -> None:
    refused(collector.get("/v1/intensity?zone=NL"), 401, "no_token")
    assert fake.requests == []


def test_a_pod_that_asks_too_often_is_asked_to_come_again(collector, api, fake) -> None:
    token = api.token()
    statuses = [asked(collector, token).status_code for _ in range(130)]
    assert set(statuses) == {200, 429}
    assert len(fake.requests) == 1


def test_a_collector_without_a_source_says_so(start, api) -> None:
    refused(asked(start(), api.token()), 404, "no_intensity_source")


def test_a_service_that_fails_is_not_asked_for_each_pod(collector, api, fake, clock) -> None:
    fake.always = respond(500, detail="broken")
    for number in range(20):
        response = asked(collector, api.token(pod_uid=f"uid-{number}"))
        assert "500: told_to" in refused(response, 503, "no_intensity")
        assert int(response.headers["Retry-After"]) == 300
    assert len(fake.requests) == 1
    assert collector.metric("emissions_collector_intensity_calls_total", outcome="failed") == 1


def test_what_is_known_is_told_while_the_service_fails(collector, api, fake, clock) -> None:
    asked(collector, api.token())
    fake.always = respond(503)
    clock.now_s += 3600
    response = asked(collector, api.token())
    assert response.status_code == 200
    assert decoded(response.content).asked_at_s == NOW_S


def test_a_forecast_is_told_to_who_asks_for_it_and_asked_for_once(collector, api, fake) -> None:
    assert decoded(asked(collector, api.token()).content).foreseen == ()
    for _ in range(3):
        response = asked(collector, api.token(), forecast="true")
    assert len(decoded(response.content).foreseen) == 24
    assert len(fake.asked("forecast")) == 1


def test_a_plan_without_forecasts_is_told(collector, api, fake) -> None:
    asked(collector, api.token())
    fake.faults.append(respond(403, error="x", detail="not in your plan"))
    refused(asked(collector, api.token(), forecast="true"), 503, "no_intensity")


def test_an_api_server_that_fails_is_worth_another_try(collector, api, fake) -> None:
    token = api.token()
    collector.get("/v1/node", token)
    api.mode = "forbidden"
    other = api.token(node="another", pod_uid="u2")
    refused(asked(collector, other), 503, "kubernetes_api")
    assert fake.requests == []


def test_segments_are_taken_while_a_service_hangs(collector, api, fake) -> None:
    fake.always = hang
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(asked, collector, api.token(pod_uid="uid-2"))
        assert collector.get("/v1/node", api.token()).status_code == 200
        fake.release()
        assert waiting.result().status_code == 503


def test_a_pods_records_arrive_with_the_intensity_that_the_collector_told(
    start, api, root, token_file, tmp_path
) -> None:
    with FakeIntensity(time.time) as service:
        settings = load_settings(SOURCE, {})
        zone_of = zones_of(settings, CATALOGUE)
        em = ElectricityMaps(token_file, service.url)
        zones = all_zones(zone_of, CATALOGUE)
        collector = start(intensity=IntensitySource(em, zone_of, zones, settings))
        (tmp_path / "pod-token").write_text(api.token())
        pod = environment(
            POD_UID=POD.pod_uid, POD_NAME=POD.pod, POD_NAMESPACE=POD.namespace, NODE_NAME=POD.node
        )
        kept = tmp_path / "volume/intensity/electricity-maps.NL.json"
        until_told = f"until test -e {kept}; do sleep 0.1; done; sleep 2"
        metered = sidecar(
            "exec", "--volume", tmp_path / "volume", "--region", "westeurope", "--interval", "1s",
            "--transport", "collector", "--collector-url", collector.url,
            "--collector-token-file", tmp_path / "pod-token",
            "--intensity-source", "electricity-maps", "--", "sh", "-c", until_told, env=pod,
        )  # fmt: skip
        assert metered.code == 0, metered.stderr
        assert len(service.requests) == 1
    rows = [
        json.loads(line)
        for name in stored_files(root)
        for line in decompressed((root / name).read_bytes()).splitlines()
    ]
    assert len(rows) >= 3
    assert {row["carbon_intensity_kind"] for row in rows} == {"observed"}
    assert {row["carbon_intensity_source"] for row in rows} == {
        "Electricity Maps API v3, zone NL, hourly, life cycle"
    }


def test_the_command_serves_a_schedule(api, tmp_path) -> None:
    file = tmp_path / "schedule.csv"
    file.write_text("hour,g_per_kwh\n" + "".join(f"{hour},{hour}\n" for hour in range(24)))
    stored = tmp_path / "stored"
    stored.mkdir()
    flags = ("--backend", "directory", "--transport-directory", str(stored))
    more = ("--intensity-source", "schedule", "--intensity-file", str(file))
    with CollectorProcess(api, tmp_path, *flags, *more) as process:
        client_file = tmp_path / "token"
        client_file.write_text(api.token())
        client = CollectorClient(process.url(), client_file)
        series = Collected(client, "schedule").observed("schedule", 0.0)
    assert len(series.known) >= 54
    assert series.source == "schedule: schedule.csv"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"intensity_source": "schedule"}, "needs a file"),
        ({"intensity_source": "schedule", "intensity_file": "/none"}, "cannot be read"),
        ({"intensity_source": "electricity-maps"}, "needs a token"),
        ({"intensity_source": "carbon-aware"}, "needs the address"),
        ({"intensity_source": "uk", "intensity_zone": "DE"}, "neither GB"),
    ],
)
def test_what_is_missing_is_told_before_it_serves(flags, told) -> None:
    with pytest.raises(SettingsError, match=told):
        open_intensity(load_settings(flags, {}))


def test_averages_need_no_source() -> None:
    assert open_intensity(load_settings({}, {})) is None
