"""Refreshing VM sizes from a server that speaks the Resource SKUs API over TLS."""

import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("azure.mgmt.compute")

from azure.core.credentials import AccessToken
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sidecar.catalogue.lookup import Catalogue, CatalogueError
from sidecar.catalogue.refresh import (
    RefreshError,
    refresh_vm_sizes,
    vm_sizes_csv,
    write_vm_sizes,
)


class StaticToken:
    """A credential with one token."""

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        self.scopes = scopes
        return AccessToken("token-of-the-test", 4_000_000_000)


@dataclass
class Api:
    """The SKUs API: its pages, and the requests it got."""

    url: str = ""
    pages: list[list[dict]] = field(default_factory=list)
    status: int = 200
    requests: list[tuple[str, str]] = field(default_factory=list)


def sku(name: str, resource_type: str = "virtualMachines", **capabilities: object) -> dict:
    return {
        "resourceType": resource_type,
        "name": name,
        "locations": ["westeurope"],
        "capabilities": [{"name": key, "value": str(value)} for key, value in capabilities.items()],
    }


def certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    served = Api()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.requests.append((self.path, self.headers["Authorization"]))
            page = int(parse_qs(urlsplit(self.path).query).get("page", ["0"])[0])
            body: dict[str, object] = {"error": {"code": "AuthorizationFailed", "message": "no"}}
            if served.status == 200:
                body = {"value": served.pages[page]}
                if page + 1 < len(served.pages):
                    path = urlsplit(self.path).path
                    body["nextLink"] = f"{served.url}{path}?api-version=2021-07-01&page={page + 1}"
            content = json.dumps(body).encode()
            self.send_response(served.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    cert_file, key_file = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    served.url = f"https://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cert_file))
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


def refreshed(api: Api, *skus: dict) -> dict[str, object]:
    api.pages = [list(skus)]
    sizes = refresh_vm_sizes(StaticToken(), "sub-1", "westeurope", api.url)
    return {size.name: size for size in sizes}


A100 = sku(
    "Standard_NC24ads_A100_v4", vCPUs=24, vCPUsAvailable=24, vCPUsPerCore=1, MemoryGB=220, GPUs=1
)


def test_vcpus_memory_and_threads_come_from_azure_and_models_from_the_table(api):
    size = refreshed(api, A100)["Standard_NC24ads_A100_v4"]
    assert (size.vcpus, size.memory_gib, size.threads_per_core) == (24, 220, 1)
    assert (size.gpu_model, size.gpu_count) == ("NVIDIA A100 80GB PCIe", 1)
    assert size.cpu_models == ("AMD EPYC 7V13",)
    today = datetime.now(UTC).date()
    assert size.source.startswith("Azure Resource SKUs API, 20")
    assert size.year in {today.year, today.year - 1}


def test_all_pages_are_read_with_the_location_filter_and_the_token(api):
    api.pages = [
        [sku("Standard_D2s_v5", vCPUs=2, MemoryGB=8)],
        [sku("Standard_D4s_v5", vCPUs=4, MemoryGB=16)],
        [sku("Standard_D8s_v5", vCPUs=8, MemoryGB=32)],
    ]
    sizes = refresh_vm_sizes(StaticToken(), "sub-1", "West Europe", api.url)
    assert [size.vcpus for size in sizes] == [2, 4, 8]
    query = parse_qs(urlsplit(api.requests[0][0]).query)
    assert query["$filter"] == ["location eq 'westeurope'"]
    assert api.requests[0][0].startswith("/subscriptions/sub-1/providers/Microsoft.Compute/skus")
    assert {token for _, token in api.requests} == {"Bearer token-of-the-test"}


def test_the_token_is_asked_for_the_cloud_of_the_base_url(api):
    api.pages = [[A100]]
    credential = StaticToken()
    refresh_vm_sizes(credential, "sub-1", "westeurope", api.url)
    assert credential.scopes == (f"{api.url}/.default",)


def test_disks_and_other_resources_are_left_out(api):
    sizes = refreshed(api, A100, sku("Premium_LRS", "disks"), sku("Aligned", "availabilitySets"))
    assert list(sizes) == ["Standard_NC24ads_A100_v4"]


def test_a_size_without_vcpus_is_left_out_with_a_warning(api, caplog):
    sizes = refreshed(api, A100, sku("Standard_Odd_v1", MemoryGB=8))
    assert list(sizes) == ["Standard_NC24ads_A100_v4"]
    assert "Standard_Odd_v1" in caplog.text


def test_constrained_sizes_keep_their_active_and_full_vcpus(api):
    constrained = sku("Standard_E64-16s_v5", vCPUs=64, vCPUsAvailable=16, MemoryGB=512)
    size = refreshed(api, constrained)["Standard_E64-16s_v5"]
    assert (size.vcpus, size.vcpus_full) == (16, 64)


def test_a_fraction_of_a_gpu_that_the_api_rounds_up_is_kept(api):
    size = refreshed(api, sku("Standard_NV6ads_A10_v5", vCPUs=6, GPUs=1))["Standard_NV6ads_A10_v5"]
    assert size.gpu_count == pytest.approx(1 / 6, abs=1e-4)


def test_a_new_size_takes_cpu_and_gpu_models_from_its_series(api):
    new = sku("Standard_NC192ads_A100_v4", vCPUs=192, MemoryGB=1760, GPUs=8)
    size = refreshed(api, new)["Standard_NC192ads_A100_v4"]
    assert (size.gpu_model, size.gpu_count) == ("NVIDIA A100 80GB PCIe", 8)
    assert (size.cpu_models, size.cpu_evidence) == (("AMD EPYC 7V13",), "family")


def test_a_new_size_of_a_vgpu_series_has_an_unknown_gpu_count(api):
    size = refreshed(api, sku("Standard_NV9ads_A10_v5", vCPUs=9, GPUs=1))["Standard_NV9ads_A10_v5"]
    assert (size.gpu_model, size.gpu_count) == ("NVIDIA A10", None)


def test_a_size_of_an_unknown_series_names_no_models(api):
    size = refreshed(api, sku("Standard_Y2x_v9", vCPUs=2, MemoryGB=8, GPUs=2))["Standard_Y2x_v9"]
    assert (size.cpu_models, size.cpu_evidence) == ((), "unknown")
    assert (size.gpu_model, size.gpu_count) == (None, 2)


def test_a_refusal_is_told_with_the_permission_it_needs(api):
    api.status = 403
    with pytest.raises(RefreshError, match=r"AuthorizationFailed[^$]*Microsoft.Compute/skus/read"):
        refresh_vm_sizes(StaticToken(), "sub-1", "westeurope", api.url)


def test_a_location_without_sizes_is_told(api):
    api.pages = [[]]
    with pytest.raises(RefreshError, match="no VM size in 'westeurope'"):
        refresh_vm_sizes(StaticToken(), "sub-1", "westeurope", api.url)


def test_a_location_cannot_break_out_of_the_filter(api):
    with pytest.raises(ValueError, match="no Azure location"):
        refresh_vm_sizes(StaticToken(), "sub-1", "x' or location eq 'y", api.url)
    assert api.requests == []


def test_a_refreshed_file_is_read_back_as_it_was_written(api, tmp_path):
    sizes = refreshed(
        api,
        A100,
        sku("Standard_NV9ads_A10_v5", vCPUs=9, GPUs=1),
        sku("Standard_Y2x_v9", vCPUs=2, MemoryGB=0.75, GPUs=2),
        sku("Standard_E64-16s_v5", vCPUs=64, vCPUsAvailable=16, vCPUsPerCore=2, MemoryGB=512),
    )
    path = tmp_path / "vm_sizes.csv"
    write_vm_sizes(sizes.values(), path)
    catalogue = Catalogue(path)
    assert {name: catalogue.vm_size(name) for name in sizes} == sizes
    assert [entry.name for entry in tmp_path.glob("*.partial")] == []


def test_a_refreshed_size_goes_before_the_shipped_one_and_stands_once(api, tmp_path):
    path = tmp_path / "vm_sizes.csv"
    grown = sku("Standard_D8s_v5", vCPUs=8, MemoryGB=33)
    write_vm_sizes(refreshed(api, grown).values(), path)
    catalogue = Catalogue(path)
    assert catalogue.vm_size("d8s_v5").memory_gib == 33
    family = [size.name for size in catalogue.vm_family("Standard_D2s_v5")]
    assert family.count("Standard_D8s_v5") == 1
    assert "Standard_D2s_v5" in family
    assert len(list(catalogue.vm_sizes())) == 1748


def test_a_near_miss_suggests_a_refreshed_size(api, tmp_path):
    path = tmp_path / "vm_sizes.csv"
    write_vm_sizes(refreshed(api, sku("Standard_Y2x_v9", vCPUs=2)).values(), path)
    assert "Standard_Y2x_v9" in Catalogue(path).suggest("vm-size", "Standard_Y2xx_v9")


HEADER = vm_sizes_csv([])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "its first line must be name,vcpus"),
        ("name,cpus\nStandard_X,1\n", "its first line must be name,vcpus"),
        (HEADER + "Standard_X,1\n", "catalogue refresh"),
        (HEADER + "Standard_X,many,,,,,,,,me,2026\n", "row 2 .'Standard_X'.*many"),
        (HEADER + "Standard_X,0,,,,,,,,me,2026\n", "row 2 .'Standard_X'"),
        (HEADER + "Standard_X,8,4,,,,,,,me,2026\n", "row 2 .'Standard_X'"),
        (HEADER + "Standard_X,8,,nan,,,,,,me,2026\n", "finite"),
        (HEADER + "Standard_X,8,,4,,,,,-1,me,2026\n", "not negative"),
        (HEADER + "Standard_X,8,,4,,,,,,,2026\n", "source"),
    ],
)
def test_a_bad_file_of_vm_sizes_is_refused_with_its_fault(tmp_path, text, complaint):
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CatalogueError, match=complaint):
        Catalogue(path)


def test_a_missing_file_of_vm_sizes_is_named(tmp_path):
    with pytest.raises(CatalogueError, match=r"cannot read VM sizes from .*absent.csv: No such"):
        Catalogue(tmp_path / "absent.csv")


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(CatalogueError, match="no table of VM sizes"):
        Catalogue(path)
