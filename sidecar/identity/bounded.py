"""Reading files of others without trusting their size or kind, and showing their text safely."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

SHOWN_CHARACTERS = 60
"""Enough of a foreign text to recognise it in a message."""


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading bytes; raises `OSError`, also for pipes and devices.

    O_NONBLOCK keeps the opening of a named pipe that nobody writes from waiting for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)  # before fdopen, which raises for a directory and leaves it open
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with os.fdopen(descriptor, "rb") as file:
        yield file


def read_bounded(path: Path, limit_bytes: int) -> tuple[bytes, bool]:
    """Read at most `limit_bytes`; the flag tells whether more was left. Raises `OSError`."""
    with open_regular(path) as file:
        content = file.read(limit_bytes + 1)
    return content[:limit_bytes], len(content) > limit_bytes


def is_directory(path: Path) -> bool:
    """Whether the path is a directory that can be looked at; never raises."""
    try:
        return path.is_dir()
    except OSError:
        return False


def shown(text: str) -> str:
    """Foreign text as it may stand in a log line: quoted, escaped to ASCII and shortened."""
    if len(text) <= SHOWN_CHARACTERS:
        return ascii(text)
    return f"{text[:SHOWN_CHARACTERS]!a}… ({len(text)} characters)"


def reason(error: OSError) -> str:
    """Why a file or connection failed, without the path, which the caller names himself."""
    return error.strerror or str(error) or type(error).__name__


def plain_text(text: str, limit_characters: int) -> str:
    """Strip a foreign value; raises `ValueError` if it is over-long or not printable."""
    value = text.strip()
    if len(value) > limit_characters:
        raise ValueError(f"{shown(value)} is longer than {limit_characters} characters")
    if not value.isprintable():
        raise ValueError(f"{shown(value)} holds control or unprintable characters")
    return value


def normal_region(text: str) -> str:
    """Spell a region as Azure's `location` does: `West Europe` is `westeurope`.

    Raises `ValueError` for what cannot be a region's name.
    """
    region = "".join(text.split()).lower()
    if not (0 < len(region) <= 64 and region.isascii() and region.replace("-", "").isalnum()):
        raise ValueError(f"{shown(text)} is not the name of a region, such as westeurope")
    return region
