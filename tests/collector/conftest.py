"""A collector under way in this process: real HTTP, a fake Kubernetes API, a directory behind it."""

import pytest

from tests.carbon.conftest import clock, fake  # noqa: F401 - fixtures
from tests.collector.running import RunningCollector
from tests.fakes import azurite
from tests.fakes.kubernetes_api import AKS_LABELS, FakeKubernetesApi


def pytest_configure(config):
    azurite.register(config)


@pytest.fixture
def api():
    with FakeKubernetesApi() as api:
        api.add_node("aks-gpupool-12345678-vmss000001", AKS_LABELS)
        yield api


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "stored"
    path.mkdir()
    return path


@pytest.fixture
def start(api, root, tmp_path):
    """Start a collector; parts and bounds of the test's choice."""
    running = []

    def started(**options) -> RunningCollector:
        collector = RunningCollector(api, root, tmp_path, **options)
        running.append(collector)
        collector.start()
        return collector

    yield started
    for collector in running:
        collector.stop()


@pytest.fixture
def collector(start):
    return start()
