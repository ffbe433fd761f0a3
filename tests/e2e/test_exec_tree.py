"""`exec` meters all that descends from the command, and lets nothing of it outlive it unseen."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.commands import (
    PYTHON,
    Running,
    environment,
    is_gone,
    records,
    sidecar,
    total,
    until,
    windows,
)

DAEMON = """
import os, signal, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        if sys.argv[2] == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open(sys.argv[1] + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        signal.pause()
        os._exit(0)
    os._exit(0)
os.wait()
while not os.path.exists(sys.argv[1]):
    pass
sys.exit(5)
"""
"""Forks twice and leaves a daemon behind: a process of another session and of no parent."""


def test_a_daemonised_grandchild_does_not_outlive_the_command(tmp_path: Path):
    pid_file = tmp_path / "pid"
    outcome = sidecar("exec", "--volume", tmp_path, "--", *PYTHON, DAEMON, str(pid_file), "docile")
    assert outcome.code == 5
    assert is_gone(int(pid_file.read_text()))
    assert "left 1 processes behind" in outcome.messages


def test_a_daemon_that_ignores_sigterm_is_killed_at_once_when_asked_again(tmp_path: Path):
    pid_file = tmp_path / "pid"
    command = [*PYTHON, DAEMON, str(pid_file), "stubborn"]
    with Running("exec", "--volume", tmp_path, "--", *command, log=tmp_path / "log") as running:
        running.until(lambda: "left 1 processes behind" in running.log)
        assert running.end(signal.SIGTERM).code == 5
    assert is_gone(int(pid_file.read_text()))


def test_processes_that_fork_while_they_are_ended_do_not_escape(tmp_path: Path):
    """A loop that ignores SIGTERM and starts a new process again and again."""
    pids = tmp_path / "pids"
    starts_another = f"sh -c 'echo $$ >> {pids}; exec sleep 1000' &"
    loop = f"trap '' TERM; i=0; while [ $i -lt 200 ]; do i=$((i+1)); {starts_another} done; wait"
    script = f"({loop}) & until [ -s {pids} ]; do :; done; exit 1"
    with Running(
        "exec", "--volume", tmp_path, "--", "sh", "-c", script, log=tmp_path / "log"
    ) as running:
        running.until(lambda: "processes behind" in running.log)
        assert running.end(signal.SIGTERM).code == 1
    assert all(is_gone(int(pid)) for pid in pids.read_text().split())


def test_keep_background_leaves_them(tmp_path: Path):
    pid_file = tmp_path / "pid"
    command = [*PYTHON, DAEMON, str(pid_file), "docile"]
    with Running(
        "exec", "--keep-background", "--volume", tmp_path, "--", *command, log=tmp_path / "log"
    ) as running:
        outcome = running.end(None)
    pid = int(pid_file.read_text())
    assert not is_gone(pid)
    os.kill(pid, signal.SIGKILL)
    assert outcome.code == 5
    assert outcome.stderr.count("\n") == 1


def test_a_command_that_ignores_sigterm_is_metered_to_its_own_end(tmp_path: Path):
    """From the signal on windows are short: a SIGKILL that follows costs at most one."""
    volume, go = tmp_path / "out", tmp_path / "go"
    stubborn = f"trap '' TERM; while [ ! -e {go} ]; do sleep 0.05; done; exit 9"
    with Running(
        "exec", "--interval", "1h", "--volume", volume, "--", "sh", "-c", stubborn,
        log=tmp_path / "log",
    ) as running:  # fmt: skip
        running.until(lambda: volume.exists() and records(volume))
        assert not windows(volume)
        running.process.send_signal(signal.SIGTERM)
        running.until(lambda: len(windows(volume)) >= 3)
        go.touch()
        assert running.end(None).code == 9
    rows = windows(volume)
    assert all(row["duration_s"] < 3 for row in rows[1:])
    assert rows[-1]["end_reason"] == "command exited 9"


def test_a_sigkill_loses_at_most_the_open_window(tmp_path: Path):
    volume, go = tmp_path / "out", tmp_path / "go"
    stubborn = f"trap '' TERM; while [ ! -e {go} ]; do sleep 0.05; done"
    with Running(
        "exec", "--interval", "1h", "--volume", volume, "--", "sh", "-c", stubborn,
        log=tmp_path / "log", start_new_session=True,
    ) as running:  # fmt: skip
        running.until(lambda: volume.exists() and records(volume))
        running.process.send_signal(signal.SIGTERM)
        running.until(lambda: len(windows(volume)) >= 2)
        running.process.kill()
        running.process.wait()
        go.touch()
        group = running.process.pid
        until(lambda: _group_is_gone(group))
    rows = records(volume)
    assert [row["event"] for row in rows[:3]] == ["start", "window", "window"]
    assert json.loads((volume / "summary.json").read_text())["windows"] in (
        len(rows) - 1, len(rows) - 2,
    )  # fmt: skip


def _group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


MANY = """
import json, resource, subprocess, sys
burn = "sum(i * i for i in range(200_000))"
for _ in range(60):
    subprocess.run([sys.executable, "-S", "-E", "-c", burn])
spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
with open(sys.argv[1], "w") as file:
    json.dump(sum(usage.ru_utime + usage.ru_stime for usage in spent), file)
"""


def test_the_cpu_time_of_many_short_lived_grandchildren_is_counted(tmp_path: Path):
    spent = tmp_path / "spent"
    outcome = sidecar(
        "exec", "--interval", "1s", "--volume", tmp_path, "--", *PYTHON, MANY, str(spent)
    )
    assert outcome.code == 0
    counted_s = total(windows(tmp_path), "pod_cpu_seconds")
    assert counted_s == pytest.approx(json.loads(spent.read_text()), rel=0.05, abs=0.05)


ORPHAN = """
import os, resource, sys, time
parent = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    pass
while time.process_time() < 0.5:
    pass
usage = resource.getrusage(resource.RUSAGE_SELF)
with open(sys.argv[1], "w") as file:
    file.write(str(usage.ru_utime + usage.ru_stime))
"""


def test_the_cpu_time_of_orphans_is_counted(tmp_path: Path):
    """Their parent is gone before they work: nobody but us waits for them."""
    spent = tmp_path / "spent"
    script = f'"$@"; until [ -s {spent} ]; do sleep 0.05; done'
    outcome = sidecar(
        "exec", "--interval", "1s", "--volume", tmp_path, "--", "sh", "-c", script, "sh",
        *PYTHON, ORPHAN, str(spent),
    )  # fmt: skip
    assert outcome.code == 0
    assert total(windows(tmp_path), "pod_cpu_seconds") >= float(spent.read_text()) - 0.05


def test_a_very_short_command_gets_its_cpu_time(tmp_path: Path):
    brief = "import time\nwhile time.process_time() < 0.05: pass"
    sidecar("exec", "--volume", tmp_path, "--", *PYTHON, brief)
    rows = windows(tmp_path)
    assert [row["event"] for row in rows] == ["end"]
    assert 0.04 <= rows[0]["pod_cpu_seconds"] < 0.5
    assert rows[0]["share_cpu"] > 0
    assert rows[0]["energy_kwh"] > 0


HANGS_IN_FSYNC = """
#include <unistd.h>
#include <stdlib.h>
int fsync(int descriptor)
{
    (void)descriptor;
    if (access(getenv("HANG_WHILE"), F_OK) == 0)
        while (access(getenv("HANG_WHILE"), F_OK) == 0)
            usleep(20000);
    return 0;
}
"""


@pytest.fixture
def hang(tmp_path: Path) -> Path:
    """A file; while it exists fsync does not come back, as on a network volume that hangs."""
    source = tmp_path / "hang.c"
    source.write_text(HANGS_IN_FSYNC)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "hang.so", source], check=True)
    (tmp_path / "hang").touch()
    return tmp_path / "hang"


def hanging(hang: Path) -> dict[str, str]:
    return environment(LD_PRELOAD=f"{hang}.so", HANG_WHILE=str(hang))


@pytest.mark.needs("gcc")
def test_a_volume_that_hangs_holds_up_no_signal(tmp_path: Path, hang: Path):
    ready, got, volume = tmp_path / "ready", tmp_path / "got", tmp_path / "out"
    traps = f"trap 'echo got > {got}' USR1; trap 'exit 4' TERM"
    script = f"{traps}; echo ready > {ready}; while :; do sleep 0.05; done"
    with Running(
        "exec", "--volume", volume, "--", "sh", "-c", script,
        log=tmp_path / "log", env=hanging(hang),
    ) as running:  # fmt: skip
        running.until(lambda: ready.exists() and list(volume.glob("records/.*")))
        running.process.send_signal(signal.SIGUSR1)
        running.until(got.exists)
        running.process.send_signal(signal.SIGTERM)
        hang.unlink()
        assert running.end(None).code == 4
    assert windows(volume)[-1]["end_reason"] == "command exited 4"


@pytest.mark.needs("gcc")
def test_a_volume_that_hangs_for_ever_does_not_keep_the_exit_code(tmp_path: Path, hang: Path):
    volume = tmp_path / "out"
    outcome = sidecar("exec", "--volume", volume, "--", "sh", "-c", "exit 4", env=hanging(hang))
    assert outcome.code == 4
    assert "does the volume or the far side hang?" in outcome.messages
