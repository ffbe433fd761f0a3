"""The cgroups that the kubelet keeps for the pods of a node, one directory each, read from files.

Kubernetes docs, "Node Allocatable": all pods are below `kubepods`, guaranteed ones directly, the
others below their quality of service. The systemd driver spells that as slices whose names repeat
their parents', with `_` for each `-` of the uid (kubelet, `cgroupName.ToSystemd`); the cgroupfs
driver as plain directories. Static pods have the hash of their manifest for a uid: 32 hex digits.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.meters.kernel_file import read_kernel_file

MICROSECONDS_PER_S: Final = 1_000_000
NANOSECONDS_PER_S: Final = 1_000_000_000

LARGEST_COUNTER: Final = 2**64 - 1
"""The kernel's counters have 64 bits."""

SHARES_PER_CPU: Final = 1024
SMALLEST_SHARES: Final = 2
LARGEST_WEIGHT: Final = 10_000
"""Kubelet, pkg/kubelet/cm/helpers_linux.go: `SharesPerCPU`, `MinShares`."""

_UID = re.compile(r"[0-9a-z][0-9a-z-]{0,62}", re.ASCII)


class CgroupUnreadableError(OSError):
    """A file of a cgroup holds no such counter; the message says which file and what is in it."""


@dataclass(frozen=True, slots=True)
class CgroupCounters:
    """What one pod's cgroup tells: all its containers, those that ended, and the sandbox.

    `cpu_s` is cumulative since the pod began. `working_set_bytes` is as the kubelet tells it: used
    memory without the file pages that the kernel would drop first. `cpu_request` are the CPUs that
    the pod reserved, never more than it did (0 = best effort). None = not told by this kernel.
    """

    cpu_s: float
    working_set_bytes: int | None
    cpu_request: float | None


@dataclass(frozen=True, slots=True)
class PodCgroup:
    """One pod's directory in each hierarchy that is there; in version 2 they are the same."""

    uid: str
    version: int
    cpu_time_directory: str
    cpu_weight_directory: str | None
    memory_directory: str | None

    def read(self) -> CgroupCounters:
        """Read the counters now: four small files.

        Raises:
            OSError: the pod is gone, or its CPU time cannot be read.

        """
        return CgroupCounters(
            cpu_s=self.cpu_s(),
            working_set_bytes=self.working_set_bytes(),
            cpu_request=self._cpu_request(),
        )

    def working_set_bytes(self) -> int | None:
        """Return the used memory without inactive file pages, never below 0; None = not told.

        cAdvisor, container/libcontainer/handler.go, `setMemoryStats`: usage minus `inactive_file`
        (version 1: `total_inactive_file`), which the kubelet takes over as working set.
        """
        if self.memory_directory is None:
            return None
        names = ("memory.current", b"inactive_file")
        if self.version == 1:
            names = ("memory.usage_in_bytes", b"total_inactive_file")
        try:
            used = _counter_in(f"{self.memory_directory}/{names[0]}")
            inactive = _field_in(f"{self.memory_directory}/memory.stat", names[1])
        except OSError:
            return None
        return max(0, used - inactive)

    def cpu_s(self) -> float:
        """Return the CPU seconds since the pod began.

        Kernel, admin-guide/cgroup-v2.rst: `usage_usec`; cgroup-v1/cpuacct.rst: `cpuacct.usage` in ns.

        Raises:
            OSError: the pod is gone, or the file holds no such counter.

        """
        directory = self.cpu_time_directory
        if self.version == 1:
            return _counter_in(f"{directory}/cpuacct.usage") / NANOSECONDS_PER_S
        return _field_in(f"{directory}/cpu.stat", b"usage_usec") / MICROSECONDS_PER_S

    def _cpu_request(self) -> float | None:
        if self.cpu_weight_directory is None:
            return None
        try:
            if self.version == 1:
                shares = float(_counter_in(f"{self.cpu_weight_directory}/cpu.shares"))
            else:
                shares = shares_of_weight(_counter_in(f"{self.cpu_weight_directory}/cpu.weight"))
        except OSError:
            return None
        return cpus_of_shares(shares)


