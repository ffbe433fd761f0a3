"""`exec` is a transparent parent: what a command sees, gets and returns is as without it."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e.commands import (
    PYTHON,
    SIDECAR,
    Running,
    Terminal,
    environment,
    finished,
    sidecar,
    until,
    windows,
)


@pytest.mark.parametrize("code", [0, 3, 255])
def test_the_exit_code_is_the_commands(tmp_path: Path, code: int):
    outcome = sidecar("exec", "--volume", tmp_path, "--", "sh", "-c", f"exit {code}")
    assert outcome.code == code
    assert outcome.stdout == ""
    assert outcome.stderr.count("\n") == 1
    assert windows(tmp_path)[-1]["end_reason"] == f"command exited {code}"


def test_a_command_killed_by_a_signal_gives_what_a_shell_gives(tmp_path: Path):
    outcome = sidecar("exec", "--volume", tmp_path, "--", "sh", "-c", "kill -KILL $$")
    assert outcome.code == 128 + signal.SIGKILL


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("there-is-no-such-command", 127),
        ("./not-here/at-all", 127),
        ("", 127),
        ("./plain.txt", 126),
        (".", 126),
    ],
)
def test_a_command_that_cannot_start_gives_what_a_shell_gives(
    tmp_path: Path, command: str, code: int
):
    (tmp_path / "plain.txt").write_text("text\n")
    outcome = sidecar("exec", "--volume", tmp_path / "out", "--", command, cwd=tmp_path)
    assert outcome.code == code
    assert outcome.stderr.count("\n") == 1
    assert outcome.stderr.startswith("emissions-sidecar exec: ")


def test_a_script_without_an_interpreter_line_runs_as_from_a_shell(tmp_path: Path):
    script = tmp_path / "train.sh"
    script.write_text('echo "$1"; exit 7\n')
    script.chmod(0o755)
    outcome = sidecar("exec", "--volume", tmp_path, "--", "./train.sh", "a b", cwd=tmp_path)
    assert (outcome.code, outcome.stdout) == (7, "a b\n")


PROBE = """
import json, os, resource, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
links = {}
for number in os.listdir("/proc/self/fd"):
    try:
        links[number] = os.readlink(f"/proc/self/fd/{number}").split(":")[0]
    except FileNotFoundError:
        pass  # the listing's own
umask = os.umask(0)
noise = ("COVERAGE_", "_=", "EMISSIONS_SIDECAR_URL=")  # the one thing that is added
environ = open("/proc/self/environ", "rb").read().decode("latin-1").split("\\0")
json.dump(
    {
        "umask": umask,
        "cwd": os.getcwd(),
        "environ": sorted(item for item in environ if not item.startswith(noise)),
        "descriptors": sorted(links.items()),
        "stdin": sys.stdin.read() if "0" in links else None,
        "groups": [os.getpgid(0), os.getsid(0)],
        "nice": os.nice(0),
        "no_file": resource.getrlimit(resource.RLIMIT_NOFILE),
        "privileges": [status[name].strip() for name in ("NoNewPrivs", "CapEff", "Seccomp")],
        "arguments": sys.argv[1:],
    },
    sys.stdout,
)
"""


def seen(command: list[str], **options: object) -> dict[str, object]:
    outcome = finished([*command, *PYTHON, PROBE, "", "a b", "--", "\udcff"], **options)
    assert outcome.code == 0, outcome.stderr
    return json.loads(outcome.stdout)


def ignore_hang_ups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def odd_umask_and_priority() -> None:
    os.umask(0o027)
    os.nice(3)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"preexec_fn": ignore_hang_ups},
        {"preexec_fn": odd_umask_and_priority},
        {"env": {**environment(LC_CTYPE="C"), "ODD": "\udcff\udcfe=\n"}},
        {"env": {k: v for k, v in environment().items() if not k.startswith(("LC_", "LANG"))}},
        {"env": {"PATH": os.environ["PATH"], "PYTHONPATH": environment()["PYTHONPATH"]}},
        {"cwd": "/"},
        {"input": b"line one\nline two\n"},
    ],
    ids=["plain", "nohup", "limits", "odd bytes", "no locale", "bare", "cwd", "stdin"],
)
def test_a_command_sees_what_it_sees_without_us(tmp_path: Path, options: dict[str, object]):
    with (tmp_path / "inherited").open("w") as inherited:
        options = {"cwd": tmp_path, **options, "pass_fds": [inherited.fileno()]}
        metered = [*SIDECAR, "exec", "--imds-endpoint", "none", "--volume", str(tmp_path), "--"]
        plain = seen([], **options)
        assert seen(metered, **options) == plain
        assert str(inherited.fileno()) in dict(plain["descriptors"])


TELLS_WHAT_IS_OPEN = """
import os
code = 40
for number in range(3):
    try:
        os.fstat(number)
    except OSError:
        continue
    code += 1 << number
