"""The Python API: `EmissionsTracker`, `track_emissions`, `phase`. The same engine as the commands'.

CodeCarbon's names, where they mean the same. Nothing here raises for a failure of ours: the program
that is metered goes on, the log says what is wrong, and a figure that is not known is None.
"""

import functools
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from types import FrameType, TracebackType
from typing import Any, ParamSpec, Self, TypeVar, Unpack, overload

from sidecar.phases import phase_named
from sidecar.tracking.options import (
    DECORATOR,
    OFFLINE,
    TRACKER,
    DecoratorOptions,
    OfflineOptions,
    OutputMethod,
    Plan,
    TrackerOptions,
    bound,
    plan_of,
    set_log_level,
)
from sidecar.tracking.process import this_process
from sidecar.tracking.results import EmissionsData, TaskEmissionsData
from sidecar.tracking.session import Session, Unfailing
from sidecar.tracking.wrapping import wrapped

__all__ = [
    "EmissionsData",
    "EmissionsTracker",
    "OfflineEmissionsTracker",
    "OutputMethod",
    "Phase",
    "TaskEmissionsData",
    "TaskEmissionsTracker",
    "phase",
    "track_emissions",
    "track_task_emissions",
]

P = ParamSpec("P")
R = TypeVar("R")

_HARDWARE = ("ram_total_size", "cpu_count", "cpu_model", "gpu_count", "gpu_model")

_log = logging.getLogger(__name__)


def _plan(given: dict[str, Any], *, offline: bool) -> Plan:
    with Unfailing("reading the parameters"):
        set_log_level(given.get("log_level"))
        return plan_of(given, offline=offline)
    return Plan()


