"""Containers for real: podman on a store of its own, shared by the processes of one test run."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e_containers.engine import WHEELHOUSE, Image, Podman


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    if not any(WHEELHOUSE.glob("*.whl")):
        pytest.skip(f"no wheels to build images from in {WHEELHOUSE}: make wheelhouse")
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))[:12]
    podman = Podman(Path(tempfile.gettempdir(), f"emissions-podman-{run}"))
    podman.join()
    yield podman
    podman.leave()


@pytest.fixture(scope="session")
def lean(podman: Podman) -> Image:
    return podman.build("sidecar")


@pytest.fixture(scope="session")
def services(podman: Podman) -> Image:
    return podman.build("services")
