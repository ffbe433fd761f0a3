"""Synthetic `/proc` and powercap trees with the kernel's own formats."""

import os
from dataclasses import dataclass, field
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGESIZE")


@dataclass
class ProcTree:
    """A `/proc` below `root`. CPU times in seconds, memory in KiB, as they are asked for."""

    root: Path
    cpus: int = 2
    times_s: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(
            ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"), 0.0
        )
    )

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.stat()
        self.meminfo(total_kib=8 << 20, free_kib=4 << 20, available_kib=6 << 20)

    def stat(self, **times_s: float) -> "ProcTree":
        """Set times of the first line (the others stay) and write `stat`."""
        self.times_s.update(times_s)
        ticks = [round(seconds * TICKS_PER_S) for seconds in self.times_s.values()]
        numbers = " ".join(map(str, [*ticks, 0, 0]))
        each = " ".join(str(tick // self.cpus) for tick in [*ticks, 0, 0])
        lines = [f"cpu  {numbers}", *(f"cpu{cpu} {each}" for cpu in range(self.cpus))]
        lines += ["intr 12345 0 0", "ctxt 678", "btime 1700000000", "processes 9"]
        (self.root / "stat").write_text("\n".join(lines) + "\n")
        return self

    def meminfo(self, *, total_kib: int, free_kib: int, available_kib: int) -> "ProcTree":
        """Write `meminfo`."""
        (self.root / "meminfo").write_text(
            f"MemTotal:       {total_kib} kB\nMemFree:        {free_kib} kB\n"
            f"MemAvailable:   {available_kib} kB\nBuffers:            1000 kB\nCached: 1 kB\n"
        )
        return self

    def process(
        self,
        pid: int,
        parent: int,
        *,
        own_ticks: int = 0,
        reaped_ticks: int = 0,
        started: int | None = None,
        name: str = "python",
        resident_pages: int = 0,
        shared_pages: int = 0,
    ) -> "ProcTree":
        """Add a process or write its new state."""
        directory = self.root / str(pid)
        directory.mkdir(exist_ok=True)
        utime, cutime = own_ticks // 2, reaped_ticks // 2
        times = f"{utime} {own_ticks - utime} {cutime} {reaped_ticks - cutime}"
        started = pid if started is None else started
        (directory / "stat").write_text(
            f"{pid} ({name}) S {parent} 1 1 0 -1 4194304 1 2 3 4 {times} 20 0 1 0 {started} 1 2 3\n"
        )
        (directory / "statm").write_text(f"9999 {resident_pages} {shared_pages} 1 0 1 0\n")
        return self

    def end(self, pid: int) -> "ProcTree":
        """Let a process end and be waited for."""
        for file in (self.root / str(pid)).iterdir():
            file.unlink()
        (self.root / str(pid)).rmdir()
        return self


@dataclass
class PowercapTree:
    """A `/sys` below `root` with RAPL zones."""

    root: Path

    def __post_init__(self) -> None:
        self.zones.mkdir(parents=True, exist_ok=True)

    @property
    def zones(self) -> Path:
        """Where the zones are."""
        return self.root / "class" / "powercap"

    def zone(
        self, zone: str, name: str, energy_uj: int, range_uj: int | None = 262_143_328_850
    ) -> "PowercapTree":
        """Add a zone such as `intel-rapl:0`, or write its new counter."""
        directory = self.zones / zone
        directory.mkdir(exist_ok=True)
        (directory / "name").write_text(f"{name}\n")
        (directory / "energy_uj").write_text(f"{energy_uj}\n")
        if range_uj is not None:
            (directory / "max_energy_range_uj").write_text(f"{range_uj}\n")
        return self

    def count(self, zone: str, energy_uj: int) -> "PowercapTree":
        """Set the counter of a zone."""
        (self.zones / zone / "energy_uj").write_text(f"{energy_uj}\n")
        return self
