"""Decorated functions of every kind do what they did before, and are metered."""

import asyncio
import functools
import inspect

import pytest

from sidecar import EmissionsTracker, track_emissions, track_task_emissions
from tests.tracking.conftest import used


@pytest.fixture(params=["emissions", "task"])
def decorated(request):
    """Either decorator, bare: both must leave a function as it is."""
    return track_emissions if request.param == "emissions" else track_task_emissions


# -- plain functions -------------------------------------------------------------------------------


def test_a_function_keeps_its_name_arguments_and_result(left, decorated):
    @decorated
    def add(a, *, b=1):
        """Add."""
        return a + b

    assert (add.__name__, add.__doc__, add(2, b=3)) == ("add", "Add.", 5)
    assert str(inspect.signature(add)) == "(a, *, b=1)"
    assert len(left.rows()) == 1


def test_what_a_function_raises_is_what_the_caller_gets(left, decorated):
    error = ValueError("mine")

    @decorated
    def fail():
        raise error

    with pytest.raises(ValueError, match="mine") as raised:
        fail()
    assert raised.value is error
    assert left.records()[-1]["event"] == "end"


def test_each_call_is_a_run(left, decorated):
    @decorated
    def work():
        used(0.01)

    for _ in range(3):
        work()
    assert len(left.rows()) == 3


def test_a_call_within_a_call_is_recorded_once(left):
    @track_emissions(project_name="inner")
    def inner():
        used()

    @track_emissions(project_name="outer")
    def outer():
        inner()
        used()

    outer()
    assert len(left.rows()) == 1
    assert {record["project"] for record in left.records()} == {"outer"}
    assert any("inner" in (window["phases"] or {}) for window in left.windows())


def test_a_function_may_call_itself(left):
    @track_emissions
    def countdown(number):
        return countdown(number - 1) if number else "done"

    assert countdown(5) == "done"
    assert len(left.rows()) == 1


def test_a_method_a_partial_and_a_callable_object_are_functions_too(left, decorated):
    class Model:
        @decorated
        def fit(self, epochs):
            return self, epochs

        def __call__(self, value):
            return value * 2

    model = Model()
    assert model.fit(3) == (model, 3)
    assert decorated(functools.partial(max, 3))(5) == 5
    assert decorated(model)(4) == 8
    assert len(left.rows()) == 3


def test_parameters_are_those_of_the_trackers(left):
    @track_emissions(
        project_name="p",
        offline=True,
        country_iso_code="FRA",
        output_dir="out",
        experiment_name="e",
    )
    def work():
        used(0.02)

    work()
    record = left.windows("out")[-1]
    assert (record["project"], record["country_iso3"], record["experiment"]) == ("p", "FRA", "e")


def test_a_parameter_that_there_is_not_is_told_where_it_is_written(left):
    with pytest.raises(TypeError, match="unexpected keyword argument 'projekt'"):
        track_emissions(projekt="p")


def test_a_task_of_a_tracker_is_named_and_counted_with_it(left):
    tracker = EmissionsTracker()

    @track_task_emissions(tracker=tracker, task_name="load")
    def load():
        used()

    tracker.start()
    load()
    tracker.stop()
    (file,) = [name for name in left.files() if name.startswith("emissions_base_")]
    assert [row["task_name"] for row in left.rows(file)] == ["load"]
    assert len(left.rows()) == 1


# -- generators ------------------------------------------------------------------------------------


def echo(log):
    """Answers what is sent, notes what is thrown in, cleans up."""
    try:
        answer = "ready"
        while True:
            try:
                answer = yield answer
            except KeyError as error:
                answer = f"caught {error.args[0]}"
            if answer == "stop":
                return "result"
    finally:
        log.append("cleaned")


def test_a_generator_is_driven_as_before(left, decorated):
    log = []
    generator = decorated(echo)(log)
    assert inspect.isgeneratorfunction(decorated(echo))
    assert next(generator) == "ready"
    assert generator.send("hello") == "hello"
    assert generator.throw(KeyError("oops")) == "caught oops"
    with pytest.raises(StopIteration) as ended:
        generator.send("stop")
    assert ended.value.value == "result"
    assert log == ["cleaned"]
    assert len(left.rows()) == 1


