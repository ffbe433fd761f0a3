"""Podman with a store and a configuration of its own: what it leaves behind goes with the store."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar.version import VERSION
from tests.e2e.commands import Outcome
from tests.e2e_containers.base_image import write_base_tar

ROOT = Path(__file__).parents[2]
WHEELHOUSE = ROOT / ".cache/wheelhouse"
BASE = "localhost/emissions-test-base:1"
EPOCH = "1767225600"
BUILD_S = 300.0

HARDENED = (
    *("--rm", "--network=none", "--read-only", "--read-only-tmpfs=false"),
    *("--cap-drop=all", "--security-opt=no-new-privileges"),
)
"""As restricted Pod Security runs containers; not even /tmp can be written."""

# Neither more open files than the caller may have, nor systemd, nor crun, which knows no cgroup v1.
_CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=16384:16384"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{root}/libpod"
"""
_STORAGE_CONF = """
[storage]
driver = "overlay"
graphroot = "{root}/store"
runroot = "{root}/run"
"""


@dataclass(frozen=True)
class Image:
    """What `podman inspect` says of an image."""

    tag: str
    size: int
    layers: tuple[str, ...]
    config: dict[str, Any]

    @property
    def labels(self) -> dict[str, str]:
        prefix = "org.opencontainers.image."
        labels = self.config["Labels"]
        return {name.removeprefix(prefix): text for name, text in labels.items() if prefix in name}


class Podman:
    """Runs podman on the store in `root`, which several test processes may share."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(exist_ok=True)
        self._env = dict(os.environ)
        for name, text in (
            ("CONTAINERS_CONF", _CONTAINERS_CONF),
            ("CONTAINERS_STORAGE_CONF", _STORAGE_CONF),
        ):
            path = root / name.lower()
            path.write_text(text.format(root=root))
            self._env[name] = str(path)

    def ask(self, *arguments: str | Path, timeout_s: float = 60.0, **env: str) -> Outcome:
        """Run podman to its end, however it ends."""
        run = subprocess.run(
            ["podman", *arguments],
            env={**self._env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        return Outcome(run.returncode, run.stdout, run.stderr)

    def do(self, *arguments: str | Path, **options: Any) -> str:
        """Run podman, which must succeed; return what it printed."""
        outcome = self.ask(*arguments, **options)
        assert outcome.code == 0, f"podman {' '.join(map(str, arguments))}: {outcome.stderr}"
        return outcome.stdout.strip()

    def export(self, container: str) -> bytes:
        """The whole file system of a container, as a tar."""
        run = subprocess.run(
            ["podman", "export", container], env=self._env, capture_output=True, check=True
        )
        return run.stdout

    def image(self, tag: str) -> Image:
        (row,) = json.loads(self.do("image", "inspect", tag))
        return Image(tag, row["Size"], tuple(row["RootFS"]["Layers"]), row["Config"])

    def has(self, tag: str) -> bool:
        return self.ask("image", "exists", tag).code == 0

    def base(self) -> Image:
        """The base image, made where it is not there yet."""
        if not self.has(BASE):
            tar = self._root / "base.tar"
            write_base_tar(tar)
            changes = ("PATH=/usr/local/bin", "LD_LIBRARY_PATH=/usr/local/lib", "LANG=C.UTF-8")
            self.do("import", *(f"--change=ENV {change}" for change in changes), tar, BASE)
            tar.unlink()
        return self.image(BASE)

    def build(self, target: str, suffix: str = "", *arguments: str) -> Image:
        """Build one target of the Dockerfile by scripts/image.sh, without a network."""
        name = {"sidecar": "emissions-sidecar", "services": "emissions-sidecar-services"}[target]
        tag = f"localhost/{name}:{VERSION}{suffix}"
        with self.alone():
            self.base()
            if not self.has(tag):
                self._build(target, suffix, arguments)
        return self.image(tag)

    def _build(self, target: str, suffix: str, arguments: tuple[str, ...]) -> None:
        env = {"ENGINE": "podman", "BASE": BASE, "WHEELHOUSE": str(WHEELHOUSE)}
        env |= {"TARGETS": target, "SUFFIX": suffix, "SOURCE_DATE_EPOCH": EPOCH}
        env |= {"REGISTRY": "localhost", "SOURCE": "https://example.org/emissions-sidecar"}
        run = subprocess.run(
            [ROOT / "scripts/image.sh", *arguments],
            env={**self._env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BUILD_S,
        )
        assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]

    @contextlib.contextmanager
    def alone(self, what: str = "store") -> Iterator[Path]:
        """One test process at a time, each in turn; a directory that they share."""
        with (self._root / f"{what}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._root

    def join(self) -> None:
        """Be counted among the processes that use the store."""
        with self.alone():
            (self._root / f"user-{os.getpid()}").touch()

    def leave(self) -> None:
        """Remove store and images, if nobody else uses them."""
        with self.alone():
            (self._root / f"user-{os.getpid()}").unlink()
            if any(self._root.glob("user-*")):
                return
            self.do("pod", "rm", "--all", "--force")
            self.do("rm", "--all", "--force")
            _unmount(self._root)
            shutil.rmtree(self._root)


def _unmount(root: Path) -> None:
    """Undo the bind mounts by which podman keeps its store private."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed(points):
        if Path(point).is_relative_to(root):
            subprocess.run(["umount", point], check=True)
