"""What the faults happen to: Azurite, a proxy before it, a fake Kubernetes API."""

import os
from collections.abc import Iterator

import pytest

from tests.fakes import azurite as azurite_fixtures
from tests.fakes.azurite import Azurite
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.kubernetes_api import FakeKubernetesApi
from tests.faults.scene import Store


def pytest_configure(config):
    azurite_fixtures.register(config)


@pytest.fixture(autouse=True, scope="package")
def _commands_without_coverage() -> Iterator[None]:
    """Many commands are started here, and measuring them would double the time of each start."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in list(os.environ):
            if name.startswith(("COV_CORE", "COVERAGE")):
                monkeypatch.delenv(name)
        yield


@pytest.fixture
def store(azurite: Azurite, container_name: str) -> Store:
    return Store(azurite, container_name)


@pytest.fixture
def proxy(azurite: Azurite) -> Iterator[FaultProxy]:
    """Before Azurite."""
    with FaultProxy("127.0.0.1", azurite.port) as made:
        yield made


@pytest.fixture
def api() -> Iterator[FakeKubernetesApi]:
    with FakeKubernetesApi() as made:
        yield made
