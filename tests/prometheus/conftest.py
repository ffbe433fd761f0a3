"""One cluster for all tests that only look at it: it takes a while to start."""

from collections.abc import Iterator

import pytest

from tests.prometheus.cluster import Cluster, running_cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
