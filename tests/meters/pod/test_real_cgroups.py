"""Real processes in real cgroups (version 1) and PID namespaces; rusage is the truth."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecar.meters.pod.cgroup import CgroupSource
from sidecar.meters.pod.cgroup_tree import CgroupTree
from sidecar.meters.pod.ourselves import Ourselves
from sidecar.meters.pod.process_tree import ProcessTreeSource
from sidecar.meters.reading import PodReading
from tests.meters.pod.work import BALLAST_BYTES

WORK = Path(__file__).with_name("work.py")
CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuacct", "memory")
WANTED_S = {uuid.uuid4().hex: wanted_s for wanted_s in (2.1, 1.8, 1.5)}
TOLERANCE = 0.03
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}


class NotInThePod(Ourselves):
    """The test's own process is in none of the pods."""

    def cpu_s(self) -> float:
        return 0.0

    def resident_bytes(self) -> int:
        return 0


@dataclass
class Worker:
    """A program that works when told, and then tells what it used."""

    process: subprocess.Popen[str]

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def told(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[Worker]:
    """Run a command until its standard input is closed; it is ready when this returns."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        worker = Worker(process)
        try:
            assert worker.told() == "ready\n"
            yield worker
        finally:
            assert process.stdin is not None
            process.stdin.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    """Three pods' cgroups below a directory of ours in each hierarchy, seen as a node's root."""
    name = f"emissions-test-{uuid.uuid4().hex}"
    made = []
    root = tmp_path / "cgroup"
    root.mkdir()
    for controller in CONTROLLERS:
        for place in ("", "kubepods", *(f"kubepods/pod{uid}" for uid in WANTED_S)):
            path = CGROUPS / controller / name / place
            path.mkdir()
            made.append(path)
        (root / controller).symlink_to(CGROUPS / controller / name)
    yield root
    for path in reversed(made):
        path.rmdir()


def in_pod(node: Path, uid: str, command: list[str]) -> list[str]:
    """Put the shell into the pod's cgroups before it becomes the command."""
    files = [f"{node}/{controller}/kubepods/pod{uid}/cgroup.procs" for controller in CONTROLLERS]
    joined = "; ".join(f"echo $$ > {file}" for file in files)
    return ["sh", "-ec", f'{joined}; exec "$@"', "sh", *command]


@pytest.fixture
def workers(node: Path) -> Iterator[dict[str, Worker]]:
    with contextlib.ExitStack() as stack:
        yield {
            uid: stack.enter_context(
                started(in_pod(node, uid, [sys.executable, str(WORK), str(wanted_s)]))
            )
            for uid, wanted_s in WANTED_S.items()
        }


def used_s(before: PodReading, after: PodReading) -> float:
    assert before.cpu_s is not None
    assert after.cpu_s is not None
    assert before.epoch == after.epoch
    return after.cpu_s - before.cpu_s


def shares_of(parts: dict[str, float]) -> dict[str, float]:
    return {uid: part / sum(parts.values()) for uid, part in parts.items()}


@pytest.mark.needs("cgroups")
def test_three_pods_get_the_shares_that_they_used(node: Path, workers: dict[str, Worker]):
    cgroups = {uid: CgroupSource(uid, node, NotInThePod(Path("/proc"))) for uid in workers}
    trees = {
        uid: ProcessTreeSource(worker.process.pid, Path("/proc"), include_root=True)
        for uid, worker in workers.items()
    }
    before = {uid: (cgroups[uid].read(), trees[uid].read()) for uid in workers}
    for worker in workers.values():
        worker.begin()
    truth = {uid: json.loads(worker.told())["cpu_s"] for uid, worker in workers.items()}
    after = {uid: (cgroups[uid].read(), trees[uid].read()) for uid in workers}

    for method in (0, 1):
        used = {uid: used_s(before[uid][method], after[uid][method]) for uid in workers}
        assert used == pytest.approx(truth, rel=TOLERANCE)
        assert shares_of(used) == pytest.approx(shares_of(truth), rel=TOLERANCE)
    assert all(truth[uid] >= wanted_s for uid, wanted_s in WANTED_S.items())


@pytest.mark.needs("cgroups")
def test_a_pods_memory_is_what_it_holds(node: Path, workers: dict[str, Worker]):
    pods = CgroupTree(node).pods()
    assert pods.keys() == workers.keys()
    for pod in pods.values():
        working_set_bytes = pod.read().working_set_bytes
        assert working_set_bytes is not None
        assert BALLAST_BYTES <= working_set_bytes < 2 * BALLAST_BYTES


@pytest.mark.needs("cgroups")
def test_the_kernels_shares_are_the_reservation(node: Path):
    uid = next(iter(WANTED_S))
    (node / "cpu" / "kubepods" / f"pod{uid}" / "cpu.shares").write_text("1536")
    pod = CgroupTree(node).pod(uid)
    assert pod is not None
    assert pod.read().cpu_request == 1.5


@pytest.mark.needs("cgroups")
def test_a_pod_whose_processes_ended_keeps_its_time_until_its_cgroup_is_gone(node: Path):
    uid = next(iter(WANTED_S))
    with started(in_pod(node, uid, [sys.executable, str(WORK), "0.3"])) as worker:
        worker.begin()
        truth_s = json.loads(worker.told())["cpu_s"]
    source = CgroupSource(uid, node, NotInThePod(Path("/proc")))
    cpu_s = source.read().cpu_s
    assert cpu_s is not None
    assert cpu_s >= truth_s
    for controller in CONTROLLERS:
        (node / controller / "kubepods" / f"pod{uid}").rmdir()
    assert source.read().cpu_s is None
    for controller in CONTROLLERS:  # the fixture takes it away again
        (node / controller / "kubepods" / f"pod{uid}").mkdir()


WITHIN = """
import json, sys
from pathlib import Path
from sidecar.meters.pod.cgroup import CgroupSource
from sidecar.meters.pod.cgroup_tree import CgroupTree
from sidecar.meters.pod.ourselves import Ourselves
from tests.meters.pod.work import burn
uid, root = sys.argv[1], Path(sys.argv[2])
pod, source = CgroupTree(root).pod(uid), CgroupSource(uid, root, Ourselves(Path("/proc")))
before = pod.cpu_s(), source.read().cpu_s
burn(0.5)
after = pod.cpu_s(), source.read().cpu_s
print(json.dumps([after[0] - before[0], after[1] - before[1]]))
"""


@pytest.mark.needs("cgroups")
def test_the_work_of_the_meter_in_the_pod_is_taken_off(node: Path):
    uid = next(iter(WANTED_S))
    command = in_pod(node, uid, [sys.executable, "-c", WITHIN, uid, str(node)])
    run = subprocess.run(command, capture_output=True, check=True, env=ENVIRONMENT)
    with_it_s, without_it_s = json.loads(run.stdout)
    assert with_it_s >= 0.5
    assert 0 <= without_it_s <= TOLERANCE * with_it_s


PAUSE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(15, b"pause")  # PR_SET_NAME
signal.signal(signal.SIGCHLD, lambda *_: None)
def reap():
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0): pass
    except ChildProcessError: pass
