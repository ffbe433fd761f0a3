"""`emissions-sidecar detect`: what was found, where it comes from, and what failed."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, asdict, fields, replace
from typing import Any, Final

from sidecar.agent import Parts
from sidecar.amounts import amount, counted
from sidecar.assembly import assemble
from sidecar.carbon.intensity import CarbonIntensity, IntensityFeed
from sidecar.cli.logs import set_up_logs
from sidecar.cli.options import SIDECAR, add_settings, command_parser, settings_from
from sidecar.estimate.attribution import WHOLE_NODE, shares_of
from sidecar.estimate.emissions import estimate_window
from sidecar.estimate.power import cpu_utilization
from sidecar.factors import Place, SeenGpu, choose_factors, with_country
from sidecar.gpu_meters import GPU_NEEDS, Purpose
from sidecar.identity.fields import Hardware, Identity, Resolution
from sidecar.meters.gpu_ladder import GpuRung
from sidecar.meters.pod.ladder import RungStatus
from sidecar.meters.pod.node_meter import NEEDS
from sidecar.meters.reading import NodeUsage
from sidecar.meters.usage import usage_between
from sidecar.recording import energy_sources, factor_columns, identity_columns
from sidecar.settings import Settings, declared_settings

GLIMPSE_S: Final = 0.3
"""Long enough for some ticks of /proc/stat, so that the power method in use can be told."""

WAIT_S: Final = 5.0
"""IMDS answers within milliseconds or not at all; its retries go on longer than a person waits."""


def main(argv: Sequence[str]) -> int:
    """Print every identity field, factor and meter with its source."""
    parser = command_parser(
        "detect",
        "Show every identity field, factor, meter and setting with its source, and what was tried "
        "and failed.",
        ("", "--json", "--region westeurope --vm-size Standard_D4s_v5"),
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_settings(parser)
    arguments = parser.parse_args(argv)
    settings = settings_from(arguments)
    set_up_logs(settings, quiet=True)
    found = detected(settings)
    print(json.dumps(found, indent=2, ensure_ascii=False) if arguments.json else _as_text(found))
    return 0


def detected(settings: Settings) -> dict[str, Any]:
    """Return all that was found; the keys are the record's field names where it has them."""
    purpose: Purpose = "exec" if settings.attribution == "process-tree" else "run"
    parts = assemble(settings, os.environ, purpose)
    parts.identity.start()
    try:
        before = parts.meter.read()
        resolution = parts.identity.wait(WAIT_S)
        time.sleep(GLIMPSE_S)
        reading = parts.meter.read()
        gpu_rungs = parts.meter.gpu_rungs()
        row = _identity_and_factors(parts, resolution, usage_between(before, reading))
        row["gpu_meters"] = list(_gpu_ladder(gpu_rungs, row["gpus"]))
        rungs = parts.meter.rungs()
        row["pod_method"] = next(rung.method for rung in rungs if rung.chosen)
        row["pod_methods"] = [asdict(rung) for rung in _with_node_meter(rungs)]
        row["hardware"] = {
            item.name: getattr(resolution.hardware, item.name) for item in fields(Hardware)
        }
        row["meters"] = [
            {"name": status.name, "available": status.available, "detail": status.detail}
            for status in parts.meter.status()
        ]
    finally:
        parts.identity.close()
        if parts.intensity is not None:
            parts.intensity.close()
        parts.meter.close()
    row["tried"] = [
        {"source": attempt.source, "outcome": attempt.outcome, "detail": attempt.detail}
        for attempt in resolution.attempts
    ]
    row["settings"] = {
        item.name: {
            "value": _shown(item, settings),
            "source": settings.origins[item.name],
        }
        for item in declared_settings(*SIDECAR)
    }
    return row


def _identity_and_factors(parts: Parts, resolution: Resolution, usage: NodeUsage) -> dict[str, Any]:
    seen = tuple(SeenGpu(gpu.model, gpu.power_limit_w) for gpu in usage.gpus)
    place = Place(resolution.identity, resolution.hardware, seen)
    factors = choose_factors(place, parts.settings, parts.catalogue)
    if parts.intensity is not None:
        carbon = _intensity_now(parts.intensity, resolution.identity.region, factors.carbon)
        factors = replace(factors, carbon=carbon)
    columns = identity_columns(with_country(resolution.identity, parts.catalogue), factors)
    sources = dict(columns.pop("identity_source"))
    for item in fields(Identity):
        if item.name != "sources":
            sources.setdefault(item.name, "unknown")
    estimate = estimate_window(usage, WHOLE_NODE, factors)
    sources |= energy_sources(estimate)
    shares = shares_of(usage, parts.reserved, factors.gpu_count(usage))
    return {
        **columns,
        **factor_columns(factors),
        "cpu_utilization": cpu_utilization(usage),
        "cpu_power_method": estimate.cpu_method,
        "cpu_power_source": estimate.cpu_source,
        "gpu_method": estimate.gpu_method,
        "identity_source": sources,
        "gpus": [
            {
                "uuid": gpu.device.uuid,
                "model": gpu.device.model,
                "share": gpu.share,
                "share_method": gpu.share_method,
            }
            for gpu in estimate_window(usage, shares, factors).gpus
        ],
    }


