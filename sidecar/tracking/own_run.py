"""A run of the engine inside of the program that it meters: settings, start, questions, end."""

import atexit
import functools
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from sidecar.agent import Agent, IdentitySource, RunSoFar
from sidecar.assembly import assemble
from sidecar.catalogue.remembering import RememberingCatalogue
from sidecar.identity.fields import Resolution
from sidecar.identity.resolve import IdentityResolver, ResolverConfig
from sidecar.metering import Metering, patience_s
from sidecar.phases import PhaseClock
from sidecar.settings import (
    ENVIRONMENT_PREFIX,
    FileLayer,
    Settings,
    SettingsError,
    load_settings,
)
from sidecar.settings_file import file_layers
from sidecar.tracking.metered_by import MARK, marked_as_metered
from sidecar.tracking.options import Plan

ASK_S: Final = 5.0
"""A question is answered in milliseconds; so long where a volume or a driver hangs."""

_log = logging.getLogger(__name__)


def settings_for(plan: Plan, environ: Mapping[str, str]) -> Settings:
    """Return the settings: the parameters, over the environment, over configuration files.

    A program is not refused for a bad variable or file, as a command would be: it is told, and the
    variable or file is left out. Raises SettingsError where what is left contradicts itself.
    """
    files: tuple[FileLayer, ...] = ()
    try:
        files = file_layers(None, environ, Path())
        load_settings({}, {}, files)
    except SettingsError as error:
        _log.error("%s; configuration files are left out", error)
        files = ()
    return load_settings(plan.flags, _sound(environ), files)


def _sound(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are no mistake."""
    sound = {}
    for name, text in environ.items():
        if name.startswith(ENVIRONMENT_PREFIX):
            try:
                load_settings({}, {name: text})
            except SettingsError as error:
                _log.error("%s; the variable is left out", error)
                continue
        sound[name] = text
    return sound


class KnownPlaces:
    """Who and where this process is, for one run after the other: asked for once, waited for once.

    `tables` gives the catalogue, which is asked the same in each run.
    """

    def __init__(self) -> None:
        self._config: ResolverConfig | None = None
        self._place: IdentitySource | None = None
        self.tables = functools.lru_cache(1)(RememberingCatalogue)

    def kept(self, resolver: IdentitySource) -> IdentitySource:
        """Return the one that was asked before, where this one would ask the same."""
        config = resolver.config if isinstance(resolver, IdentityResolver) else None
        if self._place is None or config is None or config != self._config:
            self._config, self._place = config, _KnownPlace(resolver)
        return self._place


class _KnownPlace:
    """An identity that outlives a run."""

    def __init__(self, resolver: IdentitySource) -> None:
        self._resolver = resolver
        self._is_waited_for = False

    def start(self) -> None:
        """Begin to ask, the first time."""
        self._resolver.start()

    def current(self) -> Resolution:
        """Return what is known now."""
        return self._resolver.current()

    def wait(self, timeout_s: float) -> Resolution:
        """Wait for late sources, the first time."""
        if self._is_waited_for:
            return self._resolver.current()
        self._is_waited_for = True
        return self._resolver.wait(timeout_s)

    def close(self) -> None:
        """Let it go on asking: its thread is a daemon."""


class OwnRun:
    """An agent at work in this process; in a fork of it, nothing."""

    def __init__(self, agent: Agent, settings: Settings) -> None:
        self._agent = agent
        self._metering = Metering(agent, lambda _: None)
        self._settings = settings
        self._pid = os.getpid()
        self._mark: str | None = None
        self._whole: RunSoFar | None = None  # once it has ended

    @classmethod
    def begun(
        cls, plan: Plan, clock: PhaseClock, places: KnownPlaces, *, is_recorded: bool
    ) -> Self:
        """Begin to meter; from here on everything counts. Raises SettingsError, OSError, ValueError.

        `is_recorded` False gives figures alone, where another process records the same.
        """
        environ = {name: text for name, text in os.environ.items() if name != MARK}
        settings = settings_for(plan, environ)
        if not is_recorded:  # whoever records it ships and shows it, too
            settings = replace(settings, transport="none", export=())
        parts = assemble(settings, environ, "program", owns_process=False, tables=places.tables)
        agent = Agent(
            replace(
                parts,
                identity=places.kept(parts.identity),
                phases=clock,
                emissions_csv=_csv_file(plan, settings),
                keeps_records=is_recorded and (plan.keeps_files or settings.transport != "none"),
            )
        )
        run = cls(agent, parts.settings)
        run._begin(clock, is_recorded=is_recorded)
        return run

    def _begin(self, clock: PhaseClock, *, is_recorded: bool) -> None:
        self._agent.begin()
        clock.take(time.monotonic())
        clock.changed = self._metering.nudge
        self._metering.start()
        self._mark = marked_as_metered() if is_recorded else None  # else an ancestor's holds
        atexit.register(self.end, "interpreter exited")

    def so_far(self) -> RunSoFar | None:
        """Return the run as it stands, the open window included; None where it cannot be told."""
        return self._asked(Agent.run_so_far)

    def flush(self) -> RunSoFar | None:
        """End the open window, write it, and return the run as it stands."""
        return self._asked(Agent.flush)

    def _asked(self, question: Callable[[Agent], RunSoFar]) -> RunSoFar | None:
        if self._pid != os.getpid():
            return None
        # Not what it was before: figures of something that is under way would look like none.
        return self._metering.ask(question, ASK_S) or self._whole

    def end(self, reason: str) -> RunSoFar | None:
        """Write the last window, ship it where that is asked for, and return the whole run.

        None where that hangs, or failed: what is known then is not the whole.
        """
        if self._pid != os.getpid():
            return None
        atexit.unregister(self.end)
        if self._mark is not None and os.environ.get(MARK) == self._mark:
            del os.environ[MARK]
        if self._metering.end(reason, patience_s(self._settings), self._waited):
            self._whole = self._agent.run_so_far()
        return self._whole

    def _waited(self, wait_s: float) -> bool:
        self._metering.wait(wait_s)
        return False


def _csv_file(plan: Plan, settings: Settings) -> Path | None:
    """Return where the CSV goes, if not beside the records: CodeCarbon's is in the working directory."""
    is_placed = settings.origins.get("volume", "default") != "default"
    if is_placed:
        return None if plan.csv_name is None else settings.volume / plan.csv_name
    return Path(plan.csv_name or "emissions.csv").absolute()
