"""A real small disk that can be filled: a tmpfs of its own."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SmallDisk:
    """A mounted file system; `fill` leaves no room, `free` gives it back."""

    path: Path

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Write until ENOSPC, then make room for so many bytes (whole pages)."""
        ballast = self.path / "ballast"
        with ballast.open("wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(b"\0" * 4096)
            except OSError:
                size = stream.tell()
            stream.truncate(max(0, size - leave_bytes))

    def free(self) -> None:
        """Give the room back."""
        (self.path / "ballast").unlink(missing_ok=True)


@contextmanager
def small_disk(path: Path, size: str = "256k") -> Iterator[SmallDisk]:
    """Mount a tmpfs of this size at `path` (made); needs root."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], check=True)
    try:
        yield SmallDisk(path)
    finally:
        if path.is_mount():  # else the test has lost it on purpose
            subprocess.run(["umount", "--lazy", path], check=True)
