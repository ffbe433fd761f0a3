"""What the programs of a pod may ask and tell their sidecar over the pod's loopback, and nobody else.

`POST /v1/phases`: which phase the program is in. `GET /v1/run`: the totals of the run so far. Whoever
calls from another address than loopback is refused, and so is what a browser or a proxy hands on to
loopback, for whoever asked it: a page on a developer's machine, a service mesh in the pod. What is
told is not trusted: it is bounded, and decides nothing but how the time of windows is named.
"""

import json
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from sidecar.agent import RunSoFar
from sidecar.phases import (
    NAMES_MAX,
    PHASES_PATH,
    RUN_PATH,
    SECONDS_MAX,
    SERVICE,
    PhaseBook,
    Told,
    valid_phase,
)
from sidecar.record import to_mapping
from sidecar.status import Answer, Asked, is_loopback
from sidecar.version import VERSION

CALLS_PER_S: Final = 20
"""Calls answered each second, of all programs together; a program of ours calls once a second."""

FRESH_S: Final = 0.2
"""The meters are read for an answer at most so often; in between it is as old."""

_PROCESS: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_JSON: Final = "application/json"
"""A page may send other kinds of content to another origin without asking first (Fetch standard, "CORS
protocol"); for this one its browser asks with OPTIONS, which is refused."""

_HANDED_ON: Final = (
    "origin", "referer", "sec-fetch-", "forwarded", "via", "x-forwarded-", "x-real-ip", "x-envoy-",
    "l5d-",
)  # fmt: skip
"""What the names of headers begin with that browsers and proxies add (RFC 9110 §7.6.3, RFC 7239, Fetch;
Istio's Envoy and Linkerd hand on over loopback what comes from other pods)."""


class ProgramCalls:
    """Answers for a run. `turned` is called when a program's phase has changed; it returns at once.

    `read` reads the meters; None where they do not answer in time. `prefix` of all paths is a secret
    where loopback is shared with strangers, as on a machine of several users.
    """

    def __init__(
        self,
        book: PhaseBook,
        turned: Callable[[], None],
        read: Callable[[], RunSoFar | None],
        prefix: str = "",
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = (prefix + PHASES_PATH, prefix + RUN_PATH)
        self._book = book
        self._turned = turned
        self._read = read
        self._monotonic_s = monotonic_s
        self._rate = _Rate(CALLS_PER_S, monotonic_s)
        self._lock = threading.Lock()
        self._last: RunSoFar | None = None
        self._next_s = -math.inf

    def answer(self, asked: Asked) -> Answer | None:
        """Answer one call; None where it is none of these."""
        if asked.path not in self._paths:
            return None
        is_told = asked.path == self._paths[0]
        if not _is_of_this_pod(asked):
            return Answer(403, b"only containers of this pod may ask, over its loopback address\n")
        method = "POST" if is_told else "GET"
        if asked.method != method:
            return Answer(405, f"{method} is wanted\n".encode(), allow=method)
        if is_told and not _is_json(asked):
            return Answer(415, f"Content-Type {_JSON} is wanted\n".encode())
        if not self._rate.allows():
            return Answer(429, f"more than {CALLS_PER_S} calls a second\n".encode())
        return self._told(asked.body) if is_told else self._run()

    def _told(self, body: bytes) -> Answer:
        try:
            process, told = parse_told(body)
        except ValueError as error:
            return Answer(400, f"{error}\n".encode())
        if self._book.tell(process, told):
            self._turned()
        return Answer(200, b"{}\n", _JSON)

    def _run(self) -> Answer:
        run = self._so_far()
        if run is None:
            return Answer(503, b"the run cannot be told now; ask again\n")
        content = json.dumps(run_mapping(run), ensure_ascii=False)
        return Answer(200, content.encode(errors="replace") + b"\n", _JSON)

    def _so_far(self) -> RunSoFar | None:
        with self._lock:
            if self._monotonic_s() >= self._next_s:
                self._last = self._read() or self._last
                self._next_s = self._monotonic_s() + FRESH_S
            return self._last


def parse_told(body: bytes) -> tuple[str, Told]:
    """Read what a program tells: its process, and phases. Raises ValueError with what is wrong."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("the body is no JSON") from error
    if not isinstance(content, dict):
        raise ValueError("the body must be an object")
    process, phase = content.get("process"), content.get("phase")
    if not isinstance(process, str) or not _PROCESS.fullmatch(process):
        raise ValueError("process must be 1 to 64 letters, digits, dots and dashes")
    if phase is not None and not isinstance(phase, str):
        raise ValueError("phase must be a text, or null")
    told = Told(
        phase=None if phase is None else valid_phase(phase),
        seconds=_seconds(content.get("seconds", {})),
        elapsed_s=_number(content.get("elapsed_s", 0.0)),
    )
    return process, told


def _seconds(content: object) -> Mapping[str, float]:
    if not isinstance(content, dict) or len(content) > NAMES_MAX + 1:
        raise ValueError(f"seconds must be an object of at most {NAMES_MAX + 1} phases")
    return {valid_phase(name): _number(part_s) for name, part_s in content.items()}


def _number(value: object) -> float:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 <= value <= SECONDS_MAX
    ):
        raise ValueError("seconds must be numbers that are not negative")
    return float(value)


def run_mapping(run: RunSoFar) -> dict[str, Any]:
    """Return a run as it stands as JSON types."""
    hardware = run.hardware
    return {
        "service": SERVICE,
        "tool_version": VERSION,
        "windows": run.totals.windows,
        "totals": to_mapping(run.totals.merged),
        "country_name": run.country_name,
        "cpu_model": hardware.cpu_model,
        "logical_cpus": hardware.logical_cpus,
        "memory_total_gib": hardware.memory_total_gib,
    }


def _is_of_this_pod(asked: Asked) -> bool:
    """Whether a program of this pod asks: over loopback, by a name of it, and for nobody else."""
    is_near = asked.peer != "localhost" and is_loopback(asked.peer) and asked.names_loopback
    return is_near and not any(name.startswith(_HANDED_ON) for name in asked.headers)


def _is_json(asked: Asked) -> bool:
    kind = asked.headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == _JSON


class _Rate:
    """So many a second, and as many at once."""

    def __init__(self, per_s: float, monotonic_s: Callable[[], float]) -> None:
        self._per_s = per_s
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._left = per_s
        self._since_s = monotonic_s()

    def allows(self) -> bool:
        with self._lock:
            now_s = self._monotonic_s()
            self._left = min(self._per_s, self._left + (now_s - self._since_s) * self._per_s)
            self._since_s = now_s
            if self._left < 1:
                return False
            self._left -= 1
            return True