class EmissionsTracker:
    """Meters this process and its children from `start` to `stop`; also as `with EmissionsTracker():`.

    The parameters are CodeCarbon's, with and without names; `docs/how-to/migrate-from-codecarbon.md`
    says which mean the same. A parameter that does nothing here is told in the log, once. Records are
    written as it goes, so that a kill costs at most the open window.

    Raises TypeError for a parameter that there is not; nothing else, ever.
    """

    def __init__(self, *positional: Any, **options: Unpack[TrackerOptions]) -> None:  # noqa: ANN401
        given = bound(type(self).__name__, TRACKER, positional, options)
        self._session = Session(_plan(given, offline=False))

    def start(self) -> None:
        """Begin to meter. Where it has begun, that is said in the log."""
        self._session.start()

    def stop(self) -> float | None:
        """Stop, write what is left, and return the emissions in kg CO2e; None if they are not known."""
        self._session.stop()
        return self.final_emissions

    def flush(self) -> float | None:
        """Have what was metered so far written; return the emissions so far in kg CO2e."""
        data = self._session.flush()
        return None if data is None else data.emissions

    @property
    def final_emissions(self) -> float | None:
        """Emissions from start to stop in kg CO2e; None before the end, and if they are not known."""
        data = self._session.final
        return None if data is None else data.emissions

    @property
    def final_emissions_data(self) -> EmissionsData | None:
        """All results from start to stop; None before the end, and if they are not known."""
        return self._session.final

    @property
    def emissions_data_so_far(self) -> EmissionsData | None:
        """Results from start to now; nothing is written for it. None where they cannot be told."""
        return self._session.so_far()

    @property
    def run_id(self) -> str | None:
        """Id of the run in the records; None before the start."""
        if self._session.run_id is None:
            self._session.so_far()
        return self._session.run_id

    def start_task(self, task_name: str | None = None) -> None:
        """Begin a task: a phase of the records with results of its own. Starts the tracker, if need be.

        Tasks may lie within one another; a name that was used before gets an addition.
        """
        self._session.start_task(task_name)

    def stop_task(self, task_name: str | None = None) -> EmissionsData | None:
        """End a task, the last one without a name, and return its results; None if there are none."""
        return self._session.stop_task(task_name)

    def service_shutdown(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop; to be given to `signal.signal` where a program wants that."""
        _log.warning("signal %d: the tracker stops", signum)
        self.stop()

    def get_detected_hardware(self) -> dict[str, Any]:
        """Return what it meters on, under CodeCarbon's names; None is not known, or not yet."""
        data = self._session.so_far()
        return {name: None if data is None else getattr(data, name) for name in _HARDWARE}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class OfflineEmissionsTracker(EmissionsTracker):
    """An `EmissionsTracker` that asks nobody: `country_iso_code`, or `cloud_region`, says where it is.

    As with CodeCarbon, these parameters are given by name.
    """

    def __init__(self, *positional: Any, **options: Unpack[OfflineOptions]) -> None:  # noqa: ANN401
        by_name = bound(type(self).__name__, TRACKER, positional, {})
        given = bound(type(self).__name__, OFFLINE, (), {**by_name, **options})
        self._session = Session(_plan(given, offline=True))


class TaskEmissionsTracker:
    """A task: `with TaskEmissionsTracker("load", tracker=tracker):`; else with a tracker of its own."""

    def __init__(self, task_name: str, tracker: EmissionsTracker | None = None) -> None:
        self.task_name = task_name
        self.tracker = EmissionsTracker() if tracker is None else tracker
        self._is_own = tracker is None

    def __enter__(self) -> Self:
        self.tracker.start_task(self.task_name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.tracker.stop_task()
        if self._is_own:
            self.tracker.stop()


@overload
def track_emissions(fn: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def track_emissions(
    fn: None = None,
    *positional: Any,  # noqa: ANN401
    **options: Unpack[DecoratorOptions],
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def track_emissions(
    fn: Callable[P, R] | None = None,
    *positional: Any,
    **options: Unpack[DecoratorOptions],
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Meter each call of a function, with or without parameters: those of the trackers, and `offline`.

    Functions, coroutines, generators and asynchronous generators. Results, exceptions and what is sent
    into a generator pass unchanged. Raises TypeError for a parameter that there is not.
    """
    given = bound("track_emissions", DECORATOR, positional, options)
    plan = _plan(given, offline=bool(given.get("offline")))

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        own = plan
        if not {"project_name", "experiment_name"} & given.keys():
            name = phase_named(getattr(function, "__name__", plan.label))
            own = replace(plan, label=name or plan.label)
        return wrapped(function, lambda: Session(own))

    return decorate if fn is None else decorate(fn)


@overload
def track_task_emissions(fn: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def track_task_emissions(
    fn: None = None, tracker: EmissionsTracker | None = None, task_name: str = ""
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def track_task_emissions(
    fn: Callable[P, R] | None = None,
    tracker: EmissionsTracker | None = None,
    task_name: str = "",
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Meter each call of a function as a task of a tracker; without one, of one of its own."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = task_name or getattr(function, "__name__", "")

        def context() -> AbstractContextManager[object]:
            return TaskEmissionsTracker(name, tracker)

        return wrapped(function, context)

    return decorate if fn is None else decorate(fn)


class Phase:
    """A phase of this process, from `with` to its end. May be entered again, and within itself."""

    __slots__ = ("_name", "_tokens")

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._tokens: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        if self._name is not None:
            process = this_process()
            process.look_for_sidecar()
            self._tokens.append((process.pid, process.clock.enter(self._name)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._tokens:
            pid, token = self._tokens.pop()
            process = this_process()
            if process.pid == pid:
                process.clock.leave(token)


_named = functools.lru_cache(maxsize=256)(phase_named)


def phase(name: str) -> Phase:
    """Name what the program does inside of a `with`. It costs microseconds, and never fails.

    In a pod with a sidecar, and between `start` and `stop` of a tracker, the records tell the seconds
    of each phase, and reports what it used; elsewhere it does nothing. One phase goes on at a time:
    the one entered last, whatever thread it was. At most 64 names are told apart.
    """
    try:
        return Phase(_named(name))
    except Exception:  # noqa: BLE001 - training first: a name that cannot be spelled marks nothing
        _log.exception("the name of a phase cannot be spelled; it is not marked")
        return Phase(None)
