import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.meters import node_meter_client
from sidecar.meters.node_meter_client import (
    ANSWER_BYTES_MAX,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    SHARED_S,
    NodeMeterAnswer,
    NodeMeterClient,
    NodeMeterError,
    parse_answer,
)
from sidecar.meters.pod.node_meter import NodeMeterSource
from sidecar.meters.pod.source import PodSource
from sidecar.meters.reading import PodReading
from tests.fakes import collector as fake
from tests.fakes.kubelet import TOKEN, FakeKubelet
from tests.meters.pod.test_cgroup import KnownOurselves, SteppedClock

NODE = "aks-gpupool-12345678-vmss000001"
GPU = {
    "uuid": "GPU-x",
    "model": "NVIDIA H100 80GB HBM3",
    "energy_mj": 700,
    "pod_energy_mj": 350,
    "pod_share": 0.5,
    "share_method": "node-meter",
    "energy_source": "energy-counter",
    "utilization_s": 1.5,
    "observed_s": 3.0,
    "metered_s": 15.0,
    "power_limit_w": 700.0,
    "mig": False,
    "virtual": False,
    "notes": [],
}
ANSWER = {
    "node": NODE,
    "pod_uid": "u",
    "boot": "b00",
    "at_s": 1e9,
    "cpu_s": 91.25,
    "working_set_bytes": 1 << 30,
    "memory_byte_s": 5e9,
    "gpus": [GPU],
}


class Peer:
    """A node meter whose answers a test writes, and the parts that ask it."""

    def __init__(self, server: FakeKubelet, directory: Path) -> None:
        self.server = server
        self.clock = SteppedClock()
        self.ourselves = KnownOurselves()
        (directory / "token").write_text(TOKEN)
        self.client = NodeMeterClient(server.url, directory / "token", node=NODE, clock=self.clock)
        self.source = NodeMeterSource(self.client, self.ourselves, self.clock)
        self.say()

    def say(self, **changes: object) -> None:
        self.server.documents["/v1/pod"] = json.dumps({**ANSWER, **changes}).encode()

    def after(self, seconds: float, **changes: object) -> PodReading:
        self.clock.now_s += seconds
        self.say(**changes)
        return self.source.read()


@pytest.fixture
def peer(tmp_path: Path):
    with FakeKubelet() as server:
        yield Peer(server, tmp_path)


# -- the source ------------------------------------------------------------------------------------


def test_it_is_a_source_that_asks_somebody(peer: Peer):
    source: PodSource = peer.source
    assert (source.name, source.is_local, source.needs_sampling) == ("node-meter", False, False)
    assert source.needs == "the node meter: nodeMeter.enabled=true in the chart"


def test_the_pods_use_comes_without_ours(peer: Peer):
    peer.ourselves.used_s, peer.ourselves.has_bytes = 1.25, 30 << 20
    reading = peer.source.read()
    assert reading.cpu_s == pytest.approx(90.0)
    assert reading.working_set_bytes == (1 << 30) - (30 << 20)
    assert (reading.method, reading.epoch) == ("node-meter", 0)
    assert peer.source.status()[0].available


def test_our_memory_is_taken_off_the_integral(peer: Peer):
    peer.ourselves.has_bytes = 100
    before = peer.source.read()
    after = peer.after(10, memory_byte_s=5e9 + 5000)
    assert after.memory_byte_s - before.memory_byte_s == pytest.approx(4000)


def test_a_node_meter_that_began_anew_reads_the_same_cgroup(peer: Peer):
    """Its counter of CPU time is the pod's own; only the integral of memory begins anew."""
    before = peer.source.read()
    again = peer.after(10, boot="b01", cpu_s=95.0, memory_byte_s=1.0)
    assert (again.epoch, again.cpu_s - before.cpu_s) == (0, 3.75)
    assert again.memory_byte_s is None
    later = [peer.after(10, boot="b01", cpu_s=95.0, memory_byte_s=n).memory_byte_s for n in (5, 9)]
    assert later[1] - later[0] == pytest.approx(4.0)


def test_a_counter_that_fell_is_believed_the_second_time(peer: Peer):
    peer.source.read()
    assert peer.after(10, cpu_s=3.0).cpu_s is None
    assert "went back from 91.25 s to 3 s" in peer.source.status()[0].detail
    assert peer.after(10, cpu_s=4.0).epoch == 1
    assert peer.after(10, boot="b01", cpu_s=5.0).epoch == 1


def test_a_counter_that_fell_in_an_answer_that_serves_twice_is_believed_by_the_next(peer: Peer):
    peer.source.read()
    assert peer.after(10, cpu_s=3.0).cpu_s is None
    assert peer.source.read().cpu_s is None, "that is the same answer"


