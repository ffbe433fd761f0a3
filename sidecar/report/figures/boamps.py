"""One BoAmps record per run: the reporting format of Boavizta for the energy of AI tasks.

Field names, types and allowed values follow version 1.1.0 of github.com/Boavizta/BoAmps (CC BY 4.0),
`model/report_schema.json` and the schemas it names. What a meter cannot know (the task, its
algorithm and data) is said to be unknown, never guessed: complete it before you publish.
"""

import functools
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from sidecar.catalogue.lookup import Catalogue
from sidecar.catalogue.rows import Country, Gpu, Region, VmSize
from sidecar.report.figures.inputs import RunFacts
from sidecar.report.figures.numbers import finite, quotient
from sidecar.report.measures import Measures, Row
from sidecar.units import GB_PER_GIB
from sidecar.version import VERSION

FORMAT_VERSION: Final = "1.1.0"
FORMAT_URI: Final = "https://github.com/Boavizta/BoAmps/tree/main/model"
UNKNOWN: Final = "unknown"

TEXT_CHARACTERS_MAX: Final = 256

_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, FORMAT_URI)

_QUALITIES: Final = (("high", 0.10), ("medium", 0.25))
"""Largest relative error of each `quality`; beyond it is "low"."""


_remembered: Final = functools.lru_cache(maxsize=4096)


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the catalogue says of sizes, GPUs and places; each is looked up once for many runs."""

    vm_size: Callable[[str], VmSize | None]
    gpu: Callable[[str], Gpu | None]
    region: Callable[[str], Region | None]
    country: Callable[[str], Country | None]

    @classmethod
    def of(cls, catalogue: Catalogue) -> Self:
        """Look up in a catalogue, and remember the last thousands of answers."""
        return cls(
            _remembered(catalogue.vm_size),
            _remembered(catalogue.gpu),
            _remembered(catalogue.region),
            _remembered(catalogue.country),
        )


def boamps(
    row: Row, facts: RunFacts, hardware: Hardware, generated_at: datetime
) -> dict[str, Any] | None:
    """Return the BoAmps record of a run; None where its energy is not known, which it must hold.

    `powerConsumption` is IT energy in kWh, without PUE.
    """
    energy_kwh = finite(row.measures.energy_kwh)
    if energy_kwh is None:
        return None
    project, run = (_text(row.keys.get(name)) for name in ("project", "run"))
    stamp = f"{generated_at:%Y-%m-%d %H:%M:%S}"
    identity = "\0".join((project, run, row.measures.window_end or ""))
    header = {
        "formatVersion": FORMAT_VERSION,
        "formatVersionSpecificationUri": FORMAT_URI,
        "reportId": str(uuid.uuid5(_NAMESPACE, identity.encode(errors="replace").decode())),
        "reportDatetime": stamp,
        "reportStatus": "draft",
        "publisher": {"projectName": project, "confidentialityLevel": "internal"},
    }
    task = {
        "taskStage": UNKNOWN,
        "taskFamily": UNKNOWN,
        "algorithms": [{"algorithmName": UNKNOWN}],
        "dataset": [{"dataUsage": "input", "dataType": "other"}],
        "taskDescription": f"run {run} of project {project}",
    }
    return {
        "header": header,
        "task": task,
        "measures": [{"powerConsumption": energy_kwh, **_measure(row.measures, facts)}],
        "infrastructure": _infrastructure(row.measures, facts, hardware),
        **_environment(row.measures, facts, hardware),
        "quality": _quality(row.measures),
    }


def _text(name: object) -> str:
    text = UNKNOWN if name is None else str(name)
    return text[:TEXT_CHARACTERS_MAX]


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is not known: the format has no null."""
    return {name: value for name, value in fields.items() if value is not None}


def _measure(measures: Measures, facts: RunFacts) -> dict[str, Any]:
    begun, ended = _moment(measures.window_start), _moment(measures.window_end)
    seconds = (ended - begun).total_seconds() if begun and ended else None
    return {
        "measurementMethod": "emissions-sidecar",
        "version": VERSION,
        **_known(
            {
                "cpuTrackingMode": facts.cpu_power_method,
                "gpuTrackingMode": facts.gpu_method,
                "averageUtilizationCpu": _part(measures.cpu_utilization),
                "averageUtilizationGpu": _part(measures.gpu_utilization),
                "measurementDuration": seconds if seconds and seconds > 0 else None,
                "measurementDateTime": f"{begun:%Y-%m-%d %H:%M:%S}" if begun else None,
            }
        ),
    }


def _part(utilization: float | None) -> float | None:
    return utilization if utilization is not None and 0 <= utilization <= 1 else None


def _moment(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _infrastructure(measures: Measures, facts: RunFacts, hardware: Hardware) -> dict[str, Any]:
    size = hardware.vm_size(facts.vm_size) if facts.vm_size else None
    components = _components(size, facts, hardware) if size else []
    if not components:
        name = facts.vm_size or "a VM whose size the report does not know"
        pods = {"componentName": f"pod on {_text(name)}", "componentType": "pod"}
        components = [{**pods, "nbComponent": max(1, measures.pods)}]
    is_cloud = facts.provider is not None
    return {
        # The format wants a type, and has none for what is not known.
        "infraType": "publicCloud" if is_cloud else "other",
        **_known(
            {
                "cloudProvider": _text(facts.provider) if is_cloud else None,
                "cloudInstance": _text(facts.vm_size) if is_cloud and facts.vm_size else None,
            }
        ),
        "components": components,
    }


def _components(size: VmSize, facts: RunFacts, hardware: Hardware) -> list[dict[str, Any]]:
    """Return CPU (as vCPUs), RAM and GPUs of the VMs together, from the catalogue's row of the size."""
    vms = max(1, facts.vms or 1)
    candidates = size.cpu_models[0] if size.cpu_models else "CPU not published"
    components: list[dict[str, Any]] = [
        {
            "componentName": f"vCPU of {candidates}",
            "componentType": "cpu",
            "nbComponent": size.vcpus * vms,
        }
    ]
    if size.memory_gib:
        memory_gb = size.memory_gib * GB_PER_GIB
        components.append({"componentType": "ram", "nbComponent": vms, "memorySize": memory_gb})
    count = (size.gpu_count or 0) * vms
    if size.gpu_model and count >= 1:
        card = hardware.gpu(size.gpu_model)
        gpu = {
            "componentName": _text(facts.gpu_model or size.gpu_model),
            "componentType": "gpu",
            "nbComponent": int(count),
            "memorySize": card.memory_gib * GB_PER_GIB if card else None,
        }
        components.append(_known(gpu))
    return components


def _environment(measures: Measures, facts: RunFacts, hardware: Hardware) -> dict[str, Any]:
    region = hardware.region(facts.region) if facts.region else None
    country = hardware.country(region.country_iso3) if region else None
    if region is None or country is None:
        return {}
    fields = {
        "country": country.name,
        "latitude": region.latitude,
        "longitude": region.longitude,
        "location": region.name,
        "powerSourceCarbonIntensity": finite(measures.carbon_intensity_g_per_kwh),
    }
    return {"environment": _known(fields)}


def _quality(measures: Measures) -> str:
    """Return the format's class of error by the bounds of the emissions; unknown bounds are low."""
    low, high = (
        quotient(bound, measures.emissions_g)
        for bound in (measures.emissions_low_g, measures.emissions_high_g)
    )
    if low is None or high is None:
        return "low"
    error = round(max(1 - low, high - 1), 9)
    return next((name for name, most in _QUALITIES if error <= most), "low")
