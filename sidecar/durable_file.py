"""Files that are whole or absent: written aside, synced, renamed into place."""

import contextlib
import errno
import os
import uuid
from pathlib import Path
from typing import Final

_CANNOT_SYNC_DIRECTORIES: Final = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF}


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file by new content, all or nothing, durable on return. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    write_new(temporary, content)
    try:
        temporary.replace(path)
    except OSError:
        _discard(temporary)
        raise
    sync_directory(path.parent)


def write_new(path: Path, content: bytes) -> None:
    """Create a file with this content, on the disk on return; nothing is left where it fails.

    Raises OSError, FileExistsError where there is something already; a link is not followed.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    except OSError:
        _discard(path)
        raise
    finally:
        os.close(descriptor)


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):  # the error before is the one to tell
        path.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make names in a directory durable, where the file system can. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems (SMB, some of FUSE) cannot sync a directory and say so.
        if error.errno not in _CANNOT_SYNC_DIRECTORIES:
            raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes) -> None:
    """Write all bytes to a descriptor; a short write goes on where it stopped. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
