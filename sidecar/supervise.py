"""Run one command as a transparent parent: its exit code, its signals, no orphan.

The parent adopts orphaned descendants (PR_SET_CHILD_SUBREAPER), so that their CPU time is counted
and nothing outlives the command unseen. It never kills on its own while the command runs: a training
that takes minutes to write its checkpoint after SIGTERM takes them.
"""

import contextlib
import ctypes
import errno
import logging
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

from sidecar.signal_waiter import SignalSeen, SignalWaiter

FORWARDED: Final = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
ENDING: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)

LEFTOVER_GRACE_S: Final = 5.0
"""Time for processes the command left behind to end after SIGTERM, before SIGKILL."""

KILL_ROUNDS: Final = 40
"""SIGKILL is sent this often to what is still there: a process may fork while it is looked for."""

_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
"""The interpreter ignores these from its start on, and what is ignored would be inherited."""

_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
_EXIT_NOT_EXECUTABLE: Final = 126
_EXIT_NOT_FOUND: Final = 127

_log = logging.getLogger(__name__)


class CommandNotStarted(Exception):  # noqa: N818 - it is a state, told in its text
    """The command could not be started; `exit_code` is what a shell would give (126 or 127)."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def adopt_orphans() -> bool:
    """Become the reaper of all descendants (Linux prctl). False where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


class Command:
    """One running command of ours, and all that descends from it."""

    def __init__(self, argv: Sequence[str], environ: Mapping[bytes, bytes], mask: set[int]) -> None:
        """Start the command; signals in `mask` stay blocked in it. Raises CommandNotStarted.

        SIGCHLD gets its default action, in the command too: where it is ignored (`trap '' CHLD` in
        a parent shell) the kernel reaps children itself and their exit codes are lost.
        """
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        name = argv[0]
        try:
            self.pid = _spawn(argv, environ, mask)
        except FileNotFoundError:
            text = f"{name or repr(name)}: command not found"
            raise CommandNotStarted(text, _EXIT_NOT_FOUND) from None
        except OSError as error:
            text = f"{name}: cannot be run: {error.strerror}"
            raise CommandNotStarted(text, _EXIT_NOT_EXECUTABLE) from error
        self.exit_code: int | None = None

    def reap(self) -> None:
        """Collect every child that ended; orphans too. Sets `exit_code` when it was the command."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                code = os.waitstatus_to_exitcode(status)
                self.exit_code = code if code >= 0 else 128 - code

    def forward(self, seen: SignalSeen) -> None:
        """Hand a signal on, unless the terminal gave it to the command already."""
        if self.exit_code is None and not seen.from_terminal:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, seen.number)

    def end_leftovers(self, waiter: SignalWaiter, grace_s: float = LEFTOVER_GRACE_S) -> int:
        """End the processes the command left behind: SIGTERM, then SIGKILL. Returns how many."""
        left = _descendants()
        if not left:
            return 0
        _log.warning("the command left %d processes behind; they are ended", len(left))
        _signal_all(left, signal.SIGTERM)
        deadline_s = time.monotonic() + grace_s
        while _descendants() and (left_s := deadline_s - time.monotonic()) > 0:
            seen = waiter.wait(min(0.2, left_s))
            self.reap()
            if seen is not None and seen.number in ENDING:
                break  # whoever asks again does not want to wait
        self._kill_descendants(waiter)
        return len(left)

    def _kill_descendants(self, waiter: SignalWaiter) -> None:
        for _ in range(KILL_ROUNDS):
            remaining = _descendants()
            if not remaining:
                break
            _signal_all(remaining, signal.SIGKILL)
            waiter.wait(0.05)
            self.reap()
        self.reap()


def inherited_environment() -> dict[bytes, bytes]:
    """Return the environment as this process got it.

    In the C locale the interpreter sets LC_CTYPE for itself and what it starts (PEP 538); a command
    that is only metered must not see that.
    """
    environ = dict(os.environb)
    try:
        given = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return environ
    environ.pop(b"LC_CTYPE", None)
    for item in given:
        name, _, value = item.partition(b"=")
        if name == b"LC_CTYPE":
            environ[name] = value
    return environ


def _spawn(argv: Sequence[str], environ: Mapping[bytes, bytes], mask: set[int]) -> int:
    """Start a program and return its pid; a script without `#!` is run by sh, as execvp(3) does."""
    if not argv[0]:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    try:
        return os.posix_spawnp(
            argv[0], list(argv), environ, setsigmask=mask, setsigdef=_IGNORED_BY_PYTHON
        )
    except OSError as error:
        script = shutil.which(argv[0]) if error.errno == errno.ENOEXEC else None
        if script is None or not _is_text(script):
            raise
    words = ["sh", script, *argv[1:]]
    return os.posix_spawn("/bin/sh", words, environ, setsigmask=mask, setsigdef=_IGNORED_BY_PYTHON)


def _is_text(path: str) -> bool:
    """Whether a file may be a script: no NUL at its beginning, as a shell judges it."""
    with Path(path).open("rb") as file:
        return b"\0" not in file.read(128)


def _descendants() -> list[psutil.Process]:
    living = psutil.Process().children(recursive=True)
    return [process for process in living if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal_all(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
