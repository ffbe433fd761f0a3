"""Arguments of commands that read a dataset: several places, and what reading and adding up may take."""

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from sidecar.cli.extras import require_extra
from sidecar.cli.options import add_settings, settings_from
from sidecar.cli.source import CREDENTIALS
from sidecar.identity.bounded import shown
from sidecar.report.source import BLOB_SCHEME
from sidecar.settings import Settings, SettingsError, parse_bytes

if TYPE_CHECKING:
    from sidecar.report.dataset import Resources
    from sidecar.report.places import Place
    from sidecar.report.staging import Progress

_MODULES: Final = ("duckdb", "ibis", "jinja2", "pyarrow", "pydantic", "rich")
_MEMORY_MIB_MIN: Final = 256


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add SOURCE, the memory, the time zone of CSV files, and the settings that a container needs."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="+",
        help="a volume, a directory of volumes, or az://CONTAINER[/PREFIX]; several are one dataset",
    )
    parser.add_argument(
        "--memory",
        default="1536Mi",
        metavar="SIZE",
        help="memory that adding up may take; more goes to disk, below TMPDIR [1536Mi]",
    )
    parser.add_argument(
        "--csv-timezone",
        default="UTC",
        metavar="ZONE",
        help="time zone of CodeCarbon's CSV files, which name none, such as Europe/Berlin [UTC]",
    )
    add_settings(parser, CREDENTIALS)


def require(arguments: argparse.Namespace) -> None:
    """Raise SettingsError where an extra is missing that these arguments need."""
    require_extra("reports", "report", _MODULES)
    named = (
        *arguments.source,
        *(getattr(arguments, name, None) for name in ("out", "azure_export")),
    )
    if any((name or "").startswith(BLOB_SCHEME) for name in named):
        require_extra("reading Azure Blob", "blob", ("azure.storage.blob", "azure.identity"))
    if getattr(arguments, "engine", "duckdb") == "spark":
        require_extra("engine spark", "spark", ("pyspark",))


def places(arguments: argparse.Namespace) -> "Iterator[Place]":
    """Open each SOURCE; close them in the end. Raises SettingsError."""
    from sidecar.report.places import open_place  # noqa: PLC0415 - the extra may be missing

    is_blob = any(source.startswith(BLOB_SCHEME) for source in arguments.source)
    settings = settings_from(arguments) if is_blob else Settings()
    for source in arguments.source:
        yield open_place(source, settings, os.environ)


def resources(arguments: argparse.Namespace, progress: "Progress") -> "Resources":
    """Return what reading and adding up may use. Raises SettingsError."""
    from sidecar.report.dataset import Resources  # noqa: PLC0415

    try:
        memory_mib = max(_MEMORY_MIB_MIN, parse_bytes(arguments.memory) // 1024**2)
    except ValueError as error:
        raise SettingsError(f"flag --memory: {error}") from error
    try:
        zone = ZoneInfo(arguments.csv_timezone)
    except (KeyError, ValueError, OSError) as error:  # KeyError: none of that name
        raise SettingsError(
            f"flag --csv-timezone: {shown(arguments.csv_timezone)} is no time zone known here; write it "
            "like Europe/Berlin (names of the IANA database, from the system or the package tzdata)"
        ) from error
    return replace(Resources(), memory_mib=memory_mib, zone=zone, progress=progress)
