"""The Blob transport against the real Azurite, and through a proxy that fails."""

import datetime
import itertools
import socket
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.segment import SegmentName
from sidecar.settings import Settings, SettingsError
from sidecar.transport.blob import BlobTransport
from sidecar.transport.blob_container import open_container
from sidecar.transport.delivery import Undelivered
from tests.fakes.azurite import KEY
from tests.transport.conftest import IN_TIME_S, otherwise_compressed, parcel

pytestmark = pytest.mark.needs("node", "azurite")

HOUR = datetime.timedelta(hours=1)
WRONG_KEY = "d3Jvbmcga2V5IHdyb25nIGtleSB3cm9uZyBrZXkgd3Jvbmcga2V5IHdyb25nIGtleSB3cm9uZyBrZXk="


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def undelivered(
    transport: BlobTransport, segment=None, timeout_s: float = IN_TIME_S
) -> Undelivered:
    """What a delivery that must fail says: one line, no secret."""
    with pytest.raises(Undelivered) as raised:
        transport.deliver(segment or parcel(), timeout_s)
    assert "\n" not in str(raised.value)
    told = "".join(traceback.format_exception(raised.value))
    assert "sig=" not in told
    assert KEY not in told
    assert "AccountKey=" not in told
    return raised.value


def test_a_segment_becomes_a_blob_under_its_name(shipping):
    segment = parcel()
    assert shipping.by_key().deliver(segment, IN_TIME_S) == "created"
    assert shipping.blobs == {segment.blob_name: segment.content}


def test_a_blob_tells_its_type_its_digest_and_its_records(shipping):
    segment = parcel()
    shipping.by_key().deliver(segment, IN_TIME_S)
    with shipping.azurite.container(shipping.container) as client:
        properties = client.get_blob_client(segment.blob_name).get_blob_properties()
    assert properties.content_settings.content_type == "application/gzip"
    assert properties.metadata == {"sha256": segment.sha256, "records": "1"}


def test_the_same_segment_again_is_there_already(shipping):
    transport = shipping.by_key()
    transport.deliver(parcel(), IN_TIME_S)
    assert transport.deliver(parcel(), IN_TIME_S) == "existing"


def test_the_same_records_in_other_bytes_are_there_already(shipping):
    segment = parcel()
    transport = shipping.by_key()
    transport.deliver(segment, IN_TIME_S)
    assert transport.deliver(otherwise_compressed(segment), IN_TIME_S) == "existing"
    assert shipping.blobs == {segment.blob_name: segment.content}


def test_other_content_under_the_name_is_refused_and_kept(shipping):
    first = parcel(energy_kwh=1)
    transport = shipping.by_key()
    transport.deliver(first, IN_TIME_S)
    refusal = undelivered(transport, parcel(energy_kwh=2))
    assert refusal.refused
    assert "holds other content under this name" in str(refusal)
    assert shipping.blobs == {first.blob_name: first.content}


def test_a_blob_with_a_digest_is_not_downloaded_to_compare(shipping, proxy):
    transport = shipping.through(proxy)
    for _ in range(2):
        transport.deliver(parcel(), IN_TIME_S)
    assert [request.method for request in proxy.requests] == ["PUT", "PUT", "HEAD"]


def test_a_blob_without_a_digest_is_compared_by_its_records(shipping):
    segment = parcel()
    stored = otherwise_compressed(segment).content
    shipping.azurite.put(shipping.container, segment.blob_name, stored)
    assert shipping.by_key().deliver(segment, IN_TIME_S) == "existing"


@pytest.mark.parametrize("stored", [b"", b"no gzip", parcel(energy_kwh=3).content])
def test_a_blob_without_a_digest_and_with_other_content_refuses(shipping, stored):
    segment = parcel()
    shipping.azurite.put(shipping.container, segment.blob_name, stored)
    assert undelivered(shipping.by_key(), segment).refused


def test_of_eight_that_deliver_the_same_at_once_one_creates(shipping):
    transport = shipping.by_key()
    with ThreadPoolExecutor(8) as threads:
        deliveries = threads.map(lambda _: transport.deliver(parcel(), IN_TIME_S), range(8))
        assert sorted(deliveries) == ["created"] + ["existing"] * 7
    assert len(shipping.blobs) == 1