os._exit(code)
"""


@pytest.mark.parametrize("prepare", [None, ignore_hang_ups], ids=["plain", "nohup"])
def test_no_signal_is_blocked_or_ignored_that_was_not_before(tmp_path: Path, prepare: object):
    def masks(*command: str) -> dict[str, int]:
        shown = finished([*command, "cat", "/proc/self/status"], preexec_fn=prepare).stdout
        rows = dict(line.split(":\t") for line in shown.splitlines() if line.startswith("Sig"))
        # 32 and 33 are glibc's own: its posix_spawn leaves them ignored, and they mean nothing.
        ours = ~(1 << 31 | 1 << 32)
        return {name: int(rows[name], 16) & ours for name in ("SigBlk", "SigIgn", "SigPnd")}

    metered = [*SIDECAR, "exec", "--imds-endpoint", "none", "--volume", str(tmp_path), "--"]
    assert masks(*metered) == masks()


@pytest.mark.parametrize(
    ("closed", "still_open"),
    [
        ("0<&-", 0b110),
        ("1>&-", 0b101),
        ("2>&-", 0b011),
        ("0<&- 2>&-", 0b010),
        ("0<&- 1>&- 2>&-", 0b000),
    ],
)
def test_descriptors_that_are_closed_stay_closed(tmp_path: Path, closed: str, still_open: int):
    command = [*SIDECAR, "exec", "--volume", str(tmp_path), "--", *PYTHON, TELLS_WHAT_IS_OPEN]
    outcome = finished(["sh", "-c", f'"$@" {closed}', "sh", *command])
    assert outcome.code == 40 + still_open
    assert outcome.stdout == ""
    assert windows(tmp_path)


@pytest.mark.parametrize("stderr", ["/dev/full", "closed pipe"])
def test_a_broken_standard_error_does_not_change_the_exit_code(tmp_path: Path, stderr: str):
    if stderr == "/dev/full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, descriptor = os.pipe()
        os.close(reading)
    try:
        outcome = sidecar(
            "exec", "--volume", tmp_path, "--log-level", "debug", "--", "sh", "-c", "exit 3",
            stderr=descriptor,
        )  # fmt: skip
    finally:
        os.close(descriptor)
    assert outcome.code == 3
    assert windows(tmp_path)[-1]["event"] == "end"


def test_a_command_may_close_its_standard_output_early(tmp_path: Path):
    outcome = sidecar(
        "exec", "--volume", tmp_path, "--", "sh", "-c", "echo first; exec >&-; exit 4"
    )
    assert (outcome.code, outcome.stdout) == (4, "first\n")


def test_a_reader_that_goes_away_ends_the_command_as_without_us(tmp_path: Path):
    """SIGPIPE has its default action in the command, though Python ignores it."""
    script = '"$@" | head -n 1; echo "${PIPESTATUS[0]}"'
    command = [*SIDECAR, "exec", "--volume", str(tmp_path), "--", "yes"]
    outcome = finished(["bash", "-c", script, "bash", *command])
    assert outcome.stdout == f"y\n{128 + signal.SIGPIPE}\n"


def test_a_parent_that_ignores_child_signals_does_not_hang_it(tmp_path: Path):
    """`trap '' CHLD` is inherited; the kernel then reaps children before anybody can wait."""
    script = "trap '' CHLD; exec \"$@\""
    command = [*SIDECAR, "exec", "--volume", str(tmp_path), "--", "sh", "-c", "exit 6"]
    assert finished(["bash", "-c", script, "bash", *command]).code == 6


COUNTS_SIGNALS = """
import signal, sys
numbers = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("ready", flush=True)
while True:
    number = signal.sigwait(numbers)
    print("got", signal.Signals(number).name, flush=True)
    if number == getattr(signal, sys.argv[1]):
        sys.exit(5)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"])
def test_signals_are_forwarded_once(tmp_path: Path, name: str):
    output = tmp_path / "output"
    command = [*PYTHON, COUNTS_SIGNALS, name]
    with (
        output.open("wb") as stdout,
        Running(
            "exec", "--volume", tmp_path, "--", *command, log=tmp_path / "log", stdout=stdout
        ) as running,
    ):
        running.until(lambda: "ready" in output.read_text())
        assert running.end(getattr(signal, name)).code == 5
    assert output.read_text() == f"ready\ngot {name}\n"


