"""Run one command as a transparent parent: its exit code, its signals, no orphan.

The parent adopts orphaned descendants (PR_SET_CHILD_SUBREAPER), so that their CPU time is counted
and nothing outlives the command unseen. It never kills on its own while the command runs: a training
that takes minutes to write its checkpoint after SIGTERM takes them.
"""

import contextlib
import ctypes
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import psutil

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

_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
_EXIT_NOT_EXECUTABLE: Final = 126
_EXIT_NOT_FOUND: Final = 127

_log = logging.getLogger(__name__)


class CommandNotStarted(Exception):  # noqa: N818 - it is a state, told in its text
    """The command could not be started; `exit_code` is what a shell would give (126 or 127)."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class SignalSeen:
    """A signal this process got. `from_terminal`: the kernel sent it to the whole foreground group."""

    number: int
    from_terminal: bool


class SignalWaiter:
    """Turns signals into return values of a wait; nothing runs in a signal handler.

    Signals are blocked between `__enter__` and `__exit__`, in this thread and those it starts.
    """

    def __init__(self, signals: Sequence[signal.Signals]) -> None:
        self._signals = {*signals}
        self.previous_mask: set[int] = set()

    def __enter__(self) -> Self:
        self.previous_mask = {*signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)}
        return self

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self.previous_mask)

    def wait(self, timeout_s: float) -> SignalSeen | None:
        """Wait at most so long for one of the signals."""
        info = signal.sigtimedwait(self._signals, max(0.0, timeout_s))
        if info is None:
            return None
        return SignalSeen(info.si_signo, from_terminal=info.si_code > 0)


def adopt_orphans() -> bool:
    """Become the reaper of all descendants (Linux prctl). False where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


class Command:
    """One running command of ours, and all that descends from it."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], mask: set[int]) -> None:
        """Start the command; signals in `mask` stay blocked in it. Raises CommandNotStarted."""
        try:
            self.pid = os.posix_spawnp(argv[0], list(argv), environ, setsigmask=mask)
        except FileNotFoundError:
            raise CommandNotStarted(f"{argv[0]}: command not found", _EXIT_NOT_FOUND) from None
        except (PermissionError, OSError) as error:
            text = f"{argv[0]}: cannot be run: {error.strerror}"
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
        while (remaining := _descendants()) and time.monotonic() < deadline_s:
            waiter.wait(min(0.2, max(0.0, deadline_s - time.monotonic())))
            self.reap()
        if remaining:
            _signal_all(remaining, signal.SIGKILL)
            psutil.wait_procs(remaining, timeout=1.0)
        self.reap()
        return len(left)


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
