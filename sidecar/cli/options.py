"""Flags of the settings, made from their declaration; shared by the commands."""

import argparse
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NoReturn

from sidecar.near_names import hint, near_names
from sidecar.settings import (
    FileLayer,
    Settings,
    declared_settings,
    default_text,
    environment_name,
    flag_name,
    load_settings,
)
from sidecar.settings_file import file_layers

PLACE: Final = ("region", "vm_size", "country", "pue", "wue")

SIDECAR: Final = ("meter", "intensity", "track", "ship", "blob")
"""The groups of settings of what meters: `run`, `exec`, `detect`."""

CARBON: Final = ("carbon_intensity", "energy_mix", "intensity_table")


class _OneLineParser(argparse.ArgumentParser):
    """Tells a wrong command line in one line, not under forty lines of usage."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2. What stands after an unknown flag is not repeated: it may be a secret."""
        what, known, unknown = message.partition("unrecognized arguments: ")
        flags = [word.partition("=")[0] for word in unknown.split(" ") if word.startswith("-")]
        flag = flags[0] if flags else unknown.split(" ")[0]
        if flags:
            message = f"{what}{known}{' '.join(flags)}"
        for item in declared_settings():
            if item.metadata["secret"] and flag == flag_name(item.name):
                variable = environment_name(item.name)
                self.exit(2, f"{self.prog}: {flag}: a secret has no flag; set {variable}\n")
        advice = hint(near_names(flag, self._option_string_actions), f"see '{self.prog} --help'")
        line = " ".join(message.split())
        line = line if len(line) <= 300 else f"{line[:300]}…"
        self.exit(2, f"{self.prog}: {line}; {advice}\n")


def command_parser(
    command: str, description: str, examples: Iterable[str]
) -> argparse.ArgumentParser:
    """Make the parser of one command, with examples at the end of its help."""
    lines = "\n".join(f"  emissions-sidecar {command} {example}".rstrip() for example in examples)
    return _OneLineParser(
        prog=f"emissions-sidecar {command}",
        description=description,
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_settings(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Add the flags of what meters and ships, or of the named settings. `load_settings` parses them.

    A secret has no flag: others on the machine could read it. It comes from the environment alone.
    """
    group = parser.add_argument_group("settings (flag > environment > file > default)")
    wanted = {item.name for item in declared_settings(*SIDECAR)} if names is None else set(names)
    secrets = []
    for item in declared_settings():
        if item.name not in wanted:
            continue
        if item.metadata["secret"]:
            parser.set_defaults(**{f"setting_{item.name}": None})
            secrets.append(f"{environment_name(item.name)}: {item.metadata['help']}")
            continue
        default = default_text(item)
        suffix = f"; default {default}" if default else ""
        text = f"{item.metadata['help']} [{environment_name(item.name)}{suffix}]"
        group.add_argument(
            flag_name(item.name),
            dest=f"setting_{item.name}",
            metavar=item.metadata["metavar"],
            help=text.replace("%", "%%"),
        )
    if secrets:
        lines = "\n".join(f"  {line}" for line in secrets)
        parser.epilog = f"secrets (environment only):\n{lines}\n\n{parser.epilog}"


def settings_from(
    arguments: argparse.Namespace,
    environ: Mapping[str, str] | None = None,
    *,
    finds_files: bool = True,
) -> Settings:
    """Return the settings of a parsed command line. Raises SettingsError.

    A command obeys environment and files only in the settings it has flags for, and reads files only
    where it has `--config`; those that nobody named only where `finds_files` allows it.
    """
    given = vars(arguments)
    offered = [item.name for item in declared_settings() if f"setting_{item.name}" in given]
    others = {
        environment_name(item.name) for item in declared_settings() if item.name not in offered
    }
    variables = os.environ if environ is None else environ
    flags = {name: given[f"setting_{name}"] for name in offered}
    obeyed = {key: text for key, text in variables.items() if key not in others}
    files: tuple[FileLayer, ...] = ()
    if "config" in offered:
        files = file_layers(flags["config"], variables, Path(), finds=finds_files)
    layers = [
        FileLayer(file.origin, {k: text for k, text in file.values.items() if k in offered})
        for file in files
    ]
    return load_settings(flags, obeyed, layers)
