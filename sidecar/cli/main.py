"""`emissions-sidecar`: finds the command's module and lets it read the rest of argv."""

import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol, cast

from sidecar.settings import SettingsError
from sidecar.version import VERSION

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

LONGEST_LINE: Final = 500
"""Characters of an error that are shown: a value in it may be longer than a screen."""

COMMANDS: Final = {
    "run": "meter this pod or machine until SIGTERM (the sidecar)",
    "exec": "run a command and meter it: exec [options] -- CMD …",
    "detect": "show what was found, where each value comes from, and what failed",
    "config": "where settings may stand in files; take over CodeCarbon's configuration",
    "estimate": "what-if: energy and emissions of a VM size in a region",
    "when": "name the cleanest start of a run in the forecast of carbon intensity",
    "report": "add up records per project",
    "verify": "check records: nothing lost, nothing twice, all adds up",
    "inject": "print a manifest with the sidecar in its pods",
    "webhook": "the service that puts the sidecar into annotated pods",
    "collector": "the service that checks whose records are, and commits them to Azure Blob",
    "node-meter": "the service that measures a node once, for the sidecars of all its pods",
    "catalogue": "look up regions, VM sizes, CPUs, GPUs and their sources",
}

PROGRAM: Final = "emissions-sidecar"

_SERVING: Final = ("run", "webhook", "collector", "node-meter")
_HELD_BACK: Final = (signal.SIGTERM, signal.SIGINT)
"""A container's first process ignores them until they are handled, which takes some imports: at the CPU
limit of a sidecar seconds. Held back, they are heard once the command listens for them."""


class CommandModule(Protocol):
    """What each module under `sidecar.cli` offers."""

    def main(self, argv: Sequence[str]) -> int:
        """Run the command; returns the exit code."""
        ...


def usage() -> str:
    """Text of `emissions-sidecar --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        (
            f"usage: {PROGRAM} COMMAND [options]",
            "",
            "Meters the energy and carbon emissions of training jobs on AKS, in AzureML and at a shell.",
            "",
            "commands:",
            *lines,
            "",
            "examples:",
            f"  {PROGRAM} exec --project demo -- python train.py",
            f"  {PROGRAM} detect",
            f"  {PROGRAM} estimate --vm-size Standard_NC24ads_A100_v4 --region westeurope --hours 1",
            f"  {PROGRAM} report ./emissions",
            "",
            f"'{PROGRAM} COMMAND --help' tells more; settings: flags > EMISSIONS_* > files > defaults.",
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes: 0, 2 for usage, the command's own for `exec`."""
    _complete_standard_streams()
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:  # the reader of our output went away, as with `| head`
        code = EXIT_OK
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO) or error.filename is not None:
            raise
        print(f"{PROGRAM}: cannot write the output: {error.strerror}", file=sys.stderr)
        code = EXIT_FAILURE
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except SystemExit as end:  # argparse: help, or a wrong command line
        code = end.code if isinstance(end.code, int) else EXIT_OK
    return _flushed(code)


def _module_of(command: str) -> str:
    return f"sidecar.cli.{command.replace('-', '_')}"


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return EXIT_OK if words else EXIT_USAGE
    if words[0] in ("-V", "--version", "version"):
        print(f"{PROGRAM} {VERSION}")
        return EXIT_OK
    if words[0] not in COMMANDS:
        print(
            f"{PROGRAM}: there is no command {words[0]!r}; commands are: {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return EXIT_USAGE
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK if words[0] in _SERVING else ())
    try:
        module = cast("CommandModule", importlib.import_module(_module_of(words[0])))
        return module.main(words[1:])
    except SettingsError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        line = " ".join(str(error).splitlines())
        line = line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…"
        print(f"{PROGRAM} {words[0]}: {line}", file=sys.stderr)
        return EXIT_USAGE
    except BaseException:  # help, a wrong command line, a bug: nothing listens for the signals
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise


def _complete_standard_streams() -> None:
    """Give closed standard descriptors the null device, and let odd characters be escaped.

    Otherwise a file of ours would become standard error, where libraries write. The descriptors are
    not inherited, so a metered command finds them closed as they were.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            null = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
            setattr(sys, name, null)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flushed(code: int) -> int:
    """Flush, so that the interpreter does not fail to do so at its end and change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout and not isinstance(error, BrokenPipeError):
                print(f"{PROGRAM}: cannot write the output: {error.strerror}", file=sys.stderr)
                code = code or EXIT_FAILURE
    return code


if __name__ == "__main__":
    sys.exit(main())
