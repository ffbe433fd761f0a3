"""Take the picture of a report that the documentation shows.

    .venv/bin/python scripts/report_screenshot.py reports/v1 docs/images/report.png [--dark|--phone]

Needs chromium (Debian: `apt-get install chromium fonts-dejavu-core`) and `pip install playwright`.
"""

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


def main() -> int:
    """Write the picture; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--phone", action="store_true")
    asked = parser.parse_args()
    chromium = shutil.which("chromium")
    page_file = asked.directory.resolve() / "index.html"
    if chromium is None or not page_file.is_file():
        sys.stderr.write(f"needs chromium on PATH and {page_file}\n")
        return 2
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page(
            viewport={"width": 360, "height": 1500}
            if asked.phone
            else {"width": 1280, "height": 1800},
            color_scheme="dark" if asked.dark else "light",
        )
        page.goto(page_file.as_uri())
        page.wait_for_selector("[data-ready]")
        asked.image.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=asked.image)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
