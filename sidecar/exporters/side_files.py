"""The names of `summary.json` and `emissions.csv` on a volume that several processes may share.

The first process that writes on a volume owns the plain names. Another one that runs at the same time
has `summary.<stem>.json`. Processes of one machine share `emissions.csv` under its lock, as CodeCarbon's
users expect of parallel runs; one of another machine, where locks may not reach, has
`emissions.<stem>.csv`. So no file is ever written by two at once.
"""

import errno
import json
import logging
from pathlib import Path
from typing import Final

from sidecar.identity.bounded import read_bounded
from sidecar.journal.claim import TRIES_MAX, Claim

OWNER_FILE: Final = ".owner"

_SUMMARY_BYTES_MAX: Final = 256 * 1024

_PLAIN: Final = ("summary.json", "emissions.csv")

_log = logging.getLogger(__name__)


class SideFiles:
    """Decides the names once it can reach the volume, and keeps the claim on them."""

    def __init__(self, volume: Path, stem: str) -> None:
        self._volume = volume
        self._own = (f"summary.{stem}.json", f"emissions.{stem}.csv")
        self._claim: Claim | None = None
        self._names: tuple[str, str] | None = None

    def paths(self) -> tuple[Path, Path]:
        """Return where the summary and the CSV go now. Raises OSError where the volume fails.

        A plain name is given up when another process has taken it over (this one was suspended for
        hours, or somebody cleared the volume), and what was given up does not come back.
        """
        if self._claim is None or not self._claim.is_held:
            self._decide()
        if self._claim is not None:
            self._claim.beat()
        summary, csv = self._names or _PLAIN
        return self._volume / summary, self._volume / csv

    def _decide(self) -> None:
        self._volume.mkdir(parents=True, exist_ok=True)
        self.release(remove=False)
        is_elsewhere = self._is_owned_elsewhere()
        before = self._names or (self._summary_name(), _PLAIN[1])
        if self._claim is not None:
            # Whose owner ended while this one writes: the claim keeps other machines off its CSV.
            self._names = before
            return
        self._names = (self._own[0], self._own[1] if is_elsewhere else before[1])
        if self._names != before:
            _log.info(
                "another process writes summary.json on %s: this one writes %s and %s",
                self._volume, *self._names,
            )  # fmt: skip

    def _summary_name(self) -> str:
        """Return the plain name, unless a file of somebody else has it: the volume may be a user's."""
        path = self._volume / _PLAIN[0]
        try:
            content, cut = read_bounded(path, _SUMMARY_BYTES_MAX)
            summary = {} if cut else json.loads(content)
        except FileNotFoundError:
            return _PLAIN[0]
        except (OSError, ValueError, RecursionError):
            summary = {}
        if isinstance(summary, dict) and {"schema", "tool_version"} <= summary.keys():
            return _PLAIN[0]
        _log.warning("%s is none of ours and stays; this run writes %s", path, self._own[0])
        return self._own[0]

    def _is_owned_elsewhere(self) -> bool:
        """Claim the plain names; tell whether a process of another machine has them. Raises OSError."""
        path = self._volume / OWNER_FILE
        for _ in range(TRIES_MAX):
            self._claim = Claim.take(path)
            if self._claim is not None:
                return False
            try:
                return Claim.is_of_another_machine(path)
            except FileNotFoundError:
                continue  # its owner ended just now
        raise OSError(errno.EAGAIN, "is removed again and again", str(path))

    def release(self, *, remove: bool = True) -> None:
        """Leave the plain names to the next process."""
        if self._claim is not None:
            self._claim.release(remove=remove)
            self._claim = None
