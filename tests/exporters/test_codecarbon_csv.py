"""emissions.csv: what a row says, and that nothing in the file is ever lost."""

import csv
import errno
import fcntl
import logging
import os
import random
import resource
import subprocess
import sys
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.exporters import run_table
from sidecar.exporters.codecarbon_csv import COLUMNS, write_row
from tests.exporters.codecarbon_rows import a_row
from tests.fakes.disk import small_disk

HEADER = ",".join(COLUMNS) + "\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "emissions.csv"


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def foreign_row(run_id: str, *, end: str = "\n") -> str:
    """A row as another program may have written it: own quoting, own idea of numbers."""
    cells = [f'"{column}, of another"' for column in COLUMNS]
    cells[COLUMNS.index("run_id")] = run_id
    cells[COLUMNS.index("duration")] = "1.50"
    return ",".join(cells) + end


class TestRow:
    def test_energies_are_in_kwh_with_pue_and_sum_to_the_whole(self, table: Path) -> None:
        write_row(table, a_row())
        row = {k: float(v) for k, v in rows(table)[0].items() if "energy" in k}

        assert row["energy_consumed"] == 0.96
        assert row["cpu_energy"] == pytest.approx(0.24)
        assert row["cpu_energy"] + row["gpu_energy"] + row["ram_energy"] == pytest.approx(0.96)

    def test_powers_are_the_energies_over_the_duration(self, table: Path) -> None:
        write_row(table, a_row(duration_s=1800.0))
        row = rows(table)[0]

        assert float(row["gpu_power"]) == pytest.approx(1200.0)
        assert float(row["cpu_power"]) == pytest.approx(480.0)

    def test_emissions_are_in_kg_and_their_rate_in_kg_per_second(self, table: Path) -> None:
        write_row(table, a_row())
        row = rows(table)[0]

        assert float(row["emissions"]) == pytest.approx(0.2569)
        assert float(row["emissions_rate"]) == pytest.approx(0.2569 / 3600)

    def test_utilization_is_in_percent(self, table: Path) -> None:
        write_row(table, a_row())
        row = rows(table)[0]

        assert float(row["cpu_utilization_percent"]) == 25
        assert float(row["gpu_utilization_percent"]) == 90
        assert float(row["ram_utilization_percent"]) == 20

    def test_unknown_cells_are_empty_and_not_zero(self, table: Path) -> None:
        write_row(table, a_row(gpu_energy_kwh=None, emissions_g=None, cpu_model=None))
        row = rows(table)[0]

        empty = ("gpu_energy", "gpu_power", "emissions", "emissions_rate", "cpu_model")
        assert [row[column] for column in empty] == [""] * len(empty)

    def test_a_run_of_no_length_has_no_power(self, table: Path) -> None:
        write_row(table, a_row(duration_s=0.0))

        assert rows(table)[0]["cpu_power"] == ""

    def test_a_run_without_energy_is_written_as_zero(self, table: Path) -> None:
        nothing = {"cpu_energy_kwh": 0.0, "gpu_energy_kwh": None, "ram_energy_kwh": 0.0}
        write_row(table, a_row(facility_energy_kwh=0.0, **nothing))

        assert float(rows(table)[0]["cpu_energy"]) == 0.0

    def test_the_timestamp_is_utc_in_codecarbons_form(self, table: Path) -> None:
        summer = timezone(timedelta(hours=2))
        write_row(table, a_row(timestamp=datetime(2026, 7, 1, 1, 30, tzinfo=summer)))

        assert rows(table)[0]["timestamp"] == "2026-06-30T23:30:00"

    def test_azure_is_named_but_never_called_a_cloud_carbonboard_knows(self, table: Path) -> None:
        write_row(table, a_row())
        row = rows(table)[0]

        assert (row["cloud_provider"], row["cloud_region"]) == ("azure", "westeurope")
        assert row["on_cloud"] == "N"

    def test_a_naive_timestamp_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no time zone"):
            a_row(timestamp=datetime(2026, 7, 1, tzinfo=UTC).replace(tzinfo=None))

    def test_a_row_without_run_is_refused(self) -> None:
        with pytest.raises(ValueError, match="needs a run_id"):
            a_row(run_id=" ")


