"""Rates, gates, and what is remembered: bounded, by an injected clock."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.collector.limits import Gate, Limits, PodRates
from sidecar.collector.refusal import Refusal
from sidecar.collector.remembered import Remembered


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@given(st.lists(st.floats(0, 10), max_size=60))
def test_no_pod_gets_more_than_burst_and_rate(pauses) -> None:
    clock = Clock()
    rates = PodRates(Limits(pod_burst=5, pod_per_s=2), clock)
    taken = 0
    for pause_s in pauses:
        clock.now_s += pause_s
        try:
            with rates.entered("pod"):
                taken += 1
        except Refusal as refusal:
            assert refusal.status == 429
            assert refusal.retry_after_s >= 1
    assert taken <= 5 + 2 * clock.now_s + 1e-6


def test_the_defaults_let_a_sidecar_ship_one_segment_a_second_for_hours() -> None:
    clock = Clock()
    rates = PodRates(Limits(), clock)
    for _ in range(4 * 3600):
        clock.now_s += 1
        with rates.entered("pod"):
            pass


def test_pods_are_remembered_up_to_a_number_least_recently_seen_go_first() -> None:
    rates = PodRates(Limits(pods=3, pod_burst=1, pod_per_s=1e-9), Clock())
    for pod in ("a", "b", "c"):
        with rates.entered(pod):
            pass
    with pytest.raises(Refusal):
        rates.entered("a").__enter__()
    with rates.entered("d"):
        pass
    assert len(rates) == 3
    with pytest.raises(Refusal):  # seen just now, so not forgotten
        rates.entered("a").__enter__()


def test_a_gate_gives_places_back_also_after_a_failure() -> None:
    gate = Gate(1)
    with pytest.raises(ZeroDivisionError), gate.entered():
        raise ZeroDivisionError
    with gate.entered(), pytest.raises(Refusal, match="come again"):
        gate.entered().__enter__()
    assert gate.inside == 0


def test_an_answer_is_remembered_for_its_time_and_no_longer() -> None:
    clock, asked = Clock(), []

    async def ask():
        asked.append(clock.now_s)
        return "x"

    async def scenario():
        remembered = Remembered(10.0, size=9, asking=9, monotonic=clock)
        for moment_s in (0.0, 9.9, 10.0, 19.9):
            clock.now_s = moment_s
            assert await remembered.get("key", ask) == "x"

    asyncio.run(scenario())
    assert asked == [0.0, 10.0]


def test_what_is_remembered_is_bounded() -> None:
    async def scenario():
        remembered = Remembered(10.0, size=5, asking=9, monotonic=Clock())

        async def ask():
            return 1

        for key in range(100):
            await remembered.get(key, ask)
        assert len(remembered) == 5

    asyncio.run(scenario())


def test_what_is_asked_at_a_time_is_bounded_and_shared() -> None:
    async def scenario():
        remembered, go_on, asked = Remembered(10.0, size=9, asking=1), asyncio.Event(), []

        async def ask():
            asked.append(1)
            await go_on.wait()
            return "x"

        waiting = [asyncio.create_task(remembered.get("a", ask)) for _ in range(50)]
        while not asked:
            await asyncio.sleep(0)
        with pytest.raises(Refusal, match="come again"):
            await remembered.get("b", ask)
        waiting[0].cancel()  # who asked first goes away; the others still get their answer
        go_on.set()
        assert await asyncio.gather(*waiting[1:]) == ["x"] * 49
        assert len(asked) == 1

    asyncio.run(scenario())


def test_a_failure_is_told_to_all_who_wait_and_not_remembered() -> None:
    async def scenario():
        remembered = Remembered(10.0, size=9, asking=9)

        async def fail():
            raise Refusal(503, "x", "no answer")

        async def ask():
            return "x"

        failed = await asyncio.gather(
            *(remembered.get("a", fail) for _ in range(3)), return_exceptions=True
        )
        assert [type(one) for one in failed] == [Refusal] * 3
        assert await remembered.get("a", ask) == "x"

    asyncio.run(scenario())
