"""How a command ends whose process has loaded the client of a tracker."""

import logging
import os
import sys
from contextlib import suppress

from sidecar.settings import Settings


def leave(code: int, settings: Settings) -> int:
    """Return the exit code; where a tracker was chosen, end the process with it here and now.

    Such clients wait at exit for uploads and threads of theirs, minutes long where a server hangs. What
    was to be handed on has been by now, or its time is over, and who waits for the exit code is not
    made to.
    """
    if not settings.export:
        return code
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)
