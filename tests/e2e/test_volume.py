"""The volume fails in every way a volume can: metering goes on, the command too, nothing is lost."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import SIDECAR, Running, finished, records, sidecar, windows
from tests.fakes.disk import SmallDisk, small_disk

NOBODY = 65534


def test_a_missing_volume_is_made(tmp_path: Path):
    volume = tmp_path / "not" / "there" / "yet"
    assert sidecar("run", "--for", "100ms", "--volume", volume).code == 0
    assert windows(volume)
    shown = {path.name for path in volume.iterdir() if not path.name.startswith(".")}
    assert shown == {"records", "summary.json", "emissions.csv"}


@pytest.mark.parametrize(
    "name", ["with blanks", "日本語 📈", "a'b\"c", "-dash", "new\nline", b"\xff\xfe"]
)
def test_a_volume_may_have_any_name(tmp_path: Path, name: str | bytes):
    volume = os.fsdecode(os.fsencode(tmp_path) + b"/" + os.fsencode(name))
    outcome = sidecar("exec", "--volume", volume, "--", "sh", "-c", "exit 3")
    assert outcome.code == 3
    assert "records in" in outcome.stderr
    assert windows(Path(volume))


def test_a_file_in_the_place_of_the_volume_costs_the_records_only(tmp_path: Path):
    volume = tmp_path / "volume"
    volume.write_text("a file")
    outcome = sidecar("exec", "--volume", volume, "--", "sh", "-c", "exit 3")
    assert outcome.code == 3
    assert "2 records not written" in outcome.stderr
    assert "project default" in outcome.stderr.splitlines()[-1]
    assert volume.read_text() == "a file"


@pytest.mark.needs("root")
def test_a_volume_of_somebody_else_costs_the_records_only(tmp_path: Path):
    """As root without the capabilities that let root write everywhere."""
    volume = tmp_path / "volume"
    volume.mkdir()
    os.chown(volume, NOBODY, NOBODY)
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    command = [*SIDECAR, "exec", "--volume", volume, "--", "sh", "-c", "exit 3"]
    outcome = finished([*without, *command])
    assert outcome.code == 3
    assert outcome.messages.count("Permission denied; metering goes on") >= 2
    assert "2 records not written" in outcome.stderr
    assert not list(volume.iterdir())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of 64 KiB."""
    with small_disk(tmp_path / "mounted", "64k") as mounted:
        yield mounted


def remount(volume: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", volume], check=True)


@pytest.mark.needs("root")
def test_a_read_only_volume_costs_the_records_only(disk: SmallDisk):
    remount(disk.path, "ro")
    outcome = sidecar("exec", "--volume", disk.path, "--", "sh", "-c", "exit 3")
    assert outcome.code == 3
    assert "Read-only file system" in outcome.messages
    assert "2 records not written" in outcome.stderr


@pytest.mark.needs("root")
def test_what_waits_for_a_full_volume_is_written_when_there_is_space(
    disk: SmallDisk, tmp_path: Path
):
    end = tmp_path / "end"
    script = f"until [ -e {end} ]; do sleep 0.05; done; exit 3"
    with Running(
        "exec", "--interval", "1s", "--volume", disk.path, "--", "sh", "-c", script,
        log=tmp_path / "log",
    ) as running:  # fmt: skip
        running.until(lambda: windows(disk.path))
        disk.fill()
        running.until(lambda: running.log.count("records wait in memory"))
        written = len(records(disk.path))
        waiting = "emissions-sidecar"
        running.until(lambda: len(records(disk.path)) == written and waiting not in running.log)
        disk.free()
        running.until(lambda: "can be written again; all records are on it" in running.log)
        end.touch()
        outcome = running.end(None)
    assert outcome.code == 3
    assert outcome.messages.count("records wait in memory") == 1
    numbers = [int(row["record_id"].rsplit(".", 1)[1]) for row in records(disk.path)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > written
    assert json.loads((disk.path / "summary.json").read_text())["failure"] is None


@pytest.mark.needs("root")
def test_a_volume_that_stays_full_leaves_the_totals_in_the_summary_line(
    disk: SmallDisk, tmp_path: Path
):
    script = "sleep 2.2; exit 3"
    with Running(
        "exec", "--interval", "1s", "--volume", disk.path, "--", "sh", "-c", script,
        log=tmp_path / "log",
    ) as running:  # fmt: skip
        running.until(lambda: records(disk.path))
        before = len(records(disk.path))
        disk.fill()
        outcome = running.end(None)
    assert outcome.code == 3
    assert outcome.messages.count("records wait in memory") == 1
    assert "records could not be written" in outcome.messages
    assert "the totals: " in outcome.messages
    summary = outcome.stderr.splitlines()[-1]
    assert summary.startswith("emissions-sidecar: ")
    assert " Wh (the whole machine: " in summary
    assert " not written: cannot write records to " in summary
    assert len(records(disk.path)) >= before, "a torn line was left"


@pytest.mark.needs("root")
def test_a_kill_on_a_full_volume_leaves_whole_lines(disk: SmallDisk, tmp_path: Path):
    with Running("run", "--interval", "1s", "--volume", disk.path, log=tmp_path / "log") as running:
        running.until(lambda: windows(disk.path))
        disk.fill(leave_bytes=4096)
        running.until(lambda: "records wait in memory" in running.log)
        running.process.kill()
        running.process.wait()
    assert windows(disk.path)


def test_a_segment_that_somebody_removed_begins_anew(tmp_path: Path):
    with Running("run", "--interval", "1s", "--volume", tmp_path, log=tmp_path / "log") as running:
        running.until(lambda: windows(tmp_path))
        shutil.rmtree(tmp_path / "records")
        running.until(lambda: windows(tmp_path))
        running.end()
    rows = records(tmp_path)
    assert rows[0]["event"] == "window"
    assert rows[-1]["event"] == "end"
