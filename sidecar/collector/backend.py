"""Where segments are committed: Azure Blob or a directory, by the transports of the sidecar."""

from collections.abc import Mapping
from typing import Protocol

from sidecar.segment import Parcel
from sidecar.settings import Settings, SettingsError
from sidecar.transport.delivery import Delivery


class Backend(Protocol):
    """Commits parcels, each name once; any thread may call. Raises `Undelivered`, nothing else."""

    @property
    def destination(self) -> str:
        """Where, for people: no secret in it."""
        ...

    def deliver(self, parcel: Parcel, timeout_s: float) -> Delivery:
        """Commit within about `timeout_s` seconds."""
        ...

    def exists(self, blob_name: str) -> bool:
        """Whether there is a segment of this name."""
        ...

    def check(self) -> None:
        """Return where segments can be committed."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


def open_backend(settings: Settings, environ: Mapping[str, str]) -> Backend:
    """Open what the settings name. Raises SettingsError."""
    if settings.backend == "directory":
        if settings.transport_directory is None:
            raise SettingsError(
                "backend 'directory' needs a place; set --transport-directory or "
                "EMISSIONS_TRANSPORT_DIRECTORY"
            )
        from sidecar.transport.directory import DirectoryTransport  # noqa: PLC0415 - only one loads

        return DirectoryTransport(settings.transport_directory)
    from sidecar.transport.blob_container import open_container  # noqa: PLC0415

    container = open_container(settings, environ)  # it tells of a missing extra; so it comes first
    from sidecar.transport.blob import BlobTransport  # noqa: PLC0415

    return BlobTransport(container)
