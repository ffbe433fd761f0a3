"""What the documentation's site adds to MkDocs: navigation, and the code that pages link to.

The navigation is the lists of docs/README.md, so that there is one list. Pages link to modules,
tables and tests with relative paths, as they stand in the repository; a file that is linked becomes a
page of the site, with its text, so that formula and code are one click apart without a network.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
CODE = "code"
"""Folder of the site where the repository's files are."""

LINK = re.compile(r"(?P<text>!?\[[^\]\n]*\])\((?P<path>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")
SECTION = re.compile(r"^## (?P<name>.+)$")
ENTRY = re.compile(r"^- \[(?P<title>[^\]]+)\]\((?P<path>[^)#]+\.md)\)")
FENCE = re.compile(r"^(```|~~~)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json", ".sh": "bash"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the navigation from docs/README.md."""
    config.nav = [{"Documentation": "README.md"}, *sections(DOCS / "README.md")]
    return config


def sections(index: Path) -> list[dict[str, list[dict[str, str]]]]:
    """Return the sections of an index page, each with its titles and pages."""
    found: list[dict[str, list[dict[str, str]]]] = []
    for line in index.read_text(encoding="utf-8").splitlines():
        if heading := SECTION.match(line):
            found.append({heading["name"]: []})
        elif (entry := ENTRY.match(line)) and found:
            (pages,) = found[-1].values()
            pages.append({entry["title"]: entry["path"]})
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file of the repository that a page links to."""
    linked = {path for page in DOCS.rglob("*.md") for path in outside(page)}
    for path in sorted(linked):
        files.append(File.generated(config, code_page(path), content=shown(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:  # noqa: ANN401 - as MkDocs calls it
    """Lead links to the repository's files to their pages."""
    if page.file.abs_src_path is None or page.file.src_uri.startswith(f"{CODE}/"):
        return markdown
    source = Path(page.file.abs_src_path)
    here = posixpath.dirname(page.file.src_uri)

    def led(link: re.Match[str]) -> str:
        path = outside_path(source, link["path"])
        if path is None:
            return link[0]
        return f"{link['text']}({posixpath.relpath(code_page(path), here)})"

    return "\n".join(
        LINK.sub(led, line) if is_prose else line for is_prose, line in lines(markdown)
    )


def lines(markdown: str) -> Iterator[tuple[bool, str]]:
    """Yield each line, and whether it is prose, not code."""
    is_prose = True
    for line in markdown.split("\n"):
        if FENCE.match(line):
            is_prose = not is_prose
            yield False, line
        else:
            yield is_prose, line


def outside(page: Path) -> Iterator[Path]:
    """Yield the files and directories outside docs/ that a page links to."""
    for is_prose, line in lines(page.read_text(encoding="utf-8")):
        for link in LINK.finditer(line) if is_prose else ():
            path = outside_path(page, link["path"])
            if path is not None:
                yield path


def outside_path(page: Path, target: str) -> Path | None:
    """Return the file of the repository a link leads to; None for a page of docs/ or an address."""
    if not target or ":" in target:
        return None
    path = (page.parent / target).resolve()
    is_ours = path.is_relative_to(REPOSITORY) and not path.is_relative_to(DOCS)
    return path if is_ours and path.exists() else None


def code_page(path: Path) -> str:
    """Return where in the site a file of the repository is."""
    return f"{CODE}/{path.relative_to(REPOSITORY).as_posix()}.md"


def shown(path: Path) -> str:
    """Return the page of a file (Markdown as it is) or of a directory (what is in it)."""
    name = path.relative_to(REPOSITORY).as_posix()
    front = f"---\ntitle: {name}\nsearch:\n  exclude: true\nhide:\n  - toc\n---\n\n# {name}\n\n"
    if path.is_dir():
        inside = sorted(
            item.name for item in path.iterdir() if not item.name.startswith(("_", "."))
        )
        return front + "".join(f"- `{item}`\n" for item in inside)
    text = path.read_text(encoding="utf-8")
    language = "markdown" if path.suffix == ".md" else LANGUAGES.get(path.suffix, "text")
    return f"{front}~~~~~~{language}\n{text.rstrip()}\n~~~~~~\n"
