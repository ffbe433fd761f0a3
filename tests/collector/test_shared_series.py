"""What replicas share in the container of the records: one call for all, which storage delays little."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from sidecar.carbon.electricity_maps import ElectricityMaps
from sidecar.carbon.encoding import decoded
from sidecar.carbon.keeper import IntensityKeeper
from sidecar.carbon.uk import Uk
from sidecar.collector import shared_series
from sidecar.collector.shared_series import open_shared_series
from sidecar.settings import load_settings
from tests.carbon.conftest import NOW_S
from tests.fakes.intensity import EM_TOKEN

SOURCE = {"intensity_source": "uk"}
NAME = "intensity/v1/uk.GB.json"

pytestmark = pytest.mark.needs("azurite")


@pytest.fixture
def opened(azurite, container_name):
    """Open what a replica shares; all are closed at the end."""
    made = []

    def one(environ=None, **flags):
        given = {**SOURCE, "blob_container": container_name, **flags}
        where = {"EMISSIONS_BLOB_CONNECTION_STRING": azurite.connection_string}
        shared = open_shared_series(load_settings(given, environ or where), {})
        made.append(shared)
        return shared

    yield one
    for shared in made:
        shared.close()


@pytest.fixture
def replica(opened, fake, clock):
    return lambda **given: IntensityKeeper(Uk(fake.url), clock=clock, shared=opened(**given))


def test_replicas_ask_once_an_hour_together(replica, fake, clock):
    replicas = [replica() for _ in range(3)]
    for hours in range(3):
        clock.now_s = NOW_S + 3600 * hours
        with ThreadPoolExecutor(6) as pool:
            series = list(pool.map(lambda one: one.renew("GB"), replicas * 2))
        assert {one.asked_at_s for one in series} == {clock.now_s}
        assert len(fake.requests) == hours + 1


def test_a_forecast_is_shared_too(opened, fake, clock, tmp_path):
    token_file = tmp_path / "token"
    token_file.write_text(EM_TOKEN)
    for _ in range(2):
        keeper = IntensityKeeper(
            ElectricityMaps(token_file, fake.url), clock=clock, shared=opened()
        )
        assert keeper.renew("NL").known
        assert keeper.renew("NL", "forecast").foreseen
    assert len(fake.requests) == 2


def test_a_replica_that_starts_again_does_not_ask_again(replica, fake):
    for _ in range(2):
        assert replica().renew("GB") is not None
    assert len(fake.requests) == 1


def test_services_at_other_addresses_are_not_taken_for_one_another(replica, fake):
    for address in ("http://one.example", "http://other.example"):
        replica(intensity_url=address).renew("GB")
    assert len(fake.requests) == 2


def test_a_replica_that_died_while_it_asked_holds_up_the_others_for_some_seconds(
    replica, opened, fake, monkeypatch
):
    monkeypatch.setattr(shared_series, "ALONE_WITHIN_S", 0.5)
    with opened().alone("uk", "GB"):
        assert replica().renew("GB") is not None
    assert len(fake.requests) == 1


def test_a_sas_that_may_read_create_and_write_is_enough(
    replica, fake, azurite, container_name, caplog
):
    sas = azurite.sas(container_name, permission="rcw")
    environ = {"EMISSIONS_BLOB_ACCOUNT_URL": azurite.blob_endpoint, "EMISSIONS_BLOB_SAS": sas}
    for _ in range(2):
        assert replica(environ=environ).renew("GB") is not None
    assert len(fake.requests) == 1
    assert "is not shared" not in caplog.text


def _of_no_container(azurite, container_name):
    return {"EMISSIONS_BLOB_CONNECTION_STRING": azurite.connection_string}, f"{container_name}-none"


def _of_nobody(azurite, container_name):
    nobody = azurite.connection_string_at("127.0.0.1", 1)
    return {"EMISSIONS_BLOB_CONNECTION_STRING": nobody}, container_name


def _of_who_may_only_create(azurite, container_name):
    sas = azurite.sas(container_name, permission="c")
    url = azurite.blob_endpoint
    return {"EMISSIONS_BLOB_ACCOUNT_URL": url, "EMISSIONS_BLOB_SAS": sas}, container_name


@pytest.mark.parametrize("of", [_of_no_container, _of_nobody, _of_who_may_only_create])
def test_where_storage_does_not_play_along_a_replica_asks_for_itself_and_says_why(
    replica, azurite, container_name, caplog, of
):
    environ, container = of(azurite, container_name)
    keeper = replica(environ=environ, blob_container=container)
    assert keeper.renew("GB") is not None
    assert keeper.renew("GB", "forecast") is not None
    (told,) = [record.message for record in caplog.records if "is not shared" in record.message]
    assert "sig=" not in told


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"x" * 300_000], ids=["empty", "cut", "list", "long"]
)
def test_an_answer_that_is_none_is_written_anew(replica, fake, azurite, container_name, content):
    azurite.put(container_name, NAME, content)
    assert replica().renew("GB") is not None
    assert len(fake.requests) == 1
    assert decoded(azurite.blobs(container_name)[NAME]).zone == "GB"


@pytest.mark.parametrize(
    "flags",
    [
        {"intensity_source": "catalogue"},
        {"intensity_source": "schedule"},
        {"intensity_cache": "somewhere"},
        {"backend": "directory"},
    ],
)
def test_nothing_is_shared_where_nobody_is_asked_or_another_place_is_named(flags):
    assert open_shared_series(load_settings({**SOURCE, **flags}, {}), {}) is None
