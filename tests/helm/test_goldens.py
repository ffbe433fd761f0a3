"""What each mode renders, for people to read. WRITE_GOLDEN=1 writes it anew; read the difference."""

import os
from pathlib import Path

import pytest

from tests.helm.tools import render

pytestmark = pytest.mark.needs("helm")

GOLDENS = Path(__file__).parent / "goldens"


@pytest.mark.parametrize(
    ("mode", "value_set"),
    [
        ("webhook", "existing-certs"),
        ("policy", "policy"),
        ("none", "none"),
    ],
)
def test_the_rendering_is_the_golden_file(mode: str, value_set: str) -> None:
    golden = GOLDENS / f"{mode}.yaml"
    rendered = render(value_set).text
    if os.environ.get("WRITE_GOLDEN"):
        golden.write_text(rendered)
    assert rendered == golden.read_text()
