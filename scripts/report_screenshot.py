"""Take the pictures of a report that the documentation shows, as WebP at twice the size.

    .venv/bin/python examples/fictitious_lab.py example --until 2026-11-29
    .venv/bin/emissions-sidecar report example
    .venv/bin/python scripts/report_screenshot.py example/reports/v1 docs/images [--font Inter]

Needs chromium (Debian: `apt-get install chromium`) and `pip install playwright`.
"""

import argparse
import base64
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
QUALITY = 0.82
A4 = (718, 1017)  # pixels of the page between its margins


@dataclass(frozen=True)
class Picture:
    """What of which page: `start` is the id of the section at its top."""

    name: str
    page: str
    width: int = 1200
    height: int = 1500
    start: str = ""
    is_dark: bool = False
    is_paper: bool = False


PICTURES = (
    Picture("report", "index.html"),
    Picture("report-dark", "index.html", start="map", height=1350, is_dark=True),
    Picture("report-regions", "index.html", start="components", height=1480),
    Picture("report-phone", "index.html", width=390, height=1750),
    Picture("report-print", "index.html", *A4, is_paper=True),
    Picture("report-project", "projects/shared-notebooks.html", height=1500),
    Picture("report-run", "runs/protein-folding-032-*.html", height=1320),
)

TO_WEBP = """async ([png, quality]) => {
  const image = new Image();
  image.src = `data:image/png;base64,${png}`;
  await image.decode();
  const { width, height } = image;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL("image/webp", quality).split(",")[1];
}"""


def main() -> int:
    """Write the pictures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--font", help="a font that is installed, in place of the system's")
    parser.add_argument("--only", help="the picture of this name alone")
    asked = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None or not (asked.report / "index.html").is_file():
        sys.stderr.write(f"needs chromium on PATH and {asked.report}/index.html\n")
        return 2
    asked.images.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for name, content in _pictures(browser, asked):
            path = asked.images / f"{name}.webp"
            path.write_bytes(content)
            sys.stdout.write(f"{path}: {len(content) // 1024} KiB\n")
        browser.close()
    return 0


def _pictures(browser: Browser, asked: argparse.Namespace) -> Iterator[tuple[str, bytes]]:
    converter = browser.new_page()
    for picture in PICTURES:
        if asked.only in (None, picture.name):
            png = _taken(browser, picture, asked)
            encoded = converter.evaluate(TO_WEBP, [base64.b64encode(png).decode(), QUALITY])
            yield picture.name, base64.b64decode(encoded)


def _taken(browser: Browser, picture: Picture, asked: argparse.Namespace) -> bytes:
    page = browser.new_page(
        viewport={"width": picture.width, "height": picture.height},
        color_scheme="dark" if picture.is_dark else "light",
        device_scale_factor=2,
    )
    path = max(asked.report.resolve().glob(picture.page))
    page.goto(path.as_uri())
    page.wait_for_function("document.readyState === 'complete'")
    if asked.font:
        page.add_style_tag(content=f"body {{ font-family: '{asked.font}', sans-serif; }}")
    if picture.is_paper:
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        page.add_style_tag(content="html { padding: 40px; background: #fff; }")
    page.evaluate("dispatchEvent(new Event('resize'))")
    page.wait_for_timeout(300)
    top = 0
    if picture.start:
        page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
        top = page.evaluate(
            f"document.getElementById('{picture.start}').getBoundingClientRect().top"
        )
        page.evaluate(f"scrollTo(0, {top} - 70)")
        page.wait_for_timeout(300)
    taken: bytes = page.screenshot()
    page.close()
    return taken


if __name__ == "__main__":
    sys.exit(main())
