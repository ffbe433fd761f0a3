"""`emissions-sidecar detect`: what was found, where it comes from, and what failed."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

from sidecar.agent import Parts
from sidecar.assembly import Purpose, assemble
from sidecar.cli.logs import set_up_logs
from sidecar.cli.options import add_settings, command_parser, settings_from
from sidecar.estimate.attribution import WHOLE_NODE
from sidecar.estimate.emissions import estimate_window
from sidecar.estimate.power import cpu_utilization
from sidecar.factors import Place, SeenGpu, choose_factors, with_country
from sidecar.identity.fields import Hardware, Identity, Resolution
from sidecar.meters.reading import NodeUsage
from sidecar.meters.usage import usage_between
from sidecar.recording import factor_columns, identity_columns
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
        row = _identity_and_factors(parts, resolution, usage_between(before, reading))
        row["gpus"] = [{"uuid": gpu.uuid, "model": gpu.model} for gpu in reading.gpus]
        row["pod_method"] = parts.pod_method
        row["hardware"] = {
            item.name: getattr(resolution.hardware, item.name) for item in fields(Hardware)
        }
        row["meters"] = [
            {"name": status.name, "available": status.available, "detail": status.detail}
            for status in parts.meter.status()
        ]
    finally:
        parts.identity.close()
        parts.meter.close()
    row["tried"] = [
        {"source": attempt.source, "outcome": attempt.outcome, "detail": attempt.detail}
        for attempt in resolution.attempts
    ]
    row["settings"] = {
        item.name: {
            "value": _plain(getattr(settings, item.name)),
            "source": settings.origins[item.name],
        }
        for item in declared_settings()
    }
    return row


def _identity_and_factors(parts: Parts, resolution: Resolution, usage: NodeUsage) -> dict[str, Any]:
    seen = tuple(SeenGpu(gpu.model, gpu.power_limit_w) for gpu in usage.gpus)
    place = Place(resolution.identity, resolution.hardware, seen)
    factors = choose_factors(place, parts.settings, parts.catalogue)
    columns = identity_columns(with_country(resolution.identity, parts.catalogue), factors)
    sources = dict(columns.pop("identity_source"))
    for item in fields(Identity):
        if item.name != "sources":
            sources.setdefault(item.name, "unknown")
    estimate = estimate_window(usage, WHOLE_NODE, factors)
    return {
        **columns,
        **factor_columns(factors),
        "cpu_utilization": cpu_utilization(usage),
        "cpu_power_method": estimate.cpu_method,
        "cpu_power_source": estimate.cpu_source,
        "gpu_method": estimate.gpu_method,
        "identity_source": sources,
    }


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, type(None))) else str(value)


def _as_text(found: dict[str, Any]) -> str:
    sources = found["identity_source"]
    lines = ["identity and factors"]
    for name, value in found.items():
        if isinstance(value, (dict, list)) or name.endswith(("_source", "_year")):
            continue
        origin = sources.get(name) or found.get(f"{name}_source") or _origin_of(name, found)
        lines.append(_line(name, value, origin))
    lines.append("hardware (from procfs)")
    lines += [_line(name, value, "") for name, value in found["hardware"].items()]
    lines.append("meters")
    lines += [
        _line(meter["name"], "yes" if meter["available"] else "no", meter["detail"])
        for meter in found["meters"]
    ]
    lines.append("tried")
    lines += [_line(item["source"], item["outcome"], item["detail"]) for item in found["tried"]]
    lines.append("settings that are not defaults ('--json' shows all)")
    lines += [
        _line(name, entry["value"], entry["source"])
        for name, entry in found["settings"].items()
        if entry["source"] != "default"
    ] or ["  none"]
    return "\n".join(lines)


def _origin_of(name: str, found: dict[str, Any]) -> str:
    related = {
        "carbon_intensity_g_per_kwh": "carbon_intensity_source",
        "carbon_intensity_level": "carbon_intensity_source",
        "cpu_power_method": "cpu_power_source",
    }
    return str(found.get(related.get(name, ""), "") or "")


def _line(name: str, value: object, origin: str) -> str:
    shown = "unknown" if value is None else str(value)
    return f"  {name:<28} {shown:<34} {origin}".rstrip()
