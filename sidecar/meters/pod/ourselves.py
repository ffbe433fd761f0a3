"""What the metering itself uses: it is in the pod, but not the pod's work."""

import os
import time
from pathlib import Path

from sidecar.meters.kernel_file import read_kernel_file


class Ourselves:
    """CPU time and memory of this process; it starts no others but a command that is the work.

    A source that counts the whole pod takes this off.
    """

    def __init__(self, proc_root: Path) -> None:
        self._statm_path = str(proc_root / "self" / "statm")
        self._page_bytes = os.sysconf("SC_PAGESIZE")

    def cpu_s(self) -> float:
        """Return our CPU seconds since we started: clock_gettime(2), the clock of our process.

        The scheduler counts it in nanoseconds, as it does for cgroups; times(2) rounds to ticks.
        """
        return time.process_time()

    def resident_bytes(self) -> int:
        """Return the memory we have now (proc(5), `statm`); 0 where it cannot be read."""
        try:
            return int(read_kernel_file(self._statm_path).split()[1]) * self._page_bytes
        except (OSError, ValueError, IndexError):
            return 0
