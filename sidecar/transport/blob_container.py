"""The client of the records' container in Azure Blob, from the settings of group `blob`.

Credentials are the explicit ones only, never `DefaultAzureCredential`: in a user's pod that would
find, and use, the user's own identity. Proxies and, in REQUESTS_CA_BUNDLE, certificates to trust
come from the environment, as with requests.

The extra 'blob' is looked for here, so import this module before `sidecar.transport.blob`.
"""

import importlib.util
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from sidecar.settings import Settings, SettingsError

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.core.pipeline.transport import RequestsTransport
    from azure.storage.blob import ContainerClient

API_VERSION: Final = "2025-01-05"
"""Pinned: the SDK's newest is refused by sovereign clouds and emulators that are some months behind.

All that is used here (Put Blob, If-None-Match, metadata) is far older.
"""

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 15.0
"""The SDK's own are 20 s and 60 s: longer than the grace period a pod has to end."""

_CONNECTION_OPTIONS: Final[Mapping[str, Any]] = {
    "connection_timeout": CONNECT_TIMEOUT_S,
    "read_timeout": READ_TIMEOUT_S,
    # Who calls decides when to try again. The SDK's own retries block for more than a minute, and a
    # request whose answer was lost would be sent again unseen.
    "retry_total": 0,
}

_KNOWN_AUTHORITIES: Final = {
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.chinacloudapi.cn",
}
_WORKLOAD_IDENTITY: Final = (
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
)


def close_container(container: "ContainerClient") -> None:
    """End the connections to the storage account and to the token endpoint."""
    container.close()
    close_credential = getattr(container.credential, "close", None)
    if close_credential is not None:
        close_credential()


def open_container(settings: Settings, environ: Mapping[str, str]) -> "ContainerClient":
    """Return a client of the container; nothing is sent yet. Raises SettingsError.

    It is good for as many threads as `settings.uploads`; `close_container` ends it.
    """
    for module in ("azure.storage.blob", "azure.identity"):
        if not _is_installed(module):
            raise SettingsError(
                "transport blob needs the extra 'blob', from a clone: pip install '.[blob]'"
            )
    # The SDK warns at length, at every attempt, of what callers tell in one line.
    logging.getLogger("azure").setLevel(logging.ERROR)
    if settings.blob_connection_string:
        return _by_connection_string(settings)
    if settings.blob_account_url:
        return _by_account_url(settings, environ)
    raise SettingsError(
        "where the container is, is not given: set EMISSIONS_BLOB_ACCOUNT_URL (such as "
        "https://NAME.blob.core.windows.net) or EMISSIONS_BLOB_CONNECTION_STRING"
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def _by_connection_string(settings: Settings) -> "ContainerClient":
    from azure.storage.blob import ContainerClient  # noqa: PLC0415

    for other in ("blob_account_url", "blob_sas"):
        if getattr(settings, other):
            raise SettingsError(
                f"EMISSIONS_BLOB_CONNECTION_STRING and EMISSIONS_{other.upper()} are both given; "
                "keep one, a connection string holds address and credential"
            )
    transport = _http_transport(settings)
    try:
        return ContainerClient.from_connection_string(
            settings.blob_connection_string or "",
            settings.blob_container,
            api_version=API_VERSION,
            transport=transport,
            **_CONNECTION_OPTIONS,
        )
    except ValueError:  # its text may quote the secret
        transport.close()
        raise SettingsError(
            "EMISSIONS_BLOB_CONNECTION_STRING is no connection string of a storage account; it looks "
            "like DefaultEndpointsProtocol=https;AccountName=…;AccountKey=…;EndpointSuffix=…"
        ) from None


def _by_account_url(settings: Settings, environ: Mapping[str, str]) -> "ContainerClient":
    from azure.core.credentials import AzureSasCredential  # noqa: PLC0415
    from azure.storage.blob import ContainerClient  # noqa: PLC0415

    account_url = settings.blob_account_url or ""
    credential: AzureSasCredential | TokenCredential
    if settings.blob_sas:
        credential = AzureSasCredential(_sas(settings.blob_sas))
    elif not account_url.startswith("https://"):
        raise SettingsError(
            f"EMISSIONS_BLOB_ACCOUNT_URL {account_url}: an identity's token travels over https:// "
            "only; give such an address, or a SAS in EMISSIONS_BLOB_SAS"
        )
    else:
        credential = _identity(settings, environ)
    return ContainerClient(
        account_url,
        settings.blob_container,
        credential,
        api_version=API_VERSION,
        transport=_http_transport(settings),
        **_CONNECTION_OPTIONS,
    )


def _sas(text: str) -> str:
    sas = text.strip().removeprefix("?")
    if "sig=" not in sas or "://" in sas:
        raise SettingsError(
            "EMISSIONS_BLOB_SAS is no shared access signature: give what follows the '?' of a SAS URL, "
            "with sv=, sp=, se= and sig= in it"
        )
    return sas


def _identity(settings: Settings, environ: Mapping[str, str]) -> "TokenCredential":
    if settings.blob_credential == "azure-cli":
        from azure.identity import AzureCliCredential  # noqa: PLC0415

        return AzureCliCredential()
    return _workload_identity(settings, environ)


def _workload_identity(settings: Settings, environ: Mapping[str, str]) -> "TokenCredential":
    from azure.identity import WorkloadIdentityCredential  # noqa: PLC0415

    missing = [name for name in _WORKLOAD_IDENTITY if not environ.get(name)]
    if missing:
        raise SettingsError(
            f"workload identity: {', '.join(missing)} not set; label the pod "
            'azure.workload.identity/use: "true" and annotate its service account with '
            "azure.workload.identity/client-id, or give EMISSIONS_BLOB_SAS"
        )
    tenant_id, client_id, token_file, authority = (environ[name] for name in _WORKLOAD_IDENTITY)
    host = urlsplit(authority if "://" in authority else f"https://{authority}").hostname
    try:
        return WorkloadIdentityCredential(
            tenant_id=tenant_id,
            client_id=client_id,
            token_file_path=token_file,
            authority=authority,
            # Where a cloud is not one of the public ones, nobody outside it may be asked about it.
            disable_instance_discovery=host not in _KNOWN_AUTHORITIES,
            transport=_http_transport(settings),  # whose errors tell the address
            **_CONNECTION_OPTIONS,
        )
    except ValueError as error:
        raise SettingsError(
            f"workload identity: AZURE_AUTHORITY_HOST {authority!r} or AZURE_TENANT_ID "
            f"{tenant_id!r} is not right ({error}); they come from the pod's environment"
        ) from error


def _http_transport(settings: Settings) -> "RequestsTransport":
    """Keep as many connections as there are uploads at a time; requests keeps 10, and warns above."""
    import requests  # noqa: PLC0415
    from azure.core.pipeline.transport import RequestsTransport  # noqa: PLC0415
    from requests.adapters import HTTPAdapter  # noqa: PLC0415

    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=settings.uploads, max_retries=0))
    return RequestsTransport(session=session, **_CONNECTION_OPTIONS)