def _with_node_meter(rungs: Sequence[RungStatus]) -> Iterator[RungStatus]:
    """Name the best rung of a pod where it is not set up, too."""
    methods = [rung.method for rung in rungs]
    if "cgroup" in methods and "node-meter" not in methods:
        detail = "not asked here: EMISSIONS_NODE_METER_URL is not set"
        yield RungStatus("node-meter", available=False, chosen=False, detail=detail, needs=NEEDS)
    yield from rungs


def _gpu_ladder(
    rungs: Sequence[GpuRung], gpus: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield every way to meter GPUs, best first, also those that are not set up here."""
    known = {rung.name: rung for rung in rungs}
    is_metered = any(rung.chosen for rung in rungs)
    by_table = f"{counted(len(gpus), 'GPU')} of the VM size" if not is_metered else "not needed"
    table = GpuRung("table", bool(gpus), bool(gpus) and not is_metered, by_table)
    for name, needs in GPU_NEEDS.items():
        rung = known.get(name, GpuRung(name, False, False, "not asked here"))  # noqa: FBT003
        yield {**asdict(table if name == "table" else rung), "needs": needs}


def _intensity_now(
    feed: IntensityFeed, region: str | None, otherwise: CarbonIntensity
) -> CarbonIntensity:
    """Return the carbon intensity that holds now, if its source tells it while a person waits."""
    feed.start()
    feed.aim(region)
    feed.wait(WAIT_S)
    return feed.during(time.time(), time.time(), otherwise)


def _shown(item: Field[Any], settings: Settings) -> object:
    """Return the value as JSON; of a secret, only that there is one."""
    value = getattr(settings, item.name)
    if item.metadata["secret"] and value is not None:
        return "(secret)"
    if isinstance(value, tuple):
        return (":" if item.metadata["metavar"] == "HOST:PORT" else ",").join(map(str, value))
    return value if isinstance(value, (str, int, float, type(None))) else str(value)


def _as_text(found: dict[str, Any]) -> str:
    hardware = [_line(name, value) for name, value in found["hardware"].items()]
    meters = [
        _line(meter["name"], "yes" if meter["available"] else "no", meter["detail"])
        for meter in found["meters"]
    ]
    tried = [_line(item["source"], item["outcome"], item["detail"]) for item in found["tried"]]
    ladder = [
        _line(rung["method"], _rung_state(rung), _rung_detail(rung))
        for rung in found["pod_methods"]
    ]
    gpu_ladder = [
        _line(rung["name"], _rung_state(rung), _rung_detail(rung)) for rung in found["gpu_meters"]
    ]
    gpus = [
        _line(gpu["uuid"] or gpu["model"], gpu["share"], f"share by {gpu['share_method']}")
        for gpu in found["gpus"]
    ]
    given = [
        _line(name, entry["value"], entry["source"])
        for name, entry in found["settings"].items()
        if entry["source"] != "default"
    ]
    sections = {
        "identity and factors": _identity_lines(found),
        "hardware (procfs)": hardware,
        "meters": meters,
        "how the pod's part is found, best first": ladder,
        "how GPUs are metered, best first": gpu_ladder,
        "the pod's share of each GPU": gpus or ["  none"],
        "tried": tried,
        "settings that are not defaults ('--json' shows all)": given or ["  none"],
    }
    return "\n".join(line for title, lines in sections.items() for line in (title, *lines))


def _rung_state(rung: dict[str, Any]) -> str:
    return "in use" if rung["chosen"] else "available" if rung["available"] else "no"


def _rung_detail(rung: dict[str, Any]) -> str:
    """Say what it told; of one that does not work also what it needs."""
    needs = f" · needs {rung['needs']}" if rung["needs"] and not rung["available"] else ""
    return f"{rung['detail']}{needs}"


def _identity_lines(found: dict[str, Any]) -> list[str]:
    """One line for each value that is known, and one for all that are not."""
    sources = found["identity_source"]
    origins = {
        **sources,
        "carbon_intensity_g_per_kwh": found["carbon_intensity_source"],
        "cpu_power_method": found["cpu_power_source"],
        "gpu_method": sources.get("gpu_energy_kwh", ""),
    }
    names = [
        name
        for name, value in found.items()
        if not isinstance(value, (dict, list)) and not name.endswith("_source")
    ]
    unknown = [name for name in names if found[name] is None]
    known = [_line(name, found[name], origins.get(name)) for name in names if name not in unknown]
    unlisted = ("ram_energy_kwh", "water_l", "embodied_g")
    factors = [_line(name, "factor", sources[name]) for name in unlisted if name in sources]
    return [*known, *factors, _line("unknown", ", ".join(unknown) or "nothing")]


def _line(name: str, value: object, origin: str | None = "") -> str:
    if isinstance(value, float):
        value = amount(value, 4)
    shown = "unknown" if value is None else str(value)
    return f"  {name:<28} {shown:<26} {origin or ''}".rstrip()
