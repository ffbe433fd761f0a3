"""`emissions-sidecar run`: the sidecar."""

import contextlib
import logging
import math
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Final

from sidecar.agent import Agent, RunSoFar
from sidecar.assembly import assemble
from sidecar.cli.leaving import leave
from sidecar.cli.logs import logs_held, set_up_logs
from sidecar.cli.options import add_settings, command_parser, settings_from
from sidecar.cli.progress import progress_shown
from sidecar.cli.stand_by import exit_code, stand_by, stands_by
from sidecar.exporters.energy_metrics import energy_samples
from sidecar.exporters.prometheus import prometheus_text
from sidecar.exporters.summary import Totals, totals_text
from sidecar.exporters.termination import termination_message, write_termination_message
from sidecar.metering import ASK_S, Metering, patience_s
from sidecar.outbox import samples
from sidecar.phases import PhaseBook
from sidecar.program_calls import ProgramCalls
from sidecar.settings import Settings, SettingsError, parse_duration_s
from sidecar.signal_waiter import SignalWaiter
from sidecar.status import StatusServer

STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

LOOK_PERIOD_S: Final = 5.0
"""Metering that ended by itself, which is a bug, is noticed after at most this time."""

EXIT_METERING_FAILED: Final = 1

_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Meter until a signal (or `--for`), write the last window, ship it, exit 0."""
    parser = command_parser(
        "run",
        "Meter this pod or machine until SIGTERM or SIGINT, then write and ship the last window and "
        "exit 0.",
        (
            "",
            "--for 30s --interval 5s --volume /tmp/emissions",
            "--project demo --region westeurope",
            "--transport directory --transport-directory /mnt/shared --flush-interval 1m",
        ),
    )
    parser.add_argument("--for", dest="duration", metavar="DURATION", help="stop after this long")
    add_settings(parser)
    arguments = parser.parse_args(argv)
    book = PhaseBook()
    try:
        # What lies about in a pod is the training code's, not its owner's word on the sidecar.
        settings = settings_from(arguments, finds_files=False)
        limit_s = _limit_s(arguments.duration)
        set_up_logs(settings)
        with logs_held():
            agent = Agent(replace(assemble(settings, os.environ, "run"), phases=book))
    except SettingsError as error:
        if not stands_by(os.environ):
            raise
        return stand_by(error, _stopping())
    with SignalWaiter(_stopping()) as waiter:
        agent.begin()
        sidecar = _Sidecar(agent, settings, book)
        with sidecar.served(), progress_shown(agent):
            sidecar.metering.start()
            _log.info("metering; records go to %s", settings.volume)
            reason = _until(waiter, limit_s, sidecar)
            is_well = sidecar.end(reason, waiter)
    return leave(exit_code(0 if is_well else EXIT_METERING_FAILED, os.environ), settings)


class _Sidecar:
    """An agent at work, what it says of itself, and its last words."""

    def __init__(self, agent: Agent, settings: Settings, book: PhaseBook) -> None:
        self.agent = agent
        self._settings = settings
        self._reason = "running"
        self._is_terminating = False
        self.metering = Metering(agent, self._ended)
        self._calls = ProgramCalls(book, self.metering.nudge, self._so_far)
        agent.watch(self._keep_message)

    @property
    def is_over(self) -> bool:
        """Whether metering ended."""
        return self.metering.is_over

    def hurry(self) -> None:
        """Take note that the end is near: said by the preStop hook."""
        if not self._is_terminating:
            self._is_terminating = True
            if self._reason == "running":  # a signal may have been faster
                self._reason = "terminating"
            _log.info("the end is announced: windows are short from now on, and shipped at once")
            self.metering.hurry()

    def end(self, reason: str, waiter: SignalWaiter) -> bool:
        """Write and ship the last window. True when that went well."""
        self._reason = reason
        is_well = self.metering.end(
            reason, patience_s(self._settings), lambda wait_s: waiter.wait(wait_s) is not None
        )
        totals = self.agent.totals
        if not self.metering.is_over and totals is not None:
            _log.error("ended (%s) without its last window: %s", reason, totals_text(totals))
        return is_well

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Serve health, metrics and the announcement of the end, where an address is set."""
        if self._settings.listen is None:
            yield
            return
        try:
            server = StatusServer(self._settings.listen, self, self._metrics, self._calls.answer)
            server.start()
        except (OSError, RuntimeError) as error:
            # Records matter more than what is said of them.
            _log.error(
                "cannot listen on %s:%d: %s; metering goes on", *self._settings.listen, error
            )
            yield
            return
        host, port = server.address
        _log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        try:
            yield
        finally:
            server.close()

    def _metrics(self) -> tuple[bytes, str]:
        state, standing = self.agent.state(), self.agent.standing
        energy = energy_samples(standing) if standing else ()
        return prometheus_text((*energy, *(samples(state) if state else ())))

    def _so_far(self) -> RunSoFar | None:
        return self.metering.ask(Agent.run_so_far, ASK_S)

    def _keep_message(self, totals: Totals) -> None:
        """Renew the termination message once the end is near: SIGKILL may come before any signal."""
        if self._is_terminating:
            self._write_message(totals)

    def _ended(self, totals: Totals) -> None:
        self._write_message(totals)
        _log.info("ended (%s): %s · %s", self._reason, totals_text(totals), self.agent.whereabouts)

    def _write_message(self, totals: Totals) -> None:
        state = self.agent.state()
        left = {} if state is None else asdict(state)
        try:
            message = termination_message(totals, left, self._reason)
            write_termination_message(self._settings.termination_log, message)
        except OSError as error:
            _log.warning(
                "cannot write %s: %s", self._settings.termination_log, error.strerror or error
            )


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


def _until(waiter: SignalWaiter, limit_s: float | None, sidecar: _Sidecar) -> str:
    """Wait for a stopping signal or the time limit, whichever comes first; return which."""
    while not sidecar.is_over:
        left_s = math.inf if limit_s is None else limit_s - sidecar.agent.elapsed_s
        if left_s <= 0:
            return "time limit"
        seen = waiter.wait(min(LOOK_PERIOD_S, left_s))
        if seen is not None:
            return signal.Signals(seen.number).name
    return "metering failed"
