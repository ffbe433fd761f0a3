"""Fixtures of the node meter's tests."""

from tests.fakes.nvml.fixture import fake_nvml, fake_nvml_library

__all__ = ["fake_nvml", "fake_nvml_library"]
