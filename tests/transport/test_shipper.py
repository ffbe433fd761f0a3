"""Shipping: in order, patient with a far side that fails, quick at the end; the clock is the test's."""

import functools
import itertools
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.journal.claim import Claim
from sidecar.journal.recover import Recovery, owner_path, recover
from sidecar.journal.spool import REFUSED_DIRECTORY, Spool, close_segment
from sidecar.record import EmissionRecord, to_ndjson
from sidecar.segment import SegmentName
from sidecar.transport.delivery import Undelivered
from sidecar.transport.directory import DirectoryTransport
from sidecar.transport.shipper import (
    BACKOFF_MAX_S,
    HURRIED_BACKOFF_S,
    LOOK_AGAIN_S,
    RETRY_AFTER_MAX_S,
    Pace,
    Shipper,
    Supply,
)


@dataclass
class FarSide:
    """A transport into a real directory that fails as often as the test says."""

    root: Path
    failures: list[Undelivered] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    timeouts_s: list[float] = field(default_factory=list)
    proof: str | None = None
    destination: str = "the far side"

    def deliver(self, parcel, timeout_s):
        self.asked.append(parcel.blob_name.rsplit("/", 1)[1].removesuffix(".ndjson.gz"))
        self.timeouts_s.append(timeout_s)
        if self.failures:
            raise self.failures.pop(0)
        return DirectoryTransport(self.root).deliver(parcel, timeout_s)

    def receipt(self, timeout_s):
        return self.proof

    def close(self):
        pass

    @property
    def stored(self):
        return sorted(path.name for path in self.root.rglob("*.ndjson.gz"))


@dataclass
class Time:
    """A clock that moves when told; the dice show the largest."""

    now_s: float = 0.0

    @property
    def pace(self):
        return Pace(lambda: self.now_s, lambda low, high: high)


@pytest.fixture
def far(tmp_path):
    (tmp_path / "far").mkdir()
    return FarSide(tmp_path / "far")


@pytest.fixture
def spool(tmp_path):
    (tmp_path / "records").mkdir()
    return Spool(tmp_path / "records")


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def shipper(far, spool, time):
    return Shipper(lambda: far, Supply(spool), time.pace)


def segment(spool, number, stem="u.b"):
    record = EmissionRecord(record_id=f"{stem}.{number}", window_start="2026-11-22T08:00:00.000Z")
    owner, boot = stem.split(".")
    return close_segment(
        spool.directory, SegmentName(owner, boot, number), to_ndjson(record).encode()
    )


def names(*numbers):
    return [f"u.b.{number:08d}" for number in numbers]


def drain(shipper, time, *, until_s=10_000.0):
    """Let the shipper work until it has nothing to do or its patience goes beyond the time."""
    waits = []
    while (wait_s := shipper.step()) == 0.0 or (
        wait_s is not None and time.now_s + wait_s < until_s
    ):
        if wait_s:
            if not shipper._spool.state().segments:
                break
            waits.append(wait_s)
            time.now_s += wait_s
    return waits


def test_segments_arrive_in_order_and_leave_the_volume(shipper, spool, far, time):
    for number in range(3):
        spool.add(segment(spool, number))
    drain(shipper, time)
    assert far.asked == names(0, 1, 2)
    assert far.stored == [f"{name}.ndjson.gz" for name in names(0, 1, 2)]
    assert not list(spool.directory.iterdir())
    assert (shipper.state.segments, shipper.state.records) == (3, 3)


def test_a_failure_waits_longer_each_time_but_at_most_a_minute(shipper, spool, far, time):
    far.failures = [Undelivered("down") for _ in range(10)]
    spool.add(segment(spool, 0))
    waits = drain(shipper, time)
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, *[BACKOFF_MAX_S] * 5]
    assert far.stored


def test_a_failure_is_told_once_and_its_end_too(shipper, spool, far, time, caplog):
    far.failures = [Undelivered("down") for _ in range(5)] + [Undelivered("denied")]
    spool.add(segment(spool, 0))
    drain(shipper, time)
    told = [text.partition(";")[0] for text in caplog.messages if "records stay" in text]
    assert told == ["down", "denied"]
    assert caplog.messages[-1] == "records can be shipped again"
    assert shipper.state.failure is None
    assert shipper.state.failures == 6


def test_nothing_overtakes_a_segment_that_fails(shipper, spool, far, time):
    far.failures = [Undelivered("down") for _ in range(3)]
    for number in range(2):
        spool.add(segment(spool, number))
    drain(shipper, time)
    assert far.asked == names(0, 0, 0, 0, 1)


def test_half_an_hour_of_outage_is_made_up_for_in_order(shipper, spool, far, time):
    for number in range(6):
        spool.add(segment(spool, number))
        far.failures = [Undelivered("down")] * 1000
        drain(shipper, time, until_s=(number + 1) * 300.0)
    assert not far.stored
    far.failures.clear()
    far.asked.clear()
    time.now_s += BACKOFF_MAX_S
    drain(shipper, time)
    assert far.asked == names(*range(6))
    assert time.now_s >= 1800


