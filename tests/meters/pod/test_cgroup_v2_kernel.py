"""The cgroups of a real version 2 kernel: booted in QEMU, with this machine's Python."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import sidecar
from tests.meters.pod.guest import PODS
from tests.meters.pod.initramfs import Archive, write_python
from tests.meters.pod.work import BALLAST_BYTES
from tests.needs import kernel_image

HERE = Path(__file__).parent
PACKAGE = Path(sidecar.__file__).parent
BOOT_LIMIT_S = 300
TOLERANCE = 0.03

pytestmark = pytest.mark.needs("qemu")


def write_initramfs(path: Path) -> None:
    with path.open("wb") as file:
        archive = Archive(file)
        write_python(archive, (HERE / "guest.py").read_bytes())
        for source in [*PACKAGE.rglob("*.py"), HERE / "work.py"]:
            place = Path("/", source.relative_to(PACKAGE.parent))
            archive.add(place, source.read_bytes(), 0o644)
        archive.close()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Boot once; what the guest read, and its truth."""
    directory = tmp_path_factory.mktemp("guest")
    kernel = kernel_image()
    assert kernel is not None
    write_initramfs(directory / "initramfs")
    # Without hardware acceleration: it is not there (or does not work) inside a virtual machine.
    command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-smp", "1"]
    command += ["-kernel", str(kernel), "-initrd", str(directory / "initramfs"), "-no-reboot"]
    # Unchecked: on a busy host a virtual machine's timer comes late, and the kernel would panic.
    command += ["-append", "console=ttyS0 panic=-1 quiet no_timer_check"]
    command += ["-nic", "none", "-monitor", "none"]
    command += ["-display", "none", "-serial", f"file:{directory / 'console'}"]
    subprocess.run(command, check=True, timeout=BOOT_LIMIT_S, stdin=subprocess.DEVNULL)
    (directory / "initramfs").unlink()  # 80 MB, which pytest would keep for three runs
    console = (directory / "console").read_text(errors="replace")
    lines = [line for line in console.splitlines() if line.startswith("CGROUPS ")]
    assert lines, console[-4000:]
    answer: dict[str, Any] = json.loads(lines[0].removeprefix("CGROUPS "))
    return answer


def grown_s(told: dict[str, Any], uid: str) -> float:
    grown: float = told["after"][uid]["cpu_s"] - told["before"][uid]["cpu_s"]
    return grown


def test_all_pods_are_found(told: dict[str, Any]):
    assert told["after"].keys() == PODS.keys()


def test_cpu_time_is_what_the_pods_used_short_lived_children_too(told: dict[str, Any]):
    truth = {uid: told["truth"][uid]["cpu_s"] for uid in PODS}
    assert {uid: grown_s(told, uid) for uid in PODS} == pytest.approx(truth, rel=TOLERANCE)


def test_shares_are_those_of_the_truth(told: dict[str, Any]):
    used = {uid: grown_s(told, uid) for uid in PODS}
    truth = {uid: told["truth"][uid]["cpu_s"] for uid in PODS}
    for uid in PODS:
        share, true_share = used[uid] / sum(used.values()), truth[uid] / sum(truth.values())
        assert share == pytest.approx(true_share, rel=TOLERANCE)


def test_the_working_set_is_what_the_pods_hold(told: dict[str, Any]):
    for uid in PODS:
        working_set_bytes = told["after"][uid]["working_set_bytes"]
        assert BALLAST_BYTES <= working_set_bytes <= told["memory_current"][uid] + (1 << 20)


def test_reservations_follow_from_the_kernels_weights(told: dict[str, Any]):
    requests = [told["after"][uid]["cpu_request"] for uid in PODS]
    assert requests == [pytest.approx(6.0, abs=0.026), pytest.approx(0.5, abs=0.026), 0.0]


def test_what_ended_keeps_its_cpu_time_and_lets_go_of_its_memory(told: dict[str, Any]):
    for uid in PODS:
        assert told["ended"][uid]["cpu_s"] >= told["after"][uid]["cpu_s"]
        assert told["ended"][uid]["working_set_bytes"] < BALLAST_BYTES / 2


def test_the_work_of_the_meter_in_the_pod_is_taken_off(told: dict[str, Any]):
    with_it_s, without_it_s = told["metered_within"]
    assert with_it_s >= 0.6
    assert 0 <= without_it_s <= TOLERANCE * with_it_s


def test_a_container_with_its_own_cgroup_namespace_is_told_so(told: dict[str, Any]):
    problem, pods = told["container_view"]
    assert "private cgroup namespace" in problem
    assert pods == 0
