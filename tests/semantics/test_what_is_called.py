"""What tasks are made of beside functions: wrappers, partials, objects; run as what they are, or refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pydantic
import pytest

from aiotq import AioTQ, Task
from aiotq.exceptions import InvalidOption

BROKERS_HERE = ("memory",)  # what is called has nothing to do with the broker


def with_connection(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Give the function a connection."""

    @functools.wraps(fn)
    async def inner(*args: Any, **kwargs: Any) -> Any:
        return await fn("connection", *args, **kwargs)

    return inner


def with_clock(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Give the function a clock, by name."""

    @functools.wraps(fn)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, clock="clock", **kwargs)

    return inner


async def test_a_decorator_may_give_arguments(app: AioTQ) -> None:
    @app.task
    @with_connection
    async def save(connection: str, x: int) -> list[Any]:
        return [connection, x]

    @app.task(bind=True)
    @with_clock
    def keyword(self: Any, x: int, *, clock: str) -> list[Any]:
        return [clock, x, self.name]

    async with app, app.worker():
        assert await (await save.delay(1)).get(timeout=10) == ["connection", 1]
        assert await (await save.delay(x=1)).get(timeout=10) == ["connection", 1]
        assert await (await keyword.delay(1)).get(timeout=10) == ["clock", 1, keyword.name]


async def add(x: int, y: int) -> int:
    return x + y


def gives_a_coroutine(x: int, y: int) -> Any:
    return add(x, y)


class Adder:
    async def __call__(self, x: int, y: int) -> int:
        return x + y


class PlainAdder:
    def __call__(self, x: int, y: int) -> int:
        return x + y


@pytest.mark.parametrize(
    "function",
    [Adder(), PlainAdder(), staticmethod(add), gives_a_coroutine, functools.partial(add)],
    ids=["async object", "object", "static method", "gives a coroutine", "partial"],
)
async def test_it_runs_as_it_would_when_called(app: AioTQ, function: Any) -> None:
    task: Any = app.task(name="adds")(function)

    async with app, app.worker():
        assert await (await task.delay(1, 2)).get(timeout=10) == 3
        assert await (await task.apply((1, 2))) == 3


class Order(pydantic.BaseModel):
    number: int
    due: datetime | None = None


async def test_with_pydantic_a_mapping_arrives_as_the_model_of_its_parameter(app: AioTQ) -> None:
    """As Celery's users send models; a model that is sent is one as well."""

    async def take(self: Any, order: Order, plain: dict[str, int], maybe: Order | None = None) -> Order:
        assert isinstance(order, Order)
        assert plain == {"number": 1}
        assert maybe is None or isinstance(maybe, Order)
        return order

    def in_a_thread(order: Order) -> int:
        return order.number

    task: Any = app.task(pydantic=True, bind=True, name="take")(take)
    plain_task: Any = app.task(pydantic=True, name="plain")(in_a_thread)

    async with app, app.worker():
        assert await (await task.delay({"number": "7"}, {"number": 1})).get(timeout=10) == Order(number=7)
        given: Any = {"number": 8, "due": "2030-01-01T00:00:00Z"}
        assert (await (await task.delay(Order(number=7), {"number": 1}, maybe=given)).get(timeout=10)).number == 7
        assert await (await plain_task.delay(given)).get(timeout=10) == 8
        with pytest.raises(Exception, match="valid integer"):
            await (await plain_task.delay({"number": "x"})).get(timeout=10)
    assert plain_task({"number": 9}) == 9


def test_what_has_no_name_needs_one(app: AioTQ) -> None:
    for function in (PlainAdder(), functools.partial(add, 1)):
        with pytest.raises(InvalidOption, match=r"has no name of its own: give the task one \(name="):
            app.task(function)


def test_an_async_call_of_a_class_needs_an_async_function(app: AioTQ) -> None:
    class Awaiting(Task[..., Any]):
        async def __call__(self, *args: Any) -> Any:
            return await super().__call__(*args)

    with pytest.raises(InvalidOption, match=r"Awaiting has an async __call__"):
        app.task(base=Awaiting, name="awaiting")(lambda x: x)
