"""`emissions-sidecar`: finds the command's module and lets it read the rest of argv."""

import importlib
import sys
from collections.abc import Sequence
from typing import Final, Protocol, cast

from sidecar.settings import SettingsError
from sidecar.version import VERSION

EXIT_OK: Final = 0
EXIT_USAGE: Final = 2

COMMANDS: Final = {
    "run": "meter this pod or machine until SIGTERM (the sidecar)",
    "exec": "run a command and meter it: exec [options] -- CMD …",
    "detect": "show what was found, where each value comes from, and what failed",
    "estimate": "what-if: energy and emissions of a VM size in a region",
    "report": "add up records per project",
    "catalogue": "look up regions, VM sizes, CPUs, GPUs and their sources",
}

PROGRAM: Final = "emissions-sidecar"


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
            f"'{PROGRAM} COMMAND --help' tells more; settings are flags > EMISSIONS_* > defaults.",
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes: 0, 2 for usage, the command's own for `exec`."""
    words = list(sys.argv[1:] if argv is None else argv)
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
    module = cast("CommandModule", importlib.import_module(f"sidecar.cli.{words[0]}"))
    try:
        return module.main(words[1:])
    except SettingsError as error:
        print(f"{PROGRAM} {words[0]}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:  # the reader of our output went away, as with `| head`
        sys.stderr.close()
        return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
