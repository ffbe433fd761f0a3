"""Phases of a run: what a program says it is doing (`load`, `train`, …), as seconds of each window.

`PhaseClock` keeps them in the program that is metered; `PhaseBook` in a sidecar, which several processes
of its pod may tell. Both hand on what passed since they were last asked, by a monotonic clock, so that
the phases of a window never amount to more than its time. None stands for time in no phase.
"""

import contextlib
import itertools
import logging
import math
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

PHASES_PATH: Final = "/v1/phases"
RUN_PATH: Final = "/v1/run"
SERVICE: Final = "emissions-sidecar"
"""Where a program tells its sidecar its phases, and asks for the run; the answer names the service."""

NAME_CHARACTERS_MAX: Final = 64
NAME_BYTES_MAX: Final = 128

SECONDS_MAX: Final = 1e9
"""No phase of a window is as long (31 years)."""

NAMES_MAX: Final = 64
"""Different phases of one run that are told apart; what comes after them counts as `other`."""

OTHER: Final = "other"

TELL_PERIOD_S: Final = 1.0
"""A change of phase is told at once, but not more often than this: phases may change with each batch."""

SLIVER_S: Final = 0.05
"""Whoever looks is late by some milliseconds: so much of a new phase counts for the one before it."""

HELD_S: Final = 0.2
"""A mark takes microseconds. One that takes so long was interrupted by a handler of signals, which may
wait for whoever looks: who looks goes on without it, and what passed is counted the next time."""

CLIENTS_MAX: Final = 64
"""Processes of a pod whose phases are told apart; a further one takes the place of the most silent."""

LATE_S: Final = 2.0
"""A phase that begins is told late where the machine is busy: so much time before is still counted."""

SILENT_S: Final = 180.0
"""A process that tells nothing for so long has ended, whatever phase it was in."""

_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

_log = logging.getLogger(__name__)


def valid_phase(text: str) -> str:
    """Return a name that a phase may have: one line, 1 to 64 characters. Raises ValueError.

    Any script is allowed: where it is shown, it is escaped.
    """
    if not text.strip() or text != text.strip():
        raise ValueError("the name of a phase must not be empty, nor begin or end with a blank")
    if len(text) > NAME_CHARACTERS_MAX or any(map(_is_hidden, text)):
        raise ValueError(
            f"the name of a phase must be at most {NAME_CHARACTERS_MAX} visible characters"
        )
    if len(text.encode()) > NAME_BYTES_MAX:
        raise ValueError(f"the name of a phase must be at most {NAME_BYTES_MAX} bytes")
    return text


def phase_named(name: object) -> str | None:
    """Make a valid name of whatever a program calls its phase; None where nothing is left of it."""
    visible = "".join(" " if _is_hidden(character) else character for character in str(name)[:1000])
    text = " ".join(visible.split())[:NAME_CHARACTERS_MAX]
    return text.encode()[:NAME_BYTES_MAX].decode(errors="ignore").strip() or None


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN


def phase_shares(phases: Mapping[str, float] | None, duration_s: float) -> dict[str | None, float]:
    """Return the part of a window that each phase has, by time; None has what is in no phase.

    The parts are not negative and sum to 1 (but for rounding). Seconds that amount to more than the
    window, which only a record from outside can have, are scaled to it.
    """
    seconds = {name: part_s for name, part_s in (phases or {}).items() if 0 < part_s <= SECONDS_MAX}
    whole_s = max(duration_s, math.fsum(seconds.values()))
    if not seconds or not 0 < whole_s < math.inf:
        return {None: 1.0}
    shares: dict[str | None, float] = {name: part / whole_s for name, part in seconds.items()}
    rest = 1.0 - math.fsum(shares.values())
    return shares if rest <= 1e-9 else {**shares, None: rest}


class Phases(Protocol):
    """What an agent needs of either."""

    @property
    def is_used(self) -> bool:
        """Whether any phase has been told since it was last asked, or is open."""
        ...

    @property
    def has_turned(self) -> bool:
        """Whether something else went on since it was last asked than goes on now."""
        ...

    def take(self, now_s: float) -> dict[str, float]:
        """Return the seconds of each phase since this was last called."""
        ...


class PhasePace:
    """When a window is closed because the phase turned, and what its phases were.

    So a window belongs to one phase, as long as phases last for more than `TELL_PERIOD_S`. Where they
    change faster, windows would be short and mixed all the same: each such one doubles the time to the
    next, up to the interval.
    """

    def __init__(self, phases: Phases | None, interval_s: float) -> None:
        self._phases = phases
        self._interval_s = interval_s
        self._pause_s = TELL_PERIOD_S

    def due_in_s(self, elapsed_s: float) -> float:
        """Return in how many seconds to look again, `elapsed_s` after the window began; 0: close it."""
        if self._phases is None or not self._phases.is_used:
            return math.inf
        return max(0.0, self._pause_s - elapsed_s) if self._phases.has_turned else TELL_PERIOD_S

    def of_window(
        self, now_s: float, duration_s: float, *, is_turn: bool
    ) -> dict[str, float] | None:
        """Return the seconds of each phase in the window that ends now; None where none was marked."""
        if self._phases is None:
            return None
        taken = self._phases.take(now_s)
        marked_s = math.fsum(taken.values())
        scale = min(1.0, duration_s / marked_s) if marked_s > 0 else 1.0
        is_mixed = sum(part >= SLIVER_S for part in (*taken.values(), duration_s - marked_s)) > 1
        if not is_mixed:
            self._pause_s = TELL_PERIOD_S
        elif is_turn:
            self._pause_s = min(2 * self._pause_s, max(self._interval_s, TELL_PERIOD_S))
        seconds = {name: round(part * scale, 6) for name, part in taken.items()}
        return {name: part for name, part in seconds.items() if part > 0} or None


