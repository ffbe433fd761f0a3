import pytest

from tests.fakes.disk import small_disk


@pytest.fixture
def full_disk(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        yield disk
