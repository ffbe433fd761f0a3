"""Energy of the CPU packages from the kernel's powercap tree (Intel RAPL; AMD under the same name).

Documentation/power/powercap/powercap.rst: `energy_uj` counts microjoules and starts again at zero
after `max_energy_range_uj`. Only package domains are summed: core and uncore lie inside them,
DRAM is metered by the memory model, and psys holds the whole platform.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sidecar.meters.condition import Condition
from sidecar.meters.kernel_file import read_kernel_file
from sidecar.meters.reading import MeterStatus, RaplReading

log = logging.getLogger(__name__)

LARGEST_PACKAGE_POWER_W = 5_000
"""No CPU package comes near this (the largest of 2025 are specified at 500 W): a fall of the
counter that would mean more is a restart (suspend, driver reload), not a wrap-around."""

SHORTEST_JUDGED_S = 1.0
_ZONE = re.compile(r"intel-rapl(-mmio)?:\d+")


class RaplUnreadableError(Exception):
    """A domain's counter cannot be read; the message says which, why, and what to do."""


@dataclass(slots=True)
class PackageDomain:
    """One package's counter and what it has counted since it was opened."""

    name: str
    counter_path: str
    range_uj: int | None
    last_uj: int
    last_s: float
    interrupted: bool = False
    restarts: int = 0
    energy_uj: int = 0

    def advance(self, counter_uj: int, now_s: float) -> None:
        """Take the next value of the counter; a restart loses the interval and is counted."""
        elapsed_s = now_s - self.last_s
        delta_uj = counter_uj - self.last_uj
        if delta_uj < 0:
            delta_uj = self._across_wrap(counter_uj, elapsed_s)
        self.energy_uj += delta_uj
        self.last_uj, self.last_s, self.interrupted = counter_uj, now_s, False

    def _across_wrap(self, counter_uj: int, elapsed_s: float) -> int:
        if self.range_uj is not None and not self.interrupted and self.last_uj <= self.range_uj:
            delta_uj = self.range_uj - self.last_uj + counter_uj
            if delta_uj <= LARGEST_PACKAGE_POWER_W * 1e6 * max(elapsed_s, SHORTEST_JUDGED_S):
                return delta_uj
        self.restarts += 1
        return 0


class RaplMeter:
    """Sums the energy of the CPU packages below `sys_root` (normally `/sys`) since it was opened.

    Call `sample` at least once a minute: the counter of a 500 W package wraps every nine minutes,
    and a second wrap between two looks cannot be seen.
    """

    def __init__(self, sys_root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._condition = Condition("rapl", log)
        self._complete = False
        self._domains: tuple[PackageDomain, ...] = ()
        tree = sys_root / "class" / "powercap"
        try:
            self._domains = tuple(_open_packages(tree, clock()))
        except RaplUnreadableError as error:
            self._condition.fails(str(error))
            return
        if not self._domains:
            self._condition.absent(f"no CPU package in {tree}: ordinary in a virtual machine")
            return
        self._complete = True
        self._tell()

    @property
    def needs_sampling(self) -> bool:
        """Whether there is a counter that could wrap unseen."""
        return bool(self._domains)

    def sample(self) -> None:
        """Look at every counter (some 20 µs each)."""
        failure: str | None = None
        for domain in self._domains:
            try:
                counter_uj = _read_counter(domain.counter_path)
            except RaplUnreadableError as error:
                domain.interrupted = True
                failure = str(error)
            else:
                domain.advance(counter_uj, self._clock())
        self._complete = bool(self._domains) and failure is None
        if failure is not None:
            self._condition.fails(f"{failure}; without it the sum of the packages would be too low")
        elif self._domains:
            self._tell()

    def read(self) -> RaplReading | None:
        """Energy since opening; None while a package cannot be read: the sum would be too low."""
        self.sample()
        if not self._complete:
            return None
        return RaplReading(
            energy_uj=sum(domain.energy_uj for domain in self._domains),
            domains=tuple(domain.name for domain in self._domains),
        )

    def status(self) -> tuple[MeterStatus, ...]:
        """Which packages are read, or why none is."""
        return (self._condition.status,)

    def _tell(self) -> None:
        names = ", ".join(domain.name for domain in self._domains)
        restarts = sum(domain.restarts for domain in self._domains)
        lost = f"; {restarts} intervals lost to counter restarts" if restarts else ""
        self._condition.works(f"{names}{lost}")


def _open_packages(tree: Path, now_s: float) -> Iterator[PackageDomain]:
    """Open each package once: the same name again is the MMIO view of the same counter."""
    kept: dict[str, PackageDomain] = {}
    for zone in _zones(tree):
        name = _read_text(zone / "name")
        if name is None or not name.startswith("package-") or name in kept:
            continue
        domain = _open_domain(zone, name, now_s)
        if not any(_mirrors(other, domain) for other in kept.values()):
            kept[name] = domain
    yield from kept.values()


def _zones(tree: Path) -> list[Path]:
    """Top-level RAPL zones, the MSR ones (`intel-rapl:N`) before their MMIO mirrors."""
    try:
        zones = [entry for entry in tree.iterdir() if _ZONE.fullmatch(entry.name)]
    except OSError:
        return []
    return sorted(zones, key=lambda zone: ("-mmio" in zone.name, len(zone.name), zone.name))


def _open_domain(zone: Path, name: str, now_s: float) -> PackageDomain:
    counter_path = str(zone / "energy_uj")
    range_text = _read_text(zone / "max_energy_range_uj")
    return PackageDomain(
        name=name,
        counter_path=counter_path,
        range_uj=int(range_text) if range_text is not None and range_text.isdecimal() else None,
        last_uj=_read_counter(counter_path),
        last_s=now_s,
    )


def _mirrors(known: PackageDomain, candidate: PackageDomain) -> bool:
    """Whether two domains show one counter (dies of one socket; CodeCarbon issue 1274).

    The candidate is read between two reads of the known one; distinct counters of some 2.6e11 µJ
    never lie that close twice. A counter at zero proves nothing.
    """
    for _ in range(2):
        before_uj = _read_counter(known.counter_path)
        between_uj = _read_counter(candidate.counter_path)
        after_uj = _read_counter(known.counter_path)
        if between_uj == 0 or not before_uj <= between_uj <= after_uj:
            return False
    log.info("meter rapl: %s mirrors %s and is not added", candidate.name, known.name)
    return True


def _read_counter(path: str) -> int:
    try:
        content = read_kernel_file(path)
    except PermissionError as error:
        raise RaplUnreadableError(
            f"permission denied: {path} is readable by root only since 2020 (CVE-2020-8694); "
            f"run as root or grant read access to it"
        ) from error
    except OSError as error:
        raise RaplUnreadableError(f"cannot read {path}: {error.strerror or error}") from error
    text = content.strip()
    if not text.isdigit() or not content.endswith(b"\n"):
        raise RaplUnreadableError(f"{path} holds {content[:40]!r}, not a number of microjoules")
    return int(text)


def _read_text(path: Path) -> str | None:
    try:
        return read_kernel_file(str(path)).decode("ascii", "replace").strip()
    except OSError:
        return None
