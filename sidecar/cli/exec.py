"""`emissions-sidecar exec`: run a command and meter its lifetime and process tree."""

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Final

from sidecar.agent import Agent, Wake
from sidecar.assembly import assemble
from sidecar.cli.logs import logs_held, set_up_logs
from sidecar.cli.options import add_settings, command_parser, settings_from
from sidecar.exporters.summary import totals_text
from sidecar.settings import Settings, SettingsError
from sidecar.supervise import (
    ENDING,
    FORWARDED,
    Command,
    CommandNotStarted,
    SignalWaiter,
    adopt_orphans,
    inherited_environment,
)

LAST_WINDOW_PATIENCE_S: Final = 10.0
"""A volume that hangs holds up the exit code of the command at most this long."""

_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the command, meter it, and return its exit code (128 + n for signal n)."""
    parser = command_parser(
        "exec",
        "Run CMD, meter it and all its processes, forward signals, print a summary line to standard "
        "error and exit with CMD's exit code.",
        ("--project demo -- python train.py", "--interval 1s --volume out -- make -j8"),
    )
    parser.add_argument(
        "--keep-background",
        action="store_true",
        help="leave processes alone that CMD left running; else they are ended when CMD ends",
    )
    add_settings(parser)
    options, command = _split(argv)
    arguments, unknown = parser.parse_known_args(options)
    if not command:
        raise SettingsError("no command given; write it after two dashes: exec [options] -- CMD …")
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    settings = settings_from(arguments)
    set_up_logs(settings, quiet=True)
    agent = _begun(settings)
    adopt_orphans()
    with SignalWaiter((*FORWARDED, signal.SIGCHLD)) as waiter:
        try:
            child = Command(command, inherited_environment(), waiter.previous_mask)
        except CommandNotStarted as error:
            _say(f"emissions-sidecar exec: {error}")
            return error.exit_code
        exit_code = _metered(agent, child, waiter)
        if not arguments.keep_background:
            child.end_leftovers(waiter)
    return exit_code


def _begun(settings: Settings) -> Agent | None:
    """Return an agent that counts from now on; None, and a log line, where it cannot be made."""
    try:
        with logs_held():
            agent = Agent(assemble(settings, os.environ, "exec"))
        agent.begin()
    except SettingsError:
        raise
    except Exception:  # noqa: BLE001 - training first: whatever fails here, the command runs
        _log.exception("metering cannot start; the command runs without it")
        return None
    return agent


def _split(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Split at the first `--`: ours before, the command after."""
    if "--" not in argv:
        return argv, ()
    place = list(argv).index("--")
    return argv[:place], argv[place + 1 :]


def _metered(agent: Agent | None, child: Command, waiter: SignalWaiter) -> int:
    """Forward signals until the child has ended, while a thread meters it; return its exit code."""
    metering = None if agent is None else _Metering(agent)
    child.reap()
    while child.exit_code is None:
        seen = waiter.wait(60.0)
        if seen is not None and seen.number != signal.SIGCHLD:
            child.forward(seen)
            # Ctrl-C is a key of interactive programs; an end that is near is told by a process.
            if metering is not None and seen.number in ENDING and not seen.from_terminal:
                metering.hurry()
        child.reap()
    if metering is not None:
        metering.end(f"command exited {child.exit_code}")
    return child.exit_code


class _Metering:
    """An agent at work in a thread: a volume or a driver that hangs must not hold up a signal.

    Whatever fails here is logged; the command goes on and its exit code is returned.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._wakes: queue.SimpleQueue[Wake] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._meter, name="metering", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads allowed here
            _log.error("metering cannot start (%s); the command runs without it", error)

    def hurry(self) -> None:
        """Say that the end is near: from now on windows are short."""
        self._wakes.put(Wake(hurry=True))

    def end(self, reason: str) -> None:
        """Have the last window written, and wait for that, but not for ever."""
        self._wakes.put(Wake(stop=reason))
        if self._thread.ident is not None:
            self._thread.join(LAST_WINDOW_PATIENCE_S)
        if self._thread.is_alive():
            _log.error(
                "the last records are not written after %g s and end with this process; "
                "does the volume hang?", LAST_WINDOW_PATIENCE_S,
            )  # fmt: skip

    def _meter(self) -> None:
        agent = self._agent
        try:
            agent.open()
            totals = agent.close(agent.run(self._wait))
            _say(f"emissions-sidecar: {totals_text(totals)} · {agent.whereabouts}")
        except Exception:  # noqa: BLE001 - training first: whatever fails here, the command runs
            _log.exception("metering failed; the command goes on without it")

    def _wait(self, timeout_s: float) -> Wake:
        try:
            return self._wakes.get(timeout=timeout_s)
        except queue.Empty:
            return Wake()


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it, or its disk is full
        print(text, file=sys.stderr)
