"""The pages' commands of Helm are ones that the chart takes."""

from pathlib import Path

import pytest

from tests.helm.tools import ROOT

PAGES = sorted((*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_upgrades_with_the_old_charts_values(page: Path) -> None:
    """`--reuse-values` leaves away the defaults of the new chart: it does not even render."""
    assert " --reuse-values" not in page.read_text(encoding="utf-8")
