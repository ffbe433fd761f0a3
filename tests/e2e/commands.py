"""Runs the real command line as a process, and reads what it leaves behind."""

import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

SIDECAR = (sys.executable, "-m", "sidecar")
PYTHON = (sys.executable, "-S", "-c")
"""A child program; -S: no site, so quick, and without the coverage of the tests."""

PATIENCE_S = 90.0
"""Conditions are waited for, never slept for; this long only when something is broken."""

ROOT = Path(__file__).parents[2]

Argument = str | bytes | Path
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def messages(self) -> str:
        """The texts of the log's JSON lines, one per line."""
        return messages(self.stderr)


def messages(log: str) -> str:
    """The texts of a log's JSON lines; what else stands in it is left out."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return "\n".join(line["message"] for line in lines)


def environment(**changes: str) -> dict[str, str]:
    """The environment of the tests, with the package in reach from every directory."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


def sidecar(
    *arguments: Argument,
    env: Mapping[str, str] | None = None,
    timeout_s: float = PATIENCE_S,
    **options: Any,
) -> Outcome:
    """Run the command to its end; `options` as for `subprocess.run`."""
    return finished([*SIDECAR, *arguments], env=env, timeout_s=timeout_s, **options)


def finished(
    command: list[Argument],
    *,
    env: Mapping[str, str] | None = None,
    timeout_s: float = PATIENCE_S,
    **options: Any,
) -> Outcome:
    """Run any command line to its end."""
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    env = environment() if env is None else env
    run = subprocess.run(command, env=env, timeout=timeout_s, **options)
    outcome = Outcome(run.returncode, _text(run.stdout), _text(run.stderr))
    assert "Traceback" not in outcome.stderr + outcome.stdout, outcome.stderr
    return outcome


def _text(output: bytes | None) -> str:
    return (output or b"").decode(errors="backslashreplace")


class _EndedAtLast:
    """A process as a context manager: one that still runs at the end is killed."""

    process: "subprocess.Popen[bytes]"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Running(_EndedAtLast):
    """A command under way, as a context manager; one that still runs at the end is killed."""

    def __init__(
        self,
        *arguments: Argument,
        log: Path,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.log_path = log
        with log.open("wb") as stderr:
            options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **options}
            env = environment() if env is None else env
            self.process = subprocess.Popen(
                [*SIDECAR, *arguments], stderr=stderr, env=env, **options
            )

    @property
    def log(self) -> str:
        """Standard error so far."""
        return self.log_path.read_text(errors="backslashreplace")

    def end(self, number: int | None = signal.SIGTERM, timeout_s: float = PATIENCE_S) -> Outcome:
        """Send a signal (or none) and wait for the end."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(timeout_s)
        assert "Traceback" not in self.log, self.log
        return Outcome(code, "", self.log)

    def until(self, condition: Callable[[], T]) -> T:
        """Wait until the condition holds, while the command runs."""

        def checked() -> T:
            value = condition()
            if not value and self.process.poll() is not None:
                raise AssertionError(f"it ended with {self.process.returncode}: {self.log}")
            return value

        return until(checked)


def until(condition: Callable[[], T]) -> T:
    """Wait until the condition returns something true, and return that."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"{condition} has not become true"
        time.sleep(0.02)
    return value


def is_gone(pid: int) -> bool:
    """Whether no process has this pid, not even as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


class Terminal(_EndedAtLast):
    """A command on a pseudo-terminal of its own, as its controlling one."""

    def __init__(self, *command: str, env: Mapping[str, str] | None = None) -> None:
        self.screen = ""
        self.shown = ""
        self._master, slave = os.openpty()
        env = environment(TERM="xterm", COLUMNS="200") if env is None else env
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave, env=env
        )
        os.close(slave)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hang_up()
        super().__exit__(kind, error, trace)

    def keys(self, text: str) -> None:
        """Type something; control characters as the keyboard makes them."""
        os.write(self._master, text.encode())

    def shows(self, text: str) -> str:
        """Wait until the text is on the screen; return what was there up to it, and forget that."""
        deadline_s = time.monotonic() + PATIENCE_S
        while text not in self.screen:
            assert time.monotonic() < deadline_s, f"{text!r} is not on the screen: {self.screen!r}"
            if not self._read():
                raise AssertionError(f"ended before {text!r} was on the screen: {self.screen!r}")
        seen, _, self.screen = self.screen.partition(text)
        return seen

    def ends(self) -> int:
        """Wait for the end, reading all that is still shown; return the exit code."""
        while self._read():
            pass
        code = self.process.wait(PATIENCE_S)
        assert "Traceback" not in self.shown, self.shown
        return code

    def hang_up(self) -> None:
        """Close the terminal, as when its window is closed."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _read(self) -> bool:
        if not select.select([self._master], [], [], PATIENCE_S)[0]:
            return False
        try:
            content = os.read(self._master, 65536)
        except OSError:  # EIO: nobody holds the other side any more
            return False
        text = content.decode(errors="replace")
        self.screen += text
        self.shown += text
        return bool(content)


# -- what is left behind -------------------------------------------------------------------------


def records(volume: Path) -> list[dict[str, Any]]:
    """All records of the volume, in order; each line must be whole, and each id be there once."""
    rows = []
    for segment in sorted((volume / "records").glob("*.ndjson")):
        content = segment.read_text()
        assert content.endswith("\n"), f"{segment} ends in {content[-80:]!r}"
        rows += [json.loads(line) for line in content.splitlines()]
    ids = [row["record_id"] for row in rows]
    assert len(ids) == len(set(ids)), ids
    return rows


def windows(volume: Path) -> list[dict[str, Any]]:
    """The records that metered something."""
    return [row for row in records(volume) if row["event"] != "start"]


def total(rows: list[dict[str, Any]], column: str) -> float:
    """Sum of a column that no row lacks."""
    return math.fsum(row[column] for row in rows)
