"""Whether a process is metered already, as a part of one that started it.

A program that meters itself meters its children, too: workers of multiprocessing, subprocesses. It says
so in the environment that they inherit. One whose ancestor it really is records nothing again.
"""

import os
from pathlib import Path
from typing import Final

from sidecar.meters.pod.process_tree import ProcessTable

MARK: Final = "_SIDECAR_METERED_BY"
"""`<pid>.<ticks since boot when it started>`; not a setting, so not named like one."""

GENERATIONS_MAX: Final = 64

_PROC: Final = Path("/proc")


def marked_as_metered() -> str | None:
    """Tell all processes that are started from now on; returns the mark, None where that fails."""
    try:
        own = ProcessTable(_PROC).times_of(os.getpid())
    except (OSError, ValueError):
        return None
    os.environ[MARK] = mark = f"{own.pid}.{own.started}"
    return mark


def is_metered_by_ancestor() -> bool:
    """Tell whether a process that started this one, itself or through others, meters it."""
    pid, _, started = os.environ.get(MARK, "").partition(".")
    if not pid.isdecimal():
        return False
    table, ancestor = ProcessTable(_PROC), os.getppid()
    for _ in range(GENERATIONS_MAX):
        if ancestor <= 0:
            return False
        try:
            process = table.times_of(ancestor)
        except (OSError, ValueError):
            return False
        if str(ancestor) == pid:
            return str(process.started) == started
        ancestor = process.parent
    return False
