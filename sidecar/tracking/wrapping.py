"""Run a function inside of a context, whatever kind of function it is; what it does passes unchanged."""

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")

Context = Callable[[], AbstractContextManager[Any]]


def wrapped(function: Callable[P, R], context: Context) -> Callable[P, R]:
    """Return the function with a context around each call.

    Around a coroutine it lasts while that is awaited; around a generator from its first value to its
    end, however that comes. Values sent, exceptions thrown and `close` reach the generator.
    """
    kind = _kind(function)
    return cast("Callable[P, R]", functools.wraps(function)(kind(function, context)))


def _kind(function: Callable[..., Any]) -> Callable[[Callable[..., Any], Context], Any]:
    call = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    for candidate in (function, call):
        if inspect.iscoroutinefunction(candidate):
            return _coroutine
        if inspect.isasyncgenfunction(candidate):
            return _async_generator
        if inspect.isgeneratorfunction(candidate):
            return _generator
    return _plain


def _plain(function: Callable[..., Any], context: Context) -> Callable[..., Any]:
    def call(*args: object, **named: object) -> object:
        with context():
            return function(*args, **named)

    return call


def _coroutine(function: Callable[..., Any], context: Context) -> Callable[..., Any]:
    async def call(*args: object, **named: object) -> object:
        with context():
            return await function(*args, **named)

    return call


def _generator(function: Callable[..., Any], context: Context) -> Callable[..., Any]:
    def call(*args: object, **named: object) -> Generator[Any, Any, Any]:
        with context():
            return (yield from function(*args, **named))

    return call


def _async_generator(function: Callable[..., Any], context: Context) -> Callable[..., Any]:
    async def call(*args: object, **named: object) -> AsyncGenerator[Any, Any]:
        with context():
            values = function(*args, **named)
            try:
                value = await anext(values)
                while True:
                    try:
                        sent = yield value
                    except GeneratorExit:
                        raise
                    except BaseException as error:  # noqa: BLE001 - whatever was thrown in is its matter
                        value = await values.athrow(error)
                    else:
                        value = await values.asend(sent)
            except StopAsyncIteration:
                return
            finally:
                await values.aclose()

    return call
