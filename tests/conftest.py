"""What holds for every test: no network, a clean environment, capabilities, Hypothesis profiles."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

from tests import loopback_only, needs

_CACHE = Path(__file__).parent.parent / ".cache"

# CI runs more examples, the same ones every time: a commit is red for what it changed.
# Developers' runs explore, and remember in .cache what failed.
set_hypothesis_home_dir(_CACHE / "hypothesis")
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=300, print_blob=True
)
hypothesis.settings.register_profile("conservation", deadline=None, max_examples=10_000)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)


def pytest_configure(config: pytest.Config) -> None:
    """Add the `needs` marker and the count of skips."""
    config.pluginmanager.register(needs, "needs")


@pytest.fixture(autouse=True, scope="session")
def _loopback_only() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        loopback_only.forbid_network(monkeypatch)
        loopback_only.clear_environment(monkeypatch)
        yield