def test_control_c_reaches_the_command_exactly_once(tmp_path: Path):
    """The terminal signals the whole foreground group: forwarding it would count twice.

    Nor does it shorten the windows: interactive programs live on after it.
    """
    options = ["--interval", "1h", "--volume", str(tmp_path)]
    command = ["exec", *options, "--", *PYTHON, COUNTS_SIGNALS, "SIGUSR1"]
    with Terminal(*SIDECAR, *command) as terminal:
        terminal.shows("ready")
        for _ in range(5):
            terminal.keys("\x03")
            terminal.shows("got SIGINT")
        terminal.process.send_signal(signal.SIGUSR1)
        assert "SIGINT" not in terminal.shows("got SIGUSR1")
        assert terminal.ends() == 5
        assert "emissions-sidecar: " in terminal.screen
    assert len(windows(tmp_path)) == 1


def test_a_signal_from_a_process_is_forwarded_on_a_terminal_too(tmp_path: Path):
    command = ["exec", "--volume", str(tmp_path), "--", *PYTHON, COUNTS_SIGNALS, "SIGINT"]
    with Terminal(*SIDECAR, *command) as terminal:
        terminal.shows("ready")
        terminal.process.send_signal(signal.SIGINT)
        terminal.shows("got SIGINT")
        assert terminal.ends() == 5


def all_stopped(shell: int) -> bool:
    children = psutil.Process(shell).children(recursive=True)
    return bool(children) and all(one.status() == psutil.STATUS_STOPPED for one in children)


def test_control_z_and_fg_work(tmp_path: Path):
    command = (
        f"{' '.join(SIDECAR)} exec --volume {tmp_path} -- sh -c 'echo re''ady; read x; exit $x'"
    )
    env = environment(TERM="dumb", PS1="prompt: ", HISTFILE="")
    with Terminal("bash", "--norc", "--noprofile", "--noediting", "-i", env=env) as terminal:
        terminal.shows("prompt: ")
        terminal.keys(f"{command}\n")
        terminal.shows("ready")
        terminal.keys("\x1a")
        terminal.shows("Stopped")
        terminal.shows("prompt: ")
        # A read that waits looks for keys before it looks for signals: it could still take some.
        until(lambda: all_stopped(terminal.process.pid))
        terminal.keys("fg\n")
        terminal.shows("exit $x'")
        terminal.keys("9\n")
        terminal.shows("emissions-sidecar: ")
        terminal.shows("prompt: ")
        terminal.keys("echo code=$?\n")
        terminal.shows("code=9")
        terminal.keys("exit\n")


@pytest.mark.parametrize(
    "arguments", [[], ["train.py"], ["--"], ["--project", "p"], ["--project", "p", "--"]]
)
def test_a_missing_command_is_one_line_that_tells_how_to_give_it(
    tmp_path: Path, arguments: list[str]
):
    outcome = sidecar("exec", *arguments, cwd=tmp_path)
    assert outcome.code == 2
    assert outcome.stderr.count("\n") == 1
    assert "exec [options] -- CMD" in outcome.stderr
    assert not list(tmp_path.iterdir())


def test_arguments_arrive_as_they_are(tmp_path: Path):
    show = "import os, sys; sys.stdout.buffer.write(b'|'.join(map(os.fsencode, sys.argv[1:])))"
    arguments = [b"--", b"", b"--project", b"\xff\xfe", "é\n".encode(), b"*", b"$HOME", b""]
    outcome = sidecar("exec", "--volume", tmp_path, "--", *PYTHON, show, *arguments)
    assert outcome.stdout == "--||--project|\\xff\\xfe|é\n|*|$HOME|"


def test_a_command_in_a_path_of_odd_bytes_is_named_when_it_fails(tmp_path: Path):
    outcome = sidecar("exec", "--volume", tmp_path, "--", b"./no\xffsuch")
    assert outcome.code == 127
    assert "such: command not found" in outcome.stderr


def test_metering_that_cannot_be_wired_still_runs_the_command(tmp_path: Path):
    """A package that is broken half-way, as after a failed upgrade, costs no training."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "pynvml.py").write_text("raise RuntimeError('half an upgrade')\n")
    env = environment(PYTHONPATH=f"{broken}:{environment()['PYTHONPATH']}")
    run = subprocess.run(
        [*SIDECAR, "exec", "--volume", str(tmp_path), "--", sys.executable, "-c", "exit(8)"],
        env=env, capture_output=True, timeout=30,
    )  # fmt: skip
    assert run.returncode == 8


def test_exec_ends_while_something_else_holds_its_output(tmp_path: Path):
    """What outlives the command keeps the pipe open, not us."""
    pid_file = tmp_path / "pid"
    background = f"sleep 1000 & echo $! > {pid_file}; exit 2"
    with Running(
        "exec", "--keep-background", "--volume", tmp_path, "--", "sh", "-c", background,
        log=tmp_path / "log", stdout=None,
    ) as running:  # fmt: skip
        outcome = running.end(None)
    os.kill(int(until(pid_file.read_text)), signal.SIGKILL)
    assert outcome.code == 2
