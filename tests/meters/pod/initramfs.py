"""A file system for a virtual machine with this machine's own Python: written as a cpio archive.

Kernel, driver-api/early-userspace/buffer-format.rst: the "newc" format.
"""

import os
import re
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

UNUSED = re.compile(
    r"/(test|tests|idlelib|tkinter|ensurepip|lib2to3|pydoc_data|turtledemo|site-packages"
    r"|dist-packages|config-[^/]*)/|\.opt-[12]\.pyc$|/_test[^/]*$"
)
CONSOLE_DEVICE = (5, 1)


class Archive:
    """Writes files with the directories above them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._known = {Path("/")}

    def add(self, path: Path, content: bytes, mode: int) -> None:
        """Add a regular file under an absolute path; one that is there already stays."""
        if path not in self._known:
            self._add_parents(path)
            self._entry(path, stat.S_IFREG | mode, content)

    def add_console(self) -> None:
        """Add /dev/console, which the kernel gives to process 1."""
        path = Path("/dev/console")
        self._add_parents(path)
        self._entry(path, stat.S_IFCHR | 0o600, b"", CONSOLE_DEVICE)

    def close(self) -> None:
        """Write the end of the archive."""
        self._write("TRAILER!!!", 0, b"", (0, 0))

    def _add_parents(self, path: Path) -> None:
        for parent in reversed(path.parents):
            if parent not in self._known:
                self._entry(parent, stat.S_IFDIR | 0o755, b"")

    def _entry(
        self, path: Path, mode: int, content: bytes, device: tuple[int, int] = (0, 0)
    ) -> None:
        self._known.add(path)
        self._write(str(path).lstrip("/"), mode, content, device)

    def _write(self, name: str, mode: int, content: bytes, device: tuple[int, int]) -> None:
        inode, links = len(self._known), 1
        fields = (
            *(inode, mode, 0, 0, links, 0, len(content)),
            *(0, 0, *device, len(name.encode()) + 1, 0),
        )
        header = b"070701" + b"".join(f"{field:08X}".encode() for field in fields)
        self._file.write(_padded(header + name.encode() + b"\0"))
        self._file.write(_padded(content))


def write_python(archive: Archive, program: bytes) -> None:
    """Add Python, its standard library and what they link to; `program` becomes process 1."""
    python = Path(os.path.realpath(sys.executable))
    paths = sysconfig.get_paths(vars={"base": sys.base_prefix, "platbase": sys.base_exec_prefix})
    extensions = Path(sysconfig.get_config_var("DESTSHARED"))
    library = [path for root in (paths["stdlib"], paths["platstdlib"]) for path in _used(root)]
    for path in [python, *library, *_linked([python, *extensions.glob("*.so")])]:
        archive.add(path, path.read_bytes(), 0o755)
    archive.add(Path("/init"), f"#!{python} -B\n".encode() + program, 0o755)
    archive.add_console()


def _used(root: str) -> Iterator[Path]:
    for path in Path(root).rglob("*"):
        if path.is_file() and not UNUSED.search(f"/{path.relative_to(root)}"):
            yield path


def _linked(programs: list[Path]) -> set[Path]:
    listed = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True).stdout
    return {Path(match) for match in re.findall(r"\s(/[^\s:]+) \(0x", listed)}


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % 4)
