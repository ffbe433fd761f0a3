"""The sidecar of this pod, as a program in it sees it: over loopback, or by the summary it mounts.

Nothing here raises, and nothing waits for long: a sidecar that does not answer is no sidecar.
"""

import atexit
import json
import logging
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from sidecar.agent import RunSoFar
from sidecar.bounded_http import Limits, NoAnswerError, Request, exchange
from sidecar.exporters.summary import Totals
from sidecar.identity.bounded import read_bounded
from sidecar.identity.fields import Hardware
from sidecar.phases import PHASES_PATH, RUN_PATH, SERVICE, TELL_PERIOD_S, PhaseClock
from sidecar.record import EmissionRecord, GpuRecord

CONNECT_S: Final = 0.2
"""Nobody listening is told at once; so long is waited for a machine that is very busy."""

ANSWER_S: Final = 1.0
"""A sidecar has a twentieth of a CPU: it answers in milliseconds, but now and then in hundreds."""

HEARTBEAT_S: Final = 60.0
"""A phase that goes on is told again, so that the sidecar knows that its program still runs."""

SUMMARY: Final = Path("/var/run/emissions/summary.json")
"""Where the annotation `emissions/mount` shows a pod's records to its own containers."""

SUMMARY_FRESH_S: Final = 2 * 3600.0
"""A summary is renewed at each window, which is at most an hour long."""

_NO_ANSWER: Final = (
    NoAnswerError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError,
)  # fmt: skip
"""Nobody there, or somebody else: whatever an answer makes of the code that reads it."""

_BYTES_MAX: Final = 1024**2
_HEADERS: Final = {"Content-Type": "application/json"}
_FIELDS: Final = frozenset(item.name for item in fields(EmissionRecord)) - {"gpus"}
_GPU_FIELDS: Final = frozenset(item.name for item in fields(GpuRecord))

_log = logging.getLogger(__name__)


class Beside:
    """A sidecar that answers over HTTP."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._process = f"{os.getpid()}.{os.urandom(4).hex()}"

    def so_far(self) -> RunSoFar | None:
        """Return the run as it stands; None where no sidecar answers."""
        try:
            status, body = self._exchange("GET", RUN_PATH)
            content = json.loads(body) if status == 200 else {}
            return run_from(content) if content["service"] == SERVICE else None
        except _NO_ANSWER as error:
            _log.debug("no sidecar answers: %s", error)
            return None

    def flush(self) -> RunSoFar | None:
        """Return the run as it stands; its windows are the sidecar's matter."""
        return self.so_far()

    def tell(self, phase: str | None, seconds: Mapping[str, float], elapsed_s: float) -> bool:
        """Tell the phase of this process, and what passed since it last told. True when it was taken."""
        told = {
            "process": self._process,
            "phase": phase,
            "seconds": {name: round(part_s, 6) for name, part_s in seconds.items()},
            "elapsed_s": round(elapsed_s, 6),
        }
        try:
            status, _ = self._exchange("POST", PHASES_PATH, json.dumps(told).encode())
        except _NO_ANSWER as error:
            _log.debug("the phase could not be told: %s", error)
            return False
        return status == 200

    def _exchange(self, method: str, path: str, content: bytes | None = None) -> tuple[int, bytes]:
        request = Request(method, self._url + path, _HEADERS, content)
        limits = Limits(ANSWER_S, CONNECT_S, _BYTES_MAX)
        return exchange(request, limits, lambda answer: (answer.status, b"".join(answer.pieces)))


