import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.identity.fields import Hardware
from sidecar.identity.hardware import read_hardware

X86_CPU = """processor\t: {number}
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC 7V13 64-Core Processor
siblings\t: {threads}
core id\t\t: 0
cpu cores\t: {cores}
flags\t\t: fpu lm
power management:

"""
ARM_CPU = """processor\t: {number}
BogoMIPS\t: 50.00
CPU implementer\t: {implementer}
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: {part}
CPU revision\t: 1

"""
MEMINFO = "MemTotal:       231077888 kB\nMemFree:        1000 kB\n"


def proc(root: Path, cpuinfo: str, meminfo: str = MEMINFO) -> Path:
    (root / "cpuinfo").write_text(cpuinfo)
    (root / "meminfo").write_text(meminfo)
    return root


def x86(cpus: int = 24, threads: int = 24, cores: int = 24) -> str:
    return "".join(X86_CPU.format(number=n, threads=threads, cores=cores) for n in range(cpus))


def arm(implementer: str, part: str, cpus: int = 4) -> str:
    return "".join(
        ARM_CPU.format(number=n, implementer=implementer, part=part) for n in range(cpus)
    )


def test_an_x86_machine_is_described(tmp_path: Path) -> None:
    hardware, attempts = read_hardware(proc(tmp_path, x86()))
    assert hardware == Hardware(
        cpu_model="AMD EPYC 7V13 64-Core Processor",
        cpu_vendor="AuthenticAMD",
        cpu_family=25,
        cpu_model_number=1,
        architecture="x86_64",
        logical_cpus=24,
        threads_per_core=1,
        memory_total_gib=231077888 / 1024**2,
    )
    assert [attempt.outcome for attempt in attempts] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("threads", "cores", "per_core"), [(16, 8, 2), (8, 8, 1), (7, 2, None), (2, 0, None)]
)
def test_threads_per_core_are_told_where_they_are_whole(
    tmp_path: Path, threads: int, cores: int, per_core: int | None
) -> None:
    hardware, _ = read_hardware(proc(tmp_path, x86(2, threads, cores)))
    assert hardware.threads_per_core == per_core


@pytest.mark.parametrize(
    ("implementer", "part", "core"),
    [
        ("0x41", "0xd0c", "Neoverse-N1"),
        ("0x6d", "0xd49", "Neoverse-N2"),
        ("0x41", "0xd4f", "Neoverse-V2"),
    ],
)
def test_an_arm_machine_is_named_by_its_core(
    tmp_path: Path, implementer: str, part: str, core: str
) -> None:
    hardware, _ = read_hardware(proc(tmp_path, arm(implementer, part)))
    assert (hardware.cpu_model, hardware.architecture) == (core, "aarch64")
    assert (hardware.logical_cpus, hardware.threads_per_core) == (4, 1)


def test_an_unknown_arm_core_stays_unknown_and_is_told(tmp_path: Path) -> None:
    hardware, attempts = read_hardware(proc(tmp_path, arm("0x99", "0x001")))
    assert (hardware.cpu_model, hardware.threads_per_core) == (None, None)
    assert hardware.logical_cpus == 4
    assert attempts[0].outcome == "failed"


def test_missing_files_are_told(tmp_path: Path) -> None:
    hardware, attempts = read_hardware(tmp_path)
    assert hardware == Hardware()
    assert [attempt.detail for attempt in attempts] == ["No such file or directory"] * 2


def test_a_torn_cpuinfo_gives_what_it_holds(tmp_path: Path) -> None:
    torn = x86(1)[: x86(1).index("64-Core")]
    hardware, _ = read_hardware(proc(tmp_path, torn, "MemTotal:   12"))
    assert hardware.cpu_model == "AMD EPYC 7V13"
    assert (hardware.threads_per_core, hardware.memory_total_gib) == (None, None)


def test_only_the_first_cpu_names_the_model(tmp_path: Path) -> None:
    second = X86_CPU.format(number=1, threads=2, cores=2).replace("AMD EPYC 7V13", "Other")
    hardware, _ = read_hardware(proc(tmp_path, x86(1, 2, 2) + second))
    assert hardware.cpu_model == "AMD EPYC 7V13 64-Core Processor"
    assert hardware.logical_cpus == 2


@pytest.mark.parametrize("model", ["unknown", "", "a\x1b[0m", "x" * 300])
def test_a_model_name_that_says_nothing_is_unknown(tmp_path: Path, model: str) -> None:
    cpuinfo = x86(1).replace("AMD EPYC 7V13 64-Core Processor", model)
    assert read_hardware(proc(tmp_path, cpuinfo))[0].cpu_model is None


def test_an_endless_cpuinfo_is_read_to_a_bound_and_not_counted(tmp_path: Path) -> None:
    proc(tmp_path, x86(1))
    with (tmp_path / "cpuinfo").open("ab") as file:
        file.truncate(2 * 1024**3)
    hardware, attempts = read_hardware(tmp_path)
    assert hardware.cpu_model == "AMD EPYC 7V13 64-Core Processor"
    assert hardware.logical_cpus is None
    assert "longer than" in attempts[0].detail


def test_a_named_pipe_in_place_of_a_file_does_not_hold_us(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cpuinfo")
    os.mkfifo(tmp_path / "meminfo")
    hardware, attempts = read_hardware(tmp_path)
    assert hardware == Hardware()
    assert {attempt.detail for attempt in attempts} == {"not a regular file"}


def test_this_machine_is_described() -> None:
    hardware, _ = read_hardware(Path("/proc"))
    assert hardware.logical_cpus is not None
    assert hardware.memory_total_gib is not None
    assert hardware.memory_total_gib * 1024**3 == pytest.approx(
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01
    )


@given(st.binary(), st.binary())
def test_arbitrary_bytes_never_raise(
    tmp_path_factory: pytest.TempPathFactory, cpuinfo: bytes, meminfo: bytes
) -> None:
    root = tmp_path_factory.mktemp("proc")
    (root / "cpuinfo").write_bytes(b"processor: 0\n" + cpuinfo)
    (root / "meminfo").write_bytes(b"MemTotal: " + meminfo)
    hardware, attempts = read_hardware(root)
    shutil.rmtree(root)
    assert hardware.logical_cpus is not None
    assert len(attempts) == 2
