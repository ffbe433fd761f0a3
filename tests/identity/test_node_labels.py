"""The labels of the node as a collector passes them on: asked for, checked, given up."""

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.collector_client import Answer, CollectorClient
from sidecar.identity.node_labels import (
    PATIENCE_S,
    NodeLabels,
    NodeLabelsError,
    NodeLabelsSource,
    parse_labels,
)
from tests.fakes import collector as fake
from tests.fakes.collector import NODE, TOKEN, Caller, FakeCollector


class Clock:
    """A clock that only `wait` moves, so that half a minute takes no time."""

    def __init__(self, stop_after: float = math.inf) -> None:
        self.now_s = 0.0
        self.stop_after = stop_after
        self.pauses_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def wait(self, pause_s: float) -> bool:
        self.pauses_s.append(pause_s)
        self.now_s += pause_s
        return len(self.pauses_s) >= self.stop_after


@pytest.fixture
def collector() -> Iterator[FakeCollector]:
    with FakeCollector() as started:
        yield started


@pytest.fixture
def client(collector: FakeCollector, tmp_path: Path) -> CollectorClient:
    (tmp_path / "token").write_text(TOKEN)
    return CollectorClient(collector.url, tmp_path / "token")


def fetch(
    client: CollectorClient, clock: Clock | None = None, told: list[str] | None = None
) -> NodeLabels:
    clock = clock or Clock()
    source = NodeLabelsSource(client, clock.wait, clock=clock, jitter=lambda: 0.5)
    return source.fetch(([] if told is None else told).append)


def values(labels: NodeLabels) -> dict[str, str]:
    assert {found.source for found in labels.findings.values()} <= {"node-labels"}
    return {name: found.value for name, found in labels.findings.items()}


def parsed(**payload: object) -> NodeLabels:
    return parse_labels(Answer(200, payload))


def test_the_collector_names_node_size_region_and_zone(client: CollectorClient) -> None:
    assert values(fetch(client)) == {
        "node": "aks-gpu-12345678-vmss000001",
        "vm_size": "Standard_NC24ads_A100_v4",
        "region": "westeurope",
        "zone": "2",
    }


@pytest.mark.parametrize(
    "fault",
    [
        fake.respond(503),
        fake.respond(429),
        fake.respond(408),
        fake.respond_raw(502),
        fake.wire(b""),
    ],
)
def test_what_may_pass_is_asked_again(
    collector: FakeCollector, client: CollectorClient, fault: fake.Fault
) -> None:
    collector.faults += [fault, fault]
    clock, told = Clock(), list[str]()
    assert "region" in fetch(client, clock, told).findings
    assert clock.pauses_s == [1, 2]
    assert len(told) == 2
    assert all("asked again" in text and text.isprintable() for text in told)


def test_after_some_tries_it_is_given_up(collector: FakeCollector, client: CollectorClient) -> None:
    collector.always = fake.respond(503, error="draining", detail="the end is near")
    clock = Clock()
    with pytest.raises(NodeLabelsError, match="answered 503: draining: the end is near"):
        fetch(client, clock)
    assert clock.pauses_s == [1, 2, 4, 8]
    assert clock.now_s < PATIENCE_S


def test_the_collectors_wish_to_wait_is_granted(
    collector: FakeCollector, client: CollectorClient
) -> None:
    collector.faults.append(fake.respond(429, Retry_After="9"))
    clock = Clock()
    fetch(client, clock)
    assert clock.pauses_s == [9]


def test_a_wish_beyond_the_patience_ends_it(
    collector: FakeCollector, client: CollectorClient
) -> None:
    collector.always = fake.respond(429, Retry_After="600")
    clock = Clock()
    with pytest.raises(NodeLabelsError, match="429"):
        fetch(client, clock)
    assert clock.pauses_s == []


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (fake.respond(401), "audience and expiry"),
        (fake.respond(403), "EMISSIONS_REGION"),
        (fake.respond_raw(404, b"<html>"), "EMISSIONS_COLLECTOR_URL"),
        (fake.respond_raw(302, Location="http://127.0.0.1:1/"), "answered 302"),
        (fake.respond_raw(200, b"<html>Sign in"), "begins '<html>Sign in'"),
        (fake.flood(200), "longer than 65536 bytes"),
    ],
)
def test_what_will_not_pass_is_not_asked_again(
    collector: FakeCollector, client: CollectorClient, fault: fake.Fault, told: str
) -> None:
    collector.always = fault
    with pytest.raises(NodeLabelsError, match=told):
        fetch(client)
    assert len(collector.requests) == 1


