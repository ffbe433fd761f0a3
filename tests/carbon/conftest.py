"""A clock of the test's, and services that know intensity over time."""

from dataclasses import dataclass

import pytest

from tests.fakes.intensity import EM_TOKEN, FakeIntensity

NOW_S = 1_800_000_900.0  # 2027-01-15T08:15:00Z


@dataclass
class Clock:
    """Wall time that moves when told."""

    now_s: float = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def fake(clock):
    with FakeIntensity(clock) as fake:
        yield fake


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(EM_TOKEN + "\n")
    return path
