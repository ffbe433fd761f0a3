"""The last answer of each zone in the records' container, so that a collector's replicas ask once.

`intensity/v1/<source>.<zone>.json`, and beside it a `.lock`: who asks holds its lease, the others wait
and read what was answered. Where the container does not answer, or the credential may not do that, a
replica asks for itself: carbon intensity depends on storage no more than it must.
"""

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from hashlib import sha256
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sidecar.carbon.cache import ALONE_WITHIN_S, FILE_BYTES_MAX
from sidecar.carbon.choose import EVERYWHERE, WITHOUT_TIME
from sidecar.carbon.encoding import decoded, encoded
from sidecar.carbon.series import Series
from sidecar.settings import Settings

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, BlobLeaseClient, ContainerClient

FOLDER: Final = "intensity/v1"

CALL_S: Final = 5.0
"""Each request has so long, the look-up of a name and a token included."""

LEASE_S: Final = 15
"""The shortest that Azure gives (documentation: 'Lease Blob'). Asking takes 10 s at most; whoever dies
meanwhile holds up nobody for longer."""

REST_S: Final = 300.0
"""After a failure the container is left alone so long, so that it delays one answer and not each."""

_LOOK_PERIOD_S: Final = 0.3
_TIMEOUTS: Final[Mapping[str, Any]] = {"connection_timeout": 2.0, "read_timeout": 4.0}

T = TypeVar("T")

_log = logging.getLogger(__name__)


class SharedSeries:
    """Reads and writes series in a container; where that fails, it keeps nothing. Any thread may call.

    `address` is that of a service other than the public one.
    """

    def __init__(
        self,
        container: "ContainerClient",
        address: str | None = None,
        wait: Callable[[float], object] = time.sleep,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._container = container
        self._folder = FOLDER if address is None else f"{FOLDER}/{_digest(address)}"
        self._wait = wait
        self._monotonic_s = monotonic_s
        self._rests_until_s = 0.0
        self._told: set[str] = set()

    def read(self, provider: str, zone: str) -> Series | None:
        """Return what any replica wrote last; None where there is nothing usable."""
        blob = self._blob(provider, zone, "json")
        content = self._in_time(lambda: _content(blob))
        if content is None:
            return None
        try:
            series = _series(content)
        except ValueError as error:
            self._tell(f"{blob.blob_name} is not used: {error}; it is written anew")
            return None
        return series if (series.provider, series.zone) == (provider, zone) else None

    def write(self, series: Series) -> None:
        """Replace what is there. What fails is logged: the series is in memory, too."""
        blob = self._blob(series.provider, series.zone, "json")
        self._in_time(lambda: blob.upload_blob(encoded(series), overwrite=True, **_TIMEOUTS))

    @contextlib.contextmanager
    def alone(self, provider: str, zone: str) -> Iterator[None]:
        """Hold the lease of a zone, so that of several replicas one asks; go on where that fails."""
        lease = self._leased(self._blob(provider, zone, "lock"))
        try:
            yield
        finally:
            if lease is not None:
                self._in_time(lambda: lease.release(**_TIMEOUTS))

    def close(self) -> None:
        """End the connections."""
        from sidecar.transport.blob_container import close_container  # noqa: PLC0415

        close_container(self._container)

    def _leased(self, blob: "BlobClient") -> "BlobLeaseClient | None":
        until_s = self._monotonic_s() + ALONE_WITHIN_S
        while True:
            is_held, lease = self._in_time(lambda: _acquired(blob)) or (False, None)
            if not is_held or self._monotonic_s() > until_s:
                return lease
            self._wait(_LOOK_PERIOD_S)

    def _in_time(self, call: Callable[[], T]) -> T | None:
        """Return what a request gives; None where it fails, or the container is left alone.

        In a thread of its own, because name look-ups and token requests heed no timeout of ours.
        """
        if self._monotonic_s() < self._rests_until_s:
            return None
        future: Future[T] = Future()
        try:
            threading.Thread(target=_run, args=(call, future), name="shared", daemon=True).start()
            return future.result(CALL_S)
        except _failures() as error:
            self._rests_until_s = self._monotonic_s() + REST_S
            self._tell(
                f"carbon intensity is not shared by the replicas, {self._container.container_name} gave "
                f"{type(error).__name__} {_code(error)}".rstrip()
                + ": each asks for itself; the identity must "
                "be Storage Blob Data Contributor there, a SAS have sp=rcw"
            )
            return None

    def _blob(self, provider: str, zone: str, suffix: str) -> "BlobClient":
        name = re.sub(r"[^A-Za-z0-9-]", "_", zone)[:64]  # what is in it says of which zone it is
        return self._container.get_blob_client(f"{self._folder}/{provider}.{name}.{suffix}")

    def _tell(self, text: str) -> None:
        if text not in self._told and len(self._told) < 100:
            self._told.add(text)
            _log.warning("%s", text)


def open_shared_series(settings: Settings, environ: Mapping[str, str]) -> SharedSeries | None:
    """Open it where the collector stores in Blob and asks a service, and no other cache is named.

    Raises SettingsError.
    """
    is_asked = settings.intensity_source not in (WITHOUT_TIME, EVERYWHERE)
    if settings.backend != "blob" or settings.intensity_cache is not None or not is_asked:
        return None
    from sidecar.transport.blob_container import open_container  # noqa: PLC0415

    return SharedSeries(open_container(settings, environ), settings.intensity_url)


def _failures() -> tuple[type[Exception], ...]:
    """Return all that the SDK raises, over answers that are not Azure's, too."""
    from azure.core.exceptions import AzureError  # noqa: PLC0415 - an extra

    return (AzureError, OSError, RuntimeError, ValueError, TypeError, AttributeError, LookupError)


def _run(call: Callable[[], T], future: "Future[T]") -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - raised where the result is waited for
        future.set_exception(error)


def _digest(address: str) -> str:
    """Return what tells services at different addresses apart: they may say different things."""
    return sha256(address.encode()).hexdigest()[:12]


def _content(blob: "BlobClient") -> bytes | None:
    from azure.core.exceptions import HttpResponseError  # noqa: PLC0415

    try:
        stream = blob.download_blob(0, FILE_BYTES_MAX + 1, max_concurrency=1, **_TIMEOUTS)
        content: bytes = stream.readall()
    except HttpResponseError as error:
        if error.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # it is empty
            return b""
        if _code(error) == "BlobNotFound":
            return None
        raise
    return content


def _code(error: Exception) -> str:
    """Return the storage service's error code, or the status of its answer; empty where it gave none."""
    code = getattr(error, "error_code", None) or getattr(error, "status_code", None)
    return str(getattr(code, "value", code) or "")


def _series(content: bytes) -> Series:
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"it is longer than {FILE_BYTES_MAX} bytes")
    return decoded(content)


def _acquired(blob: "BlobClient") -> "tuple[bool, BlobLeaseClient | None]":
    """Return whether another holds the lease, and ours where nobody does; the lock is made at first."""
    from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError  # noqa: PLC0415

    try:
        try:
            return False, blob.acquire_lease(LEASE_S, **_TIMEOUTS)
        except ResourceNotFoundError:
            with contextlib.suppress(ResourceExistsError):  # another was quicker
                blob.upload_blob(b"", overwrite=False, **_TIMEOUTS)
            return False, blob.acquire_lease(LEASE_S, **_TIMEOUTS)
    except ResourceExistsError:
        return True, None