@pytest.mark.parametrize(
    "project",
    ["../../etc", "a/b", "é è", "😀" * 200, "100%", "a%2Fb", "..", "a b+c#d?e", "~x", "\u202e"],
)
def test_blobs_are_listed_by_exactly_the_name_asked_for(shipping, project):
    segment = parcel(project=project)
    transport = shipping.by_key()
    transport.deliver(segment, IN_TIME_S)
    assert list(shipping.blobs) == [segment.blob_name]
    assert transport.exists(segment.blob_name)
    assert segment.blob_name.count("/") == 5
    assert SegmentName.of_file(segment.blob_name.rpartition("/")[2]) is not None


@pytest.mark.parametrize("name", ["", "a/../b", "/a", "a//b", "a\0b", "a\\b", "./a", "a" * 1025])
def test_what_is_no_blob_name_is_refused_for_good(shipping, name):
    from dataclasses import replace

    refusal = undelivered(shipping.by_key(), replace(parcel(), blob_name=name))
    assert refusal.refused
    assert "is no blob name" in str(refusal)
    assert shipping.blobs == {}


def test_exists_tells_what_is_there(shipping):
    transport = shipping.by_key()
    assert not transport.exists(parcel().blob_name)
    transport.deliver(parcel(), IN_TIME_S)
    assert transport.exists(parcel().blob_name)


def test_exists_without_the_container_is_no_answer(shipping):
    with pytest.raises(Undelivered, match="there is no such container"):
        shipping.by_key(blob_container="absent").exists(parcel().blob_name)


def test_the_destination_holds_no_secret(shipping):
    expected = f"{shipping.azurite.blob_endpoint}/{shipping.container}"
    assert shipping.by_key().destination == expected
    assert shipping.by_sas("c").destination == expected


# ---- credentials


def test_a_create_only_sas_is_enough(shipping):
    assert shipping.by_sas("c").deliver(parcel(), IN_TIME_S) == "created"


def test_a_sas_may_begin_with_a_question_mark(shipping):
    sas = "?" + shipping.azurite.sas(shipping.container, "c")
    transport = shipping.by(blob_account_url=shipping.azurite.blob_endpoint, blob_sas=sas)
    assert transport.deliver(parcel(), IN_TIME_S) == "created"


def test_a_sas_in_a_connection_string_is_known_as_one(shipping):
    sas = shipping.azurite.sas(shipping.container, "c", expiry=now() - HOUR)
    endpoint = shipping.azurite.blob_endpoint
    transport = shipping.by(
        blob_connection_string=f"BlobEndpoint={endpoint};SharedAccessSignature={sas}"
    )
    assert "the SAS expired at" in str(undelivered(transport))
    assert "sig" not in transport.destination


def test_a_replay_with_a_create_only_sas_is_there_already_where_an_answer_was_lost(shipping, proxy):
    transport = shipping.through(proxy, sas="c")
    proxy.drop_answer(faults=1)
    undelivered(transport)
    assert transport.deliver(parcel(), IN_TIME_S) == "existing"


def test_a_replay_with_a_create_only_sas_is_told_where_no_answer_was_lost(shipping):
    shipping.by_sas("c").deliver(parcel(), IN_TIME_S)
    another_process = shipping.by_sas("c")
    for _ in range(2):  # that it was told once makes it no replay
        failure = undelivered(another_process)
        assert not failure.refused
        assert "the SAS (sp=c) does not allow this, or the blob exists" in str(failure)
        assert "sp=cr" in str(failure)


def test_what_an_earlier_process_stored_is_known_once_the_sas_has_created_beside_it(shipping):
    """So a killed process's segment, stored but not yet deleted, does not stay on the volume."""
    shipping.by_sas("c").deliver(parcel(1), IN_TIME_S)
    another_process = shipping.by_sas("c")
    assert another_process.deliver(parcel(2), IN_TIME_S) == "created"
    assert another_process.deliver(parcel(1), IN_TIME_S) == "existing"


def test_a_sas_whose_rights_may_be_taken_away_is_not_believed(shipping):
    """Of a user delegation (skoid): its delegator may lose the role between two segments."""
    shipping.by_sas("c").deliver(parcel(1), IN_TIME_S)
    another_process = shipping.by_sas("c")
    another_process._access = replace(another_process._access, is_lasting=False)
    another_process.deliver(parcel(2), IN_TIME_S)
    assert "does not allow this, or the blob exists" in str(undelivered(another_process, parcel(1)))


def test_what_a_sas_created_for_one_project_says_nothing_of_another(shipping):
    """A SAS may be limited to one folder."""
    other = parcel(1, project="other")
    shipping.by_sas("c").deliver(other, IN_TIME_S)
    another_process = shipping.by_sas("c")
    another_process.deliver(parcel(2), IN_TIME_S)
    with pytest.raises(Undelivered, match="does not allow this, or the blob exists"):
        another_process.deliver(other, IN_TIME_S)


