"""What tests need of the machine: `@pytest.mark.needs("gcc", "root")`, as a pytest plugin.

A test whose capability is missing is skipped with what to do about it, and counted at the end of
the run. With STRICT=1 in the environment (CI) it fails instead, and so does every other skip
whose reason does not match `KERNEL_LIMITS`.
"""

import functools
import os
import platform
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helm import tools

KERNEL_LIMITS: tuple[str, ...] = (r"needs cgroups: ",)
"""Regular expressions of skip reasons that STRICT allows: what no package can give a kernel."""

_MISSING = re.compile(r"needs (?P<capability>[a-z]+): ")


@dataclass(frozen=True)
class Capability:
    """Something of the machine that a test cannot do without."""

    is_there: Callable[[], bool]
    how_to_get: str


def _has(*commands: str) -> Callable[[], bool]:
    return lambda: all(shutil.which(command) for command in commands)


def _succeeds(*command: str, stdin: bytes = b"") -> bool:
    try:
        run = subprocess.run(command, input=stdin, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return run.returncode == 0


def _compiles_c() -> bool:
    source = b"#include <stdio.h>\n"  # the compiler alone is not enough: libc6-dev
    return _succeeds("gcc", "-fsyntax-only", "-x", "c", "-", stdin=source)


def _creates_network_namespaces() -> bool:
    return _succeeds("unshare", "--net", "ip", "link", "set", "lo", "up")


def _creates_cgroups() -> bool:
    """Whether cgroups of version 1 can be made here, as tests of real ones need."""
    made: list[Path] = []
    try:
        for controller in ("cpu", "cpuacct", "memory"):
            path = Path("/sys/fs/cgroup", controller, f"emissions-test-{os.getpid()}")
            path.mkdir()
            made.append(path)
    except OSError:
        return False
    finally:
        for path in made:
            path.rmdir()
    return True


def _creates_pid_namespaces() -> bool:
    return _succeeds("unshare", "--pid", "--fork", "--mount-proc", "nsenter", "--version")


def kernel_image() -> Path | None:
    """A kernel to boot in a virtual machine, where one was unpacked; None without."""
    return next(iter(sorted((_CACHE / "kernel" / "boot").glob("vmlinuz-*"))), None)


def _boots_a_kernel() -> bool:
    """Whether a virtual machine can run this machine's programs with another kernel."""
    has_qemu = _has("qemu-system-x86_64", "ldd")()
    return has_qemu and platform.machine() == "x86_64" and kernel_image() is not None


_CACHE = Path(__file__).parent.parent / ".cache"
FRAMEWORKS_PYTHON = _CACHE / "frameworks/bin/python"
"""An environment with the frameworks that callbacks are for; it has no pytest."""
AZURITE = _CACHE / "azurite/node_modules/azurite/dist/src/blob/main.js"

CAPABILITIES: dict[str, Capability] = {
    "azurite": Capability(AZURITE.is_file, "make azurite, with npm installed"),
    "cgroups": Capability(
        _creates_cgroups, "run as root on a kernel with cgroup v1 (cpu, cpuacct, memory) mounted"
    ),
    "chromium": Capability(_has("chromium"), "apt-get install chromium"),
    "frameworks": Capability(FRAMEWORKS_PYTHON.is_file, "make frameworks"),
    "gcc": Capability(_compiles_c, "apt-get install gcc libc6-dev"),
    "git": Capability(_has("git"), "apt-get install git"),
    "helm": Capability(tools.is_there, "make helm"),
    "java": Capability(_has("java"), "apt-get install openjdk-17-jre-headless"),
    "netns": Capability(
        _creates_network_namespaces,
        "apt-get install iproute2 util-linux, and run as root (CAP_SYS_ADMIN)",
    ),
    "node": Capability(_has("node"), "apt-get install nodejs"),
    "openssl": Capability(_has("openssl"), "apt-get install openssl"),
    "pidns": Capability(
        _creates_pid_namespaces, "apt-get install util-linux, and run as root (CAP_SYS_ADMIN)"
    ),
    "podman": Capability(
        _has("podman", "runc", "catatonit"), "apt-get install podman runc catatonit"
    ),
    "promtool": Capability(_has("promtool", "prometheus"), "apt-get install prometheus"),
    "ps": Capability(_has("ps"), "apt-get install procps"),
    "qemu": Capability(
        _boots_a_kernel, "apt-get install qemu-system-x86, and make kernel (on x86-64)"
    ),
    "root": Capability(lambda: os.geteuid() == 0, "run as root"),
}


@functools.cache
def is_there(name: str) -> bool:
    """Whether this machine has the capability; looked up once per process."""
    return CAPABILITIES[name].is_there()


def _is_strict() -> bool:
    return os.environ.get("STRICT", "") not in {"", "0"}


def _is_kernel_limit(reason: str) -> bool:
    return any(re.search(pattern, reason) for pattern in KERNEL_LIMITS)


def _skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The reason alone; pytest keeps a skip as (file, line, 'Skipped: reason')."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def _fail_if_strict(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not (_is_strict() and report.skipped) or hasattr(report, "wasxfail"):
        return
    reason = _skip_reason(report)
    if not _is_kernel_limit(reason):
        report.outcome = "failed"
        report.longrepr = f"STRICT=1 allows no skip: {reason}"


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers", f"needs(*capabilities): of the machine, any of {', '.join(CAPABILITIES)}"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, before any fixture is set up, a test whose capability is missing."""
    names = {name for marker in item.iter_markers("needs") for name in marker.args}
    for name in sorted(names):
        if name not in CAPABILITIES:
            pytest.fail(f"needs({name!r}): not one of {', '.join(CAPABILITIES)}", pytrace=False)
        if not is_there(name):
            pytest.skip(f"needs {name}: {CAPABILITIES[name].how_to_get}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one under STRICT."""
    report = yield
    _fail_if_strict(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a skipped module into a failed one under STRICT."""
    report = yield
    _fail_if_strict(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count what was skipped, by what this machine lacks."""
    reasons = [_skip_reason(report) for report in terminalreporter.getreports("skipped")]
    if not reasons:
        return
    missing = Counter(m["capability"] for reason in reasons if (m := _MISSING.match(reason)))
    other = Counter(reason for reason in reasons if not _MISSING.match(reason))
    terminalreporter.section("skipped")
    if missing:
        counts = ", ".join(f"{name} ×{count}" for name, count in sorted(missing.items()))
        terminalreporter.line(f"skipped because this machine lacks …: {counts}")
    for name in sorted(missing):
        terminalreporter.line(f"  {name}: {CAPABILITIES[name].how_to_get}")
    for reason, count in sorted(other.items()):
        terminalreporter.line(f"skipped for another reason: {reason} ×{count}")
