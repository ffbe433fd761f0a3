import dataclasses
import json

import pytest

from sidecar.segment import Parcel, compressed, parcel_of
from sidecar.settings import Settings
from sidecar.transport.blob import BlobTransport
from sidecar.transport.blob_container import open_container
from tests.fakes import azurite as azurite_fixtures
from tests.fakes.azurite import Azurite
from tests.fakes.fault_proxy import FaultProxy

IN_TIME_S = 20.0
"""Enough for all that is not broken."""


def pytest_configure(config):
    azurite_fixtures.register(config)


def parcel(sequence: int = 1, *, project: str = "demo", energy_kwh: float = 0.5) -> Parcel:
    """A segment of one record, as the transports get it."""
    record = {
        "record_id": f"0b9e8b6e-aaaa-bbbb-cccc-000000000001.boot1.{sequence}",
        "window_start": "2026-03-01T12:00:00Z",
        "project": project,
        "cluster": "aks",
        "energy_kwh": energy_kwh,
    }
    return parcel_of(compressed(json.dumps(record).encode() + b"\n"))


def otherwise_compressed(segment: Parcel) -> Parcel:
    """The same records in other bytes."""
    import gzip

    from sidecar.segment import decompressed

    content = gzip.compress(decompressed(segment.content), compresslevel=0, mtime=7)
    assert content != segment.content
    return dataclasses.replace(segment, content=content)


class Shipping:
    """Makes transports to one container of Azurite, and closes them at the end."""

    def __init__(self, azurite: Azurite, container: str) -> None:
        self.azurite = azurite
        self.container = container
        self._made: list[BlobTransport] = []

    def by(self, environ=None, **settings) -> BlobTransport:
        """With these settings."""
        container = settings.pop("blob_container", self.container)
        now = settings.pop("now", None)
        client = open_container(Settings(blob_container=container, **settings), environ or {})
        made = BlobTransport(client) if now is None else BlobTransport(client, now=now)
        self._made.append(made)
        return made

    def by_key(self, **settings) -> BlobTransport:
        return self.by(blob_connection_string=self.azurite.connection_string, **settings)

    def by_sas(self, permission: str, **times) -> BlobTransport:
        sas = self.azurite.sas(self.container, permission, **times)
        return self.by(blob_account_url=self.azurite.blob_endpoint, blob_sas=sas)

    def through(self, proxy: FaultProxy, sas: str | None = None, **settings) -> BlobTransport:
        """Through the proxy, by key or by a SAS with these permissions."""
        if sas is None:
            text = self.azurite.connection_string_at(proxy.host, proxy.port)
            return self.by(blob_connection_string=text, **settings)
        url = f"{proxy.url}/devstoreaccount1"
        signature = self.azurite.sas(self.container, sas)
        return self.by(blob_account_url=url, blob_sas=signature, **settings)

    @property
    def blobs(self) -> dict[str, bytes]:
        return self.azurite.blobs(self.container)

    def close(self) -> None:
        for made in self._made:
            made.close()


@pytest.fixture
def shipping(azurite, container_name):
    made = Shipping(azurite, container_name)
    yield made
    made.close()


@pytest.fixture
def proxy(azurite):
    with FaultProxy("127.0.0.1", azurite.port) as made:
        yield made