class Mounted:
    """A sidecar that does not listen, but shows its summary."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def so_far(self) -> RunSoFar | None:
        """Return the totals up to the last window; None where they cannot be read, or are old."""
        try:
            if time.time() - self._path.stat().st_mtime > SUMMARY_FRESH_S:
                return None
            content, is_cut = read_bounded(self._path, _BYTES_MAX)
            summary = {} if is_cut else json.loads(content)
            return run_from({"windows": summary["windows"], "totals": summary})
        except _NO_ANSWER as error:
            _log.debug("no summary of a sidecar at %s: %s", self._path, error)
            return None

    def flush(self) -> RunSoFar | None:
        """Return the totals up to the last window."""
        return self.so_far()


def run_from(content: Mapping[str, Any]) -> RunSoFar:
    """Read a run of another version, too: what it does not tell stays unknown. Raises ValueError, …."""
    totals = content["totals"]
    known = {name: totals[name] for name in _FIELDS & totals.keys()}
    gpus = tuple(
        GpuRecord(**{name: gpu[name] for name in _GPU_FIELDS & gpu.keys()})
        for gpu in totals.get("gpus", ())
    )
    record = EmissionRecord(**known, gpus=gpus)
    for name in ("duration_s", "energy_kwh", "facility_energy_kwh", "emissions_g"):
        amount = getattr(record, name)
        if amount is not None and not 0 <= amount < math.inf:
            raise ValueError(f"{name} is {amount!r}")
    hardware = Hardware(
        cpu_model=content.get("cpu_model"),
        logical_cpus=content.get("logical_cpus"),
        memory_total_gib=content.get("memory_total_gib"),
    )
    return RunSoFar(Totals(record, int(content["windows"])), hardware, content.get("country_name"))


def find_sidecar(url: str, *, is_named: bool, summary: Path = SUMMARY) -> Beside | Mounted | None:
    """Return the sidecar that meters this process, if there is one.

    One at the address that everybody looks at must be that of a pod: a sidecar that meters a whole
    machine is not this program's. `is_named`: somebody said that it is there.
    """
    if url.lower() == "none":
        return None
    beside = Beside(url)
    run = beside.so_far()
    if run is not None and (is_named or run.totals.merged.pod_uid):
        return beside
    mounted = Mounted(summary)
    run = mounted.so_far()
    return mounted if run is not None and run.totals.merged.pod_uid else None


class Teller:
    """Tells a sidecar the phases of this process, from a thread of its own, at most once a second."""

    def __init__(self, sidecar: Beside, clock: PhaseClock) -> None:
        self._sidecar = sidecar
        self._clock = clock
        self._turned = threading.Event()
        self._closing = threading.Event()
        self._pid = os.getpid()
        self._told_s = -math.inf
        self._told_phase: str | None = None
        self._begun_s = 0.0
        self._is_telling = False
        self._thread = threading.Thread(target=self._run, name="phases", daemon=True)

    def start(self) -> None:
        """Begin to tell. Raises RuntimeError where no thread can be had."""
        self._begun_s = time.monotonic()
        self._clock.take(self._begun_s)
        self._clock.changed = self._turned.set
        self._thread.start()
        atexit.register(self.close)
        if self._clock.phase is not None:
            self._turned.set()

    def close(self) -> None:
        """Tell the last phase, once."""
        if self._pid == os.getpid() and not self._closing.is_set():
            self._closing.set()
            self._turned.set()
            self._thread.join(ANSWER_S)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._turned.wait(self._pause_s())
            self._turned.clear()
            self._closing.wait(TELL_PERIOD_S - (time.monotonic() - self._told_s))
            self._tell()

    def _pause_s(self) -> float | None:
        """Return how long to wait for a change: those of the same second are told a second later."""
        if self._is_telling or self._clock.phase != self._told_phase or self._clock.has_turned:
            return TELL_PERIOD_S
        return HEARTBEAT_S if self._clock.is_used else None

    def _tell(self) -> None:
        now_s = time.monotonic()
        self._told_phase = phase = self._clock.phase
        seconds = self._clock.take(now_s)
        elapsed_s, self._told_s = now_s - max(self._told_s, self._begun_s), now_s
        self._sidecar.tell(phase, seconds, elapsed_s)
        # Left for good, or only at this moment? The next time tells.
        self._is_telling = phase is None and bool(seconds)
