"""`emissions-sidecar exec`: run a command and meter its lifetime and process tree."""

import contextlib
import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from sidecar.agent import Agent
from sidecar.assembly import assemble
from sidecar.cli.leaving import leave
from sidecar.cli.logs import logs_held, set_up_logs
from sidecar.cli.options import SIDECAR, add_settings, command_parser, settings_from
from sidecar.exporters.summary import Totals, totals_text
from sidecar.metering import ASK_S, Metering, patience_s
from sidecar.phases import PhaseBook
from sidecar.program_calls import ProgramCalls
from sidecar.settings import Settings, SettingsError, declared_settings, environment_name
from sidecar.signal_waiter import SignalWaiter
from sidecar.status import CONNECTIONS_MAX, REQUEST_S, Answer, Bounds, HttpServer
from sidecar.supervise import (
    ENDING,
    FORWARDED,
    Command,
    CommandNotStarted,
    adopt_orphans,
    inherited_environment,
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
    add_settings(parser, offered())
    options, command = _split(argv)
    arguments, unknown = parser.parse_known_args(options)
    if not command:
        raise SettingsError("no command given; write it after two dashes: exec [options] -- CMD …")
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    settings = settings_from(arguments)
    set_up_logs(settings, quiet=True)
    book = PhaseBook()
    agent = _begun(settings, book)
    metering = None if agent is None else Metering(agent, lambda totals: _tell(agent, totals))
    adopt_orphans()
    with (
        SignalWaiter((*FORWARDED, signal.SIGCHLD)) as waiter,
        _answering(metering, book) as address,
    ):
        try:
            environ = inherited_environment() | address
            child = Command(command, environ, waiter.previous_mask)
        except CommandNotStarted as error:
            _say(f"emissions-sidecar exec: {error}")
            return leave(error.exit_code, settings)
        exit_code = _metered(metering, child, waiter, patience_s(settings))
        if not arguments.keep_background:
            child.end_leftovers(waiter)
    return leave(exit_code, settings)


def offered() -> list[str]:
    """Return the settings of `exec`: not those that a container of its own has."""
    declared = (item.name for item in declared_settings(*SIDECAR))
    return [name for name in declared if name not in ("listen", "termination_log")]


def _begun(settings: Settings, book: PhaseBook) -> Agent | None:
    """Return an agent that counts from now on; None, and a log line, where it cannot be made."""
    try:
        with logs_held():
            agent = Agent(replace(assemble(settings, os.environ, "exec"), phases=book))
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


@contextlib.contextmanager
def _answering(metering: Metering | None, book: PhaseBook) -> Iterator[dict[bytes, bytes]]:
    """Let the command's programs mark phases, and ask for the run: a Python one does not meter itself.

    Yields the variable that tells them where. Loopback may be shared with other users: the address is
    known to who has the variable, and the port tells others nothing.
    """
    if metering is None:
        yield {}
        return
    prefix = f"/{secrets.token_urlsafe(18)}"
    so_far = partial(metering.ask, Agent.run_so_far, ASK_S)
    calls = ProgramCalls(book, metering.nudge, so_far, prefix)
    nothing = Answer(404, b"nothing here\n")
    bounds = Bounds(CONNECTIONS_MAX, REQUEST_S)
    try:
        server = HttpServer(("127.0.0.1", 0), lambda asked: calls.answer(asked) or nothing, bounds)
        server.start()
    except (OSError, RuntimeError) as error:  # the command matters more than what is said of it
        _log.info("programs of the command cannot mark phases: %s", error)
        yield {}
        return
    host, port = server.address
    try:
        variable = environment_name("sidecar_url").encode()
        yield {variable: f"http://{host}:{port}{prefix}".encode()}
    finally:
        server.close()


def _metered(
    metering: Metering | None, child: Command, waiter: SignalWaiter, wait_at_most_s: float
) -> int:
    """Forward signals until the child has ended, while a thread meters it; return its exit code."""
    if metering is not None:
        metering.start()
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
        reason = f"command exited {child.exit_code}"
        metering.end(reason, wait_at_most_s, lambda wait_s: _interrupted(waiter, wait_s))
    return child.exit_code


def _interrupted(waiter: SignalWaiter, wait_s: float) -> bool:
    seen = waiter.wait(wait_s)
    return seen is not None and seen.number in ENDING


def _tell(agent: Agent, totals: Totals) -> None:
    _say(f"emissions-sidecar: {totals_text(totals)} · {agent.whereabouts}")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it, or its disk is full
        print(text, file=sys.stderr)
