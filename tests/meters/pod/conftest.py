"""Fixtures of the tests of pod sources."""

import pytest


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine may take longer than a sidecar would wait; tests of slow peers set their own."""
    for module in ("pod.kubelet", "pod.metrics_api", "node_meter_client"):
        monkeypatch.setattr(f"sidecar.meters.{module}.DEADLINE_S", 30.0)
