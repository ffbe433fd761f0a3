"""A program beside a sidecar: finds it, tells its phases, asks for the run; all over real sockets."""

import contextlib
import json
import os
import socket
import threading
import time

import pytest

from sidecar.agent import RunSoFar
from sidecar.exporters.summary import Totals, summary_mapping, totals_of
from sidecar.identity.fields import Hardware
from sidecar.phases import SILENT_S, PhaseBook, PhaseClock
from sidecar.program_calls import ProgramCalls, run_mapping
from sidecar.record import EmissionRecord
from sidecar.status import StatusServer
from sidecar.tracking.beside import (
    ANSWER_S,
    SUMMARY_FRESH_S,
    Beside,
    Mounted,
    Teller,
    find_sidecar,
    run_from,
)
from tests.e2e.commands import until
from tests.test_status import Meter, metrics

RECORD = EmissionRecord(
    record_id="u.b.3",
    pod_uid="u",
    project="demo",
    window_start="2026-11-22T08:00:00.000Z",
    window_end="2026-11-22T08:00:15.000Z",
    duration_s=15.0,
    energy_kwh=0.1,
    facility_energy_kwh=0.12,
    emissions_g=30.0,
    phases={"train": 5.0},
)
RUN = RunSoFar(Totals(RECORD, 3), Hardware(cpu_model="EPYC", logical_cpus=2), "Netherlands")


class Sidecar:
    """The calls of a sidecar behind a real server."""

    def __init__(self, run=RUN, prefix=""):
        self.book = PhaseBook()
        self.run = run
        self.calls = ProgramCalls(self.book, lambda: None, lambda: self.run, prefix)
        self.server = StatusServer(("127.0.0.1", 0), Meter(), metrics, self.calls.answer)
        host, port = self.server.address
        self.url = f"http://{host}:{port}{prefix}"

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.close()


@pytest.fixture
def sidecar():
    with Sidecar() as started:
        yield started


@pytest.fixture
def nowhere(tmp_path):
    """A summary that is not there."""
    return tmp_path / "none.json"


# -- finding it ------------------------------------------------------------------------------------


def test_a_sidecar_of_a_pod_is_found_and_tells_the_run(sidecar, nowhere):
    found = find_sidecar(sidecar.url, is_named=False, summary=nowhere)
    assert isinstance(found, Beside)
    run = found.so_far()
    assert run.totals.merged == RECORD
    assert (run.totals.windows, run.country_name) == (3, "Netherlands")
    assert run.hardware == RUN.hardware
    assert found.flush().totals == run.totals


def test_behind_a_secret_prefix_it_is_found_by_who_knows_it(nowhere):
    with Sidecar(prefix="/secret") as sidecar:
        assert find_sidecar(sidecar.url, is_named=True, summary=nowhere)
        bare = sidecar.url.removesuffix("/secret")
        assert find_sidecar(bare, is_named=True, summary=nowhere) is None


def test_one_that_meters_a_machine_is_not_a_programs_unless_it_is_named(nowhere):
    outside = RunSoFar(Totals(EmissionRecord(record_id="run.b.1"), 1), Hardware(), None)
    with Sidecar(run=outside) as sidecar:
        assert find_sidecar(sidecar.url, is_named=False, summary=nowhere) is None
        assert find_sidecar(sidecar.url, is_named=True, summary=nowhere)


def test_nobody_is_asked_where_that_is_said(sidecar, nowhere):
    assert find_sidecar("none", is_named=True, summary=nowhere) is None


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def test_where_nobody_listens_there_is_none(nowhere):
    url = f"http://127.0.0.1:{free_port()}"
    assert find_sidecar(url, is_named=True, summary=nowhere) is None


