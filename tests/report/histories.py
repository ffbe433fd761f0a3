"""Records as processes leave them: whole histories that are in order, to be damaged by a test."""

from dataclasses import dataclass, field, replace

from sidecar.record import EmissionRecord, GpuRecord, merge_records
from sidecar.windows import rfc3339

START_S = 1_795_000_000.0
POD = "11111111-aaaa"
PUE, INTENSITY = 1.14, 253.0


def add_up(record, *, pue=PUE, intensity=INTENSITY):
    """The record with all sums and products of its energies."""
    parts = [record.cpu_energy_kwh, record.ram_energy_kwh, record.gpu_energy_kwh]
    node = [record.node_cpu_energy_kwh, record.node_ram_energy_kwh, record.node_gpu_energy_kwh]
    energy = _sum(parts)
    facility = energy * pue
    return replace(
        record,
        node_energy_kwh=_sum(node),
        energy_kwh=energy,
        pue=pue,
        facility_energy_kwh=facility,
        carbon_intensity_g_per_kwh=intensity,
        emissions_g=facility * intensity,
        emissions_low_g=facility * intensity * 0.9,
        emissions_high_g=facility * intensity * 1.2,
    )


def _sum(parts):
    return sum(part for part in parts if part is not None)


def start(stem=f"{POD}.boot", start_s=START_S, **columns):
    """The first record of a process."""
    return EmissionRecord(
        record_id=f"{stem}.0",
        event="start",
        pod_uid=stem.partition(".")[0],
        window_start=rfc3339(start_s),
        window_end=rfc3339(start_s),
        pue=PUE,
        carbon_intensity_g_per_kwh=INTENSITY,
        **columns,
    )


def window(sequence=1, start_s=START_S, seconds=15.0, share=0.25, **columns):
    """One window of a pod by its requests, on a node whose GPU it does not have."""
    stem = columns.pop("stem", f"{POD}.boot")
    node = {"cpu": seconds * 3.1e-5, "ram": seconds * 0.7e-5}
    record = EmissionRecord(
        record_id=f"{stem}.{sequence}",
        pod_uid=stem.partition(".")[0],
        window_start=rfc3339(start_s),
        window_end=rfc3339(start_s + seconds),
        duration_s=seconds,
        node="aks-gpu-0",
        pod_method="requests",
        share_cpu=share,
        share_idle=share,
        share_ram=share,
        node_cpu_energy_kwh=node["cpu"],
        node_ram_energy_kwh=node["ram"],
        cpu_energy_kwh=node["cpu"] * share,
        ram_energy_kwh=node["ram"] * share,
    )
    return replace(add_up(record), **columns)


def with_gpus(record, *energies_kwh):
    """The record of a pod that has these GPUs for itself."""
    gpus = tuple(GpuRecord(uuid=f"GPU-{n}", energy_kwh=e) for n, e in enumerate(energies_kwh))
    total = sum(energies_kwh)
    changed = replace(
        record, gpus=gpus, share_gpu=1.0, gpu_energy_kwh=total, node_gpu_energy_kwh=total
    )
    return add_up(changed)


@dataclass
class Clock:
    """A wall clock that is stepped, on a monotonic time that goes on."""

    wall_s: float = START_S


@dataclass
class Process:
    """A sidecar: each step meters, and says what becomes of it."""

    stem: str = f"{POD}.boot"
    clock: Clock = field(default_factory=Clock)
    share: float = 0.25
    records: list[EmissionRecord] = field(default_factory=list)
    sequence: int = 0

    def begin(self):
        self.records.append(start(self.stem, self.clock.wall_s, node="aks-gpu-0"))
        return self

    def meter(self, seconds=15.0, *, step_s=0.0, event="window", **columns):
        """One window, in which the wall clock is stepped by so much as `windows.py` names it."""
        self.sequence += 1
        start_s = self.clock.wall_s
        self.clock.wall_s += seconds + step_s
        gap_s = step_s if step_s > 0 else 0.0
        record = window(self.sequence, start_s, seconds, self.share, stem=self.stem)
        end_s = start_s + seconds + gap_s
        self.records.append(
            replace(record, window_end=rfc3339(end_s), gap_s=gap_s, event=event, **columns)
        )
        return self

    def merge(self):
        """The two latest records could not be written, and were merged."""
        second, first = self.records.pop(), self.records.pop()
        self.records.append(merge_records(first, second))
        return self

    def merge_if_joined(self):
        """The same, where the clock was not set back in the latest: its end is the next's start."""
        is_joined = self.records[-1].window_end == rfc3339(self.clock.wall_s)
        return self.merge() if len(self.records) > 1 and is_joined else self

    def end(self, seconds=4.0):
        return self.meter(seconds, event="end", end_reason="SIGTERM")


def history(windows=4, **options):
    """A process that begins, meters, and ends."""
    process = Process(**options).begin()
    for _ in range(windows):
        process.meter()
    return process.end().records
