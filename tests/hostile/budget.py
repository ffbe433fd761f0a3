"""Bounds that a test holds code to: processor time and memory, never wall time."""

import contextlib
import signal
import tracemalloc
from collections.abc import Iterator


class OverBudgetError(AssertionError):
    """Code took more than it may."""


@contextlib.contextmanager
def cpu_budget(seconds: float = 10.0) -> Iterator[None]:
    """End a block that takes so much processor time; what should take milliseconds is far below it.

    By the time that this process computes, so that a busy machine makes no difference.
    """

    def at_end(*_: object) -> None:
        raise OverBudgetError(f"more than {seconds:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, at_end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextlib.contextmanager
def memory_budget(most_bytes: int) -> Iterator[None]:
    """Fail where a block held more memory of Python's at any moment."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    if peak > most_bytes:
        raise OverBudgetError(f"{peak} bytes at once, {most_bytes} are allowed")
