"""`emissions-sidecar estimate`: what-if from the catalogue alone."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.amounts import amount
from sidecar.catalogue.lookup import Catalogue, Kind
from sidecar.catalogue.rows import VmSize
from sidecar.cli.options import CARBON, PLACE, add_settings, command_parser, settings_from
from sidecar.estimate.bounded import Bounded
from sidecar.estimate.what_if import WhatIf, estimate_what_if
from sidecar.factors import Place, choose_factors, refuse_unknown_country, with_country
from sidecar.identity.fields import Hardware, Identity
from sidecar.recording import (
    energy_sources,
    estimate_columns,
    factor_columns,
    factor_sources,
)
from sidecar.settings import Settings, SettingsError, number_between


def main(argv: Sequence[str]) -> int:
    """Estimate energy and emissions of a VM size in a region for some hours."""
    arguments = _parser().parse_args(argv)
    settings = settings_from(arguments)
    if settings.vm_size is None or (settings.region or settings.country) is None:
        raise SettingsError(
            "estimate needs --vm-size, and --region or --country; see 'estimate --help'"
        )
    what_if = WhatIf(
        duration_s=_number("--hours", arguments.hours, (0, 1e6, "h")) * 3600,
        cpu_utilization=_number("--cpu-util", arguments.cpu_util, (0, 100, "%")) / 100,
        gpu_utilization=_gpu_utilization(arguments.gpu_util),
    )
    row = what_if_row(settings, what_if)
    print(json.dumps(row, indent=2, ensure_ascii=False) if arguments.json else _as_text(row))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "estimate",
        "What-if, from the catalogue alone: energy and emissions of a whole VM.",
        (
            "--vm-size Standard_NC24ads_A100_v4 --region westeurope --hours 1 --gpu-util 90",
            "--vm-size Standard_D4s_v5 --region swedencentral --hours 24 --json",
        ),
    )
    parser.add_argument("--hours", required=True, metavar="H", help="how long")
    parser.add_argument(
        "--cpu-util", default="50", metavar="0-100", help="CPU utilisation in %% (50)"
    )
    parser.add_argument(
        "--gpu-util",
        metavar="0-100",
        help="GPU utilisation in %% (not given: 50, with 0 and 100 as bounds)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_settings(parser, ("config", *PLACE, *CARBON, "vm_sizes_file"))
    return parser


def what_if_row(settings: Settings, what_if: WhatIf) -> dict[str, Any]:
    """Return the estimate; the keys are the record's field names. Raises SettingsError."""
    try:
        catalogue = Catalogue(settings.vm_sizes_file)
        vm_size, identity = _found(settings, catalogue)
        hardware = Hardware(logical_cpus=vm_size.vcpus, memory_total_gib=vm_size.memory_gib)
        factors = choose_factors(Place(identity, hardware), settings, catalogue)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    estimate = estimate_what_if(what_if, vm_size.vcpus, vm_size.memory_gib, factors)
    columns = estimate_columns(estimate)
    columns["gpus"] = [
        {"model": gpu.device.model, "energy_kwh": gpu.energy.value if gpu.energy else None}
        for gpu in estimate.gpus
    ]
    stated = what_if.gpu_utilization
    return {
        "vm_size": vm_size.name,
        "region": identity.region,
        "country_iso3": with_country(identity, catalogue).country_iso3,
        "duration_s": what_if.duration_s,
        "cpu_utilization": what_if.cpu_utilization,
        "gpu_utilization": stated.value if stated and estimate.gpus else None,
        **factor_columns(factors),
        **columns,
        "quality": "modelled",
        "identity_source": {
            "vm_size": vm_size.source,
            **factor_sources(factors),
            **energy_sources(estimate),
        },
    }


def _found(settings: Settings, catalogue: Catalogue) -> tuple[VmSize, Identity]:
    size, region = str(settings.vm_size), settings.region
    vm_size = catalogue.vm_size(size)
    if vm_size is None:
        raise SettingsError(_unknown("vm-size", size, catalogue))
    row = catalogue.region(region) if region else None
    if region and row is None and settings.country is None:
        told = _unknown("region", region, catalogue)
        raise SettingsError(f"{told}; or add --country for its average")
    refuse_unknown_country(settings, catalogue)
    return vm_size, Identity(
        vm_size=vm_size.name,
        region=row.name if row else region,
        country_iso3=settings.country,
        provider="azure",
    )


def _unknown(kind: Kind, name: str, catalogue: Catalogue) -> str:
    near = catalogue.suggest(kind, name)
    hint = f"did you mean {', '.join(near)}?" if near else f"'catalogue {kind}s' lists all"
    return f"{name!r} is not in the catalogue of {kind}s; {hint}"


def _number(flag: str, text: str, limits: tuple[float, float, str]) -> float:
    try:
        return number_between(*limits)(text)
    except ValueError as error:
        raise SettingsError(f"flag {flag}: {error}") from error


def _gpu_utilization(text: str | None) -> Bounded | None:
    return None if text is None else Bounded.exact(_number("--gpu-util", text, (0, 100, "%")) / 100)


def _as_text(row: Mapping[str, Any]) -> str:
    sources = row["identity_source"]
    year = row["carbon_intensity_year"]
    carbon = row["carbon_intensity_source"] + (f" ({year})" if year else "")
    bounds = f"({amount(row['emissions_low_g'], 4)} to {amount(row['emissions_high_g'], 4)})"
    shown = (
        ("cpu_energy_kwh", row["cpu_power_source"]),
        ("ram_energy_kwh", sources.get("ram_energy_kwh", "memory of this size is not known")),
        ("gpu_energy_kwh", sources.get("gpu_energy_kwh", "no GPU")),
        ("energy_kwh", ""),
        ("pue", sources["pue"]),
        ("facility_energy_kwh", ""),
        ("carbon_intensity_g_per_kwh", carbon),
        ("emissions_g", bounds),
        ("embodied_g", sources.get("embodied_g", "not known")),
        ("water_l", sources.get("water_l", "not known")),
    )
    hours = row["duration_s"] / 3600
    place = row["region"] or row["country_iso3"]
    lines = [f"{row['vm_size']} in {place} for {hours:g} h"]
    lines += [f"  {name:<28}{amount(row[name], 4):<10} {source}".rstrip() for name, source in shown]
    return "\n".join(lines)