def test_a_far_side_that_asks_for_patience_gets_it(shipper, spool, far, time):
    far.failures = [Undelivered("busy", retry_after_s=123.0)]
    spool.add(segment(spool, 0))
    assert drain(shipper, time) == [123.0]


def test_but_not_for_ever(shipper, spool, far, time):
    far.failures = [Undelivered("busy", retry_after_s=1e9)]
    spool.add(segment(spool, 0))
    assert drain(shipper, time) == [RETRY_AFTER_MAX_S]


def test_what_is_refused_is_kept_aside_and_does_not_hold_up_the_others(
    shipper, spool, far, time, caplog
):
    far.failures = [Undelivered("other content under this name", refused=True)]
    for number in range(2):
        spool.add(segment(spool, number))
    drain(shipper, time)
    aside = spool.directory / REFUSED_DIRECTORY
    assert [path.name for path in aside.iterdir()] == [f"{names(0)[0]}.ndjson.gz"]
    assert far.stored == [f"{names(1)[0]}.ndjson.gz"]
    assert spool.state().refused == 1
    assert "other content under this name" in caplog.text


def test_what_another_pod_left_waits_behind_our_own(shipper, spool, far, time):
    spool.add_found([segment(spool, number, "gone.a") for number in range(2)], None)
    spool.add(segment(spool, 7))
    drain(shipper, time)
    assert far.asked == [*names(7), "gone.a.00000000", "gone.a.00000001"]


def test_one_that_fails_of_another_pod_does_not_hold_up_its_fellows(shipper, spool, far, time):
    far.failures = [Undelivered("that pod is still there")]
    spool.add_found([segment(spool, number, "gone.a") for number in range(2)], None)
    drain(shipper, time)
    assert far.asked == ["gone.a.00000000", "gone.a.00000001", "gone.a.00000000"]


def test_a_file_that_somebody_removed_is_told_and_forgotten(shipper, spool, far, time, caplog):
    lost = segment(spool, 0)
    spool.add(lost)
    spool.add(segment(spool, 1))
    lost.path.unlink()
    drain(shipper, time)
    assert far.asked == names(1)
    assert "gone from the volume" in caplog.text
    assert spool.state().segments == 0


def test_a_file_that_is_damaged_is_set_aside(shipper, spool, far, time):
    damaged = segment(spool, 0)
    damaged.path.write_bytes(damaged.path.read_bytes()[:-5])
    spool.add(damaged)
    drain(shipper, time)
    assert not far.asked
    assert spool.state().refused == 1


def test_once_the_end_is_near_failures_are_tried_again_soon(shipper, spool, far, time):
    far.failures = [Undelivered("down") for _ in range(9)]
    spool.add(segment(spool, 0))
    drain(shipper, time, until_s=30.0)
    shipper.hurry()
    waits = drain(shipper, time)
    assert all(wait_s <= HURRIED_BACKOFF_S for wait_s in waits)
    assert far.stored


def test_an_end_within_the_patience_asked_for_is_not_waited_for(far, spool):
    far.failures = [Undelivered("busy", retry_after_s=600.0)]
    shipper = Shipper(lambda: far, Supply(spool))
    spool.add(segment(spool, 0))
    shipper.start()
    assert not shipper.finish(60.0)
    assert len(far.asked) == 1


def test_at_the_end_all_is_shipped_and_the_thread_is_over(far, spool):
    shipper = Shipper(lambda: far, Supply(spool))
    for number in range(20):
        spool.add(segment(spool, number))
    shipper.start()
    assert shipper.finish(30.0)
    assert len(far.stored) == 20
    assert not shipper._thread.is_alive()


def test_an_attempt_near_the_end_has_only_the_time_that_is_left(shipper, spool, far, time):
    shipper._due.deadline_s = 5.0
    spool.add(segment(spool, 0))
    shipper.step()
    assert far.timeouts_s == [5.0]


def test_a_transport_that_cannot_be_opened_is_told_and_tried_again(spool, far, time, caplog):
    faults = [ValueError("the connection string is mangled")]

    def opened():
        if faults:
            raise faults.pop()
        return far

    shipper = Shipper(opened, Supply(spool), time.pace)
    spool.add(segment(spool, 0))
    drain(shipper, time)
    assert "the connection string is mangled; records stay on the volume" in caplog.text
    assert far.stored


def test_a_bug_in_a_transport_ends_shipping_not_the_process(spool, tmp_path, caplog):
    def opened():
        raise ZeroDivisionError

    shipper = Shipper(opened, Supply(spool))
    spool.add(segment(spool, 0))
    shipper.start()
    assert not shipper.finish(30.0)
    assert "which is a bug" in caplog.text
    assert list(spool.directory.glob("*.gz"))


def test_a_receipt_is_kept_beside_the_segments(spool, far, time):
    kept = []
    far.proof = "v1.proof"
    shipper = Shipper(lambda: far, Supply(spool, keep_receipt=kept.append), time.pace)
    shipper.step()
    assert kept == ["v1.proof"]