def test_a_sas_that_may_not_create_at_all_is_no_replay_where_an_answer_was_lost(shipping, proxy):
    transport = shipping.through(proxy, sas="r")
    proxy.black_hole(faults=1)
    undelivered(transport, timeout_s=0.2)
    assert "the SAS (sp=r) does not allow this" in str(undelivered(transport))


def test_a_refusal_after_a_connection_that_failed_is_not_taken_for_a_replay(shipping, proxy):
    """Nothing was sent, so nothing can be there: the segment must not be given up."""
    shipping.by_sas("c").deliver(parcel(), IN_TIME_S)
    transport = shipping.through(proxy, sas="c")
    proxy.refuse()
    undelivered(transport)
    proxy.pass_on()
    assert "does not allow this" in str(undelivered(transport))


def test_azures_own_answer_to_a_replay_with_a_create_only_sas_is_understood(shipping, proxy):
    transport = shipping.through(proxy, sas="c")
    transport.deliver(parcel(), IN_TIME_S)
    code = {"x-ms-error-code": "UnauthorizedBlobOverwrite"}
    proxy.status(403, code, faults=1)  # then the look, which Azurite itself does not allow
    assert transport.deliver(parcel(), IN_TIME_S) == "existing"


def test_with_a_sas_to_create_and_write_a_replay_is_there_already(shipping):
    transport = shipping.by_sas("cw")
    transport.deliver(parcel(), IN_TIME_S)
    assert transport.deliver(parcel(), IN_TIME_S) == "existing"


def test_with_a_sas_to_create_and_read_other_content_is_refused(shipping):
    shipping.by_key().deliver(parcel(energy_kwh=1), IN_TIME_S)
    assert undelivered(shipping.by_sas("crw"), parcel(energy_kwh=2)).refused


def test_an_expired_sas_says_when_it_expired(shipping):
    expiry = now() - HOUR
    failure = undelivered(shipping.by_sas("c", expiry=expiry))
    assert not failure.refused
    assert f"the SAS expired at {expiry:%Y-%m-%dT%H:%M:%SZ}; give a new one" in str(failure)


def test_a_sas_that_is_not_yet_valid_says_from_when(shipping):
    start = now() + HOUR
    failure = undelivered(shipping.by_sas("c", start=start, expiry=start + HOUR))
    assert not failure.refused
    assert f"not valid before {start:%Y-%m-%dT%H:%M:%SZ}" in str(failure)


def test_a_sas_that_allows_only_to_read_is_told(shipping):
    failure = undelivered(shipping.by_sas("r"))
    assert not failure.refused
    assert "the SAS (sp=r) does not allow this" in str(failure)


def test_a_wrong_key_is_told(shipping):
    azurite = shipping.azurite
    text = azurite.connection_string_at("127.0.0.1", azurite.port, WRONG_KEY)
    failure = undelivered(shipping.by(blob_connection_string=text))
    assert not failure.refused
    assert "answered 403" in str(failure)
    assert "the account key is wrong" in str(failure)
    assert WRONG_KEY not in str(failure)


def test_a_key_that_is_none_is_told(shipping):
    azurite = shipping.azurite
    text = azurite.connection_string_at("127.0.0.1", azurite.port, "no-base64!")
    failure = undelivered(shipping.by(blob_connection_string=text))
    assert not failure.refused
    assert "key" in str(failure)
    assert "no-base64!" not in str(failure)


def test_a_missing_container_is_told(shipping):
    failure = undelivered(shipping.by_key(blob_container="absent"))
    assert not failure.refused
    assert "/absent: answered 404 ContainerNotFound: there is no such container" in str(failure)


def test_a_clock_far_ahead_is_told_where_authentication_failed(shipping, proxy):
    in_the_past = format_datetime(now() - datetime.timedelta(minutes=42), usegmt=True)
    proxy.status(403, {"x-ms-error-code": "AuthenticationFailed", "Date": in_the_past})
    failure = undelivered(shipping.through(proxy))
    assert not failure.refused
    assert "this machine's clock is 42 min ahead of that of the storage service" in str(failure)