class _Ledger:
    """Seconds by phase; the number of names is bounded."""

    def __init__(self) -> None:
        self._names: set[str] = {OTHER}
        self._seconds: dict[str | None, float] = {}

    def known(self, name: str) -> str:
        """Return the name to count under: its own, or `other` where there are too many."""
        if name not in self._names:
            if len(self._names) > NAMES_MAX:
                return OTHER
            self._names.add(name)
            if len(self._names) > NAMES_MAX:
                _log.warning(
                    "%d phases are told apart; further names count as %r: name what repeats, not each "
                    "repetition", NAMES_MAX, OTHER,
                )  # fmt: skip
        return name

    def add(self, name: str | None, seconds: float) -> None:
        if seconds > 0:
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def has_other_than(self, names: Iterable[str | None]) -> bool:
        """Tell whether time worth naming was counted for anything but these."""
        known = set(names)
        return any(
            name not in known and part_s >= SLIVER_S for name, part_s in self._seconds.items()
        )

    def rename(self, name: str, seconds: float) -> None:
        """Count time for a phase that was counted for none; at most what there is of it."""
        moved = min(seconds, self._seconds.get(None, 0.0))
        if moved > 0:
            self._seconds[None] -= moved
            self.add(name, moved)

    def take(self) -> dict[str, float]:
        seconds, self._seconds = self._seconds, {}
        return {name: amount for name, amount in seconds.items() if name is not None}


class PhaseClock:
    """The phases of this process, marked from any thread: the one entered last is what it is in.

    Energy is the process's, not a thread's, so there is one phase at a time. `changed` is called when it
    changes, at most once a `TELL_PERIOD_S`, in the thread that marks it: it must return at once.
    """

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._lock = threading.RLock()  # a handler of signals may mark a phase amidst another mark
        self._open: dict[int, str] = {}
        self._tokens = itertools.count()
        self._ledger = _Ledger()
        self._phase: str | None = None
        self._before: str | None = None
        self._since_s = monotonic_s()
        self._told_s = -math.inf
        self.changed: Callable[[], None] | None = None

    @property
    def phase(self) -> str | None:
        """The phase now."""
        return self._phase

    @property
    def is_used(self) -> bool:
        """Whether a phase is open, or was since it was last asked."""
        with self._held() as is_held:
            return is_held and (bool(self._open) or self._ledger.has_other_than((None,)))

    @property
    def has_turned(self) -> bool:
        """Whether another phase than that of now went on since it was last asked."""
        with self._held() as is_held:
            return is_held and self._ledger.has_other_than((self._phase,))

    def enter(self, name: str) -> int:
        """Begin a phase; returns what to leave it with."""
        with self._lock:
            token = next(self._tokens)
            self._open[token] = self._ledger.known(name)
            self._turn()
        self._tell()
        return token

    def leave(self, token: int) -> None:
        """End a phase; what was entered before it and is not left yet goes on."""
        with self._lock:
            self._open.pop(token, None)
            self._turn()
        self._tell()

    def take(self, now_s: float) -> dict[str, float]:
        """Return the seconds of each phase since this was last called."""
        with self._held() as is_held:
            if not is_held:
                return {}
            part_s = now_s - self._since_s
            is_sliver = part_s < SLIVER_S and self._ledger.has_other_than((self._phase,))
            self._ledger.add(self._before if is_sliver else self._phase, part_s)
            self._since_s = max(self._since_s, now_s)
            return self._ledger.take()

    @contextlib.contextmanager
    def _held(self) -> Iterator[bool]:
        """Hold the lock, if it is to be had; who enters and leaves has it in any case."""
        is_held = self._lock.acquire(timeout=HELD_S)
        try:
            yield is_held
        finally:
            if is_held:
                self._lock.release()

    def _turn(self) -> None:
        phase = next(reversed(self._open.values()), None)
        if phase != self._phase:
            now_s = self._monotonic_s()
            if now_s - self._since_s >= SLIVER_S:
                self._before = self._phase
            self._ledger.add(self._phase, now_s - self._since_s)
            self._phase, self._since_s = phase, max(self._since_s, now_s)

    def _tell(self) -> None:
        changed = self.changed
        if changed is not None and self._since_s - self._told_s >= TELL_PERIOD_S:
            self._told_s = self._since_s
            changed()


