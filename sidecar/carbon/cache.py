"""The last answer of each zone on disk, so that a process that starts again need not ask again.

One small file per source and zone, replaced atomically. A file that is torn, of another version or
about something else counts as absent. Processes that share the directory ask one after the other.
"""

import contextlib
import fcntl
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

from sidecar.carbon.encoding import decoded, encoded
from sidecar.carbon.series import Series
from sidecar.durable_file import replace_file

FILE_BYTES_MAX: Final = 256 * 1024

ALONE_WITHIN_S: Final = 12.0
"""Who holds the lock asks at this moment, which takes at most 10 s; then it is asked all the same."""

_LOOK_PERIOD_S: Final = 0.2

_log = logging.getLogger(__name__)


class SeriesStore(Protocol):
    """Where the last answers are kept, for whoever shares them. Nothing here raises."""

    def read(self, provider: str, zone: str) -> Series | None:
        """Return what was written last; None where there is nothing usable."""
        ...

    def write(self, series: Series) -> None:
        """Replace what is kept of a series."""
        ...

    def alone(self, provider: str, zone: str) -> contextlib.AbstractContextManager[None]:
        """Wait for others who ask about this zone, some seconds at most, and keep them waiting."""
        ...


class SeriesFiles:
    """Reads and writes series; without a directory, and where that fails, it keeps nothing."""

    def __init__(
        self, directory: Path | None, wait: Callable[[float], object] = time.sleep
    ) -> None:
        self._directory = directory
        self._wait = wait
        self._told: set[str] = set()

    def read(self, provider: str, zone: str) -> Series | None:
        """Return what was written last; None where there is nothing usable."""
        path = self._path(provider, zone)
        if path is None:
            return None
        try:
            series = decoded(_content(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._tell(f"{path} is not used: {error}; it is written anew")
            return None
        return series if (series.provider, series.zone) == (provider, zone) else None

    def write(self, series: Series) -> None:
        """Replace the file of a series. What fails is logged: the series is in memory, too."""
        path = self._path(series.provider, series.zone)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, encoded(series))
        except OSError as error:
            self._tell(
                f"{path} cannot be written: {error.strerror}; intensities are kept in memory"
            )

    @contextlib.contextmanager
    def alone(self, provider: str, zone: str) -> Iterator[None]:
        """Hold the lock of a zone, so that of several processes one asks; go on where that fails."""
        path = self._path(provider, zone)
        descriptor = None if path is None else self._opened(path.with_suffix(".lock"))
        if descriptor is None:
            yield
            return
        try:
            self._lock(descriptor)
            yield
        finally:
            os.close(descriptor)  # which releases it

    def _lock(self, descriptor: int) -> None:
        for _ in range(round(ALONE_WITHIN_S / _LOOK_PERIOD_S)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._wait(_LOOK_PERIOD_S)
            except OSError:  # a file system without locks
                return
            else:
                return

    def _opened(self, path: Path) -> int | None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            self._tell(f"{path} cannot be opened: {error.strerror}; intensities are kept in memory")
            return None

    def _path(self, provider: str, zone: str) -> Path | None:
        if self._directory is None:
            return None
        name = re.sub(r"[^A-Za-z0-9-]", "_", zone)[
            :64
        ]  # another zone of that name is not taken for it
        return self._directory / f"{provider}.{name}.json"

    def _tell(self, text: str) -> None:
        if text not in self._told and len(self._told) < 100:
            self._told.add(text)
            _log.warning("%s", text)


def _content(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        content = stream.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"it is longer than {FILE_BYTES_MAX} bytes")
    return content
