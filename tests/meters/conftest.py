"""Fixtures of the meters' tests."""

from pathlib import Path

import pytest

from tests.fakes.nvml.fixture import fake_nvml, fake_nvml_library
from tests.fakes.trees import PowercapTree, ProcTree

__all__ = ["fake_nvml", "fake_nvml_library"]


@pytest.fixture
def proc_tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path / "proc")


@pytest.fixture
def powercap(tmp_path: Path) -> PowercapTree:
    return PowercapTree(tmp_path / "sys")