def test_a_clock_far_behind_is_told_by_a_real_answer(shipping):
    azurite = shipping.azurite
    text = azurite.connection_string_at("127.0.0.1", azurite.port, WRONG_KEY)
    late = shipping.by(blob_connection_string=text, now=(now() - HOUR).timestamp)
    assert "this machine's clock is 60 min behind" in str(undelivered(late))


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (403, "KeyBasedAuthenticationNotPermitted", "use workload identity"),
        (403, "AccountIsDisabled", "the storage account is disabled"),
        (409, "ContainerBeingDeleted", "the container is being deleted"),
        (400, "InvalidHeaderValue", "API version 2025-01-05 may be unknown"),
        (500, "InternalError", "it is tried again later"),
        (502, "", "it is tried again later"),
    ],
)
def test_what_may_be_repaired_is_told_and_not_refused(shipping, proxy, status, code, told):
    proxy.status(status, {"x-ms-error-code": code} if code else {})
    failure = undelivered(shipping.through(proxy, blob_container="absent"))
    assert not failure.refused
    assert told in str(failure)


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "InvalidUri"), (400, "OutOfRangeInput"), (413, "RequestBodyTooLarge")],
)
def test_what_can_never_be_stored_is_refused(shipping, proxy, status, code):
    proxy.status(status, {"x-ms-error-code": code})
    assert undelivered(shipping.through(proxy)).refused


# ---- networks


def test_a_refused_connection_is_told_at_once(shipping, proxy):
    proxy.refuse()
    failure = undelivered(shipping.through(proxy))
    assert not failure.refused
    assert f"127.0.0.1:{proxy.port}: refuses connections" in str(failure)


