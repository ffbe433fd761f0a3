"""Where compaction writes: a directory, or a container of Azure Blob. One compaction at a time.

What is put is there as a whole or not at all, and never in place of anything else.
"""

import contextlib
import fcntl
import io
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from sidecar.durable_file import sync_directory
from sidecar.report.places import DirectoryPlace, Place, stamp_of
from sidecar.report.staging import StoredFile

LOCK: Final = ".lock"
"""Below `compacted/`: who holds it compacts."""


class CompactionStopped(Exception):  # noqa: N818 - a state of affairs, told in its text
    """Compaction cannot go on; what counts is what was committed. One line with what to do."""


class Store(Protocol):
    """A place that is written to. Names are relative to it."""

    @property
    def where(self) -> Place:
        """The same place, for reading."""
        ...

    def exclusive(self, folder: str) -> contextlib.AbstractContextManager[None]:
        """Hold the lock of this folder. Raises CompactionStopped where another one has it."""
        ...

    def put(self, name: str, path: Path) -> None:
        """Store a file under a new name; one that is there already with this content is as good.

        Raises OSError, SourceUnreadable, and CompactionStopped where there is another content, or where
        the lock was lost.
        """
        ...

    def fetch(self, name: str, path: Path) -> None:
        """Bring what was stored back, to look at it. Raises OSError and SourceUnreadable."""
        ...

    def remove(self, file: StoredFile) -> bool:
        """Remove a file that is still what it was when it was listed; tells whether it did."""
        ...

    def discard(self, name: str) -> None:
        """Remove what this compaction stored and is of no more use, where it is there."""
        ...


@dataclass(frozen=True, slots=True)
class DirectoryStore:
    """A directory on this machine, or mounted on it."""

    where: DirectoryPlace

    @contextlib.contextmanager
    def exclusive(self, folder: str) -> Iterator[None]:
        """Hold a lock on a file, as long as this process lives."""
        path = self.where.root / folder / LOCK
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CompactionStopped(
                    f"{path} is locked: another compaction is at work; let it finish"
                ) from error
            yield
        finally:
            os.close(descriptor)

    def put(self, name: str, path: Path) -> None:
        """Copy, sync, and rename into place."""
        target = self.where.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            _check_same(target, path)
            return
        temporary = target.with_name(f".{target.name[:80]}.tmp")
        with path.open("rb") as source, temporary.open("wb") as stream:
            shutil.copyfileobj(source, stream, 1024 * 1024)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(target)
        for directory in [target.parent, *target.parent.parents]:
            sync_directory(directory)
            if directory == self.where.root:
                break

    def fetch(self, name: str, path: Path) -> None:
        """Copy it."""
        shutil.copyfile(self.where.root / name, path)

    def remove(self, file: StoredFile) -> bool:
        """Remove it where size and time are what they were."""
        path = self.where.root / file.name
        try:
            if stamp_of(path.stat()) != file.stamp:
                return False
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    def discard(self, name: str) -> None:
        """Remove it."""
        (self.where.root / name).unlink(missing_ok=True)


def _check_same(target: Path, path: Path) -> None:
    if target.read_bytes() != path.read_bytes():
        raise CompactionStopped(
            f"{target} is there already, with another content: another compaction was at work; "
            "start again"
        )


LEASE_S: Final = 60
RENEWAL_S: Final = 20.0
"""A lease is renewed well before it ends; whoever dies is waited for a minute."""


