"""Bodies within bounds: how much of them is in memory at a time."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from starlette.requests import Request

from sidecar.http_edge import BodyFault, LargeBodies, bounded_body

PIECE = b"x" * 60
SMALL_BYTES = 100


class Body:
    """A body that arrives as a test sends it."""

    def __init__(self, pieces: int = 0) -> None:
        self.arrived: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.send(pieces)

    def send(self, pieces: int, *, whole: bool = False) -> None:
        for number in range(pieces):
            more = not (whole and number == pieces - 1)
            message = {"type": "http.request", "body": PIECE, "more_body": more}
            self.arrived.put_nowait(message)

    def read(self, large: LargeBodies, within_s: float = 60) -> Coroutine[Any, Any, bytes]:
        request = Request({"type": "http", "headers": []}, self.arrived.get)
        return bounded_body(request, 1000, within_s, large)


async def until_idle() -> None:
    """Let every task go on as far as it can."""
    for _ in range(50):
        await asyncio.sleep(0)


def test_of_large_bodies_few_are_read_at_a_time_and_small_ones_pass() -> None:
    async def run() -> None:
        large = LargeBodies(at_once=1, from_bytes=SMALL_BYTES)
        first, second, small = Body(2), Body(), Body()
        one = asyncio.create_task(first.read(large))
        await until_idle()
        second.send(5, whole=True)
        two = asyncio.create_task(second.read(large))
        await until_idle()
        assert second.arrived.qsize() == 3  # it waits, with what made it large
        small.send(1, whole=True)
        assert await small.read(large) == PIECE
        first.send(1, whole=True)
        assert (len(await one), len(await two)) == (180, 300)

    asyncio.run(run())


def test_a_large_body_that_waits_too_long_is_given_up() -> None:
    async def run() -> None:
        large = LargeBodies(at_once=1, from_bytes=SMALL_BYTES)
        stalled = asyncio.create_task(Body(2).read(large))
        await until_idle()
        waiting = Body(2)
        with pytest.raises(BodyFault) as fault:
            await waiting.read(large, within_s=0.01)
        assert (fault.value.status, fault.value.received) == (408, 120)
        stalled.cancel()

    asyncio.run(run())


def test_a_large_body_that_is_given_up_makes_room() -> None:
    async def run() -> None:
        large = LargeBodies(at_once=1, from_bytes=SMALL_BYTES)
        with pytest.raises(BodyFault):
            await Body(2).read(large, within_s=0.01)
        next_one = Body()
        next_one.send(5, whole=True)
        assert len(await next_one.read(large)) == 300

    asyncio.run(run())
