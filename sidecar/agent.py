"""The loop: reads the meters at each window's end, estimates, records, and knows how to stop.

The one place where identity, meters, estimate, record and journal meet. Nothing here raises for a
failing source or volume: metering goes on and says so.
"""

import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

from sidecar.amounts import counted
from sidecar.carbon.intensity import IntensityFeed
from sidecar.catalogue.lookup import Catalogue
from sidecar.estimate.attribution import shares_of
from sidecar.estimate.emissions import Factors, estimate_window
from sidecar.exporters.codecarbon_csv import write_row
from sidecar.exporters.codecarbon_row import codecarbon_row
from sidecar.exporters.energy_metrics import Standing
from sidecar.exporters.side_files import SideFiles
from sidecar.exporters.summary import Totals, totals_of, totals_text, write_summary
from sidecar.factors import Place, SeenGpu, choose_factors, doubts, with_country
from sidecar.identity.fields import Hardware, Identity, Resolution
from sidecar.meters.node import NodeMeter
from sidecar.meters.pod.requests import Reservation
from sidecar.meters.reading import NodeReading, NodeUsage
from sidecar.meters.usage import usage_between
from sidecar.outbox import Keeping, Nowhere, Outbox, OutboxState
from sidecar.phases import PhasePace, Phases
from sidecar.record import EmissionRecord, Event
from sidecar.recording import Metered, Occasion, start_record, window_record
from sidecar.segment import OUTSIDE_A_POD
from sidecar.settings import Settings
from sidecar.transport.delivery import Transport
from sidecar.windows import Window, next_boundary_s, snapped_s, window_between

SAMPLE_PERIOD_S: Final = 1.0
"""Sampled quantities (GPU power and utilisation) are read this often."""

POLL_PERIOD_S: Final = 30.0
"""At least this often everything is looked at, so that no RAPL counter wraps twice unseen."""

EARLY_WINDOWS_MAX: Final = 200
"""Windows kept to be completed when a late identity source answers (IMDS gives up after 75 s)."""

LAST_ANSWER_S: Final = 0.3
"""How long a run that ends waits for an identity source that has not answered yet."""

FOLLOWER_LOOK_S: Final = 0.1
"""How often the end looks whether somebody is impatient, while a tracker takes the last figures."""

SIDE_FILES_PERIOD_S: Final = 5.0
"""Totals are written this often at most, however short the windows: each time costs three syncs."""

HURRIED_INTERVAL_S: Final = 1.0
"""Length of the windows once the end is announced: a SIGKILL then costs at most one of them."""

HURRIED_SLOWDOWN: Final = 30.0
"""An end that does not come makes them longer again, to this part of the time since it was announced:
the usual grace period of 30 s has windows of 1 s, an hour's not 3,600 of them."""

_log = logging.getLogger(__name__)


class IdentitySource(Protocol):
    """What the agent needs of the identity chain."""

    def start(self) -> None:
        """Begin to ask the sources that answer late; never waits."""

    def current(self) -> Resolution:
        """Return what is known now."""
        ...

    def wait(self, timeout_s: float) -> Resolution:
        """Wait at most so long for the late sources."""
        ...

    def close(self) -> None:
        """Stop asking."""


class Follower(Protocol):
    """Who is shown the records of a run, as it goes on."""

    def begin(self) -> None:
        """Get ready; never waits, never raises."""

    def take(self, record: EmissionRecord) -> None:
        """Take the next record, which stays as it is; never waits, never raises."""

    def finish(self) -> None:
        """Learn that no record comes any more."""

    def wait(self, timeout_s: float) -> bool:
        """Wait at most so long until all is shown; whether it is, or its time is over."""
        ...