@dataclass(slots=True)
class BlobStore:
    """A container of Azure Blob; `where` is a `BlobPlace`."""

    where: Any
    renewal_s: float = RENEWAL_S
    _lost: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def exclusive(self, folder: str) -> Iterator[None]:
        """Hold a lease on a blob, renewed until the end."""
        from azure.core.exceptions import AzureError, HttpResponseError  # noqa: PLC0415

        blob = self._client(folder + LOCK)
        try:
            with contextlib.suppress(FileExistsError):
                self._create(blob)
            lease = self.where.attempt(
                lambda: blob.acquire_lease(lease_duration=LEASE_S), writes=True
            )
        except HttpResponseError as error:
            raise CompactionStopped(
                f"{folder}{LOCK} is leased ({error.status_code}): another compaction is at work, or one "
                "was killed less than a minute ago; try again"
            ) from error
        done = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(lease, done), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join()
            with contextlib.suppress(AzureError):  # it ends by itself
                lease.release()

    def _renew(self, lease: Any, done: threading.Event) -> None:  # noqa: ANN401 - a BlobLeaseClient
        from azure.core.exceptions import AzureError  # noqa: PLC0415

        failures = 0
        while not done.wait(self.renewal_s):
            try:
                lease.renew()
                failures = 0
            except AzureError:
                failures += 1
                if failures * self.renewal_s >= LEASE_S - self.renewal_s:
                    self._lost.set()
                    return

    def put(self, name: str, path: Path) -> None:
        """Create a blob; where there is one it is looked at: the answer to ours may have been lost."""
        self._check_lease()
        blob = self._client(name)
        try:
            self._create(blob, path)
        except FileExistsError:
            if not self._holds(blob, path):
                raise CompactionStopped(
                    f"{name} is there already, with another content: another compaction was at work; "
                    "start again"
                ) from None

    def fetch(self, name: str, path: Path) -> None:
        """Download it, piece by piece."""
        blob = self._client(name)

        def read() -> None:
            with path.open("wb") as stream:
                blob.download_blob().readinto(stream)

        self.where.attempt(read)

    def remove(self, file: StoredFile) -> bool:
        """Delete a blob whose etag is what it was."""
        from azure.core import MatchConditions  # noqa: PLC0415
        from azure.core.exceptions import HttpResponseError  # noqa: PLC0415

        self._check_lease()
        blob = self._client(file.name)
        try:
            self.where.attempt(
                lambda: blob.delete_blob(
                    etag=file.stamp, match_condition=MatchConditions.IfNotModified
                ),
                writes=True,
            )
        except HttpResponseError:
            return False
        return True

    def discard(self, name: str) -> None:
        """Delete a blob."""
        from azure.core.exceptions import HttpResponseError  # noqa: PLC0415

        with contextlib.suppress(HttpResponseError):  # the next compaction finds it
            self.where.attempt(lambda: self._client(name).delete_blob(), writes=True)

    def _check_lease(self) -> None:
        if self._lost.is_set():
            raise CompactionStopped(
                "the lease was lost: another compaction may be at work; start again"
            )

    def _client(self, name: str) -> Any:  # noqa: ANN401 - a BlobClient
        return self.where.container.get_blob_client(self.where.folder + name)

    def _create(self, blob: Any, path: Path | None = None) -> None:  # noqa: ANN401
        """Upload a file, or nothing, piece by piece. Raises FileExistsError."""
        from azure.core.exceptions import ResourceExistsError  # noqa: PLC0415

        def upload() -> None:
            with path.open("rb") if path else io.BytesIO() as content:
                blob.upload_blob(content, overwrite=False)

        try:
            self.where.attempt(upload, writes=True)
        except ResourceExistsError as error:
            raise FileExistsError(blob.blob_name) from error

    def _holds(self, blob: Any, path: Path) -> bool:  # noqa: ANN401
        """Whether a blob has the content of a file."""

        def compare() -> bool:
            found = blob.download_blob()
            with path.open("rb") as wanted:
                is_same = all(chunk == wanted.read(len(chunk)) for chunk in found.chunks())
                return is_same and not wanted.read(1)

        return bool(self.where.attempt(compare))


def store_of(where: Place) -> Store:
    """Return the store of a place."""
    return DirectoryStore(where) if isinstance(where, DirectoryPlace) else BlobStore(where)
