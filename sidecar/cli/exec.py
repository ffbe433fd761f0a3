"""`emissions-sidecar exec`: run a command and meter its lifetime and process tree."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from sidecar.agent import Agent, Wake, assemble, totals_text
from sidecar.cli.logs import set_up_logs
from sidecar.cli.options import add_settings, command_parser, settings_from
from sidecar.settings import Settings, SettingsError
from sidecar.supervise import (
    ENDING,
    FORWARDED,
    Command,
    CommandNotStarted,
    SignalWaiter,
    adopt_orphans,
)

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
    arguments = parser.parse_args(options)
    settings = settings_from(arguments)
    if not command:
        raise SettingsError("no command given; write it after two dashes: exec [options] -- CMD …")
    set_up_logs(settings, quiet=True)
    agent = _begun(settings)
    adopt_orphans()
    with SignalWaiter((*FORWARDED, signal.SIGCHLD)) as waiter:
        try:
            child = Command(command, os.environ, waiter.previous_mask)
        except CommandNotStarted as error:
            print(f"emissions-sidecar exec: {error}", file=sys.stderr)
            return error.exit_code
        exit_code = _metered(agent, child, waiter)
        if not arguments.keep_background:
            child.end_leftovers(waiter)
    return exit_code


def _begun(settings: Settings) -> Agent | None:
    """Return an agent that counts from now on; None, and a log line, where it cannot be made."""
    try:
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
    """Meter the child to its end. Whatever fails here, the child goes on and its code is returned."""
    wait = _until_child_ends(child, waiter)
    try:
        if agent is not None:
            agent.open()
            totals = agent.close(agent.run(wait))
            print(
                f"emissions-sidecar: {totals_text(totals)} · {agent.whereabouts}", file=sys.stderr
            )
    except Exception:  # noqa: BLE001 - training first: whatever fails here, the command runs
        _log.exception("metering failed; the command goes on without it")
    while child.exit_code is None:
        wait(60.0)
    return child.exit_code


def _until_child_ends(child: Command, waiter: SignalWaiter) -> Callable[[float], Wake]:
    """Wait for the child's end; forward signals; those that announce an end hurry the windows."""

    def wait(timeout_s: float) -> Wake:
        child.reap()
        seen = waiter.wait(timeout_s) if child.exit_code is None else None
        if seen is not None and seen.number != signal.SIGCHLD:
            child.forward(seen)
        child.reap()
        if child.exit_code is not None:
            return Wake(stop=f"command exited {child.exit_code}")
        return Wake(hurry=seen is not None and seen.number in ENDING)

    return wait
