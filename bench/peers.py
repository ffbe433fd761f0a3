"""The sidecar and CodeCarbon's monitor as processes, each from an environment with nothing else in it.

    make footprint      makes the environments, in .cache/footprint

Environments: `lean` has what the sidecar needs, `blob` the extra of that name besides, `codecarbon` the
peer. The sidecar's own code is this tree's; variables are those of its image.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.servers import cpu_clock_s, resident_mib
from tests.e2e.commands import ROOT

ENVIRONMENTS: Final = ROOT / ".cache/footprint"
PATIENCE_S: Final = 60.0
LOOK_S: Final = 0.002
POD: Final = {
    "POD_NAME": "train-0",
    "POD_NAMESPACE": "team-a",
    "POD_UID": "7d5b1f6e-0000-4000-8000-000000000001",
    "NODE_NAME": "aks-gpu-12345678-vmss000001",
}


def python_of(environment: str) -> Path:
    """Return the interpreter of an environment. Raises SystemExit where it is not made yet."""
    python = ENVIRONMENTS / environment / "bin/python"
    if not python.exists():
        raise SystemExit(f"there is no {python}: run 'make footprint' first")
    return python


def image_variables(target: str) -> dict[str, str]:
    """Return what the Dockerfile sets for the allocator in one of its targets."""
    text = (ROOT / "Dockerfile").read_text()
    stage = text.partition(f" AS {target}\n")[2].partition("\nFROM ")[0]
    return dict(re.findall(r"\b(MALLOC_\w+)=(\S+)", stage))


@dataclass(frozen=True, slots=True)
class Peer:
    """A command, its environment and directory.

    `records` are the files that its first record appears in, `covers` what they have to hold then;
    `ready` is what its log says once it meters.
    """

    name: str
    command: Sequence[str | Path]
    env: Mapping[str, str]
    directory: Path
    records: str = "records/*.ndjson"
    covers: tuple[bytes, ...] = (b"\n",)
    ready: str = "metering; records go to"


def sidecar(name: str, directory: Path, *flags: str, environment: str = "lean", **env: str) -> Peer:
    """Return `run` in a pod; its volume is `directory`."""
    variables = {**_bare(), **image_variables("sidecar"), **POD, "PYTHONPATH": str(ROOT)}
    command = (
        python_of(environment), "-m", "sidecar", "run",
        "--volume", directory, "--region", "westeurope", "--log-format", "json", *flags,
    )  # fmt: skip
    env = {**variables, "EMISSIONS_IMDS_ENDPOINT": "none", **env}
    return Peer(name, command, env, directory)


def monitor(directory: Path, interval_s: int) -> Peer:
    """Return `codecarbon monitor`, offline. It writes when it is ended; its log tells that it meters."""
    program = python_of("codecarbon").with_name("codecarbon")
    command = (
        program, "monitor", "--offline", "--country-iso-code", "NLD", "--no-api",
        "--measure-power-secs", str(interval_s),
    )  # fmt: skip
    name = f"codecarbon monitor, {interval_s} s"
    return Peer(name, command, _bare(), directory, ready="in an infinite loop to monitor")


def tracker(directory: Path) -> Peer:
    """Return a program with CodeCarbon's tracker, started and stopped at once: its shortest way."""
    program = (
        "from codecarbon import OfflineEmissionsTracker as Tracker\n"
        "tracker = Tracker(country_iso_code='NLD', log_level='error')\n"
        "tracker.start()\ntracker.stop()\nimport signal\nsignal.pause()"
    )
    command = (python_of("codecarbon"), "-c", program)
    name = "codecarbon, start() and stop()"
    return Peer(name, command, _bare(), directory, "emissions.csv", (b"\n", b"NLD"))


def _bare() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


@dataclass
class Started:
    """A peer under way, as a context manager; ended with SIGTERM, as kubelet does."""

    peer: Peer
    began_s: float = field(default_factory=time.perf_counter)
    process: "subprocess.Popen[bytes]" = field(init=False)

    def __post_init__(self) -> None:
        self.peer.directory.mkdir(parents=True, exist_ok=True)
        with (self.peer.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                self.peer.command, env=self.peer.env, cwd=self.peer.directory,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.peer.directory / "log").read_text(errors="replace")

    def wait_until_ready(self) -> None:
        """Wait until it meters."""
        while self.peer.ready not in self.log:
            if time.perf_counter() - self.began_s > PATIENCE_S or self.process.poll() is not None:
                raise SystemExit(f"{self.peer.name} does not meter: {self.log}")
            time.sleep(0.05)

    def first_record_s(self, *more: bytes) -> float:
        """Wait for the first record on the disk; return the seconds since the start."""
        wanted = (*self.peer.covers, *more)
        while time.perf_counter() - self.began_s < PATIENCE_S and self.process.poll() is None:
            for path in self.peer.directory.glob(self.peer.records):
                if all(part in path.read_bytes() for part in wanted):
                    return time.perf_counter() - self.began_s
            time.sleep(LOOK_S)
        raise SystemExit(f"{self.peer.name} has written no record: {self.log}")

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the process and its children that have ended."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        children_s = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
        return cpu_clock_s(self.pid) + children_s

    def memory(self) -> "Memory":
        """Return the memory of the process now."""
        parts = {}
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, amount, *_ = line.split()
            parts[name.rstrip(":")] = int(amount) / 1024
        threads = len(list(Path(f"/proc/{self.pid}/task").iterdir()))
        return Memory(resident_mib(self.pid), parts["Pss"], parts["Pss_Anon"], threads)


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB: resident, the proportional part of what is shared, and what is the process's own."""

    resident_mib: float
    proportional_mib: float
    anonymous_mib: float
    threads: int


def installed_mb(directory: Path) -> float:
    """Return the bytes that files take on the disk below a directory, in MB (10⁶ bytes)."""
    paths = [directory, *directory.rglob("*")]
    return sum(path.lstat().st_blocks * 512 for path in paths) / 1e6


def without_pip(environment: str) -> float:
    """Return what was installed into an environment, in MB, but for pip and setuptools."""
    (packages,) = (ENVIRONMENTS / environment).glob("lib/python*/site-packages")
    ours = [
        path for path in packages.iterdir() if not re.match(r"_?(pip|setuptools|dist)", path.name)
    ]
    return sum(
        installed_mb(path) if path.is_dir() else path.stat().st_blocks * 512 / 1e6 for path in ours
    )


def image_layer_mb(directory: Path) -> float:
    """Return what the lean image adds to its base, in MB: built by the image's own script.

    It asks pip for what it needs.
    """
    source, target = directory / "source", directory / "opt"
    source.mkdir()
    archive = subprocess.run(
        ["git", "archive", "HEAD", "pyproject.toml", "constraints.txt", "README.md", "LICENSE",
         "sidecar", "scripts/install_into_image.py"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    subprocess.run(["tar", "-x"], input=archive.stdout, cwd=source, check=True)
    command = [sys.executable, "scripts/install_into_image.py", target]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return installed_mb(target)
