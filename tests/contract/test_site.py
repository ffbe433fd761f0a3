"""The documentation builds as a site without a network, and asks for nothing when it is read."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
ASKING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Requests(HTMLParser):
    """Addresses that a browser asks for by itself when it shows the page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if told.get("rel") not in ("canonical", "prev", "next") and tag in ASKING:
            self.asked.append(told.get(ASKING[tag]) or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    build = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "mkdocs", "build", "--site-dir", directory],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stderr  # strict: a warning is an error
    return directory


@pytest.mark.needs("netns")
def test_no_page_asks_a_server_for_anything(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    asked = {address for page in pages for address in Requests(page).asked}
    assert len(pages) > 20
    assert len(asked) > 5
    assert not [address for address in asked if re.match(r"(https?:)?//", address)]


@pytest.mark.needs("netns")
def test_a_formula_and_its_code_are_one_click_apart(site: Path) -> None:
    explained = (site / "explanation" / "power-model.html").read_text(encoding="utf-8")
    assert 'href="../code/sidecar/estimate/power.py.html"' in explained
    code = (site / "code" / "sidecar" / "estimate" / "power.py.html").read_text(encoding="utf-8")
    assert "estimate_window" not in code
    assert "class" in code and "VmShareModel" in code


@pytest.mark.needs("netns")
def test_the_four_parts_are_in_the_navigation(site: Path) -> None:
    index = (site / "index.html").read_text(encoding="utf-8")
    parts = re.findall(r'<span class="md-ellipsis">\s*([^<]+?)\s*</span>', index)
    assert [part for part in parts if part in ("Tutorial", "Tutorials")]
    assert {"How-to", "Reference", "Explanation"} <= set(parts)