class TestText:
    @given(name=st.text(st.characters(), max_size=40))
    def test_any_project_name_stays_one_readable_text(
        self, tmp_path_factory: pytest.TempPathFactory, name: str
    ) -> None:
        table = tmp_path_factory.mktemp("volume") / "emissions.csv"
        write_row(table, a_row(project=name))

        read = rows(table)[0]["project_name"]
        assert table.read_bytes().count(b"\n") == 2
        assert b"\r" not in table.read_bytes()
        assert read.strip()
        assert not read.lstrip().startswith(("=", "+", "-", "@"))
        plain = not any(unicodedata.category(char) in {"Cc", "Zl", "Zp", "Cs"} for char in name)
        if plain and name.strip():
            assert read.removeprefix("'") == name.strip().removeprefix("'")

    @given(name=st.from_regex(r"[A-Za-z0-9_.,\";/ä漢🌍-]{1,40}", fullmatch=True))
    def test_an_ordinary_project_name_comes_back_as_it_was(
        self, tmp_path_factory: pytest.TempPathFactory, name: str
    ) -> None:
        table = tmp_path_factory.mktemp("volume") / "emissions.csv"
        name = f"p{name}"
        write_row(table, a_row(project=name))

        assert rows(table)[0]["project_name"] == name
        assert pd.read_csv(table)["project_name"].tolist() == [name]

    @pytest.mark.parametrize("name", sorted(pd._libs.parsers.STR_NA_VALUES))
    def test_a_project_named_like_a_missing_value_stays_a_text(
        self, table: Path, name: str
    ) -> None:
        write_row(table, a_row(project=name))

        assert isinstance(pd.read_csv(table)["project_name"][0], str)

    @pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
    def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(
        self, table: Path, start: str
    ) -> None:
        write_row(table, a_row(experiment_id=f"{start}cmd|' /C calc'!A0"))

        assert rows(table)[0]["experiment_id"].startswith("'")

    def test_a_formula_behind_blanks_gets_an_apostrophe(self, table: Path) -> None:
        write_row(table, a_row(experiment_id="\n =1+1"))

        assert rows(table)[0]["experiment_id"] == "'  =1+1"

    def test_negative_numbers_are_numbers(self, table: Path) -> None:
        write_row(table, a_row(longitude=-79.38))

        assert rows(table)[0]["longitude"] == "-79.38"

    def test_an_unknown_country_is_a_text_too(self, table: Path) -> None:
        write_row(table, a_row(country_iso3=None, country_name=None))

        assert pd.read_csv(table)["country_iso_code"].tolist() == ["unknown"]


class TestFile:
    def test_a_run_has_one_row_however_often_it_is_written(self, table: Path) -> None:
        for energy_kwh in (0.1, 0.2, 0.96):
            write_row(table, a_row(facility_energy_kwh=energy_kwh))

        assert [row["energy_consumed"] for row in rows(table)] == ["0.96"]

    @pytest.mark.parametrize("run_id", ["-leading", "=sum", 'quo"ted', "a,b", "zwölf", "new\nline"])
    def test_a_run_with_an_odd_id_is_recognised_again(self, table: Path, run_id: str) -> None:
        for _ in range(3):
            write_row(table, a_row(run_id=run_id))

        assert len(rows(table)) == 1

    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_rows_of_other_runs_stay_byte_for_byte(self, table: Path, end: str) -> None:
        before, after = foreign_row("before", end=end), foreign_row("after", end=end)
        table.write_bytes((HEADER + before + foreign_row("run-1") + after).encode())

        write_row(table, a_row())

        content = table.read_bytes()
        assert content.startswith((HEADER + before).encode())
        assert content.endswith(after.encode())
        assert content.count(b"run-1") == 1

    def test_a_quoted_line_break_in_another_runs_row_is_kept(self, table: Path) -> None:
        other = foreign_row("other").replace("project_name, of", "project\r\nname, of")
        table.write_bytes((HEADER + other).encode())

        write_row(table, a_row())

        assert table.read_bytes().startswith((HEADER + other).encode())
        assert [row["run_id"] for row in rows(table)] == ["other", "run-1"]

    def test_several_rows_of_the_run_become_one(self, table: Path) -> None:
        table.write_text(HEADER + foreign_row("run-1") + foreign_row("x") + foreign_row("run-1"))

        write_row(table, a_row())

        assert [row["run_id"] for row in rows(table)] == ["run-1", "x"]

    def test_an_empty_file_gets_a_header(self, table: Path) -> None:
        table.touch()

        write_row(table, a_row())

        assert len(rows(table)) == 1
        assert not list(table.parent.glob("*.bak"))

    def test_the_file_can_be_read_by_the_training_containers_user(self, table: Path) -> None:
        old = os.umask(0o022)
        try:
            write_row(table, a_row())
        finally:
            os.umask(old)

        assert table.stat().st_mode & 0o777 == 0o644

    def test_nothing_but_the_lock_is_left_beside_the_file(self, table: Path) -> None:
        write_row(table, a_row())

        assert {p.name for p in table.parent.iterdir()} == {"emissions.csv", ".emissions.csv.lock"}

    def test_leftovers_of_killed_writers_are_removed(self, table: Path) -> None:
        leftover = table.with_name(".emissions.csv.0123.tmp")
        leftover.write_text("half a fi")

        write_row(table, a_row())

        assert not leftover.exists()


