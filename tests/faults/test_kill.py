"""kill -9, of the sidecar and of the collector, at the worst moments there are."""

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
import requests

from sidecar.segment import HANDED_OVER, SegmentName, compressed
from tests.collector.running import CollectorProcess, post
from tests.e2e.commands import PATIENCE_S, until
from tests.fakes.fault_proxy import FaultProxy
from tests.faults.nursery import Nursery
from tests.faults.scene import (
    KILLED,
    QUICK,
    Pod,
    Store,
    ids,
    ndjson,
    rows_on,
    segment_of,
    segments_on,
    sequences,
    sidecar_of,
    status_url,
    through_collector,
)

pytestmark = pytest.mark.needs("azurite")

LOSS_MAX_S = 5.0
"""Promised are the last two seconds; the rest is for a machine that is busy with other tests."""

PODS, KILLS_EACH = 10, 20
LIFE_S = (0.05, 2.5)
SHIPS = "records are shipped to"


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def announce_end(running) -> None:
    """What the preStop hook does."""
    url = f"{status_url(running)}/terminating"
    assert requests.post(url, timeout=PATIENCE_S).ok


UNHURRIED = ("--interval", "1h", "--flush-interval", "1h", "--listen", "127.0.0.1:0")


def test_a_pod_killed_after_its_warning_misses_its_last_two_seconds_at_most(
    store: Store, tmp_path: Path
):
    with sidecar_of(Pod(), tmp_path / "volume", *UNHURRIED, **store.shipping()) as running:
        running.until(lambda: "metering" in running.log)
        announce_end(running)
        store.grows_by(4, running)
        time.sleep(random.Random(1).uniform(0, 1))  # the moment of the kill is anyone's
        running.process.kill()
        killed_s = time.time()
        running.process.wait()
    rows = store.rows
    assert killed_s - max(seconds(row["window_end"]) for row in rows) <= LOSS_MAX_S
    assert sequences(rows) == list(range(len(rows)))
    store.verified(KILLED)


def test_a_pod_killed_two_seconds_after_sigterm_in_an_outage_keeps_all_on_its_volume(
    store: Store, proxy: FaultProxy, tmp_path: Path
):
    """What was written before the outage is in Blob, the rest on the volume; the next start ships it."""
    volume = tmp_path / "volume"
    with sidecar_of(Pod(), volume, *UNHURRIED, **store.shipping(proxy)) as running:
        running.until(lambda: "metering" in running.log)
        announce_end(running)
        store.grows_by(3, running)
        running.until(lambda: not segments_on(volume))
        proxy.black_hole()
        before = sequences(store.rows)
        running.until(lambda: len(segments_on(volume)) >= 2)
        running.process.send_signal(signal.SIGTERM)
        asked_s = time.monotonic()
        running.until(
            lambda: (
                time.monotonic() - asked_s >= 2
                and any(row["event"] == "end" for row in rows_on(volume))
            )
        )
        running.process.kill()
        running.process.wait()
    arrived, kept = sequences(store.rows), sequences(rows_on(volume))
    assert sorted({*arrived, *kept}) == list(range(max(kept) + 1))
    assert min(kept) <= max(before) + 2, "one may have been under way when the outage began"
    proxy.refuse()
    proxy.pass_on()
    with sidecar_of(Pod(), volume, **store.shipping(proxy)) as running:
        running.until(lambda: sequences(store.rows)[-1:] and set(kept) <= _of_first(store))
        assert running.end().code == 0
    assert not segments_on(volume)
    store.verified()


def _of_first(store: Store) -> set[int]:
    """Sequence numbers of the process that began first."""
    rows = store.rows
    first = min(rows, key=lambda row: row["window_start"])["record_id"].rpartition(".")[0]
    return set(sequences(row for row in rows if row["record_id"].startswith(first)))


# -- 200 random instants -----------------------------------------------------------------------------


@dataclass
class KilledPod:
    """A pod whose sidecar is killed again and again, on one volume."""

    pod: Pod
    volume: Path
    env: dict[str, str]
    durable: set[str] = field(default_factory=set)
    """Ids of records that were whole on the volume when a process was killed."""
    kills: int = 0

    def run(self) -> None:
        """Kill so often; then let a last process recover, ship, and end well."""
        dice = random.Random(self.pod.number)
        self.volume.mkdir()
        with Nursery() as nursery:
            for _ in range(KILLS_EACH):
                pid = self._start(nursery)
                time.sleep(dice.uniform(*LIFE_S))
                os.kill(pid, signal.SIGKILL)
                assert nursery.ended() == -signal.SIGKILL, self.log
                self.durable |= ids(rows_on(self.volume))
                self.kills += 1
            before = self.log.count(SHIPS)
            pid = self._start(nursery)
            until(lambda: self.log.count(SHIPS) > before)
            os.kill(pid, signal.SIGTERM)
            assert nursery.ended() == 0, self.log

    def _start(self, nursery: Nursery) -> int:
        command = ("run", "--volume", self.volume, *QUICK)
        return nursery.start(*command, env=self.env, log=self._log_path)

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    @property
    def _log_path(self) -> Path:
        return self.volume.with_suffix(".log")