def test_a_generator_that_is_closed_cleans_up_and_is_recorded(left, decorated):
    log = []
    generator = decorated(echo)(log)
    next(generator)
    generator.close()
    assert log == ["cleaned"]
    assert left.records()[-1]["event"] == "end"


def test_what_is_thrown_into_a_generator_and_not_caught_comes_out(left, decorated):
    log = []
    generator = decorated(echo)(log)
    next(generator)
    with pytest.raises(ValueError, match="mine"):
        generator.throw(ValueError("mine"))
    assert log == ["cleaned"]


def test_a_generator_that_is_never_begun_is_never_metered(left, decorated):
    decorated(echo)([])
    assert left.files() == set()


# -- coroutines ------------------------------------------------------------------------------------


def test_a_coroutine_is_awaited_as_before(left, decorated):
    @decorated
    async def double(value):
        await asyncio.sleep(0)
        used(0.02)
        return 2 * value

    assert inspect.iscoroutinefunction(double)
    assert asyncio.run(double(4)) == 8
    assert len(left.rows()) == 1


def test_what_a_coroutine_raises_comes_out(left, decorated):
    @decorated
    async def fail():
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        asyncio.run(fail())


def test_a_coroutine_that_is_cancelled_is_cancelled_and_recorded(left, decorated):
    async def main():
        @decorated
        async def forever():
            await asyncio.Event().wait()

        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert left.records()[-1]["event"] == "end"


def test_coroutines_side_by_side_are_one_run(left):
    @track_emissions
    async def work():
        await asyncio.sleep(0)
        used(0.01)

    async def main():
        await asyncio.gather(*(work() for _ in range(5)))

    asyncio.run(main())
    assert len(left.rows()) == 1


def test_a_tracker_works_within_a_loop_that_runs_as_in_a_notebook(left):
    async def cell():
        with EmissionsTracker() as tracker:
            used(0.02)
            await asyncio.sleep(0)
        return tracker.final_emissions

    assert asyncio.run(cell()) > 0


# -- asynchronous generators -----------------------------------------------------------------------


async def async_echo(log):
    try:
        answer = "ready"
        while True:
            try:
                answer = yield answer
            except KeyError as error:
                answer = f"caught {error.args[0]}"
            await asyncio.sleep(0)
            if answer == "stop":
                return
    finally:
        log.append("cleaned")


def test_an_asynchronous_generator_is_driven_as_before(left, decorated):
    log = []

    async def main():
        generator = decorated(async_echo)(log)
        assert await anext(generator) == "ready"
        assert await generator.asend("hello") == "hello"
        assert await generator.athrow(KeyError("oops")) == "caught oops"
        with pytest.raises(StopAsyncIteration):
            await generator.asend("stop")

    asyncio.run(main())
    assert inspect.isasyncgenfunction(decorated(async_echo))
    assert log == ["cleaned"]
    assert len(left.rows()) == 1


def test_an_asynchronous_generator_that_is_closed_cleans_up_and_is_recorded(left, decorated):
    log = []

    async def main():
        generator = decorated(async_echo)(log)
        await anext(generator)
        await generator.aclose()

    asyncio.run(main())
    assert log == ["cleaned"]
    assert left.records()[-1]["event"] == "end"


def test_what_is_thrown_into_an_asynchronous_generator_and_not_caught_comes_out(left, decorated):
    log = []

    async def main():
        generator = decorated(async_echo)(log)
        await anext(generator)
        with pytest.raises(ValueError, match="mine"):
            await generator.athrow(ValueError("mine"))

    asyncio.run(main())
    assert log == ["cleaned"]


def test_an_asynchronous_generator_is_iterated_to_its_end(left, decorated):
    @decorated
    async def count(number):
        for value in range(number):
            yield value

    async def main():
        return [value async for value in count(4)]

    assert asyncio.run(main()) == [0, 1, 2, 3]


# -- what is wrong with us -------------------------------------------------------------------------


def test_a_function_runs_where_it_cannot_be_metered(left, monkeypatch, decorated):
    monkeypatch.setenv("EMISSIONS_CARBON_INTENSITY", "100")
    monkeypatch.setenv("EMISSIONS_ENERGY_MIX", "coal=100")

    @decorated
    def work():
        return "result"

    assert work() == "result"
