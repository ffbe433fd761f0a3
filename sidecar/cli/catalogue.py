"""`emissions-sidecar catalogue`: look a row up with its sources; refresh the VM sizes from Azure."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from sidecar.catalogue.lookup import Catalogue, CatalogueError, Kind
from sidecar.cli.options import command_parser
from sidecar.settings import SettingsError
from sidecar.units import Figure


@dataclass(frozen=True, slots=True)
class _Table:
    """How one table is listed and looked up; `columns` are what a list shows."""

    kind: Kind
    rows: Callable[[Catalogue], Iterator[Any]]
    find: Callable[[Catalogue, str], Any]
    columns: tuple[str, ...]


TABLES: Final = {
    "regions": _Table(
        "region",
        Catalogue.regions,
        Catalogue.region,
        ("name", "country_iso3", "grid_zone", "carbon_intensity", "pue", "wue", "status"),
    ),
    "vm-sizes": _Table(
        "vm-size",
        Catalogue.vm_sizes,
        Catalogue.vm_size,
        ("name", "vcpus", "memory_gib", "gpu_count", "gpu_model", "cpu_models"),
    ),
    "gpus": _Table(
        "gpu", Catalogue.gpus, Catalogue.gpu, ("nvml_name", "memory_gib", "tdp", "idle")
    ),
    "cpus": _Table(
        "cpu",
        Catalogue.cpus,
        lambda catalogue, name: catalogue.cpu(name) or catalogue.cpu_named(name),
        ("model", "microarchitecture", "threads", "tdp", "idle_per_thread", "max_per_thread"),
    ),
    "countries": _Table(
        "country", Catalogue.countries, Catalogue.country, ("iso3", "name", "carbon_intensity")
    ),
}


def main(argv: Sequence[str]) -> int:
    """List a table, show one row with its sources, or refresh the VM sizes."""
    parser = command_parser(
        "catalogue",
        "Look up a row with its values, units, years and sources; or refresh the VM sizes from Azure.",
        (
            "regions",
            "regions westeurope",
            "vm-sizes Standard_NC24ads_A100_v4 --json",
            "gpus 'NVIDIA A100 80GB PCIe'",
            "cpus 'AMD EPYC 7763 64-Core Processor'",
            "refresh --subscription SUBSCRIPTION_ID --location westeurope --out vm_sizes.csv",
        ),
    )
    tables = parser.add_subparsers(dest="table", metavar="TABLE", required=True)
    for name in TABLES:
        lookup = tables.add_parser(name, help=f"list the {name}, or show one", allow_abbrev=False)
        lookup.add_argument("name", nargs="?", metavar="NAME", help="the row to show")
        lookup.add_argument("--json", action="store_true", help="print JSON")
    _add_refresh(tables)
    arguments = parser.parse_args(argv)
    if arguments.table == "refresh":
        return _refresh(arguments)
    table = TABLES[arguments.table]
    rows = _rows(table, arguments.table, arguments.name)
    _print(rows, table, as_json=arguments.json, one=arguments.name is not None)
    return 0


def _rows(table: _Table, title: str, name: str | None) -> list[Any]:
    try:
        catalogue = Catalogue(_extra_vm_sizes())
    except CatalogueError as error:
        raise SettingsError(str(error)) from error
    if name is None:
        return list(table.rows(catalogue))
    row = table.find(catalogue, name)
    if row is None:
        near = catalogue.suggest(table.kind, name)
        hint = f"did you mean {', '.join(near)}?" if near else f"'catalogue {title}' lists all"
        raise SettingsError(f"{name!r} is not in the catalogue of {title}; {hint}")
    return [row]


def _extra_vm_sizes() -> Path | None:
    text = os.environ.get("EMISSIONS_VM_SIZES_FILE")
    return Path(text) if text else None


def _print(rows: list[Any], table: _Table, *, as_json: bool, one: bool) -> None:
    if as_json:
        shown = [asdict(row) for row in rows]
        print(json.dumps(shown[0] if one else shown, indent=2, ensure_ascii=False))
    elif one:
        for name, value in _fields(rows[0]):
            print(f"{name:<24} {_cell(value, sources=True)}")
    else:
        cells = [[_cell(getattr(row, name)) for name in table.columns] for row in rows]
        widths = [max(map(len, column)) for column in zip(table.columns, *cells, strict=True)]
        for line in (table.columns, *cells):
            print("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip())


def _fields(row: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - rows of every table
    yield from ((name, getattr(row, name)) for name in row.__dataclass_fields__)


def _cell(value: object, *, sources: bool = False) -> str:
    if value is None:
        return "–"
    if isinstance(value, Figure):
        year = "" if value.year is None else f", {value.year}"
        bounds = f" ({value.low:g} to {value.high:g}) · {value.source}{year}" if sources else ""
        return f"{value.value:g} {value.unit}{bounds}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _add_refresh(tables: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    refresh = tables.add_parser(
        "refresh", help="fetch the VM sizes of a location from Azure", allow_abbrev=False
    )
    refresh.add_argument("--subscription", required=True, metavar="ID", help="Azure subscription")
    refresh.add_argument("--location", required=True, metavar="REGION", help="such as westeurope")
    refresh.add_argument("--out", required=True, metavar="FILE", help="CSV file to write")
    refresh.add_argument(
        "--credential",
        choices=("cli", "workload-identity"),
        default="cli",
        help="who asks: the signed-in Azure CLI (default), or the workload identity of a pod",
    )


def _refresh(arguments: argparse.Namespace) -> int:
    try:
        from azure.identity import AzureCliCredential, WorkloadIdentityCredential  # noqa: PLC0415

        from sidecar.catalogue.refresh import (  # noqa: PLC0415
            RefreshError,
            refresh_vm_sizes,
            write_vm_sizes,
        )
    except ImportError as error:
        raise SettingsError(
            f"refresh needs {error.name}; install the extra 'azure', from a clone: "
            "pip install '.[azure]'"
        ) from error
    by_cli = arguments.credential == "cli"
    try:
        credential = AzureCliCredential() if by_cli else WorkloadIdentityCredential()
        sizes = refresh_vm_sizes(credential, arguments.subscription, arguments.location)
        write_vm_sizes(sizes, Path(arguments.out))
    except (RefreshError, ValueError, OSError) as error:
        print(f"emissions-sidecar catalogue refresh: {error}", file=sys.stderr)
        return 1
    print(
        f"{len(sizes)} VM sizes of {arguments.location} written to {arguments.out}; "
        f"use them with EMISSIONS_VM_SIZES_FILE={arguments.out}"
    )
    return 0
