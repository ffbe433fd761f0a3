"""Reviews: whatever comes, a pod is let through, and never changed by mistake."""

import dataclasses
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.injector.inject import Reason
from sidecar.injector.review import FAILURES, answer
from tests.injector.goldens import CONFIG, case
from tests.injector.pods_of_any_kind import JSON, NAMESPACES, pods
from tests.injector.running import UID, changed, response_of, review

POD = case("job").pod
OUTCOMES = {"injected", "skipped", "unchanged", "failed"}
REASONS = {*FAILURES, *Reason}


def answered(body, labels=None):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return answer(content, labels or {}, CONFIG)


def test_the_uid_comes_back_and_the_patch_applies() -> None:
    found = answered(review(POD))
    assert (found.outcome, found.reason) == ("injected", "injected")
    response = response_of(found.content)
    assert response["uid"] == UID
    assert changed(POD, response)["spec"]["initContainers"][0]["name"] == "emissions-sidecar"


def test_warnings_are_told() -> None:
    response = response_of(answered(review(case("unknown-volume").pod)).content)
    assert any("reslts" in text for text in response["warnings"])


def test_a_pod_that_stays_as_it_is_gets_no_patch() -> None:
    for name in ("second-call", "opted-out-alone", "not-tracked"):
        found = answered(review(case(name).pod))
        assert found.outcome == ("skipped" if name == "opted-out-alone" else "unchanged")
        assert set(response_of(found.content)) == {"uid", "allowed"}


def test_a_skipped_pod_is_counted_so() -> None:
    found = answered(review(case("windows").pod))
    assert (found.outcome, found.reason) == ("skipped", "windows")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"operation": "UPDATE"}, "not_a_pod_created"),
        ({"operation": None}, "not_a_pod_created"),
        ({"subResource": "ephemeralcontainers"}, "not_a_pod_created"),
        ({"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}}, "not_a_pod_created"),
        ({"kind": None}, "not_a_pod_created"),
        ({"kind": "Pod"}, "malformed_pod"),
        ({"object": [1]}, "malformed_pod"),
        ({"object": {"spec": {"containers": 7}, "metadata": POD["metadata"]}}, "malformed_pod"),
    ],
)
def test_what_is_not_a_pod_that_is_created_is_let_through_without_a_patch(change, reason) -> None:
    found = answered(review(POD, **change))
    assert (found.outcome, found.reason) == ("failed", reason)
    assert response_of(found.content) == {"uid": UID, "allowed": True}


@pytest.mark.parametrize("change", [{"kind": "Pod"}, {"apiVersion": "admission.k8s.io/v1beta1"}])
def test_another_kind_of_review_is_let_through_without_a_patch(change) -> None:
    found = answered({**review(POD), **change})
    assert found.reason == "not_a_review"
    assert response_of(found.content) == {"uid": UID, "allowed": True}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_json"), (b"\xff", "not_json"), (b"[" * 100_000, "not_json"),
        (b"9" * 5000, "not_json"), (b"[]", "not_a_review"), (b"{}", "not_a_review"),
        (b'{"request": {"uid": 7}}', "not_a_review"), (b'{"request": {"uid": ""}}', "not_a_review"),
        (b'{"request": [1]}', "not_a_review"),
    ],
)  # fmt: skip
def test_without_a_uid_there_is_nothing_to_answer(body, reason) -> None:
    found = answered(body)
    assert (found.content, found.outcome, found.reason) == (None, "failed", reason)


def test_a_bug_of_ours_holds_up_no_pod_and_shows_nothing_of_it(caplog) -> None:
    broken = dataclasses.replace(CONFIG, container={})  # what no configuration that is read can be
    secret = {**POD, "spec": {"containers": [{"env": [{"name": "T", "value": "s3cret"}]}]}}
    with caplog.at_level(logging.DEBUG):
        found = answer(json.dumps(review(secret)).encode(), {}, broken)
    assert found.reason == "internal"
    assert response_of(found.content) == {"uid": UID, "allowed": True}
    assert "KeyError at" in caplog.text
    assert "s3cret" not in caplog.text


def test_the_log_names_the_pod_and_nothing_else_of_it(caplog) -> None:
    with caplog.at_level(logging.DEBUG):
        answered(review(POD))
    assert [record.message for record in caplog.records] == ["pod vision/finetune-bert-: injected"]


def test_names_cannot_write_lines_into_the_log(caplog) -> None:
    with caplog.at_level(logging.DEBUG):
        answered(review({**POD, "metadata": {"name": "x\nfake line"}}))
    assert "\n" not in caplog.messages[0]


@given(pods(), NAMESPACES)
def test_any_pod_gets_the_answer_of_the_pure_function(pod, labels) -> None:
    found = answered(review(pod), labels)
    assert found.outcome != "failed"
    changed(pod, response_of(found.content))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_let_through(body) -> None:
    assert_harmless(answered(body))


@given(st.dictionaries(st.sampled_from(["kind", "apiVersion", "request"]), JSON))
def test_any_json_is_refused_or_let_through(body) -> None:
    assert_harmless(answered(body))


PARTS = ["object", "kind", "operation", "namespace", "uid", "subResource"]


@given(st.dictionaries(st.sampled_from(PARTS), JSON))
def test_any_parts_of_a_review_are_let_through(parts) -> None:
    assert_harmless(answered(review(POD, **parts)))


SPEC = ["containers", "initContainers", "volumes", "nodeSelector", "os", "hostNetwork", "resources"]


@given(
    st.dictionaries(st.sampled_from(SPEC), JSON | st.lists(st.dictionaries(st.just("name"), JSON))),
    st.dictionaries(st.sampled_from(["annotations", "labels", "name"]), JSON),
)
def test_any_parts_of_a_pod_are_let_through(spec, metadata) -> None:
    found = answered(review({"spec": spec, "metadata": metadata}), {"emissions/track": "true"})
    assert_harmless(found)
    assert found.content is not None
    assert found.reason != "internal"


def assert_harmless(found) -> None:
    assert found.outcome in OUTCOMES
    assert found.reason in REASONS
    if found.content is not None:
        response_of(found.content)
