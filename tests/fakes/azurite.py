"""The real Azurite, the storage emulator: started on a free port, in memory, ended by its pid.

with Azurite() as azurite:
    container = azurite.make_container()
    ... azurite.connection_string ...
    azurite.blobs(container)  # name -> bytes

A conftest gives its tests the fixtures `azurite` (one per test process, whoever asks first) and
`container_name` (one per test) so:

def pytest_configure(config):
    azurite.register(config)
"""

import contextlib
import datetime
import ipaddress
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from azure.storage.blob import BlobServiceClient, ContainerClient, generate_container_sas
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

MAIN = Path(__file__).parents[2] / ".cache/azurite/node_modules/azurite/dist/src/blob/main.js"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of every Azurite; public (documentation: 'Use the Azurite emulator')."""

API_VERSION = "2025-01-05"
PATIENCE_S = 60.0

_LISTENS = re.compile(r"successfully listens on (https?)://127\.0\.0\.1:(\d+)")
_PLUGIN = "tests.fakes.azurite"


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for localhost and 127.0.0.1, which is its own authority too."""

    cert_file: Path
    key_file: Path

    @classmethod
    def made_in(cls, directory: Path) -> Self:
        """Make one, valid for a day."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        loopback = ipaddress.ip_address("127.0.0.1")
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(loopback)])
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        made = cls(directory / "cert.pem", directory / "key.pem")
        made.cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        made.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return made


class Azurite:
    """A running Azurite; with a certificate it speaks https and takes OAuth tokens too."""

    def __init__(self, certificate: Certificate | None = None) -> None:
        self._certificate = certificate
        self._directory = tempfile.TemporaryDirectory(prefix="azurite-")
        self._log = Path(self._directory.name) / "log"
        options = ["--blobHost", "127.0.0.1", "--blobPort", "0"]
        options += ["--inMemoryPersistence", "--disableTelemetry", "--silent"]
        options += ["--skipApiVersionCheck"]
        if certificate is not None:
            options += ["--oauth", "basic"]
            options += ["--cert", str(certificate.cert_file), "--key", str(certificate.key_file)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["node", str(MAIN), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self.scheme, self.port = self._listening()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def blob_endpoint(self) -> str:
        """The account's URL."""
        return f"{self.scheme}://127.0.0.1:{self.port}/{ACCOUNT}"

    @property
    def connection_string(self) -> str:
        """With the account's key."""
        return self.connection_string_at("127.0.0.1", self.port)

    def connection_string_at(self, host: str, port: int, key: str = KEY) -> str:
        """The same through something between: a proxy on this host and port. Or with another key."""
        return (
            f"DefaultEndpointsProtocol={self.scheme};AccountName={ACCOUNT};AccountKey={key};"
            f"BlobEndpoint={self.scheme}://{host}:{port}/{ACCOUNT};"
        )

    def make_container(self, name: str | None = None) -> str:
        """Make a container, of a name of its own if none is given; return its name."""
        name = name or f"test-{uuid.uuid4().hex}"
        with self._service() as service:
            service.create_container(name).close()
        return name

    def blobs(self, container: str) -> dict[str, bytes]:
        """All blobs of a container and what they hold."""
        with self.container(container) as client:
            return {name: self._read(client, name) for name in client.list_blob_names()}

    def put(self, container: str, name: str, content: bytes, **metadata: str) -> None:
        """Store a blob, over another one too."""
        with self.container(container) as client:
            client.upload_blob(name, content, overwrite=True, metadata=metadata)

    def sas(
        self,
        container: str,
        permission: str,
        *,
        start: datetime.datetime | None = None,
        expiry: datetime.datetime | None = None,
    ) -> str:
        """A shared access signature of the container; valid for an hour if nothing is said."""
        hour = datetime.timedelta(hours=1)
        return generate_container_sas(
            ACCOUNT,
            container,
            KEY,
            permission=permission,
            start=start,
            expiry=expiry or datetime.datetime.now(datetime.UTC) + hour,
        )

    @contextlib.contextmanager
    def container(self, name: str) -> Iterator[ContainerClient]:
        """A client with the account's key."""
        with self._service() as service:
            yield service.get_container_client(name)

    def stop(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._directory.cleanup()

    def _service(self) -> BlobServiceClient:
        verify = str(self._certificate.cert_file) if self._certificate else True
        return BlobServiceClient.from_connection_string(
            self.connection_string, api_version=API_VERSION, connection_verify=verify
        )

    @staticmethod
    def _read(client: ContainerClient, name: str) -> bytes:
        return client.download_blob(name).readall()

    def _listening(self) -> tuple[str, int]:
        deadline_s = time.monotonic() + PATIENCE_S
        while not (match := _LISTENS.search(self._said())):
            assert self._process.poll() is None, f"Azurite ended: {self._said()}"
            assert time.monotonic() < deadline_s, f"Azurite does not listen: {self._said()}"
            time.sleep(0.05)
        return match[1], int(match[2])

    def _said(self) -> str:
        return self._log.read_text(errors="replace")


def register(config: pytest.Config) -> None:
    """Give the tests the fixtures of this module; as often as one likes."""
    if not config.pluginmanager.has_plugin(_PLUGIN):
        config.pluginmanager.register(sys.modules[__name__], _PLUGIN)


@pytest.fixture(scope="session", name="azurite")
def azurite_fixture() -> Iterator[Azurite]:
    """One Azurite for all tests of this process."""
    with Azurite() as azurite:
        yield azurite


@pytest.fixture
def container_name(azurite: Azurite) -> str:
    """A new, empty container, of this test alone."""
    return azurite.make_container()
