"""A dataset in a container of Azure Blob: listed page by page, each blob read as it was listed."""

import functools
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContainerClient

from sidecar.report.blob_source import BlobSource, BlobStream, Listed
from sidecar.report.places import of_dataset
from sidecar.report.source import SourceUnreadable, blob_address
from sidecar.report.staging import StoredFile
from sidecar.settings import Settings
from sidecar.transport.blob_container import open_container


class BlobPlace(BlobSource):
    """All blobs of a dataset under a prefix; also those that are no NDJSON."""

    @property
    def container(self) -> ContainerClient:
        """The client, for what is written."""
        return self._container

    @property
    def folder(self) -> str:
        """The prefix with its `/`, or nothing."""
        return self._folder

    def files(self) -> Iterator[StoredFile]:
        """Yield the blobs, as the service lists them: by name. Raises SourceUnreadable."""
        return of_dataset(self._all())

    def _all(self) -> Iterator[StoredFile]:
        token: str | None = None
        while True:
            try:
                page, token = self.attempt(functools.partial(self.page, token))
            except HttpResponseError as error:
                raise SourceUnreadable(
                    f"{self} cannot be listed: {error.status_code} {error.reason}"
                ) from error
            for blob in page:
                yield StoredBlob(blob.name.removeprefix(self._folder), blob, self)
            if not token:
                return


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob as it was listed."""

    name: str
    blob: Listed
    source: BlobSource
    path: Path | None = None

    @property
    def size(self) -> int:
        """Bytes as stored."""
        return self.blob.size

    @property
    def stamp(self) -> str:
        """The etag."""
        return self.blob.etag

    def open(self) -> BinaryIO:
        """Open it as a stream. Raises OSError and SourceUnreadable."""
        return io.BufferedReader(BlobStream(self.source, self.blob))


def fetch_blob(
    address: str, settings: Settings, environ: Mapping[str, str], path: Path, bytes_max: int
) -> None:
    """Write one blob, `az://CONTAINER/NAME`, to a file; no more than a byte beyond a bound.

    Raises SettingsError, SourceUnreadable, OSError.
    """
    container, name = blob_address(address)
    place = BlobPlace(open_container(replace(settings, blob_container=container), environ))
    try:
        content = place.attempt(
            lambda: place.container.download_blob(name, offset=0, length=bytes_max + 1).readall()
        )
    except HttpResponseError as error:
        raise SourceUnreadable(
            f"{address} cannot be read: {error.status_code} {error.reason}"
        ) from error
    finally:
        place.close()
    path.write_bytes(content)