def test_after_kills_at_200_random_instants_all_that_was_written_is_in_blob_once(
    store: Store, tmp_path: Path
):
    """Each loses its open window at most: what was on the volume arrives, and nothing twice."""
    pods = [
        KilledPod(pod, tmp_path / pod.name, {**pod.environment, **store.shipping()})
        for pod in map(Pod, range(PODS))
    ]
    with ThreadPoolExecutor(PODS) as threads:
        list(threads.map(KilledPod.run, pods))
    assert sum(pod.kills for pod in pods) == PODS * KILLS_EACH == 200
    rows = store.rows
    assert len(ids(rows)) == len(rows)
    for pod in pods:
        assert pod.durable - ids(rows) == set()
        assert "Traceback" not in pod.log
        assert not segments_on(pod.volume)
        assert not list((pod.volume / "records").glob(".*")), "a claim or a torn file is left"
    _no_window_is_missing_within_a_process(rows)
    verdict = store.verified(KILLED)
    assert verdict["totals"]["boots"] > 50, "most were killed before they had written anything"


def _no_window_is_missing_within_a_process(rows) -> None:
    processes: dict[str, list] = {}
    for row in rows:
        stem, _, sequence = row["record_id"].rpartition(".")
        processes.setdefault(stem, []).append((int(sequence), row))
    for numbered in processes.values():
        numbered.sort(key=lambda pair: pair[0])
        assert [number for number, _ in numbered] == list(range(len(numbered)))
        assert numbered[0][1]["event"] == "start"
        for (_, earlier), (_, later) in pairwise(numbered):
            assert earlier["window_end"] == later["window_start"]


# -- the collector -----------------------------------------------------------------------------------


def test_a_collector_killed_between_commit_and_answer_costs_nothing(
    store: Store, proxy: FaultProxy, api, tmp_path: Path
):
    """The sidecar does not know that it is stored, sends it again, and the next collector knows."""
    pod, volume = Pod(), tmp_path / "volume"
    backend = store.credential(proxy)
    with CollectorProcess(api, tmp_path, **backend) as first, FaultProxy(*_address(first)) as front:
        first.said("ready: ")
        env = through_collector(front.url, pod.token(api), tmp_path)
        with sidecar_of(pod, volume, **env) as running:
            store.grows_by(1, running)
            running.until(lambda: not segments_on(volume))
            proxy.drip_answer(1.0)
            store.grows_by(1, running)
            running.until(lambda: _committed_and_kept(store, volume))
            first.process.kill()
            first.process.wait()
            unanswered = _committed_and_kept(store, volume)
            assert unanswered
            proxy.pass_on()
            with CollectorProcess(api, tmp_path, **backend) as second:
                front.target = _address(second)
                store.grows_by(2, running)
                assert running.end().code == 0
        assert not segments_on(volume)
    assert len(unanswered & {str(segment_of(name)) for name in store.names}) == len(unanswered)
    store.verified()


def _committed_and_kept(store: Store, volume: Path) -> set[str]:
    """Segments in Blob whose sidecar does not know that yet."""
    kept = {str(SegmentName.of_file(path.name)) for path in segments_on(volume)}
    return kept & {str(segment_of(name)) for name in store.names}


def _address(collector: CollectorProcess) -> tuple[str, int]:
    host, _, port = collector.url().removeprefix("http://").partition(":")
    return host, int(port)


def test_two_collectors_that_get_the_same_segments_at_the_same_time_store_each_once(
    store: Store, api, tmp_path: Path
):
    pods = [Pod(number) for number in range(10)]
    segments = [(pod.token(api), compressed(ndjson(pod.history()))) for pod in pods]
    backend = store.credential()
    with (
        CollectorProcess(api, tmp_path, **backend) as one,
        CollectorProcess(api, tmp_path, **backend) as other,
    ):
        urls = [one.url(), other.url()]
        together = threading.Barrier(2)

        def send(url: str) -> list[int]:
            statuses = []
            for token, content in segments:
                together.wait(PATIENCE_S)
                statuses.append(post(url, content, token).status_code)
            return statuses

        with ThreadPoolExecutor(2) as threads:
            pairs = zip(*threads.map(send, urls), strict=True)
    assert [sorted(pair) for pair in pairs] == [[200, 201]] * len(pods)
    assert len(store.names) == len(pods)
    assert not [name for name in store.names if HANDED_OVER in name]
    store.verified()
