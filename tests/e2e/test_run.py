"""`run`, the sidecar: begins at once, ends when told, and leaves whole windows whatever happens."""

import itertools
import json
import signal
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from sidecar.catalogue.lookup import Catalogue
from sidecar.factors import vm_share_model
from sidecar.identity.hardware import read_hardware
from tests.e2e.commands import (
    SIDECAR,
    Running,
    Terminal,
    environment,
    finished,
    records,
    sidecar,
    total,
    windows,
)
from tests.fakes.imds import AKS_REGULAR, FakeImds


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("name", "scenario"),
    [
        ("SIGTERM", "hang"),
        ("SIGTERM", "hang-in-body"),
        ("SIGTERM", "drip"),
        ("SIGTERM", "drip-headers"),
        ("SIGTERM", "busy"),
        ("SIGTERM", "gone"),
        ("SIGINT", "aks-regular"),
        ("SIGHUP", "aks-regular"),
    ],
)
def test_a_signal_ends_it_within_two_seconds(tmp_path: Path, name: str, scenario: str):
    """Whatever IMDS does; the last window and its reason are on the volume."""
    with (
        FakeImds(scenario) as imds,
        Running(
            "run", "--volume", tmp_path, "--imds-endpoint", imds.url, log=tmp_path / "log"
        ) as running,
    ):
        running.until(lambda: imds.requests and "metering" in running.log and records(tmp_path))
        assert running.end(getattr(signal, name), timeout_s=2.0).code == 0
    rows = records(tmp_path)
    assert [row["event"] for row in rows] == ["start", "end"]
    assert rows[-1]["end_reason"] == name
    assert rows[-1]["node_cpu_energy_kwh"] is not None


def test_a_signal_that_comes_at_once_is_obeyed(tmp_path: Path):
    """Two at a time, as an impatient supervisor sends them."""
    with Running("run", "--volume", tmp_path, log=tmp_path / "log") as running:
        running.until(lambda: records(tmp_path))
        running.process.send_signal(signal.SIGTERM)
        assert running.end(signal.SIGINT).code == 0
    assert [row["event"] for row in records(tmp_path)] == ["start", "end"]


def test_under_nohup_a_hang_up_does_not_end_it(tmp_path: Path):
    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with Running(
        "run", "--interval", "1s", "--volume", tmp_path, log=tmp_path / "log", preexec_fn=nohup
    ) as running:
        running.until(lambda: records(tmp_path))
        running.process.send_signal(signal.SIGHUP)
        running.until(lambda: windows(tmp_path))
        running.end()
    assert windows(tmp_path)[-1]["end_reason"] == "SIGTERM"


def test_windows_follow_one_another_on_the_wall_clock(tmp_path: Path):
    outcome = sidecar("run", "--for", "3s", "--interval", "1s", "--volume", tmp_path)
    assert outcome.code == 0
    rows = windows(tmp_path)
    assert rows[-1]["event"] == "end"
    assert rows[-1]["end_reason"] == "time limit"
    for earlier, later in itertools.pairwise(rows):
        assert earlier["window_end"] == later["window_start"]
        late = earlier["duration_s"] > 1.5
        assert late or seconds(earlier["window_end"]) % 1 == 0
    elapsed_s = seconds(rows[-1]["window_end"]) - seconds(rows[0]["window_start"])
    assert total(rows, "duration_s") == pytest.approx(elapsed_s, abs=0.05)
    assert total(rows, "duration_s") >= 3.0
    assert all(row["gap_s"] == 0 for row in rows)
    numbers = [int(row["record_id"].rsplit(".", 1)[1]) for row in records(tmp_path)]
    assert numbers == list(range(len(numbers)))


