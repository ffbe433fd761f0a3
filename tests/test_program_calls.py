"""What a pod's programs tell and ask over loopback: real sockets, and what is refused."""

import contextlib
import http.client
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.agent import RunSoFar
from sidecar.exporters.summary import Totals
from sidecar.identity.fields import Hardware
from sidecar.phases import NAMES_MAX, PhaseBook
from sidecar.program_calls import CALLS_PER_S, FRESH_S, ProgramCalls, parse_told
from sidecar.record import EmissionRecord
from sidecar.status import Asked, StatusServer
from tests.e2e.commands import PATIENCE_S
from tests.test_status import Meter, metrics

RUN = RunSoFar(
    Totals(EmissionRecord(record_id="u.b.1", project="démo", emissions_g=1.5), 3),
    Hardware(cpu_model="EPYC", logical_cpus=2),
    "Netherlands",
)


JSON = {"content-type": "application/json"}


class Side:
    """A sidecar's calls on a clock that the test turns."""

    def __init__(self, run=RUN):
        self.now_s = 100.0
        self.turns = 0
        self.reads = 0
        self.run = run
        self.book = PhaseBook(lambda: self.now_s)
        self.calls = ProgramCalls(
            self.book, self._turned, self._read, monotonic_s=lambda: self.now_s
        )

    def _turned(self):
        self.turns += 1

    def _read(self):
        self.reads += 1
        return self.run

    def tell(self, peer="127.0.0.1", method="POST", headers=JSON, **told):
        body = json.dumps({"process": "1.a", **told}).encode()
        return self.calls.answer(Asked(method, "/v1/phases", peer=peer, body=body, headers=headers))

    def ask(self, peer="127.0.0.1", method="GET", headers=None):
        return self.calls.answer(Asked(method, "/v1/run", peer=peer, headers=headers or {}))


@pytest.fixture
def side():
    return Side()


def test_a_phase_that_is_told_is_in_the_book_and_turns_the_window(side):
    assert side.tell(phase="train").status == 200
    side.now_s += 5
    assert side.book.take(side.now_s) == {"train": 5.0}
    assert side.turns == 1


def test_a_phase_that_is_told_again_turns_nothing(side):
    side.tell(phase="train")
    side.tell(phase="train", seconds={"train": 1.0}, elapsed_s=1.0)
    assert side.turns == 1


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_loopback_addresses_are_taken(side, peer):
    assert side.tell(peer=peer).status == side.ask(peer=peer).status == 200


@pytest.mark.parametrize("peer", ["10.0.0.7", "::ffff:10.0.0.7", "fe80::1%eth0", "", "localhost"])
def test_any_other_address_is_refused_and_changes_nothing(side, peer):
    assert side.tell(peer=peer, phase="train").status == side.ask(peer=peer).status == 403
    assert not side.book.is_used
    assert side.reads == 0


RELAYED = [
    {"origin": "http://evil.example"},
    {"referer": "http://evil.example/x"},
    {"sec-fetch-site": "cross-site"},
    {"forwarded": "for=10.0.0.7"},
    {"via": "1.1 proxy"},
    {"x-forwarded-for": "127.0.0.1"},
    {"x-forwarded-proto": "http"},
    {"x-envoy-attempt-count": "1"},
    {"l5d-client-id": "x"},
]


@pytest.mark.parametrize("headers", RELAYED, ids=lambda headers: next(iter(headers)))
def test_what_a_browser_or_a_proxy_hands_on_is_refused_though_it_comes_over_loopback(side, headers):
    """A page on a developer's machine, and what others ask a pod by way of its service mesh."""
    assert side.tell(headers={**JSON, **headers}, phase="train").status == 403
    assert side.ask(headers=headers).status == 403
    assert not side.book.is_used
    assert side.reads == 0


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9877", "10.0.0.7", "[", "a@b:c", ""]
)
def test_a_name_that_a_page_had_turned_to_loopback_is_refused(side, host):
    assert side.tell(headers={**JSON, "host": host}, phase="train").status == 403
    assert side.ask(headers={"host": host}).status == 403
    assert not side.book.is_used


@pytest.mark.parametrize(
    "host", ["127.0.0.1:9877", "localhost", "LOCALHOST:1", "[::1]:9877", "127.1.2.3"]
)
def test_a_name_of_loopback_is_taken(side, host):
    assert (
        side.tell(headers={**JSON, "host": host}).status
        == side.ask(headers={"host": host}).status
        == 200
    )


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; b=x"]
)
def test_a_phase_must_come_as_json_which_no_page_can_send_without_asking_first(side, kind):
    headers = {"content-type": kind} if kind else {}
    answer = side.tell(headers=headers, phase="train")
    assert answer.status == 415
    assert b"application/json" in answer.body
    assert not side.book.is_used
    assert side.tell(headers={"content-type": "Application/JSON; charset=utf-8"}).status == 200


def test_a_page_that_asks_first_whether_it_may_is_not_told_so(side):
    answer = side.tell(method="OPTIONS", headers={"access-control-request-method": "POST"})
    assert (answer.status, answer.allow) == (405, "POST")


def test_behind_a_secret_prefix_nobody_answers_who_does_not_know_it(side):
    calls = ProgramCalls(side.book, side._turned, side._read, "/secret")
    assert calls.answer(Asked("GET", "/v1/run", peer="127.0.0.1")) is None
    assert calls.answer(Asked("GET", "/secret/v1/run", peer="127.0.0.1")).status == 200


