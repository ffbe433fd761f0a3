"""`EmissionRecord`: the one schema (1) of what this project writes, and its NDJSON encoding.

One line per pod and window. Units are in names; missing is null, never 0. The reference page is
generated from the descriptions below.
"""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any, Final, Literal

from sidecar.carbon.intensity import Level
from sidecar.estimate.emissions import Quality

SCHEMA: Final = 1

Event = Literal["start", "window", "end"]


def column(description: str, default: Any = None) -> Any:  # noqa: ANN401 - fields of every type
    """Declare one field of the record with the description the reference page shows."""
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRecord:
    """One GPU of the node; `energy_kwh` is this pod's part of its energy."""

    uuid: str | None = column("UUID as NVML gives it; null for a GPU known from the VM size only")
    model: str = column("model name as NVML or the catalogue gives it", "")
    energy_kwh: float | None = column("this pod's energy of the device")
    share: float | None = column("this pod's share of the device, 0 to 1")
    method: str | None = column(
        "energy-counter, power-samples, utilization (model) or table (nothing observed)"
    )
    share_method: str | None = column(
        "how `share` was found: node-meter, dcgm (labels of the exporter), nvml (MIG slices), "
        "all-requested (the pod requests every GPU there is), time-slicing, visible-devices, requests, "
        "process-tree, whole-node or unallocated"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmissionRecord:
    """One window of one pod."""

    schema: int = column("version of this schema", SCHEMA)
    record_id: str = column(
        "`<pod_uid>.<boot_id>.<seq>`, unique for ever; the key of de-duplication", ""
    )
    tool_version: str = column("version of emissions-sidecar that wrote the record", "")
    project: str = column("what the emissions are charged to", "default")
    experiment: str | None = column("experiment within the project")
    run_id: str | None = column("id of the run")
    cluster: str | None = column("name of the cluster")
    namespace: str | None = column("Kubernetes namespace")
    pod: str | None = column("name of the pod")
    pod_uid: str | None = column("uid of the pod")
    workload: str | None = column("workload the pod belongs to")
    labels: Mapping[str, str] = field(
        default_factory=dict, metadata={"description": "labels of the pod"}
    )
    annotations: Mapping[str, str] = field(
        default_factory=dict,
        metadata={"description": "annotations of the pod under `emissions/`"},
    )
    event: Event = column("start (nothing metered yet), window, or end (the last window)", "window")
    end_reason: str | None = column("why metering ended; only with event end")

    node: str | None = column("name of the node")
    provider: str | None = column("cloud provider, `azure`")
    vm_size: str | None = column("Azure VM size")
    vm_id: str | None = column("Azure VM id")
    region: str | None = column("Azure region")
    zone: str | None = column("availability zone")
    country_iso3: str | None = column("country, ISO 3166 alpha-3")
    subscription_id: str | None = column("Azure subscription")
    resource_group: str | None = column("Azure resource group of the VM")
    vm_scale_set: str | None = column("Azure scale set of the VM")
    priority: str | None = column("Regular, Low or Spot")
    identity_source: Mapping[str, str] = field(
        default_factory=dict,
        metadata={
            "description": "for each field that has no source column of its own, where its value or "
            "its factor comes from"
        },
    )

    window_start: str = column("start of the window, RFC 3339, UTC", "")
    window_end: str = column("end of the window, RFC 3339, UTC", "")
    duration_s: float = column("seconds metered in the window (monotonic clock)", 0.0)
    gap_s: float = column(
        "seconds of the window in which the machine did not run or the wall clock jumped ahead: not "
        "metered; window_end − window_start = duration_s + gap_s",
        0.0,
    )

    cpu_utilization: float | None = column("mean utilisation of the node's CPUs, 0 to 1")
    gpu_utilization: float | None = column("mean utilisation of the observed GPUs, 0 to 1")
    ram_used_gib: float | None = column("memory in use on the node, mean of the window's ends, GiB")
    pod_cpu_seconds: float | None = column(
        "CPU seconds this pod used; null where only shares are known"
    )
    gpus: tuple[GpuRecord, ...] = column("the GPUs of the node, each with this pod's part", ())

    node_cpu_energy_kwh: float | None = column("CPU energy of the whole node, kWh")
    node_ram_energy_kwh: float | None = column("RAM energy of the whole node, kWh")
    node_gpu_energy_kwh: float | None = column("GPU energy of the whole node, kWh")
    node_energy_kwh: float | None = column("sum of the known node energies, kWh")
    share_cpu: float | None = column("this pod's share of the dynamic CPU energy, 0 to 1")
    share_idle: float | None = column("this pod's share of the idle CPU energy, 0 to 1")
    share_ram: float | None = column("this pod's share of the RAM energy, 0 to 1")
    share_gpu: float | None = column("this pod's share of the GPU energy, 0 to 1")
    cpu_energy_kwh: float | None = column("CPU energy of the pod, kWh")
    ram_energy_kwh: float | None = column("RAM energy of the pod, kWh")
    gpu_energy_kwh: float | None = column("GPU energy of the pod, kWh")
    energy_kwh: float | None = column("sum of the pod's known energies, kWh")
    pue: float | None = column("power usage effectiveness of the data centre")
    facility_energy_kwh: float | None = column("energy_kwh × pue, kWh")
    water_l: float | None = column("energy_kwh × water usage effectiveness, litres")

    carbon_intensity_g_per_kwh: float | None = column("carbon intensity used, gCO2e/kWh")
    carbon_intensity_source: str | None = column("source of the carbon intensity")
    carbon_intensity_year: int | None = column("year the carbon intensity describes")
    carbon_intensity_level: Level | None = column(
        "zone, country or world; null for a value that was set or computed from a mix"
    )
    emissions_g: float | None = column("facility_energy_kwh × carbon intensity, g CO2e")
    embodied_g: float | None = column("this pod's part of the VM's embodied emissions, g CO2e")

    cpu_power_method: str | None = column("rapl, vm-share, constant or codecarbon")
    cpu_power_source: str | None = column("counter or table the CPU energy comes from")
    gpu_method: str | None = column("methods of the GPUs, joined by ' + '")
    pod_method: str | None = column(
        "how the pod's shares were found: node-meter, cgroup, kubelet, shared-pid, metrics-api, "
        "process-tree, requests or whole-node; unallocated: what no pod of the node used. With kubelet "
        "and metrics-api the CPU figures are of half a minute and a minute before the window"
    )
    quality: Quality = column(
        "weakest of the CPU's and GPUs' methods: measured (counters), estimated (model fed with "
        "measured use) or modelled (table alone)",
        "modelled",
    )
    emissions_low_g: float | None = column("lower bound of emissions_g from the factors' spread")
    emissions_high_g: float | None = column("upper bound of emissions_g from the factors' spread")

    cpu_reserved_idle_energy_kwh: float | None = column(
        "of cpu_energy_kwh: idle power of CPUs that the pod reserved and did not use, kWh"
    )
    gpu_reserved_idle_energy_kwh: float | None = column(
        "of gpu_energy_kwh: idle power of the pod's GPUs while nothing ran on them, kWh"
    )
    node_pods_energy_kwh: float | None = column(
        "energy of all pods of the node together, kWh; only in the node meter's own records, whose "
        "energy_kwh is what no pod used"
    )
    phases: Mapping[str, float] | None = column(
        "seconds of the window in each phase that the program marked, by name (`with phase(…)`); what "
        "is missing to duration_s was in none; null where none was marked"
    )
    carbon_intensity_at: str | None = column(
        "start of the hour (or half hour) that the carbon intensity was published for, RFC 3339, UTC; "
        "of the first, where the window lies in several; null for an average of a year or a set value"
    )
    carbon_intensity_kind: str | None = column(
        "observed, estimated (by its source), scheduled (by the user's file), forecast (published "
        "before its time), carried (of an earlier hour, up to 3 h) or fallback (an average, because "
        "there was no value for this time); null where none that varies with time was asked for"
    )


_COLUMNS: Final = tuple(item.name for item in fields(EmissionRecord))
_GPU_COLUMNS: Final = tuple(item.name for item in fields(GpuRecord))
_values: Final = attrgetter(*_COLUMNS)
_gpu_values: Final = attrgetter(*_GPU_COLUMNS)


def to_mapping(record: EmissionRecord) -> dict[str, Any]:
    """Return the record as JSON types, in the order of the schema."""
    row = dict(zip(_COLUMNS, _values(record), strict=True))
    row["gpus"] = [dict(zip(_GPU_COLUMNS, _gpu_values(gpu), strict=True)) for gpu in record.gpus]
    row["phases"] = None if record.phases is None else dict(record.phases)
    return row


def to_ndjson(record: EmissionRecord) -> str:
    """Return the record as one line that ends in a newline. Raises ValueError on NaN or infinity."""
    line = json.dumps(
        to_mapping(record), allow_nan=False, ensure_ascii=False, separators=(",", ":")
    )
    # A lone surrogate from a mangled environment has no UTF-8 form, and no reader takes it escaped.
    return line.encode(errors="replace").decode() + "\n"


SUMMED: Final = (
    "duration_s",
    "gap_s",
    "pod_cpu_seconds",
    "node_cpu_energy_kwh",
    "node_ram_energy_kwh",
    "node_gpu_energy_kwh",
    "node_energy_kwh",
    "cpu_energy_kwh",
    "ram_energy_kwh",
    "gpu_energy_kwh",
    "energy_kwh",
    "cpu_reserved_idle_energy_kwh",
    "gpu_reserved_idle_energy_kwh",
    "node_pods_energy_kwh",
    "facility_energy_kwh",
    "water_l",
    "emissions_g",
    "embodied_g",
    "emissions_low_g",
    "emissions_high_g",
)
AVERAGED: Final = (
    "cpu_utilization",
    "gpu_utilization",
    "share_cpu",
    "share_idle",
    "share_ram",
    "share_gpu",
)


_JOINED: Final = ("cpu_power_method", "gpu_method", "pod_method", "carbon_intensity_kind")
_WEAKNESS: Final = ("measured", "estimated", "modelled")


def merge_records(first: EmissionRecord, second: EmissionRecord) -> EmissionRecord:
    """Merge two neighbouring windows that could not be written into one: no energy is lost.

    Energies, durations and phases add up, utilisations and shares become means weighted by duration, the
    quality is the weaker one and methods that differ are joined; what else differs is the second's.
    The record keeps the first's id and start, the second's end.
    """
    changes: dict[str, Any] = {
        name: _total(getattr(first, name), getattr(second, name)) for name in SUMMED
    }
    for name in AVERAGED:
        changes[name] = _mean(
            (getattr(first, name), first.duration_s), (getattr(second, name), second.duration_s)
        )
    for name in _JOINED:
        changes[name] = _joined(getattr(first, name), getattr(second, name))
    return replace(
        second,
        quality=max(first.quality, second.quality, key=_WEAKNESS.index),
        record_id=first.record_id,
        window_start=first.window_start,
        gpus=_merged_gpus(first.gpus, second.gpus),
        phases=_merged_phases(first.phases, second.phases),
        **changes,
    )


def _merged_gpus(
    first: tuple[GpuRecord, ...], second: tuple[GpuRecord, ...]
) -> tuple[GpuRecord, ...]:
    """Add the energies device by device, by UUID.

    Devices without one (known from the VM size only) are matched by their place: a driver that
    comes up late shows the same devices, now with their UUIDs.
    """
    if all(gpu.uuid for gpu in first) and all(gpu.uuid for gpu in second):
        later = {gpu.uuid: gpu for gpu in second}
        pairs: list[tuple[GpuRecord | None, GpuRecord | None]]
        pairs = [(gpu, later.pop(gpu.uuid, None)) for gpu in first]
        pairs += [(None, gpu) for gpu in later.values()]
    else:
        pairs = list(itertools.zip_longest(first, second))
    return tuple(_merged_gpu(earlier, late) for earlier, late in pairs)


def _merged_gpu(first: GpuRecord | None, second: GpuRecord | None) -> GpuRecord:
    if first is None or second is None:
        return first or second or GpuRecord()
    known = second if second.uuid else first
    return replace(
        known,
        energy_kwh=_total(first.energy_kwh, second.energy_kwh),
        method=_joined(first.method, second.method),
    )


def _merged_phases(
    first: Mapping[str, float] | None, second: Mapping[str, float] | None
) -> Mapping[str, float] | None:
    if first is None or second is None:
        return first if second is None else second
    return {name: first.get(name, 0.0) + second.get(name, 0.0) for name in {**first, **second}}


def _joined(first: str | None, second: str | None) -> str | None:
    """Join the names of methods, each once, in a stable order."""
    names = {name for text in (first, second) if text for name in text.split(" + ")}
    return " + ".join(sorted(names)) or None


def _total(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return first if second is None else second
    return first + second


def _mean(*weighted: tuple[float | None, float]) -> float | None:
    known = [(value, weight) for value, weight in weighted if value is not None]
    if not known:
        return None
    weights = sum(weight for _, weight in known)
    if weights <= 0:
        return known[-1][0]
    return sum(value * weight for value, weight in known) / weights