def test_the_summary_is_the_sum_of_the_windows(tmp_path: Path):
    sidecar("run", "--for", "2s", "--interval", "1s", "--volume", tmp_path)
    rows = windows(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["windows"] == len(rows)
    assert summary["failure"] is None
    for column in ("energy_kwh", "duration_s", "emissions_g"):
        assert summary[column] == pytest.approx(total(rows, column), rel=1e-12)


def test_a_sigkill_leaves_every_closed_window(tmp_path: Path):
    with Running("run", "--interval", "1s", "--volume", tmp_path, log=tmp_path / "log") as running:
        running.until(lambda: len(windows(tmp_path)) >= 2)
        running.process.kill()
        running.process.wait()
    rows = records(tmp_path)
    assert [row["event"] for row in rows[:3]] == ["start", "window", "window"]
    json.loads((tmp_path / "summary.json").read_text())


def test_two_processes_share_a_volume_without_mixing(tmp_path: Path):
    with Running("run", "--interval", "1s", "--volume", tmp_path, log=tmp_path / "log") as first:
        first.until(lambda: records(tmp_path))
        second = sidecar("run", "--for", "1s", "--interval", "1s", "--volume", tmp_path)
        first.end()
    assert second.code == 0
    starts = [row for row in records(tmp_path) if row["event"] == "start"]
    assert len({row["run_id"] for row in starts}) == 2
    assert len(list((tmp_path / "records").iterdir())) == 2


def test_a_stopped_sidecar_meters_on_without_gap_or_spike(tmp_path: Path):
    """SIGSTOP is a late tick: counters went on, so the window is longer and its power as before."""
    with Running("run", "--interval", "1s", "--volume", tmp_path, log=tmp_path / "log") as running:
        running.until(lambda: windows(tmp_path))
        before = len(windows(tmp_path))
        running.process.send_signal(signal.SIGSTOP)
        stopped_s = time.monotonic()
        running.until(lambda: time.monotonic() > stopped_s + 3.2)
        running.process.send_signal(signal.SIGCONT)
        running.until(lambda: len(windows(tmp_path)) > before + 1)
        running.end()
    rows = windows(tmp_path)
    assert max(row["duration_s"] for row in rows) > 3.0
    assert all(row["gap_s"] == 0 for row in rows)
    hardware, _ = read_hardware(Path("/proc"))
    model = vm_share_model(hardware, None, None, Catalogue())
    least_w = model.threads * model.idle_per_thread.value
    most_w = model.threads * model.max_per_thread.value
    # A window of few ticks of /proc/stat says little, one without any has no energy.
    for row in (row for row in rows if row["duration_s"] > 0.2):
        power_w = row["node_cpu_energy_kwh"] * 3.6e6 / row["duration_s"]
        assert least_w * 0.999999 <= power_w <= most_w * 1.000001
    elapsed_s = seconds(rows[-1]["window_end"]) - seconds(rows[0]["window_start"])
    assert total(rows, "duration_s") == pytest.approx(elapsed_s, abs=0.05)


# -- IMDS ------------------------------------------------------------------------------------------


def test_early_records_are_completed_when_imds_answers_late(tmp_path: Path):
    """IMDS is busy twice, so it answers after some seconds; the records did not wait for it."""
    with (
        FakeImds("busy-then-ok") as imds,
        Running(
            "run", "--interval", "1s", "--volume", tmp_path, "--imds-endpoint", imds.url,
            log=tmp_path / "log",
        ) as running,
    ):  # fmt: skip
        early = running.until(lambda: windows(tmp_path) and records(tmp_path))
        running.until(lambda: records(tmp_path)[0]["region"])
        running.end()
    rows = records(tmp_path)
    assert {row["region"] for row in early} == {None}
    assert [row["record_id"] for row in rows[: len(early)]] == [row["record_id"] for row in early]
    assert {row["region"] for row in rows} == {"eastus"}
    assert {row["vm_size"] for row in rows} == {AKS_REGULAR["vmSize"]}
    assert {row["identity_source"]["region"] for row in rows} == {"imds"}
    assert {row["carbon_intensity_level"] for row in rows} == {"zone"}
    assert len(list((tmp_path / "records").iterdir())) == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["emissions_g"] == pytest.approx(total(windows(tmp_path), "emissions_g"))


@pytest.mark.parametrize(
    ("scenario", "told"),
    [
        ("html", "not JSON"),
        ("flood", "longer than"),
        ("flood-headers", "imds: failed"),
        ("json-deep", "not JSON"),
        ("redirect", "redirect"),
        ("not-azure", "not an Azure VM"),
    ],
)
def test_an_imds_that_lies_is_told_and_leaves_the_region_unknown(
    tmp_path: Path, scenario: str, told: str
):
    with (
        FakeImds(scenario) as imds,
        Running(
            "run", "--volume", tmp_path, "--imds-endpoint", imds.url, log=tmp_path / "log"
        ) as running,
    ):
        running.until(lambda: "imds: failed" in running.log)
        outcome = running.end()
    assert outcome.code == 0
    assert told in outcome.messages
    assert {row["region"] for row in records(tmp_path)} == {None}
    assert {row["vm_size"] for row in records(tmp_path)} == {None}
    assert {row["carbon_intensity_level"] for row in records(tmp_path)} == {"world"}


def test_fields_of_the_wrong_type_are_told_and_unknown(tmp_path: Path):
    with (
        FakeImds("wrong-types") as imds,
        Running(
            "run", "--volume", tmp_path, "--imds-endpoint", imds.url, log=tmp_path / "log"
        ) as running,
    ):
        running.until(lambda: "imds: ok" in running.log)
        outcome = running.end()
    assert "location ignored: is a list instead of a string" in outcome.messages
    assert {row["region"] for row in records(tmp_path)} == {None}
    assert {row["vm_id"] for row in records(tmp_path)} == {AKS_REGULAR["vmId"]}


def test_nobody_at_the_imds_address_is_told(tmp_path: Path):
    with FakeImds() as imds:
        nobody = imds.url
    with Running(
        "run", "--volume", tmp_path, "--imds-endpoint", nobody, log=tmp_path / "log"
    ) as running:
        running.until(lambda: "imds: failed" in running.log)
        running.end()
    assert records(tmp_path)[-1]["provider"] is None


# -- what is shown ---------------------------------------------------------------------------------


def test_the_log_is_json_where_nobody_watches(tmp_path: Path):
    outcome = sidecar("run", "--for", "100ms", "--volume", tmp_path)
    lines = [json.loads(line) for line in outcome.stderr.splitlines()]
    assert {line["level"] for line in lines} == {"info"}
    assert all({"time", "logger", "message"} <= set(line) for line in lines)
    assert outcome.stdout == ""


def test_a_terminal_shows_the_totals_as_they_grow(tmp_path: Path):
    with Terminal(*SIDECAR, "run", "--interval", "1s", "--volume", str(tmp_path)) as terminal:
        terminal.shows("metering the first window")
        terminal.shows("Wh, ")
        terminal.shows("whole node")
        terminal.shows("Wh, ")
        terminal.keys("\x03")
        terminal.shows("ended (SIGINT)")
        assert terminal.ends() == 0
        assert "\x1b[?25h" in terminal.shown  # the cursor is back
        assert "{" not in terminal.shown


def test_a_terminal_that_is_closed_ends_it_cleanly(tmp_path: Path):
    with Terminal(*SIDECAR, "run", "--interval", "1s", "--volume", str(tmp_path)) as terminal:
        terminal.shows("Wh, ")
        terminal.hang_up()
        assert terminal.process.wait(10) == 0
    assert windows(tmp_path)[-1]["end_reason"] == "SIGHUP"


def test_a_log_that_cannot_be_written_does_not_end_it(tmp_path: Path):
    with Path("/dev/full").open("w") as full:
        outcome = sidecar("run", "--for", "1s", "--volume", tmp_path, stderr=full)
    assert outcome.code == 0
    assert windows(tmp_path)[-1]["end_reason"] == "time limit"


@pytest.mark.parametrize("command", ["run", "exec", "detect", "estimate", "report", "catalogue"])
def test_help_shows_an_example_even_in_a_narrow_character_set(command: str):
    outcome = sidecar(command, "--help", env=environment(PYTHONIOENCODING="ascii:strict"))
    assert outcome.code == 0
    assert outcome.stderr == ""
    assert f"examples:\n  emissions-sidecar {command}" in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["metre"], "there is no command 'metre'"),
        (["run", "--intervall", "5s"], "did you mean --interval?"),
        (["run", "--interval"], "--interval"),
        (["run", "please"], "please"),
        (["exec", "--intervall", "5s", "--", "true"], "did you mean --interval?"),
        (["catalogue", "planets"], "planets"),
        (["run", "--bad\nflag"], "--bad flag"),
        (["run", f"--{'x' * 5000}"], "--xxx"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    tmp_path: Path, arguments: list[str], told: str
):
    outcome = sidecar(*arguments, cwd=tmp_path)
    assert outcome.code == 2
    assert outcome.stderr.count("\n") == 1
    assert told in outcome.stderr
    assert len(outcome.stderr) < 500
    assert not list(tmp_path.iterdir())


