"""On a volume that several processes share, no file is written by two of them."""

import contextlib
import csv
import json
import os
import subprocess
import sys
import time

import pytest

from sidecar.exporters.side_files import OWNER_FILE, SideFiles
from tests.e2e.commands import environment, until

ANOTHER_KERNEL = "11111111-2222-3333-4444-555555555555"
PLAIN = ["summary.json", "emissions.csv"]

WRITER = """
import sys
from pathlib import Path
from sidecar.exporters.side_files import SideFiles
files = SideFiles(Path(sys.argv[1]), sys.argv[2])
for _ in sys.stdin:
    print(*(path.name for path in files.paths()), flush=True)
files.release()
"""

ROWS = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from sidecar.exporters.codecarbon_csv import CodeCarbonRow, write_row
from sidecar.exporters.side_files import SideFiles
files = SideFiles(Path(sys.argv[1]), sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for second in range(30):
    summary, table = files.paths()
    summary.write_text(f"{sys.argv[2]} {second}")
    write_row(table, CodeCarbonRow(
        timestamp=datetime.now(UTC), project="p", run_id=sys.argv[2], experiment_id="",
        duration_s=second, facility_energy_kwh=1.0, cpu_energy_kwh=None, gpu_energy_kwh=None,
        ram_energy_kwh=None, emissions_g=1.0, version="1"))
    assert summary.read_text() == f"{sys.argv[2]} {second}"
print("done", flush=True)
sys.stdin.readline()
"""


class Writer:
    """A process that asks where its files go, each time it is told to."""

    def __init__(self, volume, stem, script=WRITER):
        command = [sys.executable, "-c", script, str(volume), stem]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def names(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.heard()

    def heard(self):
        return self.process.stdout.readline().split()

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdin = None

    def kill(self):
        self.process.kill()
        self.process.wait()


def of_another_machine(volume, age_s=0.0):
    path = volume / OWNER_FILE
    path.write_text(json.dumps({"kernel": ANOTHER_KERNEL, "receipt": None}))
    then_s = time.time() - age_s
    os.utime(path, (then_s, then_s))


@pytest.fixture
def volume(tmp_path):
    return tmp_path / "volume"


@pytest.fixture
def files(volume):
    """Makes the side files of a process that is this one, released at the end of the test."""
    with contextlib.ExitStack() as stack:

        def made(stem="u.b"):
            side_files = SideFiles(volume, stem)
            stack.callback(side_files.release)
            return side_files

        yield made


def names(side_files):
    return [path.name for path in side_files.paths()]


# -- one machine -----------------------------------------------------------------------------------


def test_the_first_process_has_the_plain_names_on_a_volume_that_is_made(files, volume):
    assert names(files()) == PLAIN
    assert volume.is_dir()


def test_a_second_process_has_a_summary_of_its_own_and_shares_the_table(volume):
    with Writer(volume, "u.first") as first, Writer(volume, "u.second") as second:
        assert first.names() == PLAIN
        assert second.names() == ["summary.u.second.json", "emissions.csv"]
        assert first.names() == PLAIN


def test_processes_that_write_at_the_same_time_spoil_nothing(volume):
    stems = [f"u.{number}" for number in range(3)]
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(Writer(volume, stem, ROWS)) for stem in stems]
        assert [writer.heard() for writer in writers] == [["ready"]] * 3
        for writer in writers:
            writer.process.stdin.write("go\n")
            writer.process.stdin.flush()
        assert [writer.heard() for writer in writers] == [["done"]] * 3
    summaries = sorted(path.read_text() for path in volume.glob("summary*.json"))
    assert summaries == [f"{stem} 29" for stem in stems]
    with (volume / "emissions.csv").open(newline="") as stream:
        rows = {row["run_id"]: float(row["duration"]) for row in csv.DictReader(stream)}
    assert rows == dict.fromkeys(stems, 29.0)


def test_the_plain_names_are_free_again_after_the_end(volume):
    for stem in ("u.first", "u.second"):
        with Writer(volume, stem) as writer:
            assert writer.names() == PLAIN
            writer.end()
        assert not (volume / OWNER_FILE).exists()


def test_the_plain_names_are_free_again_after_a_kill(volume):
    with Writer(volume, "u.first") as first, Writer(volume, "u.second") as second:
        assert first.names() == PLAIN
        first.kill()
        assert second.names() == PLAIN


def test_a_process_keeps_its_names_when_the_owner_of_the_plain_ones_ends(volume):
    with Writer(volume, "u.first") as first, Writer(volume, "u.second") as second:
        first.names()
        before = second.names()
        first.end()
        assert second.names() == before


def test_who_outlives_the_owner_keeps_other_machines_off_the_shared_table(volume):
    with Writer(volume, "u.first") as first, Writer(volume, "u.second") as second:
        first.names()
        second.names()
        first.end()
        second.names()
        assert ANOTHER_KERNEL not in (volume / OWNER_FILE).read_text()
        second.end()
    assert not (volume / OWNER_FILE).exists()


def test_an_owner_that_ends_in_that_moment_is_no_error(files, volume, monkeypatch):
    """Its file is gone between two looks."""
    first, second = files("u.first"), files("u.second")
    first.paths()
    opened = os.open

    def open_late(path, *arguments):
        if str(path).endswith(OWNER_FILE) and not arguments[0] & os.O_CREAT:
            first.release()
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", open_late)
    assert names(second) == PLAIN


def test_a_volume_that_was_cleared_is_used_anew(files, volume):
    side_files = files()
    side_files.paths()
    (volume / OWNER_FILE).unlink()
    volume.rmdir()
    assert names(side_files) == PLAIN
    assert (volume / OWNER_FILE).exists()


def test_who_cleared_the_volume_and_took_the_plain_names_keeps_them(files, volume):
    first, second = files("u.first"), files("u.second")
    first.paths()
    (volume / OWNER_FILE).unlink()
    assert names(second) == PLAIN
    assert names(first) == ["summary.u.first.json", "emissions.csv"]


# -- other machines --------------------------------------------------------------------------------


def test_beside_another_machine_all_files_are_its_own(files, volume):
    volume.mkdir()
    of_another_machine(volume)
    assert names(files()) == ["summary.u.b.json", "emissions.u.b.csv"]


def test_what_another_machine_left_long_ago_is_taken_over(files, volume):
    volume.mkdir()
    of_another_machine(volume, age_s=3 * 3600)
    side_files = files()
    assert names(side_files) == PLAIN
    assert ANOTHER_KERNEL not in (volume / OWNER_FILE).read_text()


def test_an_owner_that_was_suspended_gives_way_to_who_took_over(files, volume):
    side_files = files()
    assert names(side_files) == PLAIN
    of_another_machine(volume)
    assert names(side_files) == ["summary.u.b.json", "emissions.u.b.csv"]
    side_files.release()
    assert ANOTHER_KERNEL in (volume / OWNER_FILE).read_text()


def test_what_was_given_up_does_not_come_back(files, volume):
    """The run's row would stand in two tables."""
    side_files = files()
    side_files.paths()
    of_another_machine(volume)
    own = names(side_files)
    (volume / OWNER_FILE).unlink()
    assert names(side_files) == own


def test_a_shared_table_is_given_up_when_another_machine_takes_it(files, volume):
    first, second = files("u.first"), files("u.second")
    first.paths()
    assert names(second)[1] == "emissions.csv"
    first.release()
    of_another_machine(volume)
    assert names(second) == ["summary.u.second.json", "emissions.u.second.csv"]


def test_each_look_is_a_sign_of_life(files, volume):
    side_files = files()
    side_files.paths()
    os.utime(volume / OWNER_FILE, (0, 0))
    side_files.paths()
    assert time.time() - (volume / OWNER_FILE).stat().st_mtime < 3600


# -- volumes that fail -----------------------------------------------------------------------------


def test_a_volume_that_fails_is_an_error_and_used_when_it_is_back(files, volume):
    volume.write_text("a file")
    side_files = files()
    with pytest.raises(OSError, match="File exists"):
        side_files.paths()
    volume.unlink()
    assert names(side_files) == PLAIN


def test_it_may_be_released_before_it_was_asked(volume):
    SideFiles(volume, "u.b").release()
    assert not volume.exists()


def test_a_link_in_place_of_the_claim_is_not_followed(files, volume, tmp_path):
    volume.mkdir()
    (volume / OWNER_FILE).symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        files().paths()
    assert not (tmp_path / "target").exists()


def test_the_names_are_told_once(files, volume, caplog):
    caplog.set_level("INFO")
    files("u.first").paths()
    second = files("u.second")
    for _ in range(3):
        second.paths()
    assert len([text for text in caplog.messages if "summary.u.second.json" in text]) == 1


def test_a_killed_process_of_this_machine_holds_nothing(files, volume):
    with Writer(volume, "u.first") as first:
        first.names()
        first.kill()
    assert until(lambda: names(files("u.third"))) == PLAIN


def test_a_summary_of_somebody_else_stays(volume, caplog):
    """The volume may be a user's own: emissions/volume names it."""
    volume.mkdir()
    theirs = volume / "summary.json"
    theirs.write_text('{"accuracy": 0.98}')
    files = SideFiles(volume, "u.first")
    assert names(files) == ["summary.u.first.json", "emissions.csv"]
    assert "is none of ours and stays" in caplog.text


def test_the_summary_of_an_earlier_run_is_replaced(volume):
    volume.mkdir()
    (volume / "summary.json").write_text('{"schema": 1, "tool_version": "0.1.0"}')
    assert names(SideFiles(volume, "u.second")) == PLAIN
