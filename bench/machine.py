"""Where and when figures were taken: without it they mean nothing."""

import importlib.metadata
import os
import platform
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

_PACKAGES: Final = ("starlette", "uvicorn", "h11", "pydantic")


@dataclass(frozen=True, slots=True)
class Machine:
    """What the figures depend on. `load_1m` before the benchmark: other work than its own."""

    date: str
    cpu: str
    cores: int
    load_1m: float
    kernel: str
    python: str
    versions: dict[str, str]

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.date}\n{self.cpu}, {self.cores} cores, load {self.load_1m:.1f} before the start\n"
            f"{self.kernel}, Python {self.python}, {versions}"
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def this_machine() -> Machine:
    """Describe the machine now."""
    versions = {"zlib": zlib.ZLIB_RUNTIME_VERSION}
    for name in _PACKAGES:
        versions[name] = importlib.metadata.version(name)
    return Machine(
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        load_1m=os.getloadavg()[0],
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=versions,
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def file_system(directory: Path) -> str:
    """Return the type of the file system that a directory is on, such as `ext4`."""
    device = directory.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == number:
            return fields[fields.index("-") + 1]
    return "unknown"


def memory_directory() -> Path | None:
    """Return a directory in memory, so that no disk is measured; None where there is none."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() and os.access(shm, os.W_OK) else None
