"""Compose an `EmissionRecord` from who, where, when, how much and whose."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from sidecar.estimate.bounded import Bounded
from sidecar.estimate.emissions import Factors, WindowEstimate
from sidecar.estimate.power import cpu_utilization
from sidecar.identity.fields import Identity
from sidecar.meters.reading import NodeUsage
from sidecar.record import EmissionRecord, Event, GpuRecord
from sidecar.version import VERSION
from sidecar.windows import Window, rfc3339

_IDENTITY_FIELDS: Final = tuple(
    item.name
    for item in fields(Identity)
    if item.name in {column.name for column in fields(EmissionRecord)}
)


@dataclass(frozen=True, slots=True)
class Occasion:
    """Which record this is: its id, its window, what it marks, and the phases the window was in."""

    record_id: str
    window: Window
    event: Event
    end_reason: str | None = None
    phases: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Metered:
    """What a window used, and what that amounts to."""

    usage: NodeUsage
    estimate: WindowEstimate


def identity_columns(identity: Identity, factors: Factors) -> dict[str, Any]:
    """Return the who-and-where columns, and `identity_source` for them and for the factors."""
    columns: dict[str, Any] = {name: getattr(identity, name) for name in _IDENTITY_FIELDS}
    columns["project"] = identity.project or "default"
    columns["identity_source"] = {**identity.sources, **factor_sources(factors)}
    return columns


def factor_columns(factors: Factors) -> dict[str, Any]:
    """Return the columns of the factors; of the window, only carbon intensity may depend."""
    carbon = factors.carbon
    return {
        "pue": factors.pue.value,
        "carbon_intensity_g_per_kwh": carbon.figure.value,
        "carbon_intensity_source": " · ".join(filter(None, (carbon.figure.source, carbon.note))),
        "carbon_intensity_year": carbon.figure.year,
        "carbon_intensity_level": carbon.level,
        "carbon_intensity_at": None if carbon.at_s is None else rfc3339(carbon.at_s),
        "carbon_intensity_kind": carbon.kind,
    }


def factor_sources(factors: Factors) -> Mapping[str, str]:
    """Return where the factors come from that have no source column of their own."""
    sources = {"pue": factors.pue.cited}
    if factors.wue:
        sources["water_l"] = factors.wue.cited
    if factors.embodied:
        sources["embodied_g"] = factors.embodied.source
    return sources


def energy_sources(estimate: WindowEstimate) -> dict[str, str]:
    """Return where the energies come from that have no source column of their own."""
    named = {"ram_energy_kwh": estimate.ram_source, "gpu_energy_kwh": estimate.gpu_source}
    return {name: source for name, source in named.items() if source}


def start_record(identity: Identity, factors: Factors, occasion: Occasion) -> EmissionRecord:
    """Compose the record that says metering has begun; nothing is metered yet, so null."""
    return EmissionRecord(
        **_occasion_columns(occasion),
        **identity_columns(identity, factors),
        **factor_columns(factors),
    )


def window_record(
    identity: Identity, factors: Factors, occasion: Occasion, metered: Metered
) -> EmissionRecord:
    """Compose the record of one metered window."""
    columns = identity_columns(identity, factors)
    columns["identity_source"] |= energy_sources(metered.estimate)
    return EmissionRecord(
        **_occasion_columns(occasion),
        **columns,
        **factor_columns(factors),
        **_usage_columns(metered.usage),
        **estimate_columns(metered.estimate),
        pod_method=metered.usage.pod_method,
        node_pods_energy_kwh=_pods_energy_kwh(metered),
    )


def _pods_energy_kwh(metered: Metered) -> float | None:
    """Return what all pods used, where the record is about what they left."""
    node, rest = metered.estimate.node_total, metered.estimate.total
    if metered.usage.pod_method != "unallocated" or node is None or rest is None:
        return None
    return node.value - rest.value


def _occasion_columns(occasion: Occasion) -> dict[str, Any]:
    return {
        "record_id": occasion.record_id,
        "tool_version": VERSION,
        "event": occasion.event,
        "end_reason": occasion.end_reason,
        "window_start": rfc3339(occasion.window.start_s),
        "window_end": rfc3339(occasion.window.end_s),
        "duration_s": round(occasion.window.duration_s, 6),
        "gap_s": round(occasion.window.gap_s, 6),
        "phases": occasion.phases,
    }


def _usage_columns(usage: NodeUsage) -> dict[str, Any]:
    observed = [gpu.utilization for gpu in usage.gpus if gpu.utilization is not None]
    return {
        "cpu_utilization": cpu_utilization(usage),
        "gpu_utilization": sum(observed) / len(observed) if observed else None,
        "ram_used_gib": usage.memory_used_gib,
        "pod_cpu_seconds": usage.pod_cpu_s,
    }


def estimate_columns(estimate: WindowEstimate) -> dict[str, Any]:
    """Return the energies, shares, emissions and methods of an estimate as record columns."""
    return {
        "gpus": tuple(
            GpuRecord(
                uuid=gpu.device.uuid,
                model=gpu.device.model,
                energy_kwh=_value(gpu.energy),
                share=gpu.share,
                method=gpu.device.method,
                share_method=gpu.share_method,
            )
            for gpu in estimate.gpus
        ),
        "node_cpu_energy_kwh": _value(estimate.node_cpu),
        "node_ram_energy_kwh": _value(estimate.node_ram),
        "node_gpu_energy_kwh": _value(estimate.node_gpu),
        "node_energy_kwh": _value(estimate.node_total),
        "share_cpu": estimate.shares.cpu,
        "share_idle": estimate.shares.idle,
        "share_ram": estimate.shares.ram,
        "share_gpu": estimate.shares.gpu if estimate.gpus else None,
        "cpu_energy_kwh": _value(estimate.cpu),
        "ram_energy_kwh": _value(estimate.ram),
        "gpu_energy_kwh": _value(estimate.gpu),
        "energy_kwh": _value(estimate.total),
        "cpu_reserved_idle_energy_kwh": estimate.cpu_reserved_idle_kwh,
        "gpu_reserved_idle_energy_kwh": estimate.gpu_reserved_idle_kwh,
        "facility_energy_kwh": _value(estimate.facility),
        "water_l": _value(estimate.water_l),
        "emissions_g": _value(estimate.emissions_g),
        "emissions_low_g": estimate.emissions_g.low if estimate.emissions_g else None,
        "emissions_high_g": estimate.emissions_g.high if estimate.emissions_g else None,
        "embodied_g": _value(estimate.embodied_g),
        "cpu_power_method": estimate.cpu_method,
        "cpu_power_source": estimate.cpu_source,
        "gpu_method": estimate.gpu_method,
        "quality": estimate.quality,
    }


def _value(bounded: Bounded | None) -> float | None:
    return None if bounded is None else bounded.value
