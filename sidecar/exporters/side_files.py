"""The names of `summary.json` and `emissions.csv` on a volume that several processes may share.

The first process that writes on a volume owns the plain names. Another one that runs at the same time
has `summary.<stem>.json`. Processes of one machine share `emissions.csv` under its lock, as CodeCarbon's
users expect of parallel runs; one of another machine, where locks may not reach, has
`emissions.<stem>.csv`. So no file is ever written by two at once.
"""

import logging
from pathlib import Path
from typing import Final

from sidecar.journal.claim import Claim

OWNER_FILE: Final = ".owner"

_log = logging.getLogger(__name__)


class SideFiles:
    """Decides the names once it can reach the volume, and keeps the claim on them."""

    def __init__(self, volume: Path, stem: str) -> None:
        self._volume = volume
        self._stem = stem
        self._claim: Claim | None = None
        self._names: tuple[str, str] | None = None

    def paths(self) -> tuple[Path, Path]:
        """Return where the summary and the CSV go. Raises OSError where the volume fails."""
        if self._names is None:
            self._names = self._decided()
        if self._claim is not None:
            self._claim.beat()
        summary, csv = self._names
        return self._volume / summary, self._volume / csv

    def _decided(self) -> tuple[str, str]:
        self._volume.mkdir(parents=True, exist_ok=True)
        path = self._volume / OWNER_FILE
        self._claim = Claim.take(path)
        if self._claim is not None:
            return "summary.json", "emissions.csv"
        elsewhere = Claim.is_of_another_machine(path)
        csv = f"emissions.{self._stem}.csv" if elsewhere else "emissions.csv"
        summary = f"summary.{self._stem}.json"
        _log.info(
            "another process writes summary.json on %s: this one writes %s", path.parent, summary
        )
        return summary, csv

    def release(self) -> None:
        """Leave the plain names to the next process."""
        if self._claim is not None:
            self._claim.release(remove=True)
