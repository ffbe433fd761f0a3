"""Answers that are remembered for a while, and asked for once however many want them."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from sidecar.collector.limits import retry_after_s
from sidecar.collector.refusal import Refusal

K = TypeVar("K")
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """Values by key, `keep_s` seconds, `size` of them at most; least recently used go first.

    Concurrent calls for one key share one question; `asking` keys are asked about at a time.
    """

    def __init__(
        self,
        keep_s: float,
        *,
        size: int,
        asking: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep_s = keep_s
        self._size = size
        self._asking_max = asking
        self._monotonic = monotonic
        self._known: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._asking: dict[K, asyncio.Task[V]] = {}

    def __len__(self) -> int:
        return len(self._known)

    async def get(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        """Return what is known, or ask. Raises what `ask` raises, which is not remembered."""
        known = self._known.get(key)
        if known is not None and self._monotonic() - known[0] < self._keep_s:
            self._known.move_to_end(key)
            return known[1]
        task = self._asking.get(key)
        if task is None:
            task = self._begun(key, ask)
        # Shielded: others wait for the same answer when this caller goes away.
        return await asyncio.shield(task)

    def _begun(self, key: K, ask: Callable[[], Awaitable[V]]) -> asyncio.Task[V]:
        if len(self._asking) >= self._asking_max:
            raise Refusal(
                503,
                "busy",
                f"{self._asking_max} questions to the Kubernetes API are under way; come again",
                retry_after_s=retry_after_s(1),
            )
        task = asyncio.create_task(self._answer(key, ask))
        self._asking[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))
        return task

    async def _answer(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        asked_at_s = self._monotonic()
        value = await ask()
        self._known[key] = (asked_at_s, value)
        self._known.move_to_end(key)
        while len(self._known) > self._size:
            self._known.popitem(last=False)
        return value

    def _ended(self, key: K, task: asyncio.Task[V]) -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # taken note of, where every caller has gone away
