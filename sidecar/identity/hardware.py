"""What the kernel says of the machine: CPU model, logical CPUs, threads per core, memory.

`/proc/cpuinfo` and `/proc/meminfo` are not namespaced: in a container they describe the node.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from sidecar.identity.bounded import open_regular, plain_text, read_bounded, reason
from sidecar.identity.fields import Attempt, Hardware

_KIB_PER_GIB: Final = 1024**2
_MAX_LINE_BYTES: Final = 16 * 1024
_MAX_CPUINFO_BYTES: Final = 16 * 1024**2
"""Azure's largest VM has 1,792 vCPUs of about 2.6 kB each; read line by line, never held."""

_MAX_MEMINFO_BYTES: Final = 64 * 1024
_MAX_MODEL_CHARACTERS: Final = 200
_NUMBER: Final = re.compile(r"(?P<hex>0x)?(?(hex)[0-9a-f]{1,8}|[0-9]{1,8})")

_ARM_CORES: Final = {
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD84): "Neoverse-V3",
    (0x41, 0xD8E): "Neoverse-N3",
    (0x6D, 0xD49): "Neoverse-N2",
}
"""Core by (implementer, part), as util-linux' lscpu names them; Arm's cpuinfo has no model name.

Neoverse-N1 is Ampere Altra on Azure, 0x6d is Microsoft (Cobalt 100). None of them has SMT.
"""


def read_hardware(proc_root: Path) -> tuple[Hardware, tuple[Attempt, ...]]:
    """Describe the machine from procfs. Never raises: what is missing or torn is None and told."""
    cpu, cpu_attempt = _read_cpuinfo(proc_root / "cpuinfo")
    memory_total_gib, memory_attempt = _read_meminfo(proc_root / "meminfo")
    return replace(cpu, memory_total_gib=memory_total_gib), (cpu_attempt, memory_attempt)


def _read_cpuinfo(path: Path) -> tuple[Hardware, Attempt]:
    source = f"hardware:{path}"
    try:
        with open_regular(path) as file:
            first_cpu, cpus, packages = _scan_cpuinfo(file)
    except OSError as error:
        return Hardware(), Attempt(source, "failed", reason(error))
    whole = packages is not None
    hardware = replace(_cpu(first_cpu, cpus if whole else None), sockets=packages or None)
    if not whole:
        detail = f"longer than {_MAX_CPUINFO_BYTES} bytes: the CPUs are not counted"
        return hardware, Attempt(source, "failed", detail)
    if hardware.cpu_model is None:
        detail = f"names no known CPU model ({cpus} logical CPUs)"
        return hardware, Attempt(source, "failed", detail)
    return hardware, Attempt(source, "ok", f"{hardware.cpu_model}, {cpus} logical CPUs")


def _scan_cpuinfo(file: BinaryIO) -> tuple[dict[str, str], int, int | None]:
    """Return the lines of the first CPU, the CPUs, and the packages (None = it does not end)."""
    first: dict[str, str] = {}
    packages: set[str] = set()
    cpus = taken_bytes = 0
    while line := file.readline(_MAX_LINE_BYTES):
        taken_bytes += len(line)
        if taken_bytes > _MAX_CPUINFO_BYTES:
            return first, cpus, None
        key, colon, value = line.decode(errors="replace").partition(":")
        key = key.strip().lower()
        cpus += bool(colon) and key == "processor"
        if key == "physical id":
            packages.add(value.strip())
        if colon and cpus <= 1:
            first.setdefault(key, value.strip())
    return first, cpus, len(packages)


def _cpu(first: dict[str, str], cpus: int | None) -> Hardware:
    if "cpu implementer" in first:
        core = _ARM_CORES.get(
            (_number(first, "cpu implementer") or 0, _number(first, "cpu part") or 0)
        )
        return Hardware(
            cpu_model=core or _text(first, "model name"),
            cpu_vendor=_text(first, "cpu implementer"),
            architecture="aarch64",
            logical_cpus=cpus or None,
            threads_per_core=1 if core else None,
        )
    return Hardware(
        cpu_model=_text(first, "model name"),
        cpu_vendor=_text(first, "vendor_id"),
        cpu_family=_number(first, "cpu family"),
        cpu_model_number=_number(first, "model"),
        architecture="x86_64" if "cpu family" in first else None,
        logical_cpus=cpus or None,
        threads_per_core=_threads_per_core(first),
    )


def _threads_per_core(first: dict[str, str]) -> int | None:
    """Divide `siblings` (threads of a package) by `cpu cores` (its cores), where that is whole."""
    siblings, cores = _number(first, "siblings"), _number(first, "cpu cores")
    if not siblings or not cores or siblings % cores:
        return None
    return siblings // cores


def _text(first: dict[str, str], key: str) -> str | None:
    try:
        value = plain_text(first.get(key, ""), _MAX_MODEL_CHARACTERS)
    except ValueError:
        return None
    return value if value and value.lower() != "unknown" else None


def _number(first: dict[str, str], key: str) -> int | None:
    match = _NUMBER.fullmatch(first.get(key, ""))
    return int(match[0], 16 if match["hex"] else 10) if match else None


def _read_meminfo(path: Path) -> tuple[float | None, Attempt]:
    source = f"hardware:{path}"
    try:
        content, _ = read_bounded(path, _MAX_MEMINFO_BYTES)
    except OSError as error:
        return None, Attempt(source, "failed", reason(error))
    for line in content.decode(errors="replace").splitlines():
        match line.split():
            case ["MemTotal:", amount, "kB"] if amount.isdecimal() and 0 < len(amount) <= 15:
                total_gib = int(amount) / _KIB_PER_GIB
                return total_gib or None, Attempt(source, "ok", f"{total_gib:.1f} GiB")
    return None, Attempt(source, "failed", "has no line 'MemTotal: … kB'")
