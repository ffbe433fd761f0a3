import os
import socket
import subprocess
import sys

import pytest
import requests

from tests.loopback_only import NetworkReachedError, clear_environment

DOCUMENTATION_ADDRESS = "192.0.2.1"  # RFC 5737: routed nowhere, should the guard fail


def test_a_connection_to_another_machine_raises_and_names_the_address() -> None:
    with socket.socket() as connection, pytest.raises(NetworkReachedError, match=r"192\.0\.2\.1"):
        connection.connect((DOCUMENTATION_ADDRESS, 80))


def test_a_datagram_to_another_machine_raises() -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        pytest.raises(NetworkReachedError, match="sendto"),
    ):
        datagrams.sendto(b"", (DOCUMENTATION_ADDRESS, 9))


def test_a_name_look_up_raises() -> None:
    with pytest.raises(NetworkReachedError, match=r"metadata\.invalid"):
        socket.getaddrinfo("metadata.invalid", 80)


def test_http_libraries_do_not_take_the_guard_for_an_outage() -> None:
    with pytest.raises(NetworkReachedError):
        requests.get(f"http://{DOCUMENTATION_ADDRESS}/", timeout=1)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost"])
def test_loopback_is_reached(host: str) -> None:
    with (
        socket.create_server(("", 0)) as server,
        socket.create_connection((host, server.getsockname()[1])) as client,
    ):
        accepted, peer = server.accept()
        accepted.close()
        assert peer == client.getsockname()


def test_unix_sockets_are_reached(tmp_path) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        assert client.connect_ex(str(tmp_path / "socket")) == 0


def test_children_are_told_to_ask_no_metadata_service() -> None:
    program = "import os; print(os.environ['EMISSIONS_IMDS_ENDPOINT'])"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert child.stdout == b"none\n"


def test_the_environment_of_a_job_is_cleared(monkeypatch) -> None:
    for name in ("EMISSIONS_REGION", "AZUREML_RUN_ID", "POD_UID", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "of the machine")
    with pytest.MonkeyPatch.context() as cleared:
        clear_environment(cleared)
        assert "of the machine" not in os.environ.values()
