"""Delivery through a collector on loopback that answers well, badly or not at all."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.collector_client import CollectorClient
from sidecar.segment import Parcel, compressed, decompressed, parcel_of
from sidecar.transport.collector import CollectorTransport
from sidecar.transport.delivery import Transport, Undelivered
from tests.fakes import collector as fake
from tests.fakes.collector import TOKEN, Caller, FakeCollector, make_certificate

LONG_S = 30.0
"""Longer than any of these tests takes; only a failing one waits for it."""

SHORT_S = 0.3
OWN_UID = "7d5b1f6e-0000-4000-8000-000000000001"
GONE_UID = "7d5b1f6e-0000-4000-8000-000000000002"


def segment(
    sequence: int = 1, *, pod_uid: str = OWN_UID, receipt: str | None = None, kwh: float = 0.5
) -> Parcel:
    record = {
        "record_id": f"{pod_uid}.boot.{sequence}",
        "window_start": "2026-11-01T12:00:00Z",
        "project": "../é",
        "energy_kwh": kwh,
    }
    parcel = parcel_of(compressed(json.dumps(record).encode() + b"\n"))
    return replace(parcel, receipt=receipt)


@pytest.fixture
def collector() -> Iterator[FakeCollector]:
    with FakeCollector() as started:
        yield started


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    return file


@pytest.fixture
def transport(collector: FakeCollector, token_file: Path) -> CollectorTransport:
    return CollectorTransport(CollectorClient(collector.url, token_file))


def undelivered(
    transport: Transport, parcel: Parcel | None = None, timeout_s: float = LONG_S
) -> Undelivered:
    with pytest.raises(Undelivered) as raised:
        transport.deliver(parcel or segment(), timeout_s)
    text = str(raised.value)
    assert text.isprintable()
    assert TOKEN not in text
    return raised.value


# -- delivered ----------------------------------------------------------------------------------


def test_a_new_segment_is_created(collector: FakeCollector, transport: CollectorTransport) -> None:
    parcel = segment()
    assert transport.deliver(parcel, LONG_S) == "created"
    assert collector.blobs == {parcel.blob_name: parcel.content}


def test_the_same_segment_again_is_existing(transport: CollectorTransport) -> None:
    parcel = segment()
    again = replace(parcel, content=gzip.compress(decompressed(parcel.content), 1, mtime=5))
    transport.deliver(parcel, LONG_S)
    assert transport.deliver(again, LONG_S) == "existing"


def test_an_answer_lost_after_the_commit_does_no_harm(
    collector: FakeCollector, transport: CollectorTransport
) -> None:
    collector.faults.append(fake.drop_answer)
    assert not undelivered(transport).refused
    assert len(collector.blobs) == 1
    assert transport.deliver(segment(), LONG_S) == "existing"


def test_a_token_that_rotated_is_used_for_the_next_attempt(
    collector: FakeCollector, transport: CollectorTransport, token_file: Path
) -> None:
    collector.callers["rotated"] = collector.callers.pop(TOKEN)
    undelivered(transport)
    token_file.write_text("rotated")
    assert transport.deliver(segment(), LONG_S) == "created"


def test_the_segment_of_a_pod_that_is_gone_is_handed_over(
    collector: FakeCollector, transport: CollectorTransport
) -> None:
    collector.gone.add(GONE_UID)
    parcel = segment(pod_uid=GONE_UID, receipt=Caller(GONE_UID).receipt)
    assert transport.deliver(parcel, LONG_S) == "created"
    (name,) = collector.blobs
    assert name.endswith(".handed-over.ndjson.gz")


def test_the_destination_is_the_address(
    collector: FakeCollector, transport: CollectorTransport
) -> None:
    assert transport.destination == collector.url
    transport.close()
    assert transport.deliver(segment(), LONG_S) == "created"  # nothing was held open


# -- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_what_the_collector_refuses_is_refused_with_its_reason(
    collector: FakeCollector, transport: CollectorTransport, status: int
) -> None:
    code = "not_a_segment" if status == 400 else "bad_record"
    collector.always = fake.respond(status, error=code, detail="line 3: no 'pod'")
    error = undelivered(transport)
    assert error.refused
    assert f"answered {status}: {code}: line 3: no 'pod'; the same segment" in str(error)


@pytest.mark.parametrize("code", ["cut_off", "content_type", "bad_request"])
def test_a_fault_of_the_connection_costs_no_segment(
    collector: FakeCollector, transport: CollectorTransport, code: str
) -> None:
    collector.always = fake.respond(400, error=code, detail="the body ended early")
    assert not undelivered(transport).refused


def test_other_content_under_the_name_is_refused(transport: CollectorTransport) -> None:
    transport.deliver(segment(), LONG_S)
    assert undelivered(transport, segment(kwh=9.0)).refused


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_a_proxys_refusal_costs_no_segment(
    collector: FakeCollector, transport: CollectorTransport, status: int
) -> None:
    collector.always = fake.respond_raw(status, b"<html>413 Request Entity Too Large</html>")
    error = undelivered(transport)
    assert not error.refused
    assert "a proxy's answer" in str(error)


def test_the_segment_of_a_pod_that_still_runs_is_tried_later(
    transport: CollectorTransport,
) -> None:
    error = undelivered(transport, segment(pod_uid=GONE_UID, receipt=Caller(GONE_UID).receipt))
    assert (error.refused, error.retry_after_s) == (False, 60)
    assert "pod_runs" in str(error)
    assert "offered again later" in str(error)


def test_a_segment_that_another_pod_must_bring_is_left_to_it(
    collector: FakeCollector, transport: CollectorTransport
) -> None:
    """Of the wrong service account, say: a later pod on the volume may be of the right one."""
    collector.gone.add(GONE_UID)
    error = undelivered(transport, segment(pod_uid=GONE_UID, receipt=Caller(OWN_UID).receipt))
    assert (error.refused, error.about_owner, error.retry_after_s) == (False, True, None)
    assert "other_pod" in str(error)


@pytest.mark.parametrize("receipt", ["", "a b", "a\r\nAuthorization: Bearer x", "é", "x" * 9999])
def test_a_damaged_receipt_is_refused_and_not_sent(
    collector: FakeCollector, transport: CollectorTransport, receipt: str
) -> None:
    error = undelivered(transport, segment(pod_uid=GONE_UID, receipt=receipt))
    assert error.refused
    assert "damaged" in str(error)
    assert collector.requests == []


# -- to be tried again --------------------------------------------------------------------------


def test_an_own_segment_that_is_forbidden_can_be_repaired(
    collector: FakeCollector, transport: CollectorTransport
) -> None:
    collector.always = fake.respond(403, error="other_node", detail="node 'a' is not 'b'")
    error = undelivered(transport)
    assert not error.refused
    assert "403: other_node: node 'a' is not 'b'; check that POD_NAME" in str(error)


def test_a_token_that_is_not_valid_can_be_repaired(
    transport: CollectorTransport, token_file: Path
) -> None:
    token_file.write_text("expired")
    error = undelivered(transport)
    assert not error.refused
    assert str(token_file) in str(error)
    assert "EMISSIONS_AUDIENCE (default emissions-collector)" in str(error)


def test_a_missing_token_can_be_repaired(transport: CollectorTransport, token_file: Path) -> None:
    token_file.unlink()
    error = undelivered(transport)
    assert not error.refused
    assert f"token file {token_file} cannot be read" in str(error)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_collector_is_left_the_time_it_asks_for(
    collector: FakeCollector, transport: CollectorTransport, status: int
) -> None:
    collector.always = fake.respond(status, error="busy", Retry_After="7")
    error = undelivered(transport)
    assert (error.refused, error.retry_after_s) == (False, 7)
    assert f"answered {status}: busy" in str(error)


def test_no_wish_to_wait_is_none(collector: FakeCollector, transport: CollectorTransport) -> None:
    collector.always = fake.respond(503, Retry_After="soon")
    assert undelivered(transport).retry_after_s is None


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>Sign in</html>",
        b"{}",
        b"",
        b'{"blob": null}',
        b'{"blob": "records/v1/another.ndjson.gz", "created": true}',
    ],
)
@pytest.mark.parametrize("status", [200, 201])
def test_success_without_the_segments_name_is_no_delivery(
    collector: FakeCollector, transport: CollectorTransport, status: int, answer: bytes
) -> None:
    """A portal or a proxy says 200 to everything; a segment deleted for that would be lost."""
    collector.always = fake.respond_raw(status, answer)
    error = undelivered(transport)
    assert not error.refused
    assert "not as a collector" in str(error)


def test_a_redirect_is_told_and_the_token_does_not_follow(
    collector: FakeCollector, transport: CollectorTransport
) -> None:
    with FakeCollector() as elsewhere:
        collector.always = fake.respond_raw(307, Location=elsewhere.url + "/v1/segments")
        error = undelivered(transport)
        assert elsewhere.requests == []
    assert not error.refused
    assert "a redirect is never followed" in str(error)


@pytest.mark.parametrize("status", [202, 204, 402, 404, 405, 418])
def test_what_no_collector_answers_makes_one_look_at_the_address(
    collector: FakeCollector, transport: CollectorTransport, status: int
) -> None:
    collector.always = fake.respond_raw(status)
    error = undelivered(transport)
    assert not error.refused
    assert "EMISSIONS_COLLECTOR_URL" in str(error)


@pytest.mark.parametrize("fault", [fake.hang, fake.drip, fake.drip_headers])
def test_a_delivery_takes_no_longer_than_it_may(
    collector: FakeCollector, transport: CollectorTransport, fault: fake.Fault
) -> None:
    collector.always = fault
    error = undelivered(transport, timeout_s=SHORT_S)
    assert not error.refused
    assert "did not answer completely within 0.3 s" in str(error)


def test_a_collector_that_is_not_trusted_gets_no_token(tmp_path: Path, token_file: Path) -> None:
    certificate = make_certificate(tmp_path / "tls", valid_for=timedelta(hours=1))
    with FakeCollector(tls=certificate) as collector:
        error = undelivered(CollectorTransport(CollectorClient(collector.url, token_file)))
        assert collector.requests == []
    assert not error.refused
    assert "EMISSIONS_COLLECTOR_CA_FILE" in str(error)


def test_the_text_of_a_failure_is_the_same_for_every_segment(
    collector: FakeCollector, transport: CollectorTransport
) -> None:
    """Whoever ships tells a failure when it begins and changes, not once for each segment."""
    for fault in (fake.respond(503), fake.respond(401), fake.wire(b""), fake.respond_raw(200)):
        collector.always = fault
        texts = {str(undelivered(transport, segment(number))) for number in range(2)}
        assert len(texts) == 1


# -- the receipt --------------------------------------------------------------------------------


def test_the_receipt_comes_with_a_delivery(
    collector: FakeCollector, transport: CollectorTransport
) -> None:
    transport.deliver(segment(), LONG_S)
    assert transport.receipt(LONG_S) == Caller(OWN_UID).receipt
    assert len(collector.requests) == 1


def test_the_receipt_is_asked_for_once_where_nothing_was_delivered(
    collector: FakeCollector, transport: CollectorTransport
) -> None:
    told = [transport.receipt(LONG_S) for _ in range(2)]
    assert told == [Caller(OWN_UID).receipt] * 2
    assert [asked.path for asked in collector.requests] == ["/v1/node"]


def test_a_newer_receipt_replaces_the_old(
    collector: FakeCollector, transport: CollectorTransport
) -> None:
    transport.receipt(LONG_S)
    collector.callers[TOKEN] = replace(collector.callers[TOKEN], pod_uid=GONE_UID)
    transport.deliver(segment(pod_uid=GONE_UID), LONG_S)
    assert transport.receipt(LONG_S) == Caller(GONE_UID).receipt


def test_a_collector_without_a_key_is_not_asked_again(
    collector: FakeCollector, transport: CollectorTransport
) -> None:
    collector.hands_receipts = False
    assert [transport.receipt(LONG_S) for _ in range(2)] == [None, None]
    assert len(collector.requests) == 1


@pytest.mark.parametrize(
    "fault", [fake.respond(503), fake.respond(401), fake.wire(b""), fake.respond_raw(404)]
)
def test_a_receipt_that_could_not_be_had_is_asked_for_again(
    collector: FakeCollector, transport: CollectorTransport, fault: fake.Fault
) -> None:
    collector.faults.append(fault)
    assert transport.receipt(LONG_S) is None
    assert transport.receipt(LONG_S) == Caller(OWN_UID).receipt


def test_a_pod_whose_node_is_unknown_has_its_receipt_all_the_same(
    collector: FakeCollector, transport: CollectorTransport
) -> None:
    collector.callers[TOKEN] = Caller(OWN_UID, node=None)
    assert transport.receipt(LONG_S) == Caller(OWN_UID).receipt


# -- whatever comes -----------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_words = st.dictionaries(st.sampled_from(["error", "detail", "blob", "created", "x"]), _json)
_bodies = st.binary(max_size=200) | (_json | _words).map(lambda value: json.dumps(value).encode())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(min_value=200, max_value=599), _bodies, st.booleans())
def test_whatever_is_answered_only_undelivered_is_raised_and_nothing_lost(
    collector: FakeCollector,
    transport: CollectorTransport,
    status: int,
    body: bytes,
    is_foreign: bool,
) -> None:
    collector.always = fake.respond_raw(status, b"" if status in (204, 304) else body)
    receipt = "v1.x" if is_foreign else None
    error = undelivered(transport, segment(receipt=receipt))  # for none is named in any body
    assert not error.refused or b"error" in body
    transport.receipt(LONG_S)
