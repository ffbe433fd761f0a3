"""Limits: sizes, times, and how much one pod may ask for."""

import math
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sidecar.collector.refusal import Refusal
from sidecar.segment import SEGMENT_BYTES_MAX

JITTER_S: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the collector takes. Bytes, seconds, and counts.

    `pod_burst` and `pod_per_s`: a sidecar ships one segment a second once its pod's end is
    announced; after an outage it has some more to ship. `pod_requests` are a pod's at a time.
    `pods` are remembered, the least recently seen is forgotten first.
    `arriving` bodies are held in memory for each segment that is stored at the same time.
    """

    content_bytes: int = 1024**2
    ndjson_bytes: int = SEGMENT_BYTES_MAX
    records: int = 10_000
    line_bytes: int = 64 * 1024
    body_s: float = 30.0
    queue_s: float = 5.0
    store_s: float = 15.0
    pod_burst: int = 120
    pod_per_s: float = 2.0
    pod_requests: int = 2
    pods: int = 4096
    arriving: int = 4


def retry_after_s(least_s: float) -> int:
    """Return whole seconds after which to come again; spread, so that not all come together."""
    return math.ceil(least_s) + random.randint(0, JITTER_S)  # noqa: S311 - no secret


class Gate:
    """Lets so many in at a time; the others are asked to come again."""

    def __init__(self, places: int) -> None:
        self._places = places
        self.inside = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Hold a place. Raises Refusal (503) where all are taken."""
        if self.inside >= self._places:
            raise Refusal(
                503,
                "busy",
                f"{self._places} segments are being taken already; come again",
                retry_after_s=retry_after_s(1),
            )
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


@dataclass(slots=True)
class _Pod:
    tokens: float
    filled_at_s: float
    inside: int = 0


class PodRates:
    """A token bucket and a number of requests at a time for each pod, by its uid."""

    def __init__(self, limits: Limits, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._monotonic = monotonic
        self._pods: OrderedDict[str, _Pod] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pods)

    @contextmanager
    def entered(self, pod_uid: str) -> Iterator[None]:
        """Count one request of a pod. Raises Refusal (429) where the pod asks for too much."""
        pod = self._filled(pod_uid)
        self._refuse_too_much(pod)
        pod.tokens -= 1
        pod.inside += 1
        try:
            yield
        finally:
            pod.inside -= 1

    def _filled(self, pod_uid: str) -> _Pod:
        now_s = self._monotonic()
        pod = self._pods.setdefault(pod_uid, _Pod(self._limits.pod_burst, now_s))
        self._pods.move_to_end(pod_uid)
        gained = (now_s - pod.filled_at_s) * self._limits.pod_per_s
        pod.tokens = min(self._limits.pod_burst, pod.tokens + gained)
        pod.filled_at_s = now_s
        while len(self._pods) > self._limits.pods:
            self._pods.popitem(last=False)
        return pod

    def _refuse_too_much(self, pod: _Pod) -> None:
        limits = self._limits
        if pod.inside >= limits.pod_requests:
            raise Refusal(
                429,
                "pod_busy",
                f"{pod.inside} requests of this pod are under way; send one after the other",
                retry_after_s=retry_after_s(1),
            )
        if pod.tokens < 1:
            raise Refusal(
                429,
                "pod_rate",
                f"more than {limits.pod_burst} requests at once and {limits.pod_per_s:g}/s from this "
                "pod; ship fewer, larger segments",
                retry_after_s=retry_after_s((1 - pod.tokens) / limits.pod_per_s),
            )