@dataclass(frozen=True, slots=True)
class Told:
    """What a process tells of itself: the phase it is in now, and what passed since it last told.

    `seconds` are those of `elapsed_s` in each phase; they decide proportions, our clock the time.
    """

    phase: str | None
    seconds: Mapping[str, float]
    elapsed_s: float


@dataclass(slots=True)
class _Client:
    """A process. `uncounted_s` is its part of the time since it last told.

    `mix` are the parts of phases that it changes again and again; empty where it does not.
    """

    phase: str | None = None
    before: str | None = None
    told_s: float = 0.0
    uncounted_s: float = 0.0
    mix: Mapping[str | None, float] = field(default_factory=dict)
    was_mixed: bool = False

    @property
    def is_live(self) -> bool:
        return self.phase is not None or bool(self.mix)


class PhaseBook:
    """The phases that the processes of a pod tell. Where several are in a phase, each counts the same.

    So eight ranks that train are in `train`, and while one of them writes a checkpoint, an eighth of the
    time is `checkpoint`. A process in no phase does not count, unless all are.
    """

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._clients: dict[str, _Client] = {}
        self._ledger = _Ledger()
        self._since_s = monotonic_s()

    @property
    def is_used(self) -> bool:
        """Whether a phase is open, or was since it was last asked."""
        with self._lock:
            return bool(self._phases() - {None}) or self._ledger.has_other_than((None,))

    @property
    def has_turned(self) -> bool:
        """Whether another phase than those of now went on since it was last asked."""
        with self._lock:
            return self._ledger.has_other_than(self._phases())

    def tell(self, name: str, told: Told) -> bool:
        """Take what a process tells. True where the phase it is in has changed."""
        with self._lock:
            self._advance(self._monotonic_s())
            client = self._client(name)
            parts = self._parts(told)
            if client.uncounted_s >= SLIVER_S:
                client.before = client.phase
            if not client.is_live:
                self._count_late(parts, told)
            self._count(client, parts)
            phase = None if told.phase is None else self._ledger.known(told.phase)
            is_new, client.phase = phase != client.phase, phase
            is_mixed = len(parts) > 1 and told.elapsed_s < 2 * TELL_PERIOD_S
            client.mix = parts if is_mixed and client.was_mixed else {}
            client.was_mixed = is_mixed
            client.told_s = self._since_s
            return is_new

    def take(self, now_s: float) -> dict[str, float]:
        """Return the seconds of each phase since this was last called."""
        with self._lock:
            self._advance(now_s)
            for client in self._clients.values():
                # One that changes its phase tells it within the period; later it is where it was.
                is_flipping = self._since_s - client.told_s < 2 * TELL_PERIOD_S
                self._count(client, client.mix if is_flipping else {})
            return self._ledger.take()

    def _phases(self) -> set[str | None]:
        live = {client.phase for client in self._clients.values() if client.is_live}
        return live or {None}

    def _client(self, name: str) -> _Client:
        if name not in self._clients and len(self._clients) >= CLIENTS_MAX:
            silent = min(self._clients, key=lambda known: self._clients[known].told_s)
            self._drop(silent)
        return self._clients.setdefault(name, _Client())

    def _drop(self, name: str) -> None:
        self._count(self._clients.pop(name), {})

    def _parts(self, told: Told) -> dict[str | None, float]:
        """Return the parts of the time since it last told, none where it tells no numbers."""
        shares = phase_shares(told.seconds, told.elapsed_s)
        parts: dict[str | None, float] = {}
        for name, share in shares.items():
            known = None if name is None else self._ledger.known(name)
            parts[known] = parts.get(known, 0.0) + share
        return parts if told.seconds else {}

    def _count_late(self, parts: Mapping[str | None, float], told: Told) -> None:
        """Count what a process did in phases of which nothing was known, as far as nobody else did."""
        for name, part in parts.items():
            if name is not None:
                self._ledger.rename(name, part * min(told.elapsed_s, LATE_S))

    def _count(self, client: _Client, parts: Mapping[str | None, float]) -> None:
        """Count a process's time in these parts; without, in the phase it was in."""
        uncounted_s, client.uncounted_s = client.uncounted_s, 0.0
        if not parts:
            is_sliver = uncounted_s < SLIVER_S and self._ledger.has_other_than((client.phase,))
            parts = {client.before if is_sliver else client.phase: 1.0}
        for name, part in parts.items():
            self._ledger.add(name, uncounted_s * part)

    def _advance(self, now_s: float) -> None:
        """Give the time since the last event to those in a phase, in equal parts."""
        passed_s = max(0.0, now_s - self._since_s)
        self._since_s = max(self._since_s, now_s)
        live = [client for client in self._clients.values() if client.is_live]
        for client in live:
            client.uncounted_s += passed_s / len(live)
        if not live:
            self._ledger.add(None, passed_s)
        for name, client in list(self._clients.items()):
            if now_s - client.told_s > SILENT_S:
                self._drop(name)
