"""Process 1 of a virtual machine with cgroup v2: makes pods' cgroups, lets them work, reads them.

Writes one line `CGROUPS {…}` to the console, with what `sidecar` reads beside the guest's own truth.
Runs on the standard library and `sidecar` alone; see test_cgroup_v2_kernel.py, which boots it.
"""

import atexit
import ctypes
import dataclasses
import json
import os
import sys
from pathlib import Path

from sidecar.meters.pod.cgroup import CgroupSource
from sidecar.meters.pod.cgroup_tree import CgroupTree
from sidecar.meters.pod.ourselves import Ourselves
from tests.meters.pod.work import BALLAST_BYTES, burn, used_s, work

CGROUPS = Path("/sys/fs/cgroup")
CLONE_NEWCGROUP = 0x02000000
RB_AUTOBOOT = 0x01234567
CONTAINER = "cri-containerd-0123456789abcdef.scope"

# uid: quality of service, cpu.weight, CPU seconds to use
PODS = {
    "1f0e7b5c-3a52-4c1d-9c64-0d9a4f3f6a10": ("", 235, 1.2),
    "6d3b4c1e-8f2a-4b77-a3d5-2c9e51f0b7aa": ("burstable", 20, 1.0),
    "c2a95f77-0b1d-4e0c-8e43-97d1b6f4d3ee": ("besteffort", 1, 0.8),
}

LIBC = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, target: str) -> None:
    Path(target).mkdir(parents=True, exist_ok=True)
    if LIBC.mount(b"none", target.encode(), kind.encode(), 0, None) != 0:
        raise OSError(ctypes.get_errno(), f"cannot mount {kind} on {target}")


def make_pod(uid: str) -> Path:
    """Make a pod's slice and a container in it, as kubelet and containerd do; returns the slice."""
    quality, weight, _ = PODS[uid]
    slices = ["kubepods", *([f"kubepods-{quality}"] if quality else [])]
    slices.append(f"{slices[-1]}-pod{uid.replace('-', '_')}")
    path = CGROUPS
    for name in slices:
        (path / "cgroup.subtree_control").write_text("+cpu +memory")
        path /= f"{name}.slice"
        path.mkdir(exist_ok=True)
    (path / "cpu.weight").write_text(str(weight))
    (path / "cgroup.subtree_control").write_text("+cpu +memory")
    (path / CONTAINER).mkdir()
    return path


def start(path: Path, cpu_s: float) -> tuple[int, int, int]:
    """Fork a worker into a container; returns its pid, what it says, and what it hears."""
    said, saying = os.pipe()
    hearing, heard = os.pipe()
    pid = os.fork()
    if pid == 0:
        (path / CONTAINER / "cgroup.procs").write_text(str(os.getpid()))
        ballast = bytearray(os.urandom(1) * BALLAST_BYTES)
        before_s = used_s()
        os.write(saying, b"ready")
        os.read(hearing, 1)
        work(cpu_s)
        os.write(saying, json.dumps({"cpu_s": used_s() - before_s, "bytes": len(ballast)}).encode())
        os.read(hearing, 1)
        os._exit(0)
    return pid, said, heard


def shown(path: Path, name: str) -> int:
    return int((path / name).read_text())


def own_view(path: Path) -> list[object]:
    """What a container with a cgroup namespace of its own is told, and how many pods it sees."""
    said, saying = os.pipe()
    pid = os.fork()
    if pid == 0:
        (path / CONTAINER / "cgroup.procs").write_text(str(os.getpid()))
        if LIBC.unshare(CLONE_NEWCGROUP) != 0:
            raise OSError(ctypes.get_errno(), "cannot unshare the cgroup namespace")
        mount("cgroup2", "/own")
        tree = CgroupTree(Path("/own"))
        os.write(saying, json.dumps([tree.problem(), len(tree.pods())]).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    told: list[object] = json.loads(os.read(said, 4096))
    return told


def metered_within(uid: str, path: Path) -> list[float]:
    """What a process in the pod that works alone sees grow: the pod with it, and without it."""
    said, saying = os.pipe()
    pid = os.fork()
    if pid == 0:
        (path / CONTAINER / "cgroup.procs").write_text(str(os.getpid()))
        pod = CgroupTree(CGROUPS).pods()[uid]
        source = CgroupSource(uid, CGROUPS, Ourselves(Path("/proc")))
        before_s, without_before_s = pod.cpu_s(), source.read().cpu_s
        burn(0.6)
        after_s, without_after_s = pod.cpu_s(), source.read().cpu_s
        if without_before_s is None or without_after_s is None:
            raise ValueError(source.status())
        grown = [after_s - before_s, without_after_s - without_before_s]
        os.write(saying, json.dumps(grown).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    told: list[float] = json.loads(os.read(said, 4096))
    return told


def measured() -> dict[str, object]:
    paths = {uid: make_pod(uid) for uid in PODS}
    tree = CgroupTree(CGROUPS)
    workers = {uid: start(paths[uid], cpu_s) for uid, (_, _, cpu_s) in PODS.items()}
    for _, said, _ in workers.values():
        os.read(said, 5)
    before = {uid: pod.read() for uid, pod in tree.pods().items()}
    for _, _, heard in workers.values():
        os.write(heard, b"!")
    truth = {uid: json.loads(os.read(said, 4096)) for uid, (_, said, _) in workers.items()}
    after = {uid: pod.read() for uid, pod in tree.pods().items()}
    current = {uid: shown(path, "memory.current") for uid, path in paths.items()}
    for pid, _, heard in workers.values():
        os.write(heard, b"!")
        os.waitpid(pid, 0)
    ended = {uid: pod.read() for uid, pod in tree.pods().items()}
    first = next(iter(PODS))
    return {
        "kernel": os.uname().release,
        "before": {uid: dataclasses.asdict(counters) for uid, counters in before.items()},
        "after": {uid: dataclasses.asdict(counters) for uid, counters in after.items()},
        "ended": {uid: dataclasses.asdict(counters) for uid, counters in ended.items()},
        "truth": truth,
        "memory_current": current,
        "metered_within": metered_within(first, paths[first]),
        "container_view": own_view(paths[first]),
    }


def main() -> None:
    mount("proc", "/proc")
    mount("sysfs", "/sys")
    mount("cgroup2", str(CGROUPS))
    sys.stdout.write(f"CGROUPS {json.dumps(measured())}\n")


if __name__ == "__main__":
    atexit.register(LIBC.reboot, RB_AUTOBOOT)  # qemu -no-reboot ends with it
    main()
