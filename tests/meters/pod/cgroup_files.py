"""Cgroup trees in files, which tests may change: copies of the golden ones, and pods made by hand."""

import shutil
from pathlib import Path

TREES = Path(__file__).parents[2] / "data" / "cgroup"

GUARANTEED = "1f0e7b5c-3a52-4c1d-9c64-0d9a4f3f6a10"
BURSTABLE = "6d3b4c1e-8f2a-4b77-a3d5-2c9e51f0b7aa"
BEST_EFFORT = "c2a95f77-0b1d-4e0c-8e43-97d1b6f4d3ee"
STATIC = "4f5d0c2b9a8e7d6c5b4a39281706f5e4"


def copied(tree: str, target: Path) -> Path:
    """Copy a golden tree; returns its root."""
    return Path(shutil.copytree(TREES / tree, target / tree))


def directory_of(root: Path, uid: str) -> Path:
    """Where a version 2 tree keeps a pod."""
    pod = uid.replace("-", "_")
    return next(path for path in root.rglob("*pod*") if path.name.endswith(f"pod{pod}.slice"))


def write_cpu_s(root: Path, uid: str, cpu_s: float) -> None:
    """Set the CPU time of a pod of a version 2 tree."""
    (directory_of(root, uid) / "cpu.stat").write_text(f"usage_usec {round(cpu_s * 1e6)}\n")


def write_memory(root: Path, uid: str, used: int, inactive_file: int = 0) -> None:
    """Set the memory of a pod of a version 2 tree."""
    directory = directory_of(root, uid)
    (directory / "memory.current").write_text(f"{used}\n")
    (directory / "memory.stat").write_text(f"anon 1\ninactive_file {inactive_file}\n")
