"""`emissions-sidecar run`: the sidecar."""

import logging
import math
import os
import signal
from collections.abc import Callable, Sequence
from typing import Final

from sidecar.agent import Agent, Wake
from sidecar.assembly import assemble
from sidecar.cli.logs import logs_held, set_up_logs
from sidecar.cli.options import add_settings, command_parser, settings_from
from sidecar.cli.progress import progress_shown
from sidecar.exporters.summary import totals_text
from sidecar.settings import SettingsError, parse_duration_s
from sidecar.supervise import SignalWaiter

STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

EXIT_METERING_FAILED: Final = 1
METERING_FAILED: Final = "metering failed"

_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Meter until a signal (or `--for`), write the last window, exit 0."""
    parser = command_parser(
        "run",
        "Meter this pod or machine until SIGTERM or SIGINT, then write the last window and exit 0.",
        (
            "",
            "--for 30s --interval 5s --volume /tmp/emissions",
            "--project demo --region westeurope",
        ),
    )
    parser.add_argument("--for", dest="duration", metavar="DURATION", help="stop after this long")
    add_settings(parser)
    arguments = parser.parse_args(argv)
    settings = settings_from(arguments)
    limit_s = _limit_s(arguments.duration)
    set_up_logs(settings)
    with logs_held():
        agent = Agent(assemble(settings, os.environ, "run"))
    with SignalWaiter(_stopping()) as waiter:
        agent.begin()
        agent.open()
        _log.info("metering; records go to %s", settings.volume)
        with progress_shown(agent):
            reason = _metered(agent, _until(waiter, limit_s, agent))
        totals = agent.close(reason)
    _log.info("ended (%s): %s", reason, totals_text(totals))
    return EXIT_METERING_FAILED if reason == METERING_FAILED else 0


def _metered(agent: Agent, wait: Callable[[float], Wake]) -> str:
    """Meter to the end; what must never happen still gets its last window written."""
    try:
        return agent.run(wait)
    except Exception:  # noqa: BLE001 - whatever it is, what was metered is not lost for it
        _log.exception("metering failed; the last window is written")
        return METERING_FAILED


def _stopping() -> tuple[signal.Signals, ...]:
    """Return the signals that end the run; under nohup a hang-up does not."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return tuple(number for number in STOPPING if number != signal.SIGHUP)
    return STOPPING


def _limit_s(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise SettingsError(f"flag --for: {error}") from error


def _until(waiter: SignalWaiter, limit_s: float | None, agent: Agent) -> Callable[[float], Wake]:
    """Wait for a stopping signal or the time limit, whichever comes first."""

    def wait(timeout_s: float) -> Wake:
        left_s = math.inf if limit_s is None else limit_s - agent.elapsed_s
        if left_s <= 0:
            return Wake(stop="time limit")
        seen = waiter.wait(min(timeout_s, left_s))
        if seen is None:
            return Wake()
        return Wake(stop=signal.Signals(seen.number).name)

    return wait