@dataclass(frozen=True, slots=True)
class Clock:
    """Wall clock to name windows, monotonic clock to time them."""

    wall_s: Callable[[], float] = time.time
    monotonic_s: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Wake:
    """Why a wait ended: time is up (neither), the end is near (`hurry`), or it is here (`stop`).

    `errand` is what somebody wants done, or told, in the thread that meters.
    """

    hurry: bool = False
    stop: str | None = None
    errand: Callable[[], None] | None = None


Waiter = Callable[[float], Wake]
"""Waits at most so many seconds and says why it came back."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What an agent is wired from; `boot_id` is unique for each start of a process.

    `open_transport` is called once, in the thread that ships; None leaves records on the volume.
    `phases` is who knows what the program is doing; `emissions_csv` stands for the volume's own file.
    Without `keeps_records` nothing is written and nothing shipped: there are totals, and no more.
    Without `intensity`, the carbon intensity of the factors holds at all times.
    """

    settings: Settings
    identity: IdentitySource
    meter: NodeMeter
    catalogue: Catalogue
    reserved: Reservation = field(default_factory=Reservation)
    clock: Clock = field(default_factory=Clock)
    open_transport: Callable[[], Transport] | None = None
    intensity: IntensityFeed | None = None
    phases: Phases | None = None
    emissions_csv: Path | None = None
    keeps_records: bool = True
    followers: tuple[Follower, ...] = ()
    boot_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])


@dataclass(frozen=True, slots=True)
class RunSoFar:
    """A run as it stands: its totals with the open window, and what they were metered on."""

    totals: Totals
    hardware: Hardware
    country_name: str | None