class TestForeignContent:
    def test_a_file_with_another_header_is_moved_aside(
        self, table: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        table.write_text("timestamp,project_name\n2021-01-01,mine\n")

        write_row(table, a_row())

        backup = table.with_name("emissions.csv.1.bak")
        assert backup.read_text() == "timestamp,project_name\n2021-01-01,mine\n"
        assert len(rows(table)) == 1
        assert "its header is not that of CodeCarbon 3.3.2" in caplog.text

    def test_a_backup_takes_the_next_free_number(self, table: Path) -> None:
        table.with_name("emissions.csv.1.bak").write_text("older")
        table.write_text("other header\n")

        write_row(table, a_row())

        assert table.with_name("emissions.csv.1.bak").read_text() == "older"
        assert table.with_name("emissions.csv.2.bak").read_text() == "other header\n"

    @pytest.mark.parametrize(
        "torn",
        [
            pytest.param("2026-11-20T12:00:00,vision,half", id="cut"),
            pytest.param(foreign_row("half", end=""), id="without end of line"),
            pytest.param(foreign_row("half").replace("\n", ",1,2,3\n"), id="too many fields"),
            pytest.param('2026-11-20T12:00:00,"vision', id="open quote"),
            pytest.param("x," * (len(COLUMNS) - 1) + '"0\n', id="open quote in the last field"),
        ],
    )
    def test_a_torn_last_line_is_kept_aside_and_the_rest_stays(
        self, table: Path, caplog: pytest.LogCaptureFixture, torn: str
    ) -> None:
        table.write_text(HEADER + foreign_row("whole") + torn)

        write_row(table, a_row())

        assert [row["run_id"] for row in rows(table)] == ["whole", "run-1"]
        assert table.with_name("emissions.csv.1.bak").read_text() == torn
        assert "no whole row" in caplog.text

    def test_an_open_quote_does_not_swallow_the_rows_behind_it(self, table: Path) -> None:
        table.write_text(HEADER + 'x,"torn\n' + foreign_row("a") + foreign_row("b"))

        write_row(table, a_row())

        assert [row["run_id"] for row in rows(table)] == ["a", "b", "run-1"]

    def test_a_file_grown_too_large_for_our_memory_is_moved_aside(
        self, table: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = HEADER + foreign_row("a") * 10
        table.write_text(content)
        monkeypatch.setattr(run_table, "MAX_FILE_BYTES", len(content) - 1)

        write_row(table, a_row())

        assert table.with_name("emissions.csv.1.bak").read_text() == content
        assert len(rows(table)) == 1

    def test_a_symbolic_link_is_moved_and_what_it_points_to_is_not_read(
        self, table: Path, tmp_path: Path
    ) -> None:
        secret = tmp_path / "token"
        secret.write_text(HEADER + "secret")
        table.symlink_to(secret)

        write_row(table, a_row())

        assert not table.is_symlink()
        assert table.with_name("emissions.csv.1.bak").is_symlink()
        assert secret.read_text() == HEADER + "secret"

    def test_a_pipe_in_the_place_of_the_file_does_not_hang_the_writer(self, table: Path) -> None:
        os.mkfifo(table)

        write_row(table, a_row())

        assert len(rows(table)) == 1

    @given(
        content=st.binary(max_size=400)
        | st.lists(st.sampled_from([HEADER, foreign_row("a"), "x,", '"', "\n", "\r"])).map(
            lambda parts: (HEADER + "".join(parts)).encode()
        )
    )
    def test_every_byte_that_was_there_is_still_in_the_file_or_a_backup(
        self, tmp_path_factory: pytest.TempPathFactory, content: bytes
    ) -> None:
        table = tmp_path_factory.mktemp("volume") / "emissions.csv"
        table.write_bytes(content)

        write_row(table, a_row())

        kept = table.read_bytes() + b"".join(p.read_bytes() for p in table.parent.glob("*.bak"))
        for line in content.splitlines():
            assert not line.strip() or line in kept
        assert rows(table)[-1]["run_id"] == "run-1"


class TestFailure:
    def test_a_missing_directory_is_an_os_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            write_row(tmp_path / "nowhere" / "emissions.csv", a_row())

    def test_a_write_cut_short_leaves_the_old_file(self, table: Path) -> None:
        write_row(table, a_row())
        before = table.read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                write_row(table, a_row(run_id="run-2"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        assert table.read_bytes() == before
        assert not list(table.parent.glob(".*.tmp"))

    def test_a_torn_line_that_cannot_be_kept_aside_stays_where_it_is(self, table: Path) -> None:
        content = HEADER + "x" * 100_000
        table.write_text(content)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                write_row(table, a_row())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        assert table.read_text() == content
        assert not list(table.parent.glob("*.bak"))

    @pytest.mark.needs("root")
    def test_a_full_disk_leaves_the_old_file_and_the_next_write_succeeds(
        self, tmp_path: Path
    ) -> None:
        with small_disk(tmp_path / "disk", "64k") as disk:
            table = disk.path / "emissions.csv"
            write_row(table, a_row())
            before = table.read_bytes()
            disk.fill()

            with pytest.raises(OSError, match="No space left") as failure:
                write_row(table, a_row(run_id="run-2"))

            assert failure.value.errno == errno.ENOSPC
            assert table.read_bytes() == before
            disk.free()
            write_row(table, a_row(run_id="run-2"))
            assert [row["run_id"] for row in rows(table)] == ["run-1", "run-2"]

    def test_a_lock_held_for_too_long_is_a_timeout(
        self, table: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_row(table, a_row())
        monkeypatch.setattr(run_table, "LOCK_TIMEOUT_S", 0.0)
        with table.with_name(".emissions.csv.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(TimeoutError, match="another writer held its lock"):
                write_row(table, a_row(run_id="run-2"))

        assert len(rows(table)) == 1

    def test_where_there_are_no_locks_the_row_is_written_and_that_is_said_once(
        self, table: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", refuse)
        for run in range(3):
            write_row(table, a_row(run_id=f"run-{run}"))

        assert len(rows(table)) == 3
        warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert "No locks available" in warnings[0].getMessage()


WRITER = """
import sys
from itertools import count
from pathlib import Path
from tests.exporters.codecarbon_rows import a_row
from sidecar.exporters.codecarbon_csv import write_row

path, name, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for number in range(limit) if limit else count():
    row = a_row(run_id=f"{name}-{number % 20}", experiment_id="x" * 500)
    while True:
        try:
            write_row(path, row)
        except TimeoutError:  # the lock was held for long: the agent tries again at its next window
            continue
        break
    print(number, flush=True)
"""


def start_writer(table: Path, name: str, limit: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(table), name, str(limit)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )


class TestManyWriters:
    def test_eight_processes_at_once_keep_every_run(self, table: Path) -> None:
        writers = [start_writer(table, f"writer{n}", 20) for n in range(8)]
        for writer in writers:
            writer.communicate()

        assert [writer.returncode for writer in writers] == [0] * 8
        expected = {f"writer{n}-{run}" for n in range(8) for run in range(20)}
        found = [row["run_id"] for row in rows(table)]
        assert set(found) == expected
        assert len(found) == 160
        assert not list(table.parent.glob("*.bak"))

    def test_killing_a_writer_never_leaves_a_file_that_cannot_be_read(self, table: Path) -> None:
        write_row(table, a_row(run_id="earlier"))
        chance = random.Random(7)
        for attempt in range(8):
            with start_writer(table, f"victim{attempt}", 0) as writer:
                assert writer.stdout
                for _ in range(chance.randint(1, 25)):
                    writer.stdout.readline()
                writer.kill()
            frame = pd.read_csv(table)
            assert tuple(frame.columns) == COLUMNS
            assert frame["run_id"].is_unique
            assert {"earlier", f"victim{attempt}-0"} <= set(frame["run_id"])

        assert not list(table.parent.glob("*.bak"))

    def test_a_reader_meets_a_whole_file_at_every_moment(self, table: Path) -> None:
        """What a reader sees at any moment is what a kill at that moment would leave."""
        table.write_text(HEADER + "".join(foreign_row(f"old-{n}") for n in range(300)))
        reads = 0
        with start_writer(table, "writer", 200) as writer:
            while writer.poll() is None:
                content = table.read_bytes()
                assert content.endswith(b"\n")
                assert content.count(b"old-") == 300
                reads += 1

        assert writer.returncode == 0
        assert reads > 10
