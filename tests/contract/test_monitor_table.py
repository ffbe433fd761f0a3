"""The table of `codecarbon monitor`'s options is held to the options that CodeCarbon has."""

import re
from pathlib import Path

import typer
from codecarbon.cli.main import codecarbon

from sidecar.settings import declared_settings, flag_name

PAGE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "compare-with-codecarbon.md"

COMMANDS = typer.main.get_command(codecarbon).commands


def rows() -> list[list[str]]:
    text = PAGE.read_text(encoding="utf-8").partition("option of `codecarbon monitor`")[2]
    lines = text.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_option_of_codecarbon_monitor_has_a_row() -> None:
    options = {
        option
        for parameter in COMMANDS["monitor"].params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    told = {option for row in rows() for option in re.findall(r"--[a-z-]+", row[0])}
    assert told == options


def test_the_command_to_monitor_has_a_row() -> None:
    assert COMMANDS["monitor"].context_settings["allow_extra_args"]
    assert any("CMD" in row[0] for row in rows())


def test_a_row_names_a_flag_of_ours_or_says_why_not() -> None:
    flags = {flag_name(item.name) for item in declared_settings()}
    for option, counterpart, why in rows():
        named = set(re.findall(r"--[a-z-]+", counterpart))
        assert named <= flags, option
        assert named or why, option


def test_every_command_of_codecarbon_is_spoken_of() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"`{name}`" in text or f"codecarbon {name}" in text, name