def test_other_paths_are_for_others(side):
    assert side.calls.answer(Asked("GET", "/healthz", peer="10.0.0.7")) is None


def test_other_methods_are_told_which_is_right(side):
    answer = side.tell(method="GET")
    assert (answer.status, answer.allow) == (405, "POST")
    answer = side.ask(method="POST")
    assert (answer.status, answer.allow) == (405, "GET")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[" * 60000,
        b"[]",
        b'{"phase": "train"}',
        b'{"process": "a b", "phase": "train"}',
        b'{"process": 1, "phase": "train"}',
        b'{"process": "a", "phase": 1}',
        b'{"process": "a", "phase": "a\\nb"}',
        b'{"process": "a", "phase": ""}',
        b'{"process": "a", "phase": "\\ud800"}',
        b'{"process": "a", "seconds": [1]}',
        b'{"process": "a", "seconds": {"train": -1}}',
        b'{"process": "a", "seconds": {"train": NaN}}',
        b'{"process": "a", "seconds": {"train": Infinity}}',
        b'{"process": "a", "seconds": {"train": true}}',
        b'{"process": "a", "seconds": {"train": 1e999}}',
        b'{"process": "a", "elapsed_s": "1"}',
        json.dumps({"process": "a", "seconds": dict.fromkeys(map(str, range(99)), 1)}).encode(),
    ],
)
def test_what_is_malformed_is_refused_with_a_reason_and_changes_nothing(side, body):
    answer = side.calls.answer(Asked("POST", "/v1/phases", peer="::1", body=body, headers=JSON))
    assert answer.status == 400
    assert answer.body.strip()
    assert not side.book.is_used


@given(st.binary(max_size=200))
def test_no_body_does_more_than_be_refused(body):
    with contextlib.suppress(ValueError):
        parse_told(body)


def test_as_many_phases_as_a_program_may_have_are_taken(side):
    seconds = dict.fromkeys(map(str, range(NAMES_MAX + 1)), 1.0)
    assert side.tell(phase="0", seconds=seconds, elapsed_s=99).status == 200


def test_too_many_calls_a_second_are_turned_away_until_a_second_is_over(side):
    answers = [side.tell(phase="train").status for _ in range(2 * CALLS_PER_S)]
    assert answers.count(200) == CALLS_PER_S
    assert answers[-1] == 429
    side.now_s += 1
    assert side.tell(phase="train").status == 200


def test_the_run_so_far_is_told_with_its_totals(side):
    told = json.loads(side.ask().body)
    assert told["service"] == "emissions-sidecar"
    assert (told["windows"], told["totals"]["emissions_g"]) == (3, 1.5)
    assert (told["totals"]["project"], told["country_name"]) == ("démo", "Netherlands")
    assert (told["cpu_model"], told["logical_cpus"]) == ("EPYC", 2)


def test_the_meters_are_read_once_a_second_however_often_is_asked(side):
    for _ in range(5):
        side.ask()
    assert side.reads == 1
    side.now_s += FRESH_S
    side.ask()
    assert side.reads == 2


def test_a_run_that_cannot_be_read_is_told_as_it_was_or_not_at_all(side):
    side.run = None
    assert side.ask().status == 503
    side.run = RUN
    side.now_s += FRESH_S
    assert side.ask().status == 200
    side.run = None
    side.now_s += FRESH_S
    assert side.ask().status == 200


# -- over sockets ----------------------------------------------------------------------------------


def exchanged(server, method, path, body=None):
    headers = {"Content-Type": "application/json"} if body else {}
    connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()


def test_a_real_server_takes_phases_and_still_tells_its_health(side):
    server = StatusServer(("127.0.0.1", 0), Meter(), metrics, side.calls.answer)
    server.start()
    with contextlib.closing(server):
        told = json.dumps({"process": "a", "phase": "train"})
        assert exchanged(server, "POST", "/v1/phases", told)[0] == 200
        assert exchanged(server, "GET", "/v1/run?x=1")[0] == 200
        assert exchanged(server, "GET", "/healthz") == (200, b"ok\n")
        assert exchanged(server, "POST", "/metrics")[0] == 405
    assert side.book.is_used


CALLED_FROM_OUTSIDE = """
import contextlib, http.client, subprocess, threading
from tests.test_program_calls import Side, exchanged
from tests.test_status import Meter, metrics
from sidecar.status import StatusServer

side = Side()
server = StatusServer(("0.0.0.0", 0), Meter(), metrics, side.calls.answer)
server.start()
for host in ("10.9.8.7", "127.0.0.1"):
    connection = http.client.HTTPConnection(host, server.address[1], timeout=20)
    told, kind = '{"process": "a", "phase": "train"}', {"Content-Type": "application/json"}
    connection.request("POST", "/v1/phases", told, kind)
    print(connection.getresponse().status, side.book.is_used)
server.close()
"""


@pytest.mark.needs("netns")
def test_the_pods_own_address_that_others_can_reach_too_is_not_loopback():
    """In a network namespace that has another address, a call to it comes from it."""
    setup = "ip link set lo up && ip addr add 10.9.8.7/32 dev lo"
    command = f'{setup} && exec "$0" -c "$1"'
    run = subprocess.run(
        ["unshare", "--net", "sh", "-c", command, sys.executable, CALLED_FROM_OUTSIDE],
        capture_output=True, text=True, timeout=PATIENCE_S, env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert run.stdout.splitlines() == ["403 False", "200 True"], run.stderr