def test_a_token_that_names_no_node_is_told(
    collector: FakeCollector, client: CollectorClient
) -> None:
    collector.callers[TOKEN] = Caller("x", node=None)
    with pytest.raises(NodeLabelsError, match="404: no_node"):
        fetch(client)


def test_a_missing_token_is_told_at_once(client: CollectorClient) -> None:
    client.token_file.unlink()
    clock = Clock()
    with pytest.raises(NodeLabelsError, match="cannot be read"):
        fetch(client, clock)
    assert clock.pauses_s == []


def test_being_stopped_while_waiting_ends_it(
    collector: FakeCollector, client: CollectorClient
) -> None:
    collector.always = fake.respond(503)
    with pytest.raises(NodeLabelsError, match="stopped"):
        fetch(client, Clock(stop_after=1))
    assert len(collector.requests) == 1


def test_the_pauses_are_jittered(collector: FakeCollector, client: CollectorClient) -> None:
    collector.faults.append(fake.respond(503))
    clock, dice = Clock(), random.Random(7)
    NodeLabelsSource(client, clock.wait, clock=clock, jitter=dice.random).fetch(lambda _: None)
    assert clock.pauses_s == [0.5 + random.Random(7).random()]


@pytest.mark.parametrize(
    ("label", "zone"),
    [("westeurope-3", "3"), ("1", "1"), ("0", None), ("", None), ("westeurope-0", None)],
)
def test_the_zone_is_spelled_as_imds_does(label: str, zone: str | None) -> None:
    labels = parsed(region="westeurope", zone=label)
    assert values(labels).get("zone") == zone


def test_what_is_null_or_unknown_is_absent() -> None:
    labels = parsed(**{**dict.fromkeys(NODE), "region": "West Europe", "surprise": "x"})
    assert values(labels) == {"region": "westeurope"}
    assert labels.notes == ()


@pytest.mark.parametrize("bad", [7, ["a"], {"a": 1}, True, "x" * 300, "a\nb", "\x1b[31m", "\u202e"])
def test_a_bad_value_is_left_out_and_noted(bad: object) -> None:
    labels = parsed(vm_size=bad, region="westeurope")
    assert values(labels) == {"region": "westeurope"}
    (note,) = labels.notes
    assert note.startswith("vm_size ignored: ")
    assert note.isprintable()


def test_what_is_no_region_is_no_region() -> None:
    assert "region" not in values(parsed(vm_size="Standard_D4s_v5", region="<b>"))


@pytest.mark.parametrize("payload", [{}, {"region": None}, {"region": "<b>"}, {"pool": "gpu"}])
def test_an_answer_that_names_nothing_is_a_failure(payload: dict[str, object]) -> None:
    with pytest.raises(NodeLabelsError, match="knows nothing of this node"):
        parsed(**payload)


def test_the_labels_in_words() -> None:
    assert str(parsed(vm_size="Standard_D4s_v5")) == "Standard_D4s_v5 in unknown region"


_values = st.none() | st.text() | st.integers() | st.lists(st.text(), max_size=2) | st.booleans()


@given(st.dictionaries(st.sampled_from(["node", "vm_size", "region", "zone", "x"]), _values))
def test_whatever_is_answered_the_identity_holds_plain_text_only(payload: dict[str, object]):
    answer = Answer(200, json.loads(json.dumps(payload)))
    try:
        labels = parse_labels(answer)
    except NodeLabelsError as error:
        assert str(error).isprintable()
    else:
        assert str(labels).isprintable()
        for value in values(labels).values():
            assert value
            assert value.isprintable()
            assert value == value.strip()
            assert len(value) <= 253
