"""Choose the transport that the settings name; its libraries load only where it is opened."""

import importlib.util
import re
from collections.abc import Callable, Mapping

from sidecar.settings import Settings, SettingsError
from sidecar.transport.delivery import Transport

# ruff: noqa: PLC0415 - what ships is loaded by the thread that ships, and only the way chosen


def transport_opener(
    settings: Settings, environ: Mapping[str, str]
) -> Callable[[], Transport] | None:
    """Return what opens the transport; None where records stay on the volume. Raises SettingsError.

    Opening raises SettingsError too, for what only the transport's library can tell.
    """
    origin = settings.origins.get("transport", "default")
    if settings.transport == "directory":
        return _directory(settings, origin)
    if settings.transport == "collector":
        return _collector(settings, origin)
    if settings.transport == "blob":
        return _blob(settings, environ, origin)
    return None


def _directory(settings: Settings, origin: str) -> Callable[[], Transport]:
    root = settings.transport_directory
    if root is None:
        raise SettingsError(
            f"{origin}: transport 'directory' needs to know where: give --transport-directory "
            "(EMISSIONS_TRANSPORT_DIRECTORY)"
        )

    def opened() -> Transport:
        from sidecar.transport.directory import DirectoryTransport

        return DirectoryTransport(root)

    return opened


def _collector(settings: Settings, origin: str) -> Callable[[], Transport]:
    url = settings.collector_url
    if url is None:
        raise SettingsError(
            f"{origin}: transport 'collector' needs its address: give --collector-url "
            "(EMISSIONS_COLLECTOR_URL)"
        )

    def opened() -> Transport:
        from sidecar.collector_client import CollectorClient
        from sidecar.transport.collector import CollectorTransport

        return CollectorTransport(
            CollectorClient(url, settings.collector_token_file, settings.collector_ca_file)
        )

    return opened


def _blob(settings: Settings, environ: Mapping[str, str], origin: str) -> Callable[[], Transport]:
    if settings.blob_account_url is None and settings.blob_connection_string is None:
        raise SettingsError(
            f"{origin}: transport 'blob' needs a storage account: give --blob-account-url "
            "(EMISSIONS_BLOB_ACCOUNT_URL), or EMISSIONS_BLOB_CONNECTION_STRING in the environment"
        )
    text = settings.blob_connection_string
    if text is not None and not re.search(
        r"(^|;)\s*(AccountName|BlobEndpoint)\s*=", text, re.IGNORECASE
    ):
        raise SettingsError(
            "environment EMISSIONS_BLOB_CONNECTION_STRING: it names neither AccountName nor "
            "BlobEndpoint; take it as the portal shows it"
        )
    if importlib.util.find_spec("azure") is None or (
        importlib.util.find_spec("azure.storage") is None
    ):
        raise SettingsError(
            f"{origin}: transport 'blob' needs azure-storage-blob; install the extra 'blob', from a "
            "clone: pip install '.[blob]'"
        )

    def opened() -> Transport:
        from sidecar.transport.blob import BlobTransport
        from sidecar.transport.blob_container import open_container

        return BlobTransport(open_container(settings, environ))

    return opened
