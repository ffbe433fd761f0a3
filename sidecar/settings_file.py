"""Settings from configuration files: `emissions.toml`, and `[tool.emissions]` of pyproject.toml.

A file that was found in the working directory may be a stranger's (a cloned repository, a shared
directory): it may not set where data or credentials go. A file that somebody named, or that lies in
the user's own configuration directory, may. No file holds a secret: files are copied and committed.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sidecar.near_names import hint, near_names
from sidecar.settings import FileLayer, SettingsError, declared_settings, environment_name

FILE_NAME: Final = "emissions.toml"
PYPROJECT: Final = "pyproject.toml"
NO_FILE: Final = "none"

FILE_BYTES_MAX: Final = 1024**2
"""A configuration is some lines; what is larger is something else."""

DOTS_MAX: Final = 200
"""On one line, outside of texts: a key has two or three."""

_QUOTED: Final = re.compile(r"\"[^\"]*+\"|'[^']*+'")


@dataclass(frozen=True, slots=True)
class Place:
    """A file that may be there: how messages name it, and whether it is the user's own."""

    path: Path
    shown: str
    is_trusted: bool


def file_layers(
    named: str | None, environ: Mapping[str, str], directory: Path, *, finds: bool = True
) -> tuple[FileLayer, ...]:
    """Read the configuration files that speak here, strongest first. Raises SettingsError.

    `named` (a flag) or EMISSIONS_CONFIG names the only file, or `none`. Else, where `finds` allows it,
    the files of `places` are looked for.
    """
    named = named or environ.get(environment_name("config")) or None
    if named is not None:
        return () if named.strip() == NO_FILE else (_named(named),)
    if not finds:
        return ()
    found = (_found(place) for place in places(environ, directory))
    return tuple(layer for layer in found if layer is not None)


def places(environ: Mapping[str, str], directory: Path) -> tuple[Place, ...]:
    """Return where files are looked for, strongest first: the working directory, then the user's.

    XDG Base Directory Specification 0.8: `$XDG_CONFIG_HOME`, else `~/.config`; one that is not
    absolute is ignored.
    """
    looked = [
        Place(directory / FILE_NAME, FILE_NAME, is_trusted=False),
        Place(directory / PYPROJECT, PYPROJECT, is_trusted=False),
    ]
    homes = [environ.get("XDG_CONFIG_HOME", ""), f"{environ.get('HOME', '')}/.config"]
    home = next((Path(home) for home in homes if home.startswith("/") and home != "/.config"), None)
    if home is not None:
        path = home / "emissions-sidecar" / FILE_NAME
        looked.append(Place(path, str(path), is_trusted=True))
    return tuple(looked)


def _named(name: str) -> FileLayer:
    place = Place(Path(name), name, is_trusted=True)
    keys = _document(read_named(name), place)
    if place.path.name == PYPROJECT:
        keys = _tool_table(keys, place)
    return _layer(keys, place)


def read_named(name: str) -> bytes:
    """Read a file that somebody named, up to `FILE_BYTES_MAX`. Raises SettingsError."""
    try:
        return _read(Path(name))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"configuration file {name!r} cannot be read: {why}") from error


def _found(place: Place) -> FileLayer | None:
    """Return what a file says; None where there is none of ours.

    A pyproject.toml that does not name us is somebody else's, whatever is wrong with it.
    """
    try:
        content = _read(place.path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if place.path.name == PYPROJECT or place.is_trusted:  # a HOME that is not this user's
            return None
        raise SettingsError(f"file {place.shown}: cannot be read: {error.strerror}") from error
    if place.path.name != PYPROJECT:
        return _layer(_document(content, place), place)
    if b"emissions" not in content:
        return None
    return _layer(_tool_table(_document(content, place), place), place)


def _read(path: Path) -> bytes:
    """Read a regular file; a pipe or device is not waited on. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(None, "it is no regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(FILE_BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    if len(content) > FILE_BYTES_MAX:
        raise OSError(None, f"it is larger than {FILE_BYTES_MAX // 1024} KiB")
    return content


def _document(content: bytes, place: Place) -> Mapping[str, Any]:
    import tomllib  # noqa: PLC0415 - a sidecar reads no file

    try:
        text = content.decode("utf-8-sig")
        _refuse_endless_keys(text)
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are such
        raise SettingsError(f"file {place.shown}: is no TOML: {error}") from error


def _refuse_endless_keys(text: str) -> None:
    """Raise ValueError for a key of very many parts: tomllib takes time by the square of them."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > DOTS_MAX and _QUOTED.sub("", line).count(".") > DOTS_MAX:
            raise ValueError(f"line {number} has a key of more than {DOTS_MAX} parts")


def _tool_table(document: Mapping[str, Any], place: Place) -> Mapping[str, Any]:
    tool = document.get("tool", {})
    keys = tool.get("emissions", {}) if isinstance(tool, dict) else {}
    if not isinstance(keys, dict):
        raise SettingsError(f"file {place.shown}: tool.emissions: a table is wanted")
    return keys


def _layer(keys: Mapping[str, Any], place: Place) -> FileLayer:
    known = {item.name: item for item in declared_settings()}
    values = {}
    for name, value in keys.items():
        item = known.get(name)
        if item is None:
            raise SettingsError(f"file {place.shown}, {name}: {_unknown(name, list(known))}")
        refusal = _refusal(item.metadata, name, place)
        if refusal:
            raise SettingsError(f"file {place.shown}, {name}: {refusal}")
        values[name] = _text(value, item.metadata["metavar"], f"file {place.shown}, {name}")
    return FileLayer(f"file {place.shown}", values)


def _unknown(name: str, known: list[str]) -> str:
    near = near_names(name.replace("-", "_"), known, cutoff=0.75)
    advice = hint(near, "see 'emissions-sidecar run --help'")
    return f"there is no such setting; {advice}"


def _refusal(about: Mapping[str, Any], name: str, place: Place) -> str | None:
    """Say why a file may not have this setting; None where it may."""
    variable = environment_name(name)
    if name == "config":
        return "a file cannot name another"
    if about["secret"]:
        return f"a secret has no place in a file; set {variable}"
    if not place.is_trusted and not about["in_project_file"]:
        return (
            "it says where data or credentials go, or is this machine's; a file found in the working "
            f"directory may not: set {variable}, or name the file with --config"
        )
    return None


def _text(value: object, metavar: str, origin: str) -> str:
    """Spell a value of TOML as the flag would have it.

    Text and numbers for every setting; a list for one that takes a LIST, a table of numbers for a MIX.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number_text(value, origin)
    if metavar == "LIST" and isinstance(value, list):
        return ",".join(_text(part, "", origin) for part in value)
    if metavar == "MIX" and isinstance(value, dict):
        return ",".join(f"{name}={_text(part, '', origin)}" for name, part in value.items())
    kinds = {"LIST": ", a list", "MIX": ", a table"}
    kind = type(value).__name__
    raise SettingsError(
        f"{origin}: a text, a number{kinds.get(metavar, '')} is wanted, not a {kind}"
    )


def _number_text(value: float, origin: str) -> str:
    try:
        return repr(value)
    except ValueError:  # an integer of more digits than Python spells
        raise SettingsError(f"{origin}: the number is far too large") from None