def test_a_node_meter_that_went_away_is_a_warning_and_one_that_never_was_is_none(
    peer: Peer, caplog
):
    caplog.set_level("INFO")
    peer.server.documents.clear()
    assert peer.source.read().cpu_s is None
    assert peer.after(FIRST_PAUSE_S).cpu_s is not None
    peer.clock.now_s += 1
    peer.server.documents.clear()
    assert peer.source.read().cpu_s is None
    levels = [record.levelname for record in caplog.records if "HTTP 404" in record.message]
    assert levels == ["INFO", "WARNING"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 1e6), st.floats(0, 1e15))))
def test_within_an_epoch_nothing_falls(answers):
    clock = SteppedClock()
    told: list[NodeMeterAnswer] = []

    class Told(NodeMeterClient):
        def ask(self) -> NodeMeterAnswer:
            return told[-1]

    source = NodeMeterSource(Told("http://x", Path("t")), KnownOurselves(), clock)
    last: dict[int, PodReading] = {}
    for boot, cpu_s, byte_s in answers:
        clock.now_s += 1
        told.append(NodeMeterAnswer(boot, cpu_s, 5, byte_s, ()))
        reading = source.read()
        if reading.cpu_s is None:
            continue
        before = last.get(reading.epoch, reading)
        assert reading.cpu_s >= before.cpu_s
        if None not in (before.memory_byte_s, reading.memory_byte_s):
            assert reading.memory_byte_s >= before.memory_byte_s
        assert reading.epoch >= max(last, default=0)
        last[reading.epoch] = reading


# -- the client ------------------------------------------------------------------------------------


def test_pod_and_gpus_share_the_answer_of_one_reading(peer: Peer):
    peer.client.ask()
    peer.clock.now_s += SHARED_S / 2
    peer.client.ask()
    assert len(peer.server.requests) == 1
    peer.clock.now_s += SHARED_S
    peer.client.ask()
    assert len(peer.server.requests) == 2


def test_one_late_answer_is_no_failure(peer: Peer, monkeypatch):
    monkeypatch.setattr(node_meter_client, "DEADLINE_S", 0.3)
    peer.client.ask()
    peer.clock.now_s += 15
    peer.server.faults.append(fake.hang)
    assert peer.client.ask().cpu_s == 91.25
    assert len(peer.server.requests) == 3


def test_who_has_not_answered_before_is_asked_once(peer: Peer):
    peer.server.documents.clear()
    for _ in range(3):
        peer.clock.now_s += LONGEST_PAUSE_S
        with pytest.raises(NodeMeterError):
            peer.client.ask()
    assert len(peer.server.requests) == 3


def test_the_token_is_shown_to_the_node_meter_alone(peer: Peer):
    peer.client.ask()
    (asked,) = peer.server.requests
    assert asked.headers["Authorization"] == f"Bearer {TOKEN}"
    assert asked.path == "/v1/pod"


def test_after_a_failure_it_is_asked_ever_less_often(peer: Peer):
    peer.server.documents.clear()
    pauses = []
    for _ in range(8):
        with pytest.raises(NodeMeterError):
            peer.client.ask()
        asked = len(peer.server.requests)
        pause_s = 0.0
        while len(peer.server.requests) == asked:
            pause_s += FIRST_PAUSE_S
            peer.clock.now_s += FIRST_PAUSE_S
            with pytest.raises(NodeMeterError):
                peer.client.ask()
        pauses.append(pause_s)
    assert pauses[:4] == [10.0, 10.0, 20.0, 40.0]
    assert pauses[-1] == LONGEST_PAUSE_S


def test_the_answer_of_another_node_is_not_taken(peer: Peer):
    peer.say(node="another")
    with pytest.raises(NodeMeterError, match="internalTrafficPolicy: Local"):
        peer.client.ask()


def test_a_refusal_is_told_in_its_words(peer: Peer):
    body = json.dumps({"error": "pod_not_here", "detail": "no\ncgroup"}).encode()
    peer.server.faults.append(lambda handler: handler.answer(404, body))
    with pytest.raises(NodeMeterError, match="HTTP 404: pod_not_here: no cgroup"):
        peer.client.ask()


def test_a_token_that_is_not_there_is_told(tmp_path: Path):
    client = NodeMeterClient("http://127.0.0.1:1", tmp_path / "token")
    with pytest.raises(NodeMeterError, match="No such file"):
        client.ask()


def test_nobody_there_is_told(tmp_path: Path):
    (tmp_path / "token").write_text(TOKEN)
    client = NodeMeterClient("http://127.0.0.1:1", tmp_path / "token")
    with pytest.raises(NodeMeterError, match=r"does not answer: .*does it run on this node"):
        client.ask()