@dataclass(frozen=True, slots=True)
class _ClosedWindow:
    """A window as the meters saw it, before any factor: enough to estimate it again."""

    sequence: int
    window: Window
    usage: NodeUsage
    end_reason: str | None
    phases: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """Who and where as known now, and what follows from it; made anew only when the place changes."""

    place: Place
    identity: Identity
    country_name: str | None
    factors: Factors


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where the open window began."""

    wall_s: float
    reading: NodeReading


class Agent:
    """Meters one pod (or machine, or process tree) from `open` to `close`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._interval_s = parts.settings.interval
        self._phase_pace = PhasePace(parts.phases, parts.settings.interval)
        self._hurried_s: float | None = None
        self._mark: _Mark | None = None
        self._is_closed = False
        self._started_wall_s = 0.0
        self._begun_s = 0.0
        self._sequence = 0
        self._early: list[_ClosedWindow] | None = []
        self._early_identity: Identity | None = None
        self._known: _Known | None = None
        self._next_sample_s = 0.0
        self._stem = ""
        self._side_files = SideFiles(parts.settings.volume, "")
        self._run_id = parts.settings.run_id or str(uuid.uuid4())
        self._export_failures: dict[str, str] = {}
        self._side_files_due_s = 0.0
        self._warned: set[str] = set()
        self._watchers: list[Callable[[Totals], None]] = []
        self._untold: list[EmissionRecord] = []
        self._ends_briefly = False
        self._last: EmissionRecord | None = None
        self.outbox: Keeping | None = None
        self.totals: Totals | None = None
        self.standing: Standing | None = None
        """What other threads may tell of the run; one whole value, so that its parts fit together."""

    # -- life ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take the first reading: from here on everything counts. Quick, and writes nothing."""
        clock = self._parts.clock
        self._started_wall_s = clock.wall_s()
        self._mark = _Mark(self._started_wall_s, self._parts.meter.read(gpus=False))
        self._begun_s = self._mark.reading.monotonic_s

    def open(self) -> None:
        """Start the identity chain and write the start record."""
        if self._mark is None:
            self.begin()
        self._parts.meter.sample()  # opens the GPUs
        self._parts.identity.start()
        if self._parts.intensity is not None:
            self._parts.intensity.start()
        for follower in self._parts.followers:
            follower.begin()
        resolution = self._parts.identity.current()
        self._early_identity = resolution.identity
        self._stem = record_stem(self._early_identity.pod_uid, self._parts.boot_id)
        self._side_files = SideFiles(self._settings.volume, self._stem)
        self.outbox = self._new_outbox()
        self.outbox.open()
        if self._is_settled():
            self._early = None
            self.outbox.release()
        record = self._start_record()
        self.totals = totals_of(record)
        self.outbox.append(record)
        self._take_stand()
        self._tell_followers(record)
        self._export(at_once=True)

    def _new_outbox(self) -> Keeping:
        if not self._parts.keeps_records:
            return Nowhere(self._settings.volume)
        opener, clock = self._parts.open_transport, self._parts.clock
        return Outbox(self._settings, self._stem, opener, clock.monotonic_s)

    def run(self, wait: Waiter) -> str:
        """Meter until the waiter says stop; returns the reason."""
        while True:
            wake = wait(self._seconds_to_next())
            if wake.stop is not None:
                return wake.stop
            if wake.hurry and self._hurried_s is None:
                self._hurry()
            if wake.errand is not None:
                wake.errand()
            self._on_time()

    def close(self, reason: str) -> Totals:
        """Write the last window, complete what can be completed, and release everything."""
        self._close_window(reason)
        self._settle()
        for follower in self._parts.followers:
            follower.finish()
        outbox, totals = self._opened()
        state = outbox.close()
        self._export(at_once=True)
        self._side_files.release()
        self._parts.identity.close()
        if self._parts.intensity is not None:
            self._parts.intensity.close()
        self._parts.meter.close()
        self._is_closed = True
        if state.waiting_records:
            _log.error(
                "%d records could not be written to %s and end with this process; the totals: %s",
                state.waiting_records, outbox.directory, totals_text(totals),
            )  # fmt: skip
        self._await_followers()
        return totals

    def flush(self) -> RunSoFar:
        """Close the open window and write the totals now; only in the thread that meters.

        Returns the run with it.
        """
        self._side_files_due_s = 0.0
        self._close_window(is_tick=False)
        return self._run_of(self._opened()[1])

    def run_so_far(self) -> RunSoFar:
        """Return the run as it stands; only in the thread that meters, or once it is closed."""
        return self._run_of(self._opened()[1] if self._is_closed else self._with_open_window())

    def _run_of(self, totals: Totals) -> RunSoFar:
        known = self._now()
        return RunSoFar(totals, known.place.hardware, known.country_name)

    def _with_open_window(self) -> Totals:
        mark, wall_s = self._marked(), self._parts.clock.wall_s()
        usage = usage_between(mark.reading, self._parts.meter.read())
        window = window_between(mark.wall_s, wall_s, usage.duration_s)
        open_window = _ClosedWindow(self._sequence + 1, window, usage, None)
        return self._opened()[1].plus(self._record_of(open_window))

    def state(self) -> OutboxState | None:
        """Return what became of the records so far; None before `open`."""
        return None if self.outbox is None else self.outbox.state()

    def ship_briefly(self) -> None:
        """Spend less time on shipping what is left: somebody waits for the end."""
        self._ends_briefly = True
        if self.outbox is not None:
            self.outbox.ship_briefly()

    @property
    def elapsed_s(self) -> float:
        """Seconds of the monotonic clock since `begin`."""
        return self._parts.clock.monotonic_s() - self._begun_s

    @property
    def whereabouts(self) -> str:
        """Where the records are, in words."""
        outbox, _ = self._opened()
        state = outbox.state()
        if state.waiting_records:
            why = state.write_failure or state.ship_failure
            return f"{counted(state.waiting_records, 'record')} not written: {why}"
        if not state.ships:
            return f"records in {outbox.directory}"
        if state.unshipped_segments:
            why = state.ship_failure or "there was no time"
            left = counted(state.unshipped_records, "record")
            return f"{left} not shipped, in {outbox.directory}: {why}"
        return f"{counted(state.shipped_records, 'record')} shipped"

    def watch(self, watcher: Callable[[Totals], None]) -> None:
        """Call the watcher with the totals after each window."""
        self._watchers.append(watcher)

    # -- the end is near ----------------------------------------------------------------------

    def _hurry(self) -> None:
        """Make windows short and ship each at once: only the last is lost when SIGKILL comes."""
        self._hurried_s = self._parts.clock.monotonic_s()
        self._close_window()
        self._interval_s = min(self._interval_s, HURRIED_INTERVAL_S)
        self._settle()
        self._opened()[0].hurry()

    def _settle(self) -> None:
        """Let records go with what is known now of who and where; a late source has a last moment."""
        if self._early is not None and not self._parts.identity.current().settled:
            self._parts.identity.wait(LAST_ANSWER_S)
        if self._early is not None and self._parts.intensity is not None and not self._is_settled():
            self._parts.intensity.wait(LAST_ANSWER_S)
        self._complete_early_windows(is_last=True)
        self._early = None
        self._opened()[0].release()
        self._take_stand()
        self._tell_followers()

    def _lengthen_windows(self) -> None:
        """Return slowly to the usual windows where the announced end does not come."""
        if self._hurried_s is not None:
            since_s = self._parts.clock.monotonic_s() - self._hurried_s
            interval_s = max(HURRIED_INTERVAL_S, float(int(since_s / HURRIED_SLOWDOWN)))
            self._interval_s = min(self._settings.interval, interval_s)
            if self._interval_s == self._settings.interval:
                self._hurried_s = None
                self._opened()[0].calm()

    # -- time ---------------------------------------------------------------------------------

    def _seconds_to_next(self) -> float:
        wall_s = self._parts.clock.wall_s()
        to_boundary_s = min(self._boundary_s() - wall_s, self._to_turn_s())
        if self._parts.meter.needs_sampling:
            to_sample_s = self._next_sample_s - self._parts.clock.monotonic_s()
            return max(0.0, min(to_boundary_s, to_sample_s))
        return max(0.0, min(to_boundary_s, POLL_PERIOD_S))

    def _to_turn_s(self) -> float:
        now_s = self._parts.clock.monotonic_s()
        return self._phase_pace.due_in_s(now_s - self._marked().reading.monotonic_s)

    def _boundary_s(self) -> float:
        mark = self._marked()
        return next_boundary_s(mark.wall_s, self._interval_s)

    def _on_time(self) -> None:
        clock = self._parts.clock
        self._lengthen_windows()
        now_s = clock.monotonic_s()
        if now_s >= self._next_sample_s:
            self._parts.meter.sample()
            self._next_sample_s = now_s + SAMPLE_PERIOD_S
        elapsed_s = now_s - self._marked().reading.monotonic_s
        # The second condition ends the window when the wall clock was set back.
        if clock.wall_s() >= self._boundary_s() or elapsed_s > 2 * self._interval_s:
            self._close_window()
        elif self._to_turn_s() <= 0:
            self._close_window(is_tick=False)

    # -- windows ------------------------------------------------------------------------------

    def _close_window(self, end_reason: str | None = None, *, is_tick: bool = True) -> None:
        mark = self._marked()
        wall_s = self._parts.clock.wall_s()
        reading = self._parts.meter.read()
        usage = usage_between(mark.reading, reading)
        if end_reason is None and is_tick:
            snapped = snapped_s(wall_s, self._interval_s)
            # Not to before the window began: a clock that was set back is told by its own time.
            wall_s = snapped if snapped >= mark.wall_s else wall_s
        window = window_between(mark.wall_s, wall_s, usage.duration_s)
        phases = self._phase_pace.of_window(
            reading.monotonic_s, usage.duration_s, is_turn=not is_tick
        )
        self._mark = _Mark(wall_s, reading)
        self._sequence += 1
        metered = _ClosedWindow(self._sequence, window, usage, end_reason, phases)
        self._complete_early_windows()
        if self._early is not None:
            self._early.append(metered)
            if len(self._early) > EARLY_WINDOWS_MAX:
                _log.warning(
                    "no answer about VM size and region after %d windows; those stay as they are",
                    EARLY_WINDOWS_MAX,
                )
                self._early = None
                self._opened()[0].release()
        self._write(self._record_of(metered))

    def _write(self, record: EmissionRecord) -> None:
        outbox, totals = self._opened()
        self.totals = totals.plus(record)
        self._last = record
        outbox.append(record)
        self._take_stand()
        self._tell_followers(record)
        if record.event != "end":  # `close` exports once more is known
            self._export(at_once=self._hurried_s is not None)

    def _take_stand(self) -> None:
        _, totals = self._opened()
        self.standing = Standing(totals, self._last, is_final=self._early is None)

    def _tell_followers(self, *records: EmissionRecord) -> None:
        """Show records once they stand: those that may be written anew are kept until then."""
        if not self._parts.followers:
            return
        self._untold.extend(records)
        if self._early is not None:
            return
        told, self._untold = self._untold, []
        for record in told:
            for follower in self._parts.followers:
                follower.take(record)

    def _await_followers(self) -> None:
        """Give those who are shown the records a last moment, together; less where somebody waits."""
        for follower in self._parts.followers:
            while not follower.wait(FOLLOWER_LOOK_S):
                if self._ends_briefly:
                    return

    def _is_settled(self) -> bool:
        """Whether the late sources have spoken: who and where, and then the carbon intensity there."""
        if not self._parts.identity.current().settled:
            return False
        if self._parts.intensity is None:
            return True
        self._now()  # which says where
        return self._parts.intensity.is_settled

    def _complete_early_windows(self, *, is_last: bool = False) -> None:
        """Write the early records anew, once, when the late sources have spoken.

        The last time none is waited for: one may have spoken that the others have not.
        """
        if self._early is None:
            return
        knows_more = self._parts.identity.current().settled or self._parts.intensity is not None
        if not (knows_more if is_last else self._is_settled()):
            return
        early, self._early = self._early, None
        outbox, _ = self._opened()
        is_other = self._parts.identity.current().identity != self._early_identity
        if is_other or self._parts.intensity is not None:
            records = [self._start_record(), *map(self._record_of, early)]
            totals = totals_of(records[0])
            for record in records:
                totals = totals.plus(record)
            self.totals = totals
            self._last = records[-1] if early else None
            outbox.rewrite(records)
            self._untold = [*records] if self._parts.followers else []
        outbox.release()

    def _start_record(self) -> EmissionRecord:
        known = self._now()
        start_s = self._started_wall_s
        window = Window(start_s, start_s, 0.0, 0.0)
        occasion = Occasion(f"{self._stem}.0", window, "start")
        return start_record(known.identity, self._during(known.factors, window), occasion)

    def _record_of(self, metered: _ClosedWindow) -> EmissionRecord:
        known, parts = self._now(metered.usage), self._parts
        factors = self._during(known.factors, metered.window)
        gpu_count = factors.gpu_count(metered.usage)
        shares = shares_of(metered.usage, parts.reserved, gpu_count)
        estimate = estimate_window(metered.usage, shares, factors)
        event: Event = "window" if metered.end_reason is None else "end"
        occasion = Occasion(
            f"{self._stem}.{metered.sequence}",
            metered.window,
            event,
            metered.end_reason,
            metered.phases,
        )
        return window_record(known.identity, factors, occasion, Metered(metered.usage, estimate))

    # -- identity and factors -----------------------------------------------------------------

    def _now(self, usage: NodeUsage | None = None) -> _Known:
        """Return identity and factors as known now; looked up anew only when the place changed."""
        place = self._current_place(usage)
        if self._known is None or place != self._known.place:
            catalogue = self._parts.catalogue
            identity = self._with_run(with_country(place.identity, catalogue))
            country = catalogue.country(identity.country_iso3) if identity.country_iso3 else None
            factors = choose_factors(place, self._settings, catalogue)
            if self._parts.intensity is not None:
                self._parts.intensity.aim(identity.region)
            self._known = _Known(place, identity, country.name if country else None, factors)
            self._warn_of_doubts(place)
        return self._known

    def _during(self, factors: Factors, window: Window) -> Factors:
        """Return the factors with the carbon intensity that held in a window, where it varies."""
        if self._parts.intensity is None:
            return factors
        carbon = self._parts.intensity.during(window.start_s, window.end_s, factors.carbon)
        return replace(factors, carbon=carbon)

    def _warn_of_doubts(self, place: Place) -> None:
        for text in doubts(place, self._parts.catalogue):
            if text not in self._warned:
                self._warned.add(text)
                _log.warning("%s", text)

    def _with_run(self, identity: Identity) -> Identity:
        """Give a run without an id of its own the one this process made for it."""
        if identity.run_id is not None:
            return identity
        sources = {**identity.sources, "run_id": "generated"}
        return replace(identity, run_id=self._run_id, sources=sources)

    def _current_place(self, usage: NodeUsage | None = None) -> Place:
        resolution = self._parts.identity.current()
        seen = self._known.place.seen_gpus if self._known else ()
        if usage is not None and usage.gpus:
            seen = tuple(SeenGpu(gpu.model, gpu.power_limit_w) for gpu in usage.gpus)
        return Place(resolution.identity, resolution.hardware, seen)

    # -- side files ---------------------------------------------------------------------------

    def _export(self, *, at_once: bool) -> None:
        now_s = self._parts.clock.monotonic_s()
        if self._parts.keeps_records and (at_once or now_s >= self._side_files_due_s):
            if self._sequence:  # the first window's totals do not wait for the start's period
                self._side_files_due_s = now_s + SIDE_FILES_PERIOD_S
            self._write_side_files()
        _, totals = self._opened()
        for watcher in self._watchers:
            watcher(totals)

    def _write_side_files(self) -> None:
        outbox, totals = self._opened()
        failure = outbox.failure
        self._try("summary.json", lambda files: write_summary(files.paths()[0], totals, failure))
        if totals.merged.facility_energy_kwh is not None:
            known = self._now()
            row = codecarbon_row(totals.merged, known.place.hardware, known.country_name)
            self._try("emissions.csv", lambda files: write_row(self._csv_path(files), row))

    def _csv_path(self, files: SideFiles) -> Path:
        chosen = self._parts.emissions_csv
        return files.paths()[1] if chosen is None else chosen

    def _try(self, name: str, write: Callable[[SideFiles], None]) -> None:
        try:
            write(self._side_files)
        except OSError as error:
            text = error.strerror or str(error)
            if self._export_failures.get(name) != text:
                path = self._settings.volume / name
                _log.error("cannot write %s: %s; metering goes on", path, text)
            self._export_failures[name] = text
        else:
            self._export_failures.pop(name, None)

    def _marked(self) -> _Mark:
        if self._mark is None:
            raise RuntimeError("the agent has not begun: call begin() or open() first")
        return self._mark

    def _opened(self) -> tuple[Keeping, Totals]:
        if self.outbox is None or self.totals is None:
            raise RuntimeError("the agent is not open: call open() first")
        return self.outbox, self.totals


def record_stem(pod_uid: str | None, boot_id: str) -> str:
    """Return what ids and segment names of this process begin with: `<pod_uid>.<boot_id>`.

    Outside a pod `run` stands for the uid. The uid comes from the environment, so anything that is
    not a plain uid is replaced before it becomes a file name.
    """
    uid = re.sub(r"[^A-Za-z0-9-]", "-", pod_uid or OUTSIDE_A_POD)[:64]
    return f"{uid}.{boot_id}"
