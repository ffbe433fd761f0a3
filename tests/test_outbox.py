"""From record to far side: when segments close, where they are when things fail, what a crash costs."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sidecar.outbox import Outbox, samples
from sidecar.record import EmissionRecord
from sidecar.segment import decompressed
from sidecar.settings import load_settings
from sidecar.transport.delivery import Undelivered
from sidecar.transport.directory import DirectoryTransport
from tests.e2e.commands import until
from tests.fakes.disk import small_disk

DAY = "2026-11-22"


@dataclass
class Desk:
    """An outbox under a clock of the test, and its far side, a directory that can be closed."""

    tmp_path: Path
    flags: dict[str, str] = field(default_factory=dict)
    now_s: float = 0.0
    is_open: bool = True
    number: int = 0

    def __post_init__(self):
        self.volume = self.tmp_path / "volume"
        self.far = self.tmp_path / "far"
        self.far.mkdir(exist_ok=True)
        self.boots = 0

    def outbox(self, *, ships=True, **flags):
        self.boots += 1
        self.number = 0
        given = {"volume": str(self.volume), "ship_deadline": "10s", **self.flags, **flags}
        settings = load_settings(given, {})
        self.stem = f"pod.b{self.boots}"
        opener = (lambda: self) if ships else None
        outbox = Outbox(settings, self.stem, opener, lambda: self.now_s)
        outbox.open()
        return outbox

    destination = "the far side"

    def deliver(self, parcel, timeout_s):
        if not self.is_open:
            raise Undelivered("closed")
        return DirectoryTransport(self.far).deliver(parcel, timeout_s)

    def receipt(self, timeout_s):
        return None

    def close(self):
        pass

    def record(self, **fields):
        columns = {"window_start": f"{DAY}T08:00:00.000Z", "energy_kwh": 1.0, **fields}
        record = EmissionRecord(record_id=f"{self.stem}.{self.number}", **columns)
        self.number += 1
        return record

    def write(self, outbox, count=1, **fields):
        for _ in range(count):
            outbox.append(self.record(**fields))

    @property
    def arrived(self):
        """Numbers of the records on the far side, segment by segment."""
        return [
            [json.loads(line)["record_id"].removeprefix("pod.") for line in lines]
            for path in sorted(self.far.rglob("*.ndjson.gz"), key=lambda path: path.name)
            for lines in [decompressed(path.read_bytes()).splitlines()]
        ]

    @property
    def left(self):
        """Segments on the volume."""
        names = (path.name for path in (self.volume / "records").rglob("*.ndjson*"))
        return sorted(name for name in names if not name.startswith("."))


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def released(outbox):
    outbox.release()
    return outbox


def test_records_go_when_the_flush_interval_is_over(desk):
    outbox = released(desk.outbox(flush_interval="5m"))
    desk.write(outbox, 3)
    assert desk.arrived == []
    desk.now_s += 300
    desk.write(outbox)
    until(lambda: desk.arrived)
    outbox.close()
    assert desk.arrived == [["b1.0", "b1.1", "b1.2", "b1.3"]]


def test_a_tick_that_comes_a_little_early_does_not_miss_its_turn(desk):
    """Ticks are late by some milliseconds, now more, now less; segments keep their length."""
    outbox = released(desk.outbox(flush_interval="1m"))
    desk.now_s = 120.0
    desk.write(outbox)  # the first segment is over some time in the first minute
    for number in range(1, 41):
        desk.now_s = 120 + number * 15 + (0.015 if number % 4 else 0.001)
        desk.write(outbox)
    outbox.close()
    assert {len(segment) for segment in desk.arrived[2:-1]} == {4}


def test_a_large_segment_goes_before_that(desk):
    outbox = released(desk.outbox())
    desk.write(outbox, 30, workload="x" * 10_000)
    until(lambda: desk.arrived)
    outbox.close()


@pytest.mark.parametrize(
    "change", [{"window_start": "2026-11-23T00:00:00.000Z"}, {"project": "other"}, {"cluster": "c"}]
)
def test_another_day_project_or_cluster_begins_another_segment(desk, change):
    outbox = released(desk.outbox())
    desk.write(outbox, 2)
    desk.write(outbox, 2, **change)
    outbox.close()
    assert desk.arrived == [["b1.0", "b1.1"], ["b1.2", "b1.3"]]


def test_nothing_goes_before_who_and_where_is_settled(desk):
    outbox = desk.outbox(flush_interval="1s")
    for _ in range(5):
        desk.now_s += 10
        desk.write(outbox)
    assert len(desk.left) == 1
    assert desk.arrived == []
    outbox.rewrite([EmissionRecord(record_id=f"{desk.stem}.{n}", region="here", window_start=DAY + "T")
                    for n in range(5)])  # fmt: skip
    outbox.release()
    outbox.close()
    (path,) = desk.far.rglob("*.gz")
    assert {
        json.loads(line)["region"] for line in decompressed(path.read_bytes()).splitlines()
    } == {"here"}


def test_once_the_end_is_near_each_record_goes_at_once(desk):
    outbox = released(desk.outbox())
    desk.write(outbox, 2)
    outbox.hurry()
    until(lambda: len(desk.arrived) == 1)
    desk.write(outbox)
    until(lambda: len(desk.arrived) == 2)
    assert desk.arrived == [["b1.0", "b1.1"], ["b1.2"]]
    outbox.close()


def test_at_the_end_all_has_arrived_and_the_volume_is_empty(desk):
    outbox = released(desk.outbox())
    desk.write(outbox, 5)
    state = outbox.close()
    assert desk.arrived == [[f"b1.{number}" for number in range(5)]]
    assert not list((desk.volume / "records").iterdir())
    assert (state.shipped_records, state.unshipped_records) == (5, 0)


def test_without_a_transport_records_stay_as_they_were_written(desk):
    outbox = released(desk.outbox(ships=False))
    desk.write(outbox, 3)
    state = outbox.close()
    assert desk.left == ["pod.b1.00000000.ndjson"]
    assert state.unshipped_records == 0


def test_a_long_run_without_a_transport_is_compressed_piece_by_piece(desk):
    outbox = released(desk.outbox(ships=False))
    desk.write(outbox, 450, workload="x" * 10_000)
    outbox.close()
    assert [name.rsplit(".", 1)[1] for name in desk.left] == ["gz", "ndjson"]


def test_what_the_far_side_does_not_take_is_told_and_taken_on_by_the_next_boot(desk):
    desk.is_open = False
    outbox = released(desk.outbox(ship_deadline="0s"))
    desk.write(outbox, 3)
    state = outbox.close()
    assert (state.unshipped_segments, state.unshipped_records) == (1, 3)
    assert desk.left == ["pod.b1.00000000.ndjson.gz"]
    desk.is_open = True
    outbox = released(desk.outbox())
    until(lambda: desk.arrived)
    desk.write(outbox)
    outbox.close()
    assert desk.arrived == [["b1.0", "b1.1", "b1.2"], ["b2.0"]]
    assert desk.left == []


def test_a_volume_that_cannot_be_written_costs_nothing_while_the_far_side_is_there(desk):
    desk.volume.write_text("a file where the volume should be")
    outbox = released(desk.outbox(flush_interval="1m"))
    for _ in range(4):
        desk.write(outbox, 2)
        desk.now_s += 60
    outbox.close()
    assert [number for segment in desk.arrived for number in segment] == [
        f"b1.{n}" for n in range(8)
    ]


def test_with_the_far_side_gone_too_records_wait_and_are_written_when_one_is_back(desk):
    desk.volume.write_text("in the way")
    desk.is_open = False
    outbox = released(desk.outbox(flush_interval="1m", ship_deadline="0s"))
    for _ in range(4):
        desk.write(outbox, 2)
        desk.now_s += 60
    desk.volume.unlink()
    desk.write(outbox)
    state = outbox.close()
    assert state.waiting_records == 0
    assert state.unshipped_records == 9
    desk.is_open = True
    released(desk.outbox()).close()
    numbers = sorted(int(n.rpartition(".")[2]) for segment in desk.arrived for n in segment)
    assert numbers == list(range(9))


def test_a_volume_that_is_lost_loses_no_segment_that_is_open(desk):
    outbox = released(desk.outbox())
    desk.write(outbox, 3)
    shutil.rmtree(desk.volume)
    desk.write(outbox, 2)
    outbox.close()
    assert desk.arrived == [["b1.0", "b1.1", "b1.2"], ["b1.3", "b1.4"]]


def test_what_was_removed_during_an_outage_is_written_again(desk):
    """Else it would be in memory alone until the far side is back, and a kill would take it."""
    desk.is_open = False
    outbox = released(desk.outbox())
    desk.write(outbox, 3)
    shutil.rmtree(desk.volume)
    desk.write(outbox, 2)
    assert outbox.state().waiting_records == 0
    assert desk.left == ["pod.b1.00000000.ndjson.gz", "pod.b1.00000003.ndjson"]
    desk.is_open = True
    until(lambda: desk.arrived)
    outbox.close()
    assert desk.arrived == [["b1.0", "b1.1", "b1.2"], ["b1.3", "b1.4"]]
    assert desk.left == []


def test_a_segment_that_was_cut_leaves_no_half_of_it(desk):
    """It would be found by the next process, and be other content under the same name."""
    outbox = released(desk.outbox())
    desk.write(outbox, 3)
    segment = outbox.journal.path
    segment.write_bytes(segment.read_bytes()[:100])
    desk.write(outbox, 2)
    until(lambda: desk.arrived)
    assert not segment.exists()
    assert outbox.close().refused_segments == 0
    assert desk.arrived == [["b1.0", "b1.1", "b1.2"], ["b1.3", "b1.4"]]
    assert desk.left == []


def test_what_memory_alone_holds_is_written_once_the_volume_is_back(desk):
    desk.volume.write_text("in the way")
    desk.is_open = False
    outbox = released(desk.outbox(flush_interval="1m", ship_deadline="0s"))
    for _ in range(4):
        desk.write(outbox, 2)
        desk.now_s += 60
    assert outbox.state().waiting_records == 8
    assert outbox.state().unshipped_segments == 1, "meant to go from memory at once"
    desk.volume.unlink()
    desk.write(outbox)
    assert outbox.state().waiting_records == 0
    assert outbox.close().unshipped_records == 9
    desk.is_open = True
    released(desk.outbox()).close()
    numbers = sorted(int(n.rpartition(".")[2]) for segment in desk.arrived for n in segment)
    assert numbers == list(range(9))


def test_an_early_segment_that_is_lost_is_completed_once_and_not_shipped_twice(desk):
    outbox = desk.outbox(flush_interval="1s")
    desk.write(outbox, 3)
    shutil.rmtree(desk.volume)
    desk.now_s += 10
    desk.write(outbox, 2)
    completed = [
        EmissionRecord(record_id=f"{desk.stem}.{n}", region="here", window_start=f"{DAY}T08:00:00Z")
        for n in range(5)
    ]
    outbox.rewrite(completed)
    outbox.release()
    state = outbox.close()
    assert desk.arrived == [[f"b1.{number}" for number in range(5)]]
    assert state.refused_segments == 0


def test_without_a_transport_what_was_removed_is_written_again(desk, caplog):
    outbox = released(desk.outbox(ships=False))
    desk.write(outbox, 100)
    shutil.rmtree(desk.volume / "records")
    desk.write(outbox)
    outbox.close()
    numbers = [
        int(json.loads(line)["record_id"].rpartition(".")[2])
        for name in desk.left
        for path in [desk.volume / "records" / name]
        for line in (
            decompressed(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        ).splitlines()
    ]
    assert sorted(numbers) == list(range(101))
    assert "was taken away or cut; its records are kept" in caplog.text


def test_records_of_two_projects_that_waited_together_are_written_apart(desk):
    desk.volume.write_text("in the way")
    desk.is_open = False
    outbox = released(desk.outbox(flush_interval="1h"))
    desk.write(outbox, 2)
    desk.write(outbox, 2, project="other")
    desk.volume.unlink()
    desk.write(outbox, project="other")
    desk.is_open = True
    outbox.close()
    assert desk.arrived == [["b1.0", "b1.1"], ["b1.2", "b1.3", "b1.4"]]


def test_what_earlier_boots_left_counts_where_it_stays(desk):
    for _ in range(4):
        outbox = released(desk.outbox(ships=False, volume_limit="40000"))
        desk.write(outbox, 20)
        outbox.close()
    used = sum(path.stat().st_size for path in (desk.volume / "records").glob("pod*"))
    assert used <= 40_000


def test_once_windows_are_as_long_as_usual_segments_are_too(desk):
    outbox = released(desk.outbox(flush_interval="5m"))
    outbox.hurry()
    desk.write(outbox)
    until(lambda: len(desk.arrived) == 1)
    outbox.calm()
    desk.write(outbox, 3)
    assert desk.left == ["pod.b1.00000001.ndjson"]
    outbox.close()


def test_a_number_that_is_none_costs_its_own_record_only(desk, caplog):
    outbox = released(desk.outbox())
    desk.write(outbox)
    desk.write(outbox, energy_kwh=float("nan"))
    desk.write(outbox)
    outbox.close()
    assert desk.arrived == [["b1.0", "b1.2"]]
    assert "pod.b1.1 cannot be written, which is a bug" in caplog.text


def test_records_take_no_more_of_the_volume_than_they_may(desk, caplog):
    desk.is_open = False
    outbox = released(desk.outbox(volume_limit="64Ki", flush_interval="1s", ship_deadline="0s"))
    for _ in range(200):
        desk.now_s += 10
        desk.write(outbox, workload="".join(map(chr, range(200, 1200))))
        used = sum(path.stat().st_size for path in (desk.volume / "records").iterdir())
        assert used <= 64 * 1024 + 4096  # and the file that says whose they are
    state = outbox.state()
    assert "EMISSIONS_VOLUME_LIMIT" in state.write_failure
    assert state.waiting_records > 0
    desk.is_open = True
    outbox.close()


def test_what_waited_for_the_limit_is_written_when_there_is_room(desk):
    desk.is_open = False
    outbox = released(desk.outbox(volume_limit="64Ki", flush_interval="1s"))
    while outbox.state().write_failure is None:
        desk.now_s += 10
        desk.write(outbox, workload="".join(map(chr, range(200, 1200))))
    desk.is_open = True
    until(lambda: outbox.state().unshipped_segments == 0)
    desk.write(outbox)
    assert outbox.state().write_failure is None
    outbox.close()
    numbers = [int(n.rpartition(".")[2]) for segment in desk.arrived for n in segment]
    assert numbers == list(range(desk.number))


@pytest.mark.needs("root")
def test_a_full_disk_is_emptied_by_shipping(desk, tmp_path):
    """The closed segment cannot be compressed there: it is shipped from its open file."""
    with small_disk(desk.volume, "256k") as disk:
        outbox = released(desk.outbox())
        desk.write(outbox, 5)
        disk.fill()
        desk.write(outbox, 5, workload="x" * 5000)
        assert outbox.state().write_failure
        outbox.hurry()
        until(lambda: len(desk.arrived) == 1)
        desk.write(outbox)
        outbox.close()
    numbers = [int(n.rpartition(".")[2]) for segment in desk.arrived for n in segment]
    assert sorted(numbers) == list(range(11))


def test_the_metrics_say_what_is_where(desk):
    desk.is_open = False
    outbox = released(desk.outbox(ship_deadline="0s"))
    desk.write(outbox, 3)
    outbox.hurry()
    until(lambda: outbox.state().ship_failure)
    values = {sample.metric.name: sample.value for sample in samples(outbox.state())}
    outbox.close()
    assert values["emissions_unshipped_records"] == 3
    assert values["emissions_shipping_failing"] == 1
    assert values["emissions_journal_failing"] == 0
    assert values["emissions_journal_bytes"] > 0
