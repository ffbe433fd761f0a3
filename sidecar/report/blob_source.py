"""Read records from a container of Azure Blob: names page by page, one blob at a time, in pieces.

Memory stays bounded: one page of names (5,000 at most) and one piece of one blob. What fails for a
moment (network, throttling, 5xx) is tried again a few times; what goes on failing ends the reading, as
a total without the rest would be wrong. A blob that vanished or changed meanwhile is that blob's matter.
"""

import io
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar, cast

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
)
from azure.storage.blob import ContainerClient

from sidecar.report.source import BLOB_SCHEME, SourceUnreadable
from sidecar.transport.blob_container import close_container

PIECE_BYTES: Final = 4 * 1024**2
"""A segment's blob is some kB, so nearly always one request; a larger one takes several."""

BACKOFFS_S: Final = (0.5, 2.0, 8.0)
"""Waits between the tries of one request: a moment's failure passes, an outage is told soon."""

RETRY_AFTER_MAX_S: Final = 30.0
"""A service that asks for more patience than this gets no more."""

NAMES_PER_PAGE: Final = 1000

_OF_THE_BLOB: Final = (404, 409, 412, 416)
"""Answers that concern one blob: gone, archived, or changed since it was listed."""

_T = TypeVar("_T")


class Listed(NamedTuple):
    """A blob as it was listed: its whole name, bytes, and etag. There may be millions."""

    name: str
    size: int
    etag: str


