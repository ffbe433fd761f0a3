"""Where the shipped tables are."""

from pathlib import Path
from typing import Final

TABLES: Final = Path(__file__).with_name("tables")
"""A path, since importlib.resources costs each sidecar half a dozen modules and 4 ms."""
