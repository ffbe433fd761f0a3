"""`Condition`: whether one meter works now, for `detect`, and for the log when it changes."""

import logging

from sidecar.meters.reading import MeterStatus

LOGGED_CHANGES = 10
"""A meter that flaps for weeks beside a training job must not fill its log."""


class Condition:
    """The state of one meter. Each change is logged once, and at most `LOGGED_CHANGES` changes."""

    def __init__(self, name: str, logger: logging.Logger) -> None:
        self._name = name
        self._logger = logger
        self._available: bool | None = None
        self._has_worked = False
        self._detail = "not read yet"
        self._changes = 0

    def works(self, detail: str) -> None:
        """Say that the meter works."""
        self._has_worked = True
        self._become(available=True, detail=detail, level=logging.INFO)

    def fails(self, detail: str) -> None:
        """Say that the meter should work and does not: a warning."""
        self._become(available=False, detail=detail, level=logging.WARNING)

    def absent(self, detail: str) -> None:
        """Say that this machine has no such meter, which is ordinary: no warning."""
        self._become(available=False, detail=detail, level=logging.INFO)

    def missing(self, detail: str) -> None:
        """Say that a meter that nobody promised does not work: ordinary, unless it did before."""
        if self._has_worked:
            self.fails(detail)
        else:
            self.absent(detail)

    @property
    def status(self) -> MeterStatus:
        """The state in words."""
        return MeterStatus(self._name, available=bool(self._available), detail=self._detail)

    def _become(self, *, available: bool, detail: str, level: int) -> None:
        changed = available != self._available or (not available and detail != self._detail)
        self._available, self._detail = available, detail
        if not changed:
            return
        self._changes += 1
        if self._changes > LOGGED_CHANGES:
            return
        last = " (further changes are not logged)" if self._changes == LOGGED_CHANGES else ""
        self._logger.log(level, "meter %s: %s%s", self._name, detail, last)