class BlobSource:
    """The blobs under a prefix, which is a folder: `a` is `a/…`, never `ab/…`. Owns the client."""

    def __init__(
        self,
        container: ContainerClient,
        prefix: str = "",
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._container = container
        self._folder = f"{prefix.strip('/')}/".lstrip("/")
        self._wait = wait

    def __str__(self) -> str:
        return f"{BLOB_SCHEME}{self._container.container_name}/{self._folder}".rstrip("/")

    def close(self) -> None:
        """Close the connections, and those of the credential."""
        close_container(self._container)

    def piece(self, blob: Listed, offset: int) -> bytes:
        """Return the next piece of a blob. Raises OSError and SourceUnreadable."""

        def read() -> bytes:
            stream = self._container.download_blob(
                blob.name,
                offset=offset,
                length=PIECE_BYTES,
                etag=blob.etag,
                match_condition=MatchConditions.IfNotModified,
            )
            return stream.readall()

        try:
            return self.attempt(read)
        except HttpResponseError as error:
            if self._is_gone(blob, error):
                raise FileNotFoundError(f"{blob.name}: gone since it was listed") from error
            raise OSError(f"{blob.name}: {_code(error)}") from error

    def _is_gone(self, blob: Listed, error: HttpResponseError) -> bool:
        """Whether the blob is gone: a condition on nothing fails as one on what has changed."""
        if error.status_code != 412:
            return error.status_code == 404
        return not self.attempt(self._container.get_blob_client(blob.name).exists)

    def attempt(self, request: Callable[[], _T], *, writes: bool = False) -> _T:
        """Make a request, again where it fails for a moment; `writes`: more than reading is asked for.

        Raises SourceUnreadable, save for an answer about one blob: that is raised as it is.
        """
        for backoff_s in BACKOFFS_S:
            try:
                return self._answered(request, writes=writes)
            except AzureError as error:
                if not _is_momentary(error):
                    raise
                self._wait(_patience_s(error, backoff_s))
        try:
            return self._answered(request, writes=writes)
        except AzureError as error:
            if not _is_momentary(error):
                raise
            tries = len(BACKOFFS_S) + 1
            end = "it is not whole" if writes else "nothing is reported"
            raise SourceUnreadable(
                f"{self} cannot be {_DONE[writes]}: {_reason(error)}, {tries} times; {end}, try again "
                "later"
            ) from error

    def _answered(self, request: Callable[[], _T], *, writes: bool) -> _T:
        cannot = f"{self} cannot be {_DONE[writes]}"
        try:
            return request()
        except ClientAuthenticationError as error:
            raise SourceUnreadable(f"{cannot}: {_refusal(error, writes=writes)}") from error
        except HttpResponseError as error:
            if _code(error) == "404 ContainerNotFound":
                raise SourceUnreadable(
                    f"{cannot}: the account has no such container; check its name"
                ) from error
            if error.status_code in _OF_THE_BLOB or _is_momentary(error):
                raise
            raise SourceUnreadable(f"{cannot}: {_refusal(error, writes=writes)}") from error
        except OSError as error:  # a token file that is not there
            reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            raise SourceUnreadable(f"{cannot}: {reason}") from error

    def page(self, after: str | None) -> tuple[list[Listed], str | None]:
        """Return a page of blobs, and the token of the next; as `attempt` may ask for it."""
        listing = self._container.list_blobs(
            name_starts_with=self._folder or None, results_per_page=NAMES_PER_PAGE
        )
        pages = listing.by_page(after)
        page = [Listed(blob.name, int(blob.size or 0), str(blob.etag)) for blob in next(pages, ())]
        # The iterator of pages has it; only its declared type does not.
        return page, cast("str | None", getattr(pages, "continuation_token", None))


class BlobStream(io.RawIOBase):
    """A blob as a stream, one piece of it in memory."""

    def __init__(self, source: BlobSource, blob: Listed) -> None:
        super().__init__()
        self._source = source
        self._blob = blob
        self._offset = 0
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """Say that it is."""
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - any writable buffer
        """Fill a buffer. Raises OSError and SourceUnreadable."""
        if not self._left and self._offset < self._blob.size:
            piece = self._source.piece(self._blob, self._offset)
            if not piece:
                raise OSError(f"{self._blob.name}: shorter than it was listed")
            self._offset += len(piece)
            self._left = memoryview(piece)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _is_momentary(error: AzureError) -> bool:
    """Whether another try may go better: no answer, a torn one, throttling, or the service's fault."""
    if isinstance(error, ClientAuthenticationError):
        return False
    status = getattr(error, "status_code", None)
    return status is None or status < 400 or status in (408, 429) or status >= 500


def _patience_s(error: AzureError, backoff_s: float) -> float:
    """Return the wait before the next try: what the service asks for, else the backoff."""
    response = getattr(error, "response", None)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(asked), RETRY_AFTER_MAX_S) if asked.isdecimal() else backoff_s


def _code(error: HttpResponseError) -> str:
    code = getattr(error, "error_code", None)
    return f"{error.status_code} {getattr(code, 'value', code) or error.reason or ''}".strip()


_DONE: Final = {False: "read", True: "written to"}
_RIGHTS: Final = {
    False: "listing and reading must be allowed (SAS sp=rl, or the role Storage Blob Data Reader)",
    True: "writing and deleting must be allowed, too (SAS sp=rlcwd, or the role Storage Blob Data "
    "Contributor)",
}


def _refusal(error: HttpResponseError, *, writes: bool) -> str:
    """Say why the service or the identity refused; the first line of what they say holds no secret."""
    if error.status_code in (401, 403):
        return (
            f"{_code(error)}; {_RIGHTS[writes]}: check the credential, its expiry and this machine's "
            "clock"
        )
    said = str(error.message).strip().partition("\n")[0]
    return f"{said[:200]}; check the credential" if error.status_code is None else _code(error)


def _reason(error: AzureError) -> str:
    """Say what failed. Not in the library's words: they repeat the address with the SAS in it."""
    if isinstance(error, HttpResponseError) and (error.status_code or 0) >= 400:
        return f"the service answers {_code(error)}"
    if isinstance(error, ServiceRequestError):
        return "the storage account is not reached (address, name resolution, firewall, TLS)"
    return "the connection broke or timed out before the answer was whole"
