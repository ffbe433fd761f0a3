"""`emissions-sidecar config`: where settings may stand in files; CodeCarbon's taken over."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sidecar.cli.options import command_parser
from sidecar.codecarbon_config import (
    FILE_NAME,
    Keys,
    Outcome,
    converted,
    environment_keys,
    read_section,
    toml_lines,
)
from sidecar.durable_file import write_new
from sidecar.settings import SettingsError, environment_name
from sidecar.settings_file import places, read_named

FILES: Final = "files"
IMPORT: Final = "import-codecarbon"

SUBCOMMANDS: Final = (FILES, IMPORT)


def main(argv: Sequence[str]) -> int:
    """List the places of configuration files, or import CodeCarbon's."""
    parser = command_parser(
        "config",
        "Where settings may stand in files, and CodeCarbon's configuration as one of ours.",
        ("files", "import-codecarbon", "import-codecarbon .codecarbon.config --out emissions.toml"),
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser(
        FILES, help="list where configuration files are looked for", allow_abbrev=False
    )
    _add_import(commands)
    arguments = parser.parse_args(argv)
    return _list_files() if arguments.command == FILES else _import(arguments)


def _add_import(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    importer = commands.add_parser(
        IMPORT,
        help="print CodeCarbon's configuration as emissions.toml",
        description="Print CodeCarbon's configuration as emissions.toml, and on standard error what "
        "became of each key. Keys of its web service and other secrets are neither taken over nor "
        "shown.",
        allow_abbrev=False,
    )
    importer.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="read this file alone; without it ~/.codecarbon.config, ./.codecarbon.config and "
        "CODECARBON_* as CodeCarbon does, the later over the earlier",
    )
    importer.add_argument(
        "--out", metavar="FILE", help="write a new file instead of standard output"
    )


def _list_files() -> int:
    named = os.environ.get(environment_name("config"))
    if named:
        print(f"EMISSIONS_CONFIG names {named}: no other is read")
    for place in places(os.environ, Path()):
        state = "there" if _is_there(place.path) else "not there"
        trust = "" if place.is_trusted else "; may not say where data or credentials go"
        print(f"{place.shown}: {state}{trust}")
    print("the first that names a setting speaks; --config or EMISSIONS_CONFIG names the only one")
    return 0


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _import(arguments: argparse.Namespace) -> int:
    outcomes = converted(_keys_of(arguments.file) if arguments.file else _keys_of_all())
    for outcome in outcomes:
        print(_told(outcome), file=sys.stderr)
    text = "".join(f"{line}\n" for line in toml_lines(outcomes))
    if arguments.out is None:
        print(text, end="")
    else:
        _write(Path(arguments.out), text)
    return 0


def _keys_of_all() -> Keys:
    home = os.environ.get("HOME")
    own = Path(home) / FILE_NAME if home else None
    found = [path for path in (own, Path(FILE_NAME)) if path is not None and _is_there(path)]
    keys: dict[str, str] = {}
    for path in found:
        keys |= _keys_of(str(path))
    keys |= environment_keys(os.environ)
    if not keys:
        raise SettingsError(
            f"there is neither ~/{FILE_NAME} nor ./{FILE_NAME} with a section [codecarbon], and no "
            "CODECARBON_* variable is set; name a file"
        )
    return keys


def _keys_of(name: str) -> Keys:
    try:
        return read_section(read_named(name).decode("utf-8-sig"))
    except ValueError as error:  # UnicodeDecodeError too, whose text has bytes of the file
        why = "it is no UTF-8" if isinstance(error, UnicodeError) else error
        raise SettingsError(f"{name}: {why}") from None


def _write(path: Path, text: str) -> None:
    try:
        write_new(path, text.encode())
    except FileExistsError:
        raise SettingsError(f"--out: {path} is there already; remove it, or name another") from None
    except OSError as error:
        raise SettingsError(f"--out: cannot write {path}: {error.strerror}") from error


def _told(outcome: Outcome) -> str:
    """Say what became of a key; never with its value, which may be a secret."""
    key = (
        outcome.key if outcome.key.isidentifier() and outcome.key.isascii() else ascii(outcome.key)
    )
    into = f" → {outcome.setting}" if outcome.text is not None else ""
    note = f": {outcome.note}" if outcome.note else ""
    return f"{key[:60]}{into}: {outcome.verdict}{note}"
