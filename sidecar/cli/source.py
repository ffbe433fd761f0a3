"""The argument SOURCE of commands that read records: a directory, or a container of Azure Blob."""

import argparse
import os
from typing import TYPE_CHECKING, Final

from sidecar.cli.extras import require_extra
from sidecar.cli.options import add_settings, settings_from
from sidecar.report.source import BLOB_SCHEME
from sidecar.settings import Settings, declared_settings

if TYPE_CHECKING:
    from sidecar.report.places import Place

CREDENTIALS: Final = (
    "config",
    *(item.name for item in declared_settings("blob") if item.name != "blob_container"),
)
"""The container is named in the address."""


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add SOURCE, and the settings that a container needs."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a volume, a directory of volumes, or az://CONTAINER[/PREFIX]",
    )
    add_settings(parser, CREDENTIALS)


def place_of(arguments: argparse.Namespace) -> "Place":
    """Open SOURCE; close it in the end. Of a directory, no setting is asked.

    Raises SettingsError with one line: an address or credential that cannot be right, or an extra that
    is not installed.
    """
    require_extra("reading records", "report", ("duckdb", "pyarrow", "pydantic", "rich"))
    is_blob = arguments.source.startswith(BLOB_SCHEME)
    if is_blob:
        require_extra("reading Azure Blob", "blob", ("azure.storage.blob", "azure.identity"))
    from sidecar.report.places import open_place  # noqa: PLC0415 - the extra may be missing

    settings = settings_from(arguments) if is_blob else Settings()
    return open_place(arguments.source, settings, os.environ)
