"""Pods of a node as cgroups of version 2 in files, whose counters a test moves."""

from pathlib import Path

from sidecar.meters.pod.cgroup_tree import CgroupTree


class CgroupNode:
    """A tree; pods are named by their uids. `weight` 39 is one CPU."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "kubepods.slice").mkdir(parents=True)
        (root / "cgroup.controllers").write_text("cpu memory\n")
        self.tree = CgroupTree(root)

    def add(self, uid: str, cpu_s: float = 0.0, memory: int = 1000, weight: int = 1) -> None:
        """Start a pod; a weight of 1 reserves no CPU."""
        self._directory(uid).mkdir()
        (self._directory(uid) / "cpu.weight").write_text(f"{weight}\n")
        self.use(uid, cpu_s, memory)

    def use(self, uid: str, cpu_s: float, memory: int | None = None) -> None:
        """Set what a pod has used; each file is replaced in one step."""
        self._write(uid, "cpu.stat", f"usage_usec {round(cpu_s * 1e6)}\n")
        if memory is not None:
            self._write(uid, "memory.current", f"{memory}\n")
            self._write(uid, "memory.stat", "inactive_file 0\n")

    def end(self, uid: str) -> None:
        """Let a pod's cgroup go."""
        for path in self._directory(uid).iterdir():
            path.unlink()
        self._directory(uid).rmdir()

    def _directory(self, uid: str) -> Path:
        return self.root / "kubepods.slice" / f"kubepods-pod{uid.replace('-', '_')}.slice"

    def _write(self, uid: str, name: str, text: str) -> None:
        scratch = self.root / "scratch"
        scratch.write_text(text)
        scratch.replace(self._directory(uid) / name)