signal.signal(signal.SIGCHLD, lambda *_: reap())
print("ready", flush=True)
sys.stdin.read()
"""

METER = """
import dataclasses, json, os, sys
from pathlib import Path
from sidecar.meters.pod.shared_pid import SharedPidSource
source = SharedPidSource(os.getpid(), Path("/proc"))
print("ready", flush=True)
for _ in sys.stdin:
    print(json.dumps([dataclasses.asdict(source.read()), source.status()[0].detail]), flush=True)
"""


@pytest.mark.needs("pidns")
def test_a_shared_pid_namespace_shows_what_the_other_containers_used():
    unshare = shutil.which("unshare")
    assert unshare is not None
    pause = [
        unshare,
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        sys.executable,
        "-c",
        PAUSE,
    ]
    with started(pause) as pod:
        first = Path(f"/proc/{pod.process.pid}/task/{pod.process.pid}/children").read_text().split()
        enter = ["nsenter", "--target", first[0], "--pid", "--mount", sys.executable]
        with (
            started([*enter, str(WORK), "1.5"]) as training,
            started([*enter, "-c", METER]) as metering,
        ):
            training.begin()
            truth = json.loads(training.told())
            metering.begin()
            reading, detail = json.loads(metering.told())
    assert detail == "processes of the shared PID namespace"
    assert reading["cpu_s"] == pytest.approx(truth["cpu_s"], rel=TOLERANCE)
    assert reading["working_set_bytes"] >= truth["bytes"]


@pytest.mark.needs("pidns")
def test_a_pid_namespace_of_our_own_is_refused():
    script = (
        "import os\nfrom pathlib import Path\n"
        "from sidecar.meters.pod.shared_pid import SharedPidSource\n"
        "source = SharedPidSource(os.getpid(), Path('/proc'))\n"
        "print(source.read().cpu_s, source.status()[0].detail)"
    )
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert run.stdout.startswith("None the containers of this pod do not share a PID namespace")
