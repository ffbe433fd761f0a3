"""Segments of a pod that is gone, brought by the one after it."""

from dataclasses import replace

import pytest

from sidecar.collector.handover import Receipts, open_receipts
from sidecar.collector.token_review import Caller
from sidecar.record import to_mapping
from sidecar.segment import blob_name
from sidecar.settings import SettingsError
from sidecar.transport.delivery import Undelivered
from sidecar.transport.directory import DirectoryTransport
from tests.collector.running import POD, record, segment, stored_files
from tests.collector.test_segments import refused

KEY = b"k" * 32
OWNER = Caller("team-a", "default", POD.pod, POD.pod_uid, None)
NEXT = {"pod": "train-1", "pod_uid": "22222222-0000-4000-8000-000000000002"}


@pytest.fixture
def collector(start):
    return start(receipts=Receipts(KEY))


@pytest.fixture
def receipt(collector, api):
    """What the first pod was given, while it lived."""
    return collector.get("/v1/node", api.token()).headers["Emissions-Receipt"]


def handed_over(collector, api, receipt, **about):
    return collector.post(segment(), api.token(**NEXT | about), Emissions_Handover=receipt)


@pytest.mark.parametrize("uid", [None, "another-uid"])
def test_segments_of_a_pod_that_is_gone_or_replaced_are_taken_and_marked(
    collector, api, root, receipt, uid
) -> None:
    if uid:
        api.add_pod(POD.namespace, POD.pod, uid)
    response = handed_over(collector, api, receipt)
    name = blob_name(to_mapping(record()), handed_over=True)
    assert response.status_code == 201, response.text
    assert response.json() == {"blob": name, "created": True, "records": 1, "handed_over": True}
    assert stored_files(root) == [name]
    again = handed_over(collector, api, receipt)
    assert (again.status_code, again.json()["blob"]) == (200, name)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_ended_but_is_kept_counts_as_gone(collector, api, receipt, phase) -> None:
    api.add_pod(POD.namespace, POD.pod, POD.pod_uid, phase)
    assert handed_over(collector, api, receipt).status_code == 201


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown"])
def test_a_pod_that_may_still_run_ships_its_segments_itself(
    collector, api, root, receipt, phase
) -> None:
    api.add_pod(POD.namespace, POD.pod, POD.pod_uid, phase)
    response = handed_over(collector, api, receipt)
    refused(response, 403, "pod_runs")
    assert int(response.headers["Retry-After"]) >= 60  # it is worth trying again, then
    assert stored_files(root) == []


def test_what_the_pod_shipped_itself_before_is_there_already(collector, api, root, receipt) -> None:
    own = collector.post(segment(), api.token())
    response = handed_over(collector, api, receipt)
    assert (response.status_code, response.json()["blob"]) == (200, own.json()["blob"])
    assert len(stored_files(root)) == 1


def test_what_a_pod_stored_itself_is_not_contradicted_by_another(
    collector, api, root, receipt
) -> None:
    assert collector.post(segment(record(energy_kwh=2.0)), api.token()).status_code == 201
    response = handed_over(collector, api, receipt)
    assert (response.status_code, response.json()["error"]) == (409, "conflict")
    assert len(stored_files(root)) == 1


def test_own_segments_need_no_receipt_and_are_not_marked_for_one(collector, api, receipt) -> None:
    response = collector.post(segment(), api.token(), Emissions_Handover=receipt)
    assert response.json()["handed_over"] is False


@pytest.mark.parametrize("about", [{"namespace": "team-b"}, {"service_account": "other"}])
def test_a_receipt_is_of_no_use_in_another_namespace_or_account(
    collector, api, root, receipt, about
) -> None:
    detail = refused(handed_over(collector, api, receipt, **about), 403, "foreign")
    assert next(iter(about.values())) in detail
    assert stored_files(root) == []


def test_a_receipt_for_one_pod_does_not_open_another(collector, api, root, receipt) -> None:
    third = replace(POD, pod="train-7", pod_uid="77777777-0000-4000-8000-000000000007")
    content = segment(record(owner=third))
    response = collector.post(content, api.token(**NEXT), Emissions_Handover=receipt)
    assert "by the receipt" in refused(response, 403, "foreign")
    assert stored_files(root) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1] + ("A" if text[-1] != "A" else "E"),
        lambda text: text.replace("v1.", "v2."),
        lambda text: text.replace("v1.", "v1.x"),
        lambda text: text.rpartition(".")[0],
        lambda text: "x" * 3000,
        lambda text: Receipts(b"another key" * 4).given_to(OWNER),
    ],
)
def test_a_receipt_that_was_changed_or_made_by_others_is_refused(
    collector, api, root, receipt, change
) -> None:
    refused(handed_over(collector, api, change(receipt)), 403, "receipt_refused")
    assert stored_files(root) == []


def test_without_a_key_nothing_is_handed_over_and_the_answer_says_so(start, api) -> None:
    collector = start()
    assert "Emissions-Receipt" not in collector.get("/v1/node", api.token()).headers
    detail = refused(handed_over(collector, api, "v1.x.y"), 403, "no_handover")
    assert "EMISSIONS_HANDOVER_KEY_FILE" in detail


def test_every_answer_to_a_known_caller_carries_the_same_receipt(collector, api, receipt) -> None:
    answers = [
        collector.post(segment(), api.token()),
        collector.post(b"no segment", api.token()),
        collector.get("/v1/node", api.token(node=None)),
    ]
    assert [one.headers.get("Emissions-Receipt") for one in answers] == [receipt] * 3
    assert "Emissions-Receipt" not in collector.post(segment(), "a.b.c").headers


def test_an_api_server_that_cannot_tell_is_worth_another_try(collector, api, root, receipt) -> None:
    token = api.token(**NEXT)
    assert collector.get("/v1/node", token).status_code == 200  # reviewed, and remembered
    api.mode = "error"
    response = collector.post(segment(), token, Emissions_Handover=receipt)
    assert "get pods" in refused(response, 503, "kubernetes_api")
    assert stored_files(root) == []


def test_storage_that_cannot_tell_what_is_there_is_worth_another_try(start, api, root) -> None:
    class Blind(DirectoryTransport):
        def exists(self, blob_name):
            raise Undelivered("it does not answer")

    collector = start(receipts=Receipts(KEY), backend=Blind(root))
    receipt = collector.get("/v1/node", api.token()).headers["Emissions-Receipt"]
    refused(handed_over(collector, api, receipt), 503, "storage")
    assert stored_files(root) == []


def test_a_key_that_is_missing_or_short_is_one_line(tmp_path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        open_receipts(tmp_path / "key")
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(SettingsError, match="5 bytes; a key has 32 or more"):
        open_receipts(tmp_path / "key")


def test_replicas_with_one_key_take_each_others_receipts(tmp_path) -> None:
    (tmp_path / "key").write_bytes(KEY)
    receipt = open_receipts(tmp_path / "key").given_to(OWNER)
    holder = open_receipts(tmp_path / "key").holder(receipt)
    assert (holder.namespace, holder.service_account) == ("team-a", "default")
    assert (holder.pod, holder.pod_uid, holder.node) == (POD.pod, POD.pod_uid, None)
    assert len(receipt) < 512
