"""The termination message: always whole, always small enough, only where Kubernetes wants one."""

import json
import os
import subprocess
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.exporters.summary import Totals
from sidecar.exporters.termination import (
    MESSAGE_BYTES_MAX,
    termination_message,
    write_termination_message,
)
from sidecar.outbox import OutboxState
from sidecar.record import EmissionRecord
from tests.fakes.disk import small_disk

RECORD = EmissionRecord(
    record_id="u.b.3",
    project="bert",
    run_id="run-1",
    pod="train-0",
    energy_kwh=1.25,
    emissions_g=300.0,
    duration_s=60.0,
)
TOTALS = Totals(RECORD, 4)
WHOLE = termination_message(TOTALS, asdict(OutboxState()), "SIGTERM")

any_text = st.text(st.characters(exclude_categories=()))
long_text = st.builds(lambda text, times: text * times, any_text, st.integers(1, 500))


def filled(texts, numbers):
    """Totals and state with all their texts and all their numbers drawn."""

    def drawn(item):
        if "str" in str(item.type):
            return texts()
        return numbers() if "float" in str(item.type) else None

    columns = {item.name: value for item in fields(RECORD) if (value := drawn(item)) is not None}
    state = OutboxState(write_failure=texts(), ship_failure=texts(), volume_size=2**63)
    return Totals(replace(RECORD, **columns), 10**9), asdict(state)


@given(st.data())
def test_it_is_one_line_of_json_of_at_most_4_kib_whatever_it_tells(drawing):
    totals, left = filled(
        lambda: drawing.draw(any_text | long_text), lambda: drawing.draw(st.floats())
    )
    content = termination_message(totals, left, drawing.draw(any_text | long_text))
    assert len(content) <= MESSAGE_BYTES_MAX
    assert content.endswith(b"\n")
    assert content.count(b"\n") == 1
    row = json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert row["windows"] == 10**9
    assert set(left) < set(row)


def test_the_longest_texts_and_numbers_fit():
    totals, left = filled(lambda: "\U0001f600" * 5000, lambda: -1.2345678901234567e-300)
    left = {name: value if isinstance(value, str) else 2**63 for name, value in left.items()}
    content = termination_message(totals, left, "\U0001f600" * 5000)
    assert len(content) <= MESSAGE_BYTES_MAX
    assert json.loads(content)["ship_failure"].endswith("…")


def test_it_tells_totals_reason_and_what_is_left():
    state = OutboxState(unshipped_records=3, ship_failure="no route to host", ships=True)
    row = json.loads(termination_message(TOTALS, asdict(state), "SIGTERM"))
    assert row["reason"] == "SIGTERM"
    assert (row["project"], row["energy_kwh"], row["emissions_g"]) == ("bert", 1.25, 300.0)
    assert (row["windows"], row["unshipped_records"]) == (4, 3)
    assert row["ship_failure"] == "no route to host"


def test_a_text_is_cut_only_where_it_is_long():
    state = OutboxState(write_failure="x" * 200, ship_failure="y" * 201)
    row = json.loads(termination_message(TOTALS, asdict(state), "SIGTERM"))
    assert row["write_failure"] == "x" * 200
    assert row["ship_failure"] == "y" * 200 + "…"


def test_what_is_no_number_is_null():
    totals = Totals(replace(RECORD, energy_kwh=float("nan"), embodied_g=float("inf")), 1)
    row = json.loads(termination_message(totals, {}, "SIGTERM"))
    assert (row["energy_kwh"], row["embodied_g"]) == (None, None)


# -- the file --------------------------------------------------------------------------------------


def test_no_file_is_made_where_there_is_none(tmp_path):
    write_termination_message(tmp_path / "termination-log", WHOLE)
    write_termination_message(tmp_path / "no" / "termination-log", WHOLE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, 1, len(WHOLE), len(WHOLE) + 1, 4096, 100_000])
def test_what_was_there_is_replaced(tmp_path, size):
    path = tmp_path / "termination-log"
    path.write_bytes(b"x" * size)
    inode = path.stat().st_ino
    write_termination_message(path, WHOLE)
    assert path.read_bytes() == WHOLE
    assert path.stat().st_ino == inode  # Kubernetes has mounted this very file


def test_whoever_is_killed_on_the_way_leaves_a_whole_message(tmp_path, monkeypatch):
    path = tmp_path / "termination-log"
    longer = termination_message(TOTALS, {}, "a long reason " * 10)
    path.write_bytes(longer)
    seen = []

    def killed(*_):
        raise KeyboardInterrupt

    for name in ("ftruncate", "pwrite"):
        with monkeypatch.context() as context:
            context.setattr(os, name, killed)
            with pytest.raises(KeyboardInterrupt):
                write_termination_message(path, b'{"windows": 5}\n')
        seen.append(json.loads(path.read_bytes())["windows"])
    assert seen == [5, 5]


def test_a_link_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "termination-log").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        write_termination_message(tmp_path / "termination-log", WHOLE)
    assert target.read_text() == "precious"


def test_a_directory_is_an_error(tmp_path):
    with pytest.raises(IsADirectoryError):
        write_termination_message(tmp_path, WHOLE)


def test_a_pipe_is_an_error_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "termination-log")
    with pytest.raises(OSError, match="No such device"):
        write_termination_message(tmp_path / "termination-log", WHOLE)


@pytest.mark.needs("root")
def test_a_read_only_place_is_an_error(tmp_path):
    """Root may write to any file, but not there."""
    with small_disk(tmp_path / "disk") as disk:
        path = disk.path / "termination-log"
        path.write_text("before")
        subprocess.run(["mount", "-o", "remount,ro", disk.path], check=True)
        with pytest.raises(OSError, match="Read-only"):
            write_termination_message(path, WHOLE)
        assert path.read_text() == "before"


@pytest.mark.needs("root")
def test_a_full_disk_is_an_error_and_keeps_the_message_before(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        path, empty = disk.path / "termination-log", disk.path / "empty"
        path.write_bytes(WHOLE)
        empty.touch()
        disk.fill()
        write_termination_message(path, b'{"windows": 5}\n')
        assert json.loads(path.read_bytes()) == {"windows": 5}
        with pytest.raises(OSError, match="No space"):
            write_termination_message(empty, WHOLE)


def test_the_null_device_may_stand_for_the_file():
    write_termination_message(Path(os.devnull), WHOLE)
