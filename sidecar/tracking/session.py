"""One tracker at work: start, tasks, results, stop. The classes of `sidecar.tracker` are its face.

The engine is loaded by the first that starts, not by who imports a module with decorated functions.
"""

import logging
import os
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from sidecar.phases import phase_named
from sidecar.tracking.options import Plan
from sidecar.tracking.process import Share, this_process
from sidecar.tracking.results import EmissionsData, TaskEmissionsData, task_data

if TYPE_CHECKING:
    from sidecar.agent import RunSoFar
    from sidecar.exporters.summary import Totals

# ruff: noqa: PLC0415 - see above

_log = logging.getLogger(__name__)


class Unfailing:
    """A context that lets no failure of ours reach the program that is metered: it goes on without."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """Log an exception, and end it; what ends the interpreter is not ours."""
        if not isinstance(error, Exception):
            return False
        _log.error("%s failed; the program goes on without it", self._what, exc_info=error)
        return True


@dataclass(frozen=True, slots=True)
class _Task:
    """A task under way: what came before it, None where that is not known, and the phase that it is."""

    before: "Totals | None"
    phase: int


class Session:
    """What one tracker does, from any thread. In a fork of its process it does nothing at all."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._pid = os.getpid()
        # A handler of signals may stop the tracker amidst a flush.
        self._lock = threading.RLock()
        self._share: Share | None = None
        self._tasks: dict[str, _Task] = {}
        self._results = _Results(plan)
        self.final: EmissionsData | None = None
        self.run_id: str | None = None

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Begin, or say that it has begun."""
        if not self._is_mine():
            return
        with Unfailing("metering"), self._lock:
            if self._share is not None:
                _log.warning("this tracker has started already")
                return
            self._results = _Results(self._plan)
            self._share = this_process().join(self._plan)

    def stop(self) -> None:
        """End, and give the results out."""
        if not self._is_mine():
            return
        with Unfailing("the end of metering"), self._lock:
            share = self._share
            if share is None:
                _log.warning("this tracker has not started, or has stopped already")
                return
            for name in reversed(self._tasks.copy()):
                self._end_task(name, share)
            if self._share is not share:  # a handler of signals has stopped it meanwhile
                return
            self._share, self.final = None, None
            self.final = self._told(share, this_process().leave(share, "stopped"))
            self._results.hand_out(self.final, is_end=True)

    def flush(self) -> EmissionsData | None:
        """Have what was metered so far written, and give it out."""
        if not self._is_mine():
            return None
        with Unfailing("writing"), self._lock:
            if self._share is None:
                _log.warning("this tracker has not started: there is nothing to flush")
                return None
            data = self._told(self._share, self._share.run.flush())
            self._results.hand_out(data, is_end=False)
            return data
        return None

    def so_far(self) -> EmissionsData | None:
        """Return the results so far, or the final ones."""
        if not self._is_mine():
            return None
        with Unfailing("looking at the run"), self._lock:
            share = self._share
            return self.final if share is None else self._told(share, share.run.so_far())
        return None

    def start_task(self, task_name: str | None) -> None:
        """Begin a task, within the one that is under way, if any."""
        if not self._is_mine():
            return
        with Unfailing("a task"), self._lock:
            if self._share is None:
                self.start()
            if self._share is None:
                return
            named = phase_named(task_name or "")
            name = named or str(uuid.uuid4())
            if name in self._tasks or self._results.has_task(name):
                name = f"{name}_{uuid.uuid4()}"
            run = self._share.run.so_far()
            phase = this_process().clock.enter(named or "task")
            self._tasks[name] = _Task(None if run is None else run.totals, phase)

    def stop_task(self, task_name: str | None) -> EmissionsData | None:
        """End a task, without a name the last one, and return its results."""
        if not self._is_mine():
            return None
        with Unfailing("the end of a task"), self._lock:
            wanted = None if task_name is None else phase_named(task_name)
            name = wanted or next(reversed(self._tasks), None)
            if name is None or name not in self._tasks or self._share is None:
                _log.warning("there is no task %r to stop", task_name)
                return None
            return self._end_task(name, self._share)
        return None

    def _end_task(self, name: str, share: Share) -> EmissionsData | None:
        task = self._tasks.pop(name, None)
        if task is None:  # a handler of signals has ended it meanwhile
            return None
        this_process().clock.leave(task.phase)
        run = share.run.so_far()
        if run is None or task.before is None:
            _log.warning("the run could not be told: there are no figures of the task %r", name)
            return None
        from sidecar.tracking.emissions_data import emissions_data

        data = emissions_data(run, task.before)
        self._results.add_task(name, data)
        return data

    def _is_mine(self) -> bool:
        """Whether this process may use it: not in a fork after it was started, not even its lock.

        One that had not begun is the fork's own.
        """
        if self._pid != os.getpid() and self._share is None:
            self._pid, self._lock = os.getpid(), threading.RLock()
        return self._pid == os.getpid()

    def _told(self, share: Share, run: "RunSoFar | None") -> EmissionsData | None:
        from sidecar.tracking.emissions_data import emissions_data

        if run is None or (share.before is None and not share.is_first):
            _log.warning("the run cannot be told now: its figures are in its records, not here")
            return None
        self.run_id = run.totals.merged.run_id
        return emissions_data(run, share.before)


_SUMS: Final = (
    "duration", "emissions", "cpu_energy", "gpu_energy", "ram_energy", "energy_consumed",
    "water_consumed",
)  # fmt: skip


class _Results:
    """Gives results to the program's own handlers, and tasks to their file."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._tasks: list[TaskEmissionsData] = []
        self._before: EmissionsData | None = None

    def has_task(self, name: str) -> bool:
        """Tell whether a task of this name has ended."""
        return any(task.task_name == name for task in self._tasks)

    def add_task(self, name: str, data: EmissionsData) -> None:
        """Take a task that has ended."""
        self._tasks.append(task_data(name, data))

    def hand_out(self, data: EmissionsData | None, *, is_end: bool) -> None:
        """Give out what is known by now."""
        if self._tasks and self._plan.keeps_files:
            with Unfailing("writing the file of tasks"):
                from sidecar.tracking.task_file import write_tasks

                directory = Path(self._plan.flags.get("volume", "."))
                write_tasks(directory, self._plan.experiment, self._tasks)
        if data is None:
            return
        since = self._since(data)
        for handler in self._plan.handlers:
            with Unfailing(f"the output handler {type(handler).__name__}"):
                _call(handler, "out", data, since)
                if self._tasks:
                    _call(handler, "task_out", list(self._tasks), self._plan.experiment)
                if is_end:
                    _call(handler, "exit")
        self._before = data

    def _since(self, data: EmissionsData) -> EmissionsData:
        """Return what came since results were last given out."""
        before = self._before
        if before is None:
            return data
        changes: dict[str, Any] = {
            name: _less(getattr(data, name), getattr(before, name)) for name in _SUMS
        }
        emissions_kg, duration_s = changes["emissions"], changes["duration"]
        rate = emissions_kg / duration_s if emissions_kg is not None and duration_s else None
        return EmissionsData(**{**data.values, **changes, "emissions_rate": rate})


def _less(whole: float | None, part: float | None) -> float | None:
    return None if whole is None else max(0.0, whole - (part or 0.0))


def _call(handler: object, name: str, *arguments: object) -> None:
    method = getattr(handler, name, None)
    if callable(method):
        method(*arguments)
