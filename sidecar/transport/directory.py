"""Segments to another directory, in the layout of Blob: a mounted share, or a disk to try it on.

A file appears under its name whole and on the disk, or not at all: it is written aside, in
`.incoming` under the root, then linked to its name, which fails where the name exists. On shares
without hard links (SMB, some of FUSE) it is renamed, after a look: of two that write the same name
at the same instant, both have written it then. Names are never used for two contents.
"""

import contextlib
import errno
import os
import stat
import uuid
from pathlib import Path
from typing import Final

from sidecar.durable_file import replace_file, sync_directory, write_new
from sidecar.segment import SEGMENT_BYTES_MAX, NotASegment, Parcel, decompressed
from sidecar.transport.delivery import Delivery, Undelivered

INCOMING: Final = ".incoming"
"""Hidden, so no reader of records looks into it."""

_LEFT_OVER_S: Final = 3600.0
"""A file as old as this beside a new one was left by a process that was killed."""

_NO_HARD_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_WHAT_TO_DO: Final = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "mount it writable",
    errno.EACCES: "give this user the right to write there",
    errno.EPERM: "give this user the right to write there",
    errno.ENOTDIR: "one of its parts is a file; remove that, or give another directory",
    errno.ELOOP: "it is a link; remove that",
    errno.ENOENT: "mount it, or create it",
    errno.ESTALE: "mount it anew",
}


class DirectoryTransport:
    """Delivers below one directory, which must be there: a share not mounted is not written over.

    Many threads, processes and machines may deliver there. A file system that hangs makes its
    callers hang: nothing here can end that.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def destination(self) -> str:
        """The directory."""
        return str(self._root)

    def deliver(self, parcel: Parcel, timeout_s: float) -> Delivery:  # noqa: ARG002 - the protocol's
        """Store the segment, or find that it is there. Raises Undelivered, and nothing else.

        Refused for good are a name that leads elsewhere, and other content under the name. A file that
        is cut short (only a disk that lost what it had promised does that) is replaced if it is a
        beginning of this very segment; any other damaged file is other content.
        """
        path = self._path(parcel.blob_name)
        try:
            existing = _content(path)
            if existing is None:
                self._require_root()
                return self._created(path, parcel)
            return self._compared(path, existing, parcel)
        except OSError as error:
            raise self._explained(error) from error

    def exists(self, blob_name: str) -> bool:
        """Whether there is a file of this name. Raises Undelivered where that cannot be told."""
        path = self._path(blob_name)
        try:
            self._require_root()
            return path.exists()
        except OSError as error:
            raise self._explained(error) from error

    def check(self) -> None:
        """Write and remove a small file. Raises Undelivered where that is not possible."""
        try:
            self._require_root()
            self._written_aside(b"?").unlink(missing_ok=True)
        except OSError as error:
            raise self._explained(error) from error

    def receipt(self, timeout_s: float) -> str | None:  # noqa: ARG002 - the protocol's
        """Return None: who may write to the directory may hand over any segment."""
        return None

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _path(self, blob_name: str) -> Path:
        parts = blob_name.split("/")
        # Names made from records have escaped parts; this is for those that were not.
        if "\0" in blob_name or any(not part or part.startswith(".") for part in parts):
            raise Undelivered(
                f"{blob_name[:80]!r} is no name for a file below {self._root}: a part is empty or "
                "begins with a dot; rename it",
                refused=True,
            )
        try:
            os.fsencode(blob_name)
        except UnicodeEncodeError:
            raise Undelivered(
                f"{blob_name[:80]!r} cannot be the name of a file; escape it", refused=True
            ) from None
        return self._root.joinpath(*parts)

    def _require_root(self) -> None:
        if not stat.S_ISDIR(self._root.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self._root))

    def _created(self, path: Path, parcel: Parcel) -> Delivery:
        self._make_directories(path.parent)
        aside = self._written_aside(parcel.content)
        try:
            _give_name(aside, path)
        except FileExistsError:
            existing = _content(path)
            if existing is None:
                raise
            return self._compared(path, existing, parcel)
        finally:
            with contextlib.suppress(OSError):  # renamed, or removed as left over later
                aside.unlink(missing_ok=True)
        sync_directory(path.parent)
        return "created"

    def _compared(self, path: Path, existing: bytes, parcel: Parcel) -> Delivery:
        with contextlib.suppress(NotASegment):
            if decompressed(existing) == decompressed(parcel.content):
                sync_directory(path.parent)  # who put it there may have been killed before it did
                return "existing"
        if parcel.content.startswith(existing):
            replace_file(path, parcel.content)
            return "created"
        raise Undelivered(
            f"{path}: holds other content, or is damaged; compare it with the segment, and remove the "
            "wrong one",
            refused=True,
        )

    def _make_directories(self, directory: Path) -> None:
        """Make what is missing below the root, durably; others may do the same now."""
        if directory == self._root or directory.is_dir():
            return
        self._make_directories(directory.parent)
        _make_directory(directory)

    def _written_aside(self, content: bytes) -> Path:
        incoming = self._root / INCOMING
        _make_directory(incoming)
        path = incoming / f"{uuid.uuid4().hex}.tmp"
        write_new(path, content)
        _remove_left_over(incoming, path.stat().st_mtime)
        return path

    def _explained(self, error: OSError) -> Undelivered:
        path = error.filename or self._root
        code = error.errno or 0
        what = _WHAT_TO_DO.get(code, "it is tried again")
        return Undelivered(
            f"{path}: {error.strerror or type(error).__name__}; {what}",
            refused=code == errno.ENAMETOOLONG,
        )


def _make_directory(directory: Path) -> None:
    """Make a directory, as open as the one above: pods of other users may have to write there too."""
    try:
        directory.mkdir()
    except FileExistsError:
        return
    with contextlib.suppress(OSError):  # SMB gives all its files the mode of the mount
        directory.chmod(stat.S_IMODE(directory.parent.stat().st_mode))
    sync_directory(directory.parent)


def _give_name(aside: Path, path: Path) -> None:
    """Raise FileExistsError where there is something of that name; nothing is ever half there."""
    try:
        os.link(aside, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        aside.rename(path)


def _content(path: Path) -> bytes | None:
    """Return what a file holds, None where there is none. Raises Undelivered and OSError."""
    try:
        # A link or a pipe that somebody put there is neither followed nor waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Undelivered(f"{path}: is no file; remove it")
        with open(descriptor, "rb", closefd=False) as stream:
            return stream.read(SEGMENT_BYTES_MAX + 1)
    finally:
        os.close(descriptor)


def _remove_left_over(incoming: Path, now_s: float) -> None:
    """Remove what killed processes left; `now_s` is by the file server's clock, as the files are."""
    # Another process may remove the same files, or own them; what stays harms nobody.
    with contextlib.suppress(OSError), os.scandir(incoming) as entries:
        for entry in entries:
            if now_s - entry.stat(follow_symlinks=False).st_mtime > _LEFT_OVER_S:
                Path(entry.path).unlink(missing_ok=True)