@pytest.mark.parametrize("fault", [fake.hang, fake.drip, fake.drip_headers, fake.flood(200)])
def test_a_bad_peer_costs_a_second_and_no_memory(peer: Peer, fault, monkeypatch):
    monkeypatch.setattr(node_meter_client, "DEADLINE_S", 0.3)
    peer.server.faults.append(fault)
    with pytest.raises(NodeMeterError) as caught:
        peer.client.ask()
    assert TOKEN not in str(caught.value)
    peer.clock.now_s += FIRST_PAUSE_S
    assert peer.client.ask().cpu_s == 91.25


def test_a_redirect_is_not_followed(peer: Peer):
    peer.server.faults.append(
        lambda handler: handler.answer(302, b"{}", Location=f"{peer.server.url}/v1/pod")
    )
    with pytest.raises(NodeMeterError, match="HTTP 302"):
        peer.client.ask()
    assert len(peer.server.requests) == 1


def test_a_token_that_is_sent_back_is_in_no_message(peer: Peer):
    body = json.dumps({"error": "x", "detail": f"your token {TOKEN}"}).encode()
    peer.server.faults.append(lambda handler: handler.answer(500, body))
    with pytest.raises(NodeMeterError) as caught:
        peer.client.ask()
    assert TOKEN not in str(caught.value)


# -- what a lying one says -------------------------------------------------------------------------


def test_an_honest_answer_is_read_whole():
    answer = parse_answer(ANSWER, NODE)
    (gpu,) = answer.gpus
    assert (answer.boot, answer.cpu_s, answer.memory_byte_s) == ("b00", 91.25, 5e9)
    assert (gpu.energy_mj, gpu.pod_energy_mj, gpu.pod_share, gpu.meter) == (
        700,
        350,
        0.5,
        "node-meter",
    )
    assert (gpu.metered_s, gpu.share_method) == (15.0, "node-meter")


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu_s": -1},
        {"cpu_s": float("nan")},
        {"cpu_s": float("inf")},
        {"cpu_s": 10**400},
        {"cpu_s": "9"},
        {"cpu_s": True},
        {"cpu_s": None},
        {"working_set_bytes": -5},
        {"working_set_bytes": 1.5},
        {"working_set_bytes": 2**80},
        {"memory_byte_s": [1]},
        {"boot": ""},
        {"boot": "a\nb"},
        {"boot": 7},
        {"boot": "x" * 1000},
        {"gpus": None},
        {"gpus": {}},
        {"gpus": [None]},
        {"gpus": [GPU, GPU]},
        {"gpus": [{**GPU, "uuid": str(n)} for n in range(65)]},
        {"gpus": [{**GPU, "energy_mj": -1}]},
        {"gpus": [{**GPU, "energy_mj": 1e3}]},
        {"gpus": [{**GPU, "energy_mj": 2**63}]},
        {"gpus": [{**GPU, "pod_energy_mj": 701}]},
        {"gpus": [{**GPU, "energy_mj": None}]},
        {"gpus": [{**GPU, "pod_share": 1.1}]},
        {"gpus": [{**GPU, "energy_source": "guess"}]},
        {"gpus": [{**GPU, "energy_source": ["x"]}]},
        {"gpus": [{**GPU, "utilization_s": None}]},
    ],
)
def test_an_answer_that_cannot_be_is_refused(changes):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_answer({**ANSWER, **changes}, NODE)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"nothing", b"{", b"[" * 100_000, b'{"cpu_s": NaN}']
)
def test_what_is_no_answer_is_refused(peer: Peer, content: bytes):
    peer.server.documents["/v1/pod"] = content or b" "
    assert peer.source.read().cpu_s is None
    assert "node meter http://" in peer.source.status()[0].detail


def test_an_answer_that_is_too_long_is_refused(peer: Peer):
    peer.say(notes="x" * ANSWER_BYTES_MAX)
    with pytest.raises(NodeMeterError, match="longer than"):
        peer.client.ask()


def test_where_a_node_has_no_name_every_answer_is_of_it():
    assert parse_answer({**ANSWER, "node": None}, NODE).boot == "b00"
    assert parse_answer(ANSWER, None).gpus == parse_answer(ANSWER, NODE).gpus


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from([*ANSWER, *GPU]), JSON)
def test_whatever_stands_in_an_answer_it_is_read_or_refused(name, value):
    document = {**ANSWER, "gpus": [dict(GPU)]}
    (document if name in ANSWER else document["gpus"][0])[name] = value
    try:
        answer = parse_answer(document, NODE)
    except ValueError:
        return
    assert answer.cpu_s >= 0
    assert all((gpu.pod_energy_mj or 0) <= (gpu.energy_mj or 0) for gpu in answer.gpus)
    assert replace(answer) == answer