ANSWERS = {
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "nothing": b"",
    "not found": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "no JSON": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "another service": b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"service": "other"}',
    "a list": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    "cut off": b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_somebody_else_at_the_port_is_no_sidecar(nowhere, answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert find_sidecar(url, is_named=True, summary=nowhere) is None
        thread.join()


def test_somebody_who_drips_is_hung_up_on(nowhere):
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not ended.wait(ANSWER_S / 20):
                    connection.sendall(b"X-More: 1\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert find_sidecar(url, is_named=True, summary=nowhere) is None
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"totals": []},
        {"totals": {"duration_s": "long"}, "windows": 1},
        {"totals": {"energy_kwh": -1.0}, "windows": 1},
        {"totals": {"emissions_g": float("nan")}, "windows": 1},
        {"totals": {}, "windows": "x"},
        {"totals": {"gpus": [1]}, "windows": 1},
    ],
)
def test_a_run_that_is_none_is_refused(content):
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        run_from(content)


def test_a_run_of_another_version_is_read_as_far_as_it_is_known():
    content = run_mapping(RUN)
    content["totals"] |= {"column_of_tomorrow": 1}
    del content["totals"]["phases"]
    del content["memory_total_gib"]
    run = run_from(json.loads(json.dumps(content)))
    assert run.totals.merged.energy_kwh == 0.1
    assert run.totals.merged.phases is None


# -- the summary that it mounts --------------------------------------------------------------------


def test_a_mounted_summary_stands_for_a_sidecar_that_does_not_listen(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(summary_mapping(RUN.totals, None)))
    found = find_sidecar(f"http://127.0.0.1:{free_port()}", is_named=False, summary=path)
    assert isinstance(found, Mounted)
    run = found.so_far()
    assert (run.totals.windows, run.totals.merged.emissions_g) == (3, 30.0)
    assert found.flush() == run


def test_an_old_summary_is_of_nobody_who_runs(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(summary_mapping(RUN.totals, None)))
    old_s = time.time() - SUMMARY_FRESH_S - 60
    os.utime(path, (old_s, old_s))
    assert Mounted(path).so_far() is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"windows": 1, "duration_s": -1}'])
def test_a_summary_that_is_none_is_no_sidecar(tmp_path, text):
    path = tmp_path / "summary.json"
    path.write_text(text)
    assert Mounted(path).so_far() is None


def test_a_summary_outside_of_a_pod_is_not_a_programs(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(summary_mapping(totals_of(EmissionRecord()), None)))
    url = f"http://127.0.0.1:{free_port()}"
    assert find_sidecar(url, is_named=False, summary=path) is None


# -- telling phases --------------------------------------------------------------------------------


def test_phases_are_told_as_they_change(sidecar):
    clock = PhaseClock()
    teller = Teller(Beside(sidecar.url), clock)
    teller.start()
    token = clock.enter("train")
    until(lambda: sidecar.book.is_used)
    clock.leave(token)
    teller.close()
    taken = sidecar.book.take(time.monotonic())
    assert set(taken) == {"train"}
    assert not sidecar.book.is_used


def test_a_phase_that_is_open_already_is_told_at_once(sidecar):
    clock = PhaseClock()
    clock.enter("train")
    teller = Teller(Beside(sidecar.url), clock)
    teller.start()
    until(lambda: sidecar.book.is_used)
    teller.close()


def test_phases_of_the_same_second_are_told_together(sidecar):
    clock = PhaseClock()
    teller = Teller(Beside(sidecar.url), clock)
    teller.start()
    told = []
    tell = sidecar.book.tell
    sidecar.book.tell = lambda name, what: told.append(what) or tell(name, what)
    for number in range(300):
        clock.leave(clock.enter("even" if number % 2 else "odd"))
    until(lambda: told)
    teller.close()
    assert len(told) <= 3
    assert all(set(what.seconds) <= {"even", "odd"} for what in told)


def test_a_sidecar_that_goes_away_is_no_trouble(sidecar):
    clock = PhaseClock()
    beside = Beside(sidecar.url)
    teller = Teller(beside, clock)
    teller.start()
    clock.enter("train")
    until(lambda: sidecar.book.is_used)
    sidecar.server.close()
    assert not beside.tell("train", {}, 0.0)
    assert beside.so_far() is None
    teller.close()


def test_a_heartbeat_is_much_shorter_than_the_silence_that_ends_a_phase():
    from sidecar.tracking.beside import HEARTBEAT_S

    assert 2 * HEARTBEAT_S < SILENT_S