def test_without_a_command_the_usage_is_shown():
    assert sidecar().code == 2
    outcome = sidecar("help")
    assert outcome.code == 0
    assert "examples:" in outcome.stdout


@pytest.mark.parametrize(
    "arguments", ["catalogue vm-sizes", "catalogue regions --json", "run --help", "help"]
)
def test_a_reader_that_goes_away_gets_no_traceback(arguments: str):
    script = f'"$@" {arguments} | head -c 1 > /dev/null; echo "${{PIPESTATUS[0]}}"'
    outcome = finished(["bash", "-c", script, "bash", *SIDECAR])
    assert (outcome.stdout, outcome.stderr) == ("0\n", "")


def test_output_that_cannot_be_written_is_an_error():
    with Path("/dev/full").open("w") as full:
        outcome = sidecar("catalogue", "regions", "westeurope", stdout=full)
    assert outcome.code == 1
    assert "cannot write the output: No space left on device" in outcome.stderr


def test_an_interrupt_during_start_shows_no_traceback(tmp_path: Path):
    """Ctrl-C while modules are imported; here from a module that sends it."""
    (tmp_path / "psutil.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True: pass\n"
    )
    env = environment(PYTHONPATH=f"{tmp_path}:{environment()['PYTHONPATH']}")
    outcome = finished([sys.executable, "-m", "sidecar", "exec", "--", "true"], env=env)
    assert outcome.code == 130
    assert outcome.stderr == ""
