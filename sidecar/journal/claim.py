"""Which process owns a name on a volume that many may share.

A claim is a small file that its process keeps locked (flock). On one machine the lock tells the truth,
even after kill -9. On a volume shared between machines it may not (SMB mounts keep locks local), so the
file also says on which running kernel its process is, and is touched while that process lives: a claim
of another kernel counts as long as it is fresh.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import threading
import uuid
from pathlib import Path
from typing import Final, Self

FRESH_S: Final = 2 * 3600.0
"""A claim of another machine holds so long after its last sign of life; windows are at most 1 h."""

KERNEL_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

TRIES_MAX: Final = 100
"""A claim whose file is another each time it is looked at is not to be had."""

_NO_LOCKS_HERE: Final = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_LENGTH_MAX: Final = 16 * 1024
_RECEIPT: Final = re.compile(r"[!-~]+")  # it becomes a header of a request


class Claim:
    """One claimed file, locked until released."""

    def __init__(self, path: Path, descriptor: int, receipt: str | None) -> None:
        self.path = path
        self.receipt = receipt
        self._descriptor = descriptor
        self._kernel = kernel_boot_id()  # once: no process outlives its kernel
        self._is_written = False
        self._lock = threading.RLock()  # a descriptor closed in between may be another file's

    @classmethod
    def take(cls, path: Path, *, of_this_pod: bool = False) -> Self | None:
        """Claim the file, made where it is missing; None where another process owns it.

        What is of this very pod is on this machine or nowhere: after a reboot the lock alone decides.
        Raises OSError where the volume cannot be written.
        """
        for _ in range(TRIES_MAX):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o644)
            try:
                claim = cls._taken(path, descriptor, of_this_pod=of_this_pod)
                if claim is not None and claim.is_current:
                    claim.write()
                    return claim
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)
            if claim is None:
                return None
            # Whoever had it removed it meanwhile: there may be another by now.
        raise OSError(errno.EAGAIN, "is removed again and again", str(path))

    @classmethod
    def _taken(cls, path: Path, descriptor: int, *, of_this_pod: bool) -> Self | None:
        is_locked = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
            is_locked = False
        kernel, receipt = _said(descriptor)
        is_elsewhere = bool(kernel) and (kernel != kernel_boot_id() or not is_locked)
        if is_elsewhere and not of_this_pod:
            age_s = _now_there_s(path.parent) - os.fstat(descriptor).st_mtime
            if age_s < FRESH_S:
                return None
        return cls(path, descriptor, receipt)

    @staticmethod
    def is_of_another_machine(path: Path) -> bool:
        """Tell whether the file says that a process of another machine holds it. Raises OSError."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            kernel, _ = _said(descriptor)
        finally:
            os.close(descriptor)
        return bool(kernel) and kernel != kernel_boot_id()

    @property
    def is_current(self) -> bool:
        """Whether the file is still the one that was claimed."""
        with self._lock, contextlib.suppress(FileNotFoundError):
            return self._descriptor >= 0 and os.path.samestat(
                os.fstat(self._descriptor), self.path.lstat()
            )
        return False

    @property
    def is_held(self) -> bool:
        """Whether it is still ours: another machine takes over what gave no sign of life for long."""
        with self._lock:
            if not self.is_current:
                return False
            kernel, _ = _said(self._descriptor)
            return kernel in ("", self._kernel)

    def keep_receipt(self, receipt: str) -> None:
        """Keep what proves later whose segments these were."""
        if receipt != self.receipt:
            self.receipt = receipt
            self.write()

    def write(self) -> None:
        """Say in the file who holds it."""
        self._say(self._kernel)

    def _say(self, kernel: str) -> None:
        said = {"kernel": kernel, "receipt": self.receipt}
        content = json.dumps(said).encode()
        # A full volume costs no claim: the lock holds it, what it says comes with a later beat.
        with self._lock, contextlib.suppress(OSError):
            self._is_written = False
            size = os.fstat(self._descriptor).st_size
            # Blanks over what was longer: cut off only after, nobody ever reads half of each.
            covering = content.ljust(min(size, _LENGTH_MAX))
            self._is_written = os.pwrite(self._descriptor, covering, 0) == len(covering)
            os.ftruncate(self._descriptor, len(content))

    def beat(self) -> None:
        """Give a sign of life."""
        with self._lock, contextlib.suppress(OSError):
            if self._is_written:
                os.utime(self._descriptor)
            else:
                self.write()

    def release(self, *, remove: bool = False) -> None:
        """Give the claim up; `remove` its file too, where nothing is left that it is about."""
        with self._lock:
            if self._descriptor < 0:
                return
            with contextlib.suppress(OSError):
                if self.is_held and remove:
                    self.path.unlink()
                elif self.is_held:
                    self._say("")  # free at once for another machine, too
            os.close(self._descriptor)
            self._descriptor = -1


def _now_there_s(directory: Path) -> float:
    """Return the time by the clock of the volume, by which its files are dated: ours may be off."""
    probe = directory / f".{uuid.uuid4().hex}.tmp"
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(probe, flags, 0o600)
    try:
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            probe.unlink()


def _said(descriptor: int) -> tuple[str, str | None]:
    """Return kernel and receipt as the file says them; whoever wrote it is not trusted."""
    try:
        said = json.loads(os.pread(descriptor, _LENGTH_MAX, 0))
    except (ValueError, RecursionError):  # RecursionError: brackets within brackets
        return "", None
    if not isinstance(said, dict):
        return "", None
    kernel, receipt = said.get("kernel"), said.get("receipt")
    return (
        kernel if isinstance(kernel, str) else "",
        receipt if isinstance(receipt, str) and _RECEIPT.fullmatch(receipt) else None,
    )


def kernel_boot_id() -> str:
    """Return the id of this running kernel; empty where it does not tell."""
    try:
        return KERNEL_BOOT_ID.read_text().strip()
    except OSError:
        return ""