def test_a_name_that_cannot_be_resolved_is_told(shipping, monkeypatch):
    def unknown(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    sas = shipping.azurite.sas(shipping.container, "c")
    transport = shipping.by(blob_account_url="https://absent.localhost", blob_sas=sas)
    failure = undelivered(transport)
    assert not failure.refused
    assert "absent.localhost: cannot be resolved (Name or service not known)" in str(failure)


def test_an_answer_lost_after_the_commit_is_found_on_the_next_attempt(shipping, proxy):
    transport = shipping.through(proxy)
    proxy.drop_answer(faults=1)
    failure = undelivered(transport)
    assert "closed the connection without an answer" in str(failure)
    assert list(shipping.blobs) == [parcel().blob_name]
    assert transport.deliver(parcel(), IN_TIME_S) == "existing"


def test_a_request_is_sent_once_per_attempt(shipping, proxy):
    transport = shipping.through(proxy)
    proxy.drop_answer()
    undelivered(transport)
    assert [request.method for request in proxy.requests] == ["PUT"]


def test_a_black_hole_ends_by_the_deadline(shipping, proxy):
    transport = shipping.through(proxy)
    proxy.black_hole()
    failure = undelivered(transport, timeout_s=0.3)
    assert "did not answer in time" in str(failure)
    proxy.pass_on()
    assert transport.deliver(parcel(), IN_TIME_S) == "created"


def test_an_answer_that_drips_ends_by_the_deadline(shipping, proxy):
    """Each byte comes in time, so no timeout of a socket ends it."""
    transport = shipping.through(proxy)
    proxy.drip_answer(20)
    failure = undelivered(transport, timeout_s=0.5)
    assert "did not answer in time" in str(failure)


def test_what_hangs_does_not_pile_up(shipping, proxy):
    transport = shipping.through(proxy)
    proxy.drip_answer(20)
    before = set(threading.enumerate())
    for sequence in itertools.count():  # on a slow machine some end by themselves meanwhile
        seen = len(proxy.requests)
        undelivered(transport, parcel(sequence), timeout_s=0.2)
        hanging = [t for t in set(threading.enumerate()) - before if t.name == "blob-request"]
        assert len(hanging) <= 8
        if len(hanging) == 8 and len(proxy.requests) == seen:
            break  # none is sent beside them


def test_a_body_cut_in_the_middle_leaves_no_blob(shipping, proxy):
    transport = shipping.through(proxy)
    proxy.cut_request(after_bytes=20, faults=1)
    assert not undelivered(transport).refused
    assert shipping.blobs == {}
    assert transport.deliver(parcel(), IN_TIME_S) == "created"


def test_a_slow_network_delivers_all_the_same(shipping, proxy):
    proxy.slow(10_000)
    segment = parcel()
    assert shipping.through(proxy).deliver(segment, IN_TIME_S) == "created"
    assert shipping.blobs == {segment.blob_name: segment.content}


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_says_when_to_come_again(shipping, proxy, status):
    proxy.status(status, {"Retry-After": "17", "x-ms-error-code": "ServerBusy"}, faults=1)
    transport = shipping.through(proxy)
    failure = undelivered(transport)
    assert failure.retry_after_s == 17
    assert not failure.refused
    assert f"answered {status} ServerBusy: the storage service is busy" in str(failure)
    assert transport.deliver(parcel(), IN_TIME_S) == "created"


def test_retry_after_may_be_a_date(shipping, proxy):
    moment = now().replace(microsecond=0)
    headers = {
        "Date": format_datetime(moment, usegmt=True),
        "Retry-After": format_datetime(moment + datetime.timedelta(seconds=90), usegmt=True),
    }
    proxy.status(503, headers)
    assert undelivered(shipping.through(proxy)).retry_after_s == 90


@pytest.mark.parametrize("text", ["", "soon", "-5", "1e9", "nan", "٣"])
def test_a_retry_after_that_is_none_is_passed_over(shipping, proxy, text):
    proxy.status(503, {"Retry-After": text.encode().decode("latin-1")})
    assert undelivered(shipping.through(proxy)).retry_after_s is None


@pytest.mark.parametrize("status", [200, 204, 301, 304, 307, 404, 408, 409, 412, 416, 501, 599])
@pytest.mark.parametrize("body", [b"", b"<html>\xff", b'{"error": "x"}', b"<a><Code/></a>"])
def test_no_answer_makes_it_raise_anything_but_undelivered(shipping, proxy, status, body):
    transport = shipping.through(proxy, sas="c")
    proxy.status(status, {"Content-Type": "application/xml"}, body)
    assert not undelivered(transport).refused
    if status > 299:
        with pytest.raises(Undelivered):
            transport.check()
        with pytest.raises(Undelivered):
            transport.exists(parcel().blob_name)


def test_a_pod_without_a_thread_to_spare_tells_so(shipping, monkeypatch):
    transport = shipping.by_key()

    def exhausted(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", exhausted)
    assert "can't start new thread" in str(undelivered(transport))


def test_after_close_a_delivery_is_undelivered(shipping):
    transport = shipping.by_key()
    transport.deliver(parcel(1), IN_TIME_S)
    transport.close()
    assert not undelivered(transport, parcel(2)).refused


# ---- check


def test_check_passes_where_the_container_is(shipping):
    shipping.by_key().check()


def test_check_passes_with_a_sas_that_may_only_create(shipping):
    shipping.by_sas("c").check()


def test_check_finds_the_container_missing(shipping):
    with pytest.raises(Undelivered, match="there is no such container"):
        shipping.by_key(blob_container="absent").check()


def test_check_finds_the_sas_expired(shipping):
    with pytest.raises(Undelivered, match="the SAS expired"):
        shipping.by_sas("c", expiry=now() - HOUR).check()


def test_check_finds_the_key_wrong(shipping):
    azurite = shipping.azurite
    text = azurite.connection_string_at("127.0.0.1", azurite.port, WRONG_KEY)
    with pytest.raises(Undelivered, match="the account key is wrong"):
        shipping.by(blob_connection_string=text).check()


def test_check_finds_the_service_gone(shipping, proxy):
    proxy.refuse()
    with pytest.raises(Undelivered, match="refuses connections"):
        shipping.through(proxy).check()


# ---- settings


def test_without_an_address_it_is_said_what_to_set():
    with pytest.raises(SettingsError, match="set EMISSIONS_BLOB_ACCOUNT_URL"):
        open_container(Settings(), {})


@pytest.mark.parametrize("other", ["blob_account_url", "blob_sas"])
def test_a_connection_string_stands_alone(azurite, other):
    settings = Settings(blob_connection_string=azurite.connection_string, **{other: "https://x"})
    with pytest.raises(SettingsError, match=f"EMISSIONS_{other.upper()} are both given"):
        open_container(settings, {})


@given(text=st.text(min_size=1))
def test_what_is_no_connection_string_is_said_without_showing_it(text):
    try:
        open_container(Settings(blob_connection_string="AccountKey=secret;" + text), {}).close()
    except SettingsError as error:
        assert "is no connection string" in str(error)
        assert "secret" not in str(error)


@pytest.mark.parametrize("sas", ["sv=2025", "https://x.blob.core.windows.net/c?sig=secret"])
def test_what_is_no_sas_is_said_without_showing_it(sas):
    settings = Settings(blob_account_url="https://x.blob.core.windows.net", blob_sas=sas)
    with pytest.raises(SettingsError, match="no shared access signature") as raised:
        open_container(settings, {})
    assert sas not in str(raised.value)
