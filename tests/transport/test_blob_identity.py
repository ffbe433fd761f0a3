"""Workload identity, whole: azure-identity, a token endpoint over TLS, Azurite with OAuth."""

import contextlib
import logging

import pytest

from sidecar.settings import Settings, SettingsError
from sidecar.transport.blob_container import open_container
from sidecar.transport.delivery import Undelivered
from tests.fakes.azurite import Azurite, Certificate
from tests.fakes.entra import CLIENT_ID, FakeEntra
from tests.transport.conftest import IN_TIME_S, Shipping, parcel

pytestmark = pytest.mark.needs("node", "azurite")

ASSERTION = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6bWw6dHJhaW4ifQ.c2ln"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return Certificate.made_in(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def azurite(certificate):
    """With OAuth: instead of the one of all other tests."""
    with Azurite(certificate) as made:
        yield made


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "federated-token"
    path.write_text(ASSERTION)
    return path


@pytest.fixture
def entra(certificate, token_file):
    with FakeEntra(certificate, token_file) as made:
        yield made


@pytest.fixture
def shipping(azurite, certificate, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.cert_file))
    with contextlib.closing(Shipping(azurite, azurite.make_container())) as made:
        yield made


def by_identity(shipping, entra, **changes):
    environ = {**entra.environment, **changes}
    return shipping.by(environ, blob_account_url=shipping.azurite.blob_endpoint)


def undelivered(transport, timeout_s=IN_TIME_S) -> str:
    with pytest.raises(Undelivered) as raised:
        transport.deliver(parcel(), timeout_s)
    text = str(raised.value)
    assert not raised.value.refused
    assert "\n" not in text
    assert ASSERTION not in text
    return text


def test_a_segment_is_delivered_with_a_federated_token(shipping, entra):
    assert by_identity(shipping, entra).deliver(parcel(), IN_TIME_S) == "created"
    assert shipping.blobs == {parcel().blob_name: parcel().content}


def test_a_token_is_asked_for_once(shipping, entra):
    transport = by_identity(shipping, entra)
    for sequence in range(3):
        transport.deliver(parcel(sequence), IN_TIME_S)
    assert transport.deliver(parcel(1), IN_TIME_S) == "existing"
    assert entra.asked == 1


def test_check_passes(shipping, entra):
    by_identity(shipping, entra).check()


def test_an_expired_assertion_is_told_and_later_repaired(shipping, entra):
    transport = by_identity(shipping, entra)
    entra.refuse("AADSTS700024: Client assertion is not within its valid time range.")
    text = undelivered(transport)
    assert text.startswith("no token for the storage account: ")
    assert "AADSTS700024" in text
    assert "the service account token has expired or a clock is wrong" in text
    assert "Trace ID" not in text
    entra.accept()
    assert transport.deliver(parcel(), IN_TIME_S) == "created"


def test_a_missing_federated_credential_is_told(shipping, entra):
    entra.refuse(
        "AADSTS700213: No matching federated identity record found for presented assertion subject "
        "'system:serviceaccount:ml:train'."
    )
    text = undelivered(by_identity(shipping, entra))
    assert "'system:serviceaccount:ml:train'" in text
    assert "no federated credential is for this service account; add one" in text


def test_a_token_in_the_text_of_a_refusal_is_not_repeated(shipping, entra):
    entra.refuse(f"AADSTS50027: JWT token {ASSERTION} is invalid or malformed.")
    assert "JWT token … is invalid" in undelivered(by_identity(shipping, entra))


def test_an_unknown_client_is_told(shipping, entra):
    text = undelivered(by_identity(shipping, entra, AZURE_CLIENT_ID="another"))
    assert "AZURE_CLIENT_ID is not known in this tenant" in text


def test_a_refused_token_is_asked_for_once_per_attempt(shipping, entra):
    entra.refuse("AADSTS700024: expired.")
    undelivered(by_identity(shipping, entra))
    assert entra.asked == 1


def test_a_token_for_another_audience_is_told(shipping, entra):
    entra.audience = "https://vault.azure.net"
    text = undelivered(by_identity(shipping, entra))
    assert "answered 403 AuthenticationFailed: the identity's token is not accepted" in text
    assert "Invalid token audience" in text
    with pytest.raises(Undelivered, match="answered 403"):
        by_identity(shipping, entra).check()


def test_a_missing_token_file_is_told(shipping, entra, token_file):
    token_file.unlink()
    text = undelivered(by_identity(shipping, entra))
    assert f"the federated token {token_file} cannot be read (No such file or directory)" in text
    assert "AZURE_FEDERATED_TOKEN_FILE" in text


def test_a_token_endpoint_that_is_gone_is_told_as_such(shipping, entra, token_file, certificate):
    with FakeEntra(certificate, token_file) as gone:
        authority = gone.authority
    text = undelivered(by_identity(shipping, entra, AZURE_AUTHORITY_HOST=authority))
    assert "token endpoint localhost:" in text
    assert "refuses connections" in text


def test_a_certificate_that_is_not_trusted_is_told(shipping, entra, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    text = undelivered(by_identity(shipping, entra))
    assert "has a certificate that is not trusted" in text
    assert "REQUESTS_CA_BUNDLE" in text


def test_an_outage_writes_no_log(shipping, entra, caplog):
    caplog.set_level(logging.INFO)
    transport = by_identity(shipping, entra)
    entra.refuse("AADSTS700024: expired.")
    for _ in range(3):
        undelivered(transport)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "missing",
    ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_AUTHORITY_HOST"],
)
def test_what_the_pod_lacks_is_named(entra, missing):
    settings = Settings(blob_account_url="https://name.blob.core.windows.net")
    environ = {**entra.environment, missing: ""}
    with pytest.raises(SettingsError, match=f"workload identity: {missing} not set; label the pod"):
        open_container(settings, environ)


def test_the_environment_of_this_process_is_not_asked(entra, monkeypatch):
    for name, value in entra.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=r"AZURE_TENANT_ID, AZURE_CLIENT_ID, .* not set"):
        open_container(Settings(blob_account_url="https://name.blob.core.windows.net"), {})


def test_a_token_is_never_sent_in_the_clear(entra):
    settings = Settings(blob_account_url="http://name.blob.core.windows.net")
    with pytest.raises(SettingsError, match="over https:// only"):
        open_container(settings, entra.environment)


def test_an_authority_in_the_clear_is_refused(entra):
    settings = Settings(blob_account_url="https://name.blob.core.windows.net")
    environ = {**entra.environment, "AZURE_AUTHORITY_HOST": "http://login.localhost/"}
    with pytest.raises(SettingsError, match=r"AZURE_AUTHORITY_HOST 'http://login\.localhost/'"):
        open_container(settings, environ)


def test_without_the_azure_cli_it_is_said_what_is_missing(shipping, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    transport = shipping.by(
        blob_account_url=shipping.azurite.blob_endpoint, blob_credential="azure-cli"
    )
    assert "Azure CLI not found" in undelivered(transport)


def test_the_client_id_is_the_one_of_the_environment(shipping, entra):
    assert entra.environment["AZURE_CLIENT_ID"] == CLIENT_ID
    transport = by_identity(shipping, entra)
    assert transport.destination == f"{shipping.azurite.blob_endpoint}/{shipping.container}"
