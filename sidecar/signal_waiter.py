"""Signals as the return values of a wait."""

import ctypes
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class SignalSeen:
    """A signal this process got. `from_terminal`: the kernel sent it to the whole foreground group."""

    number: int
    from_terminal: bool


class SignalWaiter:
    """Turns signals into return values of a wait; nothing runs in a signal handler.

    From `__enter__` on the signals are blocked, in this thread and those it starts, and they stay so:
    what uses this ends soon after, and a late signal must not replace its exit code.
    """

    def __init__(self, signals: Sequence[signal.Signals]) -> None:
        self._signals = {*signals}
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._set = (ctypes.c_ulong * (128 // ctypes.sizeof(ctypes.c_ulong)))()  # sigset_t
        self._libc.sigemptyset(self._set)
        for number in self._signals:
            self._libc.sigaddset(self._set, int(number))
        self.previous_mask: set[int] = set()

    def __enter__(self) -> Self:
        self.previous_mask = {*signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)}
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the signals blocked."""

    def wait(self, timeout_s: float) -> SignalSeen | None:
        """Wait at most so long for one of the signals; sometimes less, as after SIGCONT.

        Not `signal.sigtimedwait`: where it is interrupted and the time is up by then, it returns
        whatever stands in memory as if it were a signal (seen with CPython 3.11).
        """
        timeout_ns = int(max(0.0, timeout_s) * 1e9)
        timespec = (ctypes.c_long * 2)(timeout_ns // 10**9, timeout_ns % 10**9)
        info = (ctypes.c_int * 32)()  # siginfo_t: si_signo, si_errno, si_code …
        number = self._libc.sigtimedwait(self._set, info, timespec)
        if number <= 0:
            return None
        return SignalSeen(number, from_terminal=info[2] > 0)