def left_behind(spool, time, far):
    """A shipper on a volume where another process, `v.a`, left two segments."""
    claim = Claim.take(owner_path(spool.directory, "v.a"))
    for number in range(2):
        segment(spool, number, "v.a")
    claim.release()
    recovery = Recovery("u.b", ships=True)
    look = functools.partial(recover, spool.directory, recovery, spool)
    return Shipper(lambda: far, Supply(spool, look=look), time.pace)


def still_there():
    return Undelivered("that pod runs still", retry_after_s=60.0, about_owner=True)


def test_what_must_wait_for_its_owner_holds_up_nothing_else(spool, far, time):
    shipper = left_behind(spool, time, far)
    far.failures = [still_there()]
    assert shipper.step() == 0.0
    assert shipper.step() == 60.0, "its other segments wait with it"
    spool.add(segment(spool, 0))
    assert shipper.step() == 0.0
    assert far.stored == ["u.b.00000000.ndjson.gz"]
    assert shipper.state.failure is None
    assert shipper.finish(10.0) is True
    assert shipper.step() is None
    assert len(list(spool.directory.glob("v.a.*.gz"))) == 2


def test_what_must_wait_for_its_owner_is_free_for_it_meanwhile(spool, far, time):
    """Its pod may be back, on the same volume, and ships it itself: it must not find it taken."""
    shipper = left_behind(spool, time, far)
    far.failures = [still_there()]
    assert shipper.step() == 0.0
    claim = Claim.take(owner_path(spool.directory, "v.a"), of_this_pod=True)
    assert claim is not None
    assert shipper.step() == 60.0
    time.now_s += 60
    assert shipper.step() is not None
    assert not spool.state().segments, "its owner holds it now"


def test_what_waits_for_its_owner_is_offered_again_ever_less_often(spool, far, time, caplog):
    shipper = left_behind(spool, time, far)
    far.failures = [still_there() for _ in range(8)]
    caplog.set_level("INFO")
    asked_at_s = []
    while len(far.stored) < 2:
        asked = len(far.asked)
        wait_s = shipper.step()
        if len(far.asked) > asked:
            asked_at_s.append(time.now_s)
        time.now_s += wait_s
    pauses_s = [later - earlier for earlier, later in itertools.pairwise(asked_at_s)]
    assert pauses_s[:8] == [60, 120, 240, 480, 960, LOOK_AGAIN_S, LOOK_AGAIN_S, LOOK_AGAIN_S]
    assert sum("runs still" in text for text in caplog.messages) == 1


def test_what_is_anothers_to_bring_is_given_back_whole(shipper, spool, far, time):
    far.failures = [Undelivered("of another service account", about_owner=True)]
    claim = Claim.take(owner_path(spool.directory, "v.a"))
    spool.add_found([segment(spool, number, "v.a") for number in range(2)], claim)
    shipper.step()
    spool.add(segment(spool, 0))
    drain(shipper, time)
    assert far.stored == ["u.b.00000000.ndjson.gz"]
    assert len(list(spool.directory.glob("v.a.*.gz"))) == 2
    assert Claim.take(owner_path(spool.directory, "v.a")) is not None, "nobody holds it any more"
    assert shipper.state.failure is None


def test_after_a_bug_in_one_step_shipping_goes_on(spool, far, time, caplog):
    faults = [ZeroDivisionError(), ZeroDivisionError()]

    def look():
        if faults:
            raise faults.pop()

    shipper = Shipper(lambda: far, Supply(spool, look=look), time.pace)
    spool.add(segment(spool, 0))
    assert shipper._safe_step() == BACKOFF_MAX_S
    assert "which is a bug" in caplog.text
    time.now_s += LOOK_AGAIN_S
    shipper._safe_step()
    time.now_s += LOOK_AGAIN_S
    shipper._safe_step()
    assert far.stored


@given(
    failing=st.lists(st.sampled_from(["fine", "down", "busy", "refused"]), max_size=30),
    count=st.integers(1, 8),
)
def test_whatever_fails_each_segment_ends_in_one_place(failing, count, tmp_path_factory):
    root = tmp_path_factory.mktemp("volume")
    (root / "records").mkdir()
    (root / "far").mkdir()
    far, spool, time = FarSide(root / "far"), Spool(root / "records"), Time()
    outcomes = itertools.chain(failing, itertools.repeat("fine"))

    def deliver(parcel, timeout_s):
        outcome = next(outcomes)
        if outcome == "fine":
            return DirectoryTransport(far.root).deliver(parcel, timeout_s)
        retry_after_s = 10.0 if outcome == "busy" else None
        raise Undelivered(outcome, refused=outcome == "refused", retry_after_s=retry_after_s)

    far.deliver = deliver
    shipper = Shipper(lambda: far, Supply(spool), time.pace)
    for number in range(count):
        spool.add(segment(spool, number))
    drain(shipper, time)
    refused = sorted(path.name for path in (spool.directory / REFUSED_DIRECTORY).glob("*"))
    assert sorted([*far.stored, *refused]) == [f"{name}.ndjson.gz" for name in names(*range(count))]
    assert len(refused) == spool.state().refused
    assert not list(spool.directory.glob("*.gz"))
