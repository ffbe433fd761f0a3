"""The one run of this process, which all its trackers share, and the phases of this process.

There is one run, whatever number of trackers is active: the first begins it, the last ends it, so
nothing is recorded twice. In a pod with a sidecar, and below a program that meters itself, there is a
run already. This state belongs to the process, so it is a global: `this_process` gives it. A fork has
its own, and nothing of its parent's. The engine is loaded where a run begins, or a sidecar is sought.
"""

import logging
import os
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from sidecar.phases import PhaseClock
from sidecar.tracking.options import Plan

if TYPE_CHECKING:
    from sidecar.agent import RunSoFar
    from sidecar.exporters.summary import Totals
    from sidecar.tracking.beside import Beside, Mounted, Teller
    from sidecar.tracking.own_run import KnownPlaces, OwnRun

# ruff: noqa: PLC0415 - see above

_log = logging.getLogger(__name__)


class Run(Protocol):
    """What a tracker needs of a run: its own, or a sidecar's."""

    def so_far(self) -> "RunSoFar | None":
        """Return the run as it stands; None where it cannot be told."""
        ...

    def flush(self) -> "RunSoFar | None":
        """Have what was metered written, and return the run as it stands."""
        ...


@dataclass(slots=True, eq=False, weakref_slot=True)
class Share:
    """A tracker's part of a run: what came before it, and the phase that it is. The tracker holds it."""

    run: Run
    before: "Totals | None" = None
    phase: int | None = None

    @property
    def is_first(self) -> bool:
        """Whether the run began with it."""
        return self.phase is None


class Process:
    """The state of one process. Safe for threads."""

    def __init__(self) -> None:
        self.pid: Final = os.getpid()
        self.clock: Final = PhaseClock()
        # A handler of signals may stop a tracker amidst the start or end of another.
        self._lock = threading.RLock()
        self._places: KnownPlaces | None = None
        self._run: OwnRun | None = None
        # A tracker that nobody holds any more, as where a cell of a notebook runs again, cannot be
        # stopped: it keeps the run going, but not beyond the end of one that is.
        self._shares: weakref.WeakSet[Share] = weakref.WeakSet()
        self._phases: set[int] = set()
        self._sidecar: Beside | Mounted | None = None
        self._teller: Teller | None = None
        self._has_looked = False

    def join(self, plan: Plan) -> Share:
        """Join the run of this process, or begin it. Raises SettingsError, OSError, ValueError."""
        with self._lock:
            run = self._run or self._found(plan)
            if run is None:
                return self._begun(plan)
            share = Share(run)
            if run is self._run:
                self._shares.add(share)
        now = run.so_far()
        share.before = now.totals if now else None
        share.phase = self.clock.enter(plan.label)
        if run is self._run:
            self._phases.add(share.phase)
        return share

    def leave(self, share: Share, reason: str) -> "RunSoFar | None":
        """Leave the run, which ends with its last tracker; returns it as it stands."""
        if share.phase is not None:
            self.clock.leave(share.phase)
            self._phases.discard(share.phase)
        with self._lock:
            run = self._run
            if run is None or share.run is not run:
                return share.run.so_far()
            self._shares.discard(share)
            if self._shares:
                return run.so_far()
            self._run = None
            self.clock.changed = None
            phases, self._phases = self._phases, set()
            for phase in phases:  # of those that nobody could stop
                self.clock.leave(phase)
        return run.end(reason)

    def _begun(self, plan: Plan) -> Share:
        from sidecar.tracking.metered_by import is_metered_by_ancestor
        from sidecar.tracking.own_run import KnownPlaces, OwnRun

        is_recorded = not is_metered_by_ancestor()
        if not is_recorded:
            _log.info(
                "a program that started this one meters it, too: figures are told, not recorded again"
            )
        self._places = self._places or KnownPlaces()
        self._run = OwnRun.begun(plan, self.clock, self._places, is_recorded=is_recorded)
        share = Share(self._run)
        self._shares.add(share)
        return share

    # -- a sidecar -----------------------------------------------------------------------------------

    def _found(self, plan: Plan) -> "Beside | Mounted | None":
        """Return the sidecar that meters this process; looked for anew until there is one."""
        from sidecar.tracking.beside import Beside, find_sidecar
        from sidecar.tracking.own_run import settings_for

        if self._sidecar is None:
            settings = settings_for(Plan(flags=plan.flags), os.environ)
            is_named = settings.origins.get("sidecar_url", "default") != "default"
            self._sidecar = find_sidecar(settings.sidecar_url, is_named=is_named)
            if isinstance(self._sidecar, Beside):
                self._tell(self._sidecar)
            if self._sidecar is not None:
                _log.info(
                    "the sidecar of this pod meters it: trackers are phases of its records, and write "
                    "nothing"
                )
        return self._sidecar

    def _tell(self, sidecar: "Beside") -> None:
        from sidecar.tracking.beside import Teller

        self._teller = Teller(sidecar, self.clock)
        try:
            self._teller.start()
        except RuntimeError as error:  # no more threads allowed here
            _log.warning("phases cannot be told: %s", error)

    def look_for_sidecar(self) -> None:
        """Look for a sidecar to tell phases to, once, in the background: nobody waits for it."""
        if self._has_looked:
            return
        self._has_looked = True
        try:
            # In this thread: a fork while another loads a module would wait for that for ever.
            import sidecar.tracking.own_run  # noqa: F401

            threading.Thread(target=self._look, name="phases-look", daemon=True).start()
        except Exception as error:  # noqa: BLE001 - no more threads or files here; training first
            _log.debug("no sidecar is looked for: %s", error)

    def _look(self) -> None:
        from sidecar.settings import SettingsError

        try:
            with self._lock:
                if self._run is None:
                    self._found(Plan())
        except SettingsError as error:
            _log.error("%s; phases are not told to a sidecar", error)


_processes: Final[list[Process]] = [Process()]


def this_process() -> Process:
    """Return the state of this process, a new one in a fork."""
    process = _processes[0]
    if process.pid != os.getpid():
        _processes[0] = process = Process()
    return process
