"""What `run` does in a pod when its settings cannot be used: it says so, and stays out of the way.

A native sidecar that ends before the pod's other containers start would hold them up, and one that is
restarted for ever is noise beside a training job. So it lives on, meters nothing, and ends when told to.
"""

import json
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from sidecar.exporters.termination import write_termination_message
from sidecar.settings import SettingsError, parse_listen
from sidecar.signal_waiter import SignalWaiter
from sidecar.status import StatusServer

_LOOK_PERIOD_S: Final = 3600.0

_log = logging.getLogger(__name__)


def stands_by(environ: Mapping[str, str]) -> bool:
    """Whether this is a pod's sidecar, put there by a cluster: its pod must not wait for it."""
    return bool(environ.get("POD_UID"))


def exit_code(code: int, environ: Mapping[str, str]) -> int:
    """Return the code to exit with: 0 in a pod, whatever happened.

    The `podFailurePolicy` of a Job looks at the exit codes of all containers, this one included: what
    becomes of the training must not depend on it. Log and termination message say what went wrong.
    """
    return 0 if stands_by(environ) else code


def stand_by(error: SettingsError, stopping: Sequence[signal.Signals]) -> int:
    """Say what is wrong, answer the liveness probe, and wait for a signal. Returns the exit code, 0."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    _log.error("nothing is metered: %s; the pod runs on without records", error)
    with suppress(OSError):
        content = json.dumps({"reason": "settings", "error": str(error)[:1000]}).encode() + b"\n"
        path = os.environ.get("EMISSIONS_TERMINATION_LOG") or "/dev/termination-log"
        write_termination_message(Path(path), content)
    with SignalWaiter(stopping) as waiter:
        server = _served(os.environ.get("EMISSIONS_LISTEN", ""))
        while waiter.wait(_LOOK_PERIOD_S) is None:
            continue
        if server is not None:
            server.close()
    return 0


class _Nothing:
    """What the status server speaks for."""

    is_over = False

    def hurry(self) -> None:
        """There is nothing to hurry."""


def _served(listen: str) -> StatusServer | None:
    if not listen:
        return None
    try:
        address = parse_listen(listen)
        server = StatusServer(address, _Nothing(), lambda: (b"", "text/plain; version=0.0.4"))
        server.start()
    except (ValueError, OSError, RuntimeError) as error:
        _log.warning("cannot answer the liveness probe at %r: %s", listen, error)
        return None
    _log.info("listening on http://%s:%d", *server.address)
    return server