def cpus_of_shares(shares: float) -> float:
    """Return the CPUs that a pod with these shares reserved; the least shares mean none.

    Kubelet, `MilliCPUToShares`: shares = milliCPU · 1024 / 1000, at least 2.
    """
    return shares / SHARES_PER_CPU if shares > SMALLEST_SHARES else 0.0


def shares_of_weight(weight: int) -> float:
    """Return the least shares that give this `cpu.weight`.

    Kubelet, `getCPUWeight` (KEP-2254): weight = 1 + (shares − 2) · 9999 / 262142, rounded down
    (container runtimes have another formula since runc 1.3.2, but pods' weights are the kubelet's). A
    step of the weight is 26 thousandths of a CPU; by taking its lower end all pods together never
    seem to reserve more than they did.
    """
    step = min(max(weight, 1), LARGEST_WEIGHT) - 1
    return SMALLEST_SHARES + step * 262142 / 9999


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a kubelet keeps its pods below a hierarchy: by systemd slices, or plain directories."""

    directory: str
    prefix: str
    is_systemd: bool

    def places(self) -> tuple[tuple[str, str], ...]:
        """Directories of pods, each with what the names of its pods begin with."""
        if not self.is_systemd:
            qualities = ("", "/burstable", "/besteffort")
            return tuple((f"{self.directory}{quality}", "pod") for quality in qualities)
        below = tuple(
            (f"{self.directory}/{self.prefix}-{quality}.slice", f"{self.prefix}-{quality}-pod")
            for quality in ("burstable", "besteffort")
        )
        return ((self.directory, f"{self.prefix}-pod"), *below)

    def name_of(self, prefix: str, uid: str) -> str:
        return f"{prefix}{uid.replace('-', '_')}.slice" if self.is_systemd else f"{prefix}{uid}"

    def uid_in(self, prefix: str, name: str) -> str | None:
        """Return the uid in a directory's name; None if it is no pod's."""
        if not name.startswith(prefix) or name.endswith(".slice") != self.is_systemd:
            return None
        uid = name[len(prefix) :].removesuffix(".slice")
        if self.is_systemd:
            uid = uid.replace("_", "-")
        return uid if _UID.fullmatch(uid) else None


_LAYOUTS: Final = (
    _Layout("kubepods.slice", "kubepods", is_systemd=True),
    _Layout("kubepods", "kubepods", is_systemd=False),
    # kind gives the kubelet a cgroup root of its own (--cgroup-root=/kubelet)
    _Layout("kubelet.slice/kubelet-kubepods.slice", "kubelet-kubepods", is_systemd=True),
    _Layout("kubelet/kubepods", "kubepods", is_systemd=False),
)


@dataclass(frozen=True, slots=True)
class _Hierarchies:
    """The directories of the controllers; in version 2 all are the root."""

    version: int
    cpu_time: str
    cpu_weight: str | None
    memory: str | None

    def pod(self, uid: str, path: str) -> PodCgroup:
        return PodCgroup(
            uid=uid,
            version=self.version,
            cpu_time_directory=f"{self.cpu_time}/{path}",
            cpu_weight_directory=None if self.cpu_weight is None else f"{self.cpu_weight}/{path}",
            memory_directory=None if self.memory is None else f"{self.memory}/{path}",
        )


class CgroupTree:
    """The pods' cgroups below `root` (normally `/sys/fs/cgroup` of the node, mounted read-only).

    Recognised anew at each call, for a few microseconds: a kubelet may start later than we do.
    Hybrid nodes (version 2 below `unified`, without controllers) count as version 1.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root)

    def pods(self) -> Mapping[str, PodCgroup]:
        """List the cgroups of all pods there are now, by uid: three directories are read."""
        pods: dict[str, PodCgroup] = {}
        for pod in self._listed():
            pods.setdefault(pod.uid, pod)
        return pods

    def pod(self, uid: str) -> PodCgroup | None:
        """Look one pod up by its uid, without a listing; None if it has no cgroup here."""
        hierarchies = self._hierarchies()
        if hierarchies is None or not _UID.fullmatch(uid):
            return None
        for layout in self._layouts_in(hierarchies):
            for place, prefix in layout.places():
                path = f"{place}/{layout.name_of(prefix, uid)}"
                if os.path.isdir(f"{hierarchies.cpu_time}/{path}"):  # noqa: PTH112 - text is cheaper
                    return hierarchies.pod(uid, path)
        return None

    def problem(self) -> str | None:
        """Say why no pod can be found here, and what to do; None if there are pods' cgroups."""
        hierarchies = self._hierarchies()
        if hierarchies is None:
            return f"no cgroups with CPU time below {self._root}"
        if next(self._layouts_in(hierarchies), None) is not None:
            return None
        # Kernel, admin-guide/cgroup-v2.rst: cgroup.type exists on non-root cgroups only.
        if Path(self._root, "cgroup.type").exists():
            return (
                f"{self._root} shows this container's own cgroup only (private cgroup namespace): "
                "the node's must be mounted to see the pod's"
            )
        return f"no kubepods cgroup below {self._root}: not the cgroups of a Kubernetes node"

    def _hierarchies(self) -> _Hierarchies | None:
        root = self._root
        if _is_there(f"{root}/cgroup.controllers"):
            return _Hierarchies(2, root, root, root)
        cpu_time = _first_there(root, "cpuacct", "cpu,cpuacct", "cpuacct,cpu")
        if cpu_time is None:
            return None
        return _Hierarchies(
            version=1,
            cpu_time=cpu_time,
            cpu_weight=_first_there(root, "cpu", "cpu,cpuacct", "cpuacct,cpu"),
            memory=_first_there(root, "memory"),
        )

    def _layouts_in(self, hierarchies: _Hierarchies) -> Iterator[_Layout]:
        for layout in _LAYOUTS:
            if _is_there(f"{hierarchies.cpu_time}/{layout.directory}"):
                yield layout

    def _listed(self) -> Iterator[PodCgroup]:
        hierarchies = self._hierarchies()
        if hierarchies is None:
            return
        for layout in self._layouts_in(hierarchies):
            for place, prefix in layout.places():
                for name in _directories_in(f"{hierarchies.cpu_time}/{place}"):
                    uid = layout.uid_in(prefix, name)
                    if uid is not None:
                        yield hierarchies.pod(uid, f"{place}/{name}")


def _is_there(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - text is cheaper than a Path, 100 times a reading


def _first_there(root: str, *names: str) -> str | None:
    return next((f"{root}/{name}" for name in names if _is_there(f"{root}/{name}")), None)


def _directories_in(path: str) -> Iterator[str]:
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return
    yield from names


def _counter_in(path: str) -> int:
    return _counter(path, read_kernel_file(path))


def _field_in(path: str, name: bytes) -> int:
    """Read one line of a flat-keyed file, which holds `name value` lines."""
    content = read_kernel_file(path)
    for line in content.split(b"\n")[:-1]:  # what follows the last line end is half a line
        key, _, value = line.partition(b" ")
        if key == name:
            return _counter(path, value)
    raise CgroupUnreadableError(f"{path} has no {name.decode()}, it starts with {content[:40]!r}")


def _counter(path: str, content: bytes) -> int:
    text = content.strip()
    if text.isdigit() and len(text) <= 20 and (value := int(text)) <= LARGEST_COUNTER:
        return value
    raise CgroupUnreadableError(f"{path} holds {content[:40]!r}, which is no counter")
