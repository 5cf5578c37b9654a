"""What a worker opens for its tasks: when, for whom, and what becomes of it when that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiotq import AioTQ, WorkerLifespanError
from aiotq.exceptions import CallError, InvalidOption

from .conftest import NOT_ON_RABBITMQ

BROKERS_HERE = NOT_ON_RABBITMQ


class Pool:
    def __init__(self, name: str) -> None:
        self.name = name
        self.is_open = True


async def test_tasks_have_what_their_worker_opened(app: AioTQ) -> None:
    opened: list[Pool] = []

    @app.worker_lifespan
    async def pool() -> AsyncGenerator[Pool, None]:
        opened.append(Pool("main"))
        try:
            yield opened[-1]
        finally:
            opened[-1].is_open = False

    @app.task
    async def on_the_loop() -> bool:
        return pool.value is opened[0] and pool.value.is_open

    @app.task
    def in_a_thread() -> bool:
        return pool.value is opened[0] and pool.value.is_open

    async with app:
        results = await app.send_many([on_the_loop.s(), in_a_thread.s()])
        with pytest.raises(CallError, match="no worker has entered it"):
            _ = pool.value
        async with app.worker():
            assert await results.get(timeout=10) == [True, True]
            assert len(opened) == 1
        assert not opened[0].is_open
        with pytest.raises(CallError):
            _ = pool.value


async def test_each_worker_has_its_own(app: AioTQ) -> None:
    @app.worker_lifespan
    @asynccontextmanager
    async def pool() -> AsyncGenerator[Pool, None]:
        yield Pool("one of several")

    @app.task
    async def which() -> int:
        await asyncio.sleep(0.02)
        return id(pool.value)

    async with app, app.worker(concurrency=1), app.worker(concurrency=1):
        results = await app.send_many(which.s() for _ in range(20))
        assert len(set(await results.get(timeout=10))) == 2


async def test_several_are_nested_in_the_order_of_their_declaration(app: AioTQ) -> None:
    order: list[str] = []

    @app.worker_lifespan
    async def outer() -> AsyncGenerator[str, None]:
        order.append("outer opens")
        yield "outer"
        order.append("outer closes")

    @app.worker_lifespan
    async def inner() -> AsyncGenerator[str, None]:
        order.append(f"inner opens in {outer.value}")
        yield "inner"
        order.append("inner closes")

    @app.task
    async def both() -> str:
        order.append("a task runs")
        return f"{outer.value} {inner.value}"

    async with app:
        result = await both.delay()
        async with app.worker():
            assert await result.get(timeout=10) == "outer inner"
    assert order == ["outer opens", "inner opens in outer", "a task runs", "inner closes", "outer closes"]


async def test_it_is_open_until_the_last_commit(app: AioTQ) -> None:
    running = asyncio.Event()

    @app.worker_lifespan
    async def pool() -> AsyncGenerator[Pool, None]:
        made = Pool("main")
        yield made
        made.is_open = False
        assert await result.get(timeout=10) is True  # committed before this is closed

    @app.task
    async def slow() -> bool:
        running.set()
        await asyncio.sleep(0.05)
        return pool.value.is_open

    async with app:
        result = await slow.delay()
        async with app.worker():
            await running.wait()


async def test_one_that_fails_at_the_start_ends_the_worker_before_any_task(app: AioTQ) -> None:
    order: list[str] = []

    @app.worker_lifespan
    async def outer() -> AsyncGenerator[None, None]:
        order.append("outer opens")
        try:
            yield
        finally:
            order.append("outer closes")

    @app.worker_lifespan
    async def broken() -> AsyncGenerator[None, None]:
        raise ConnectionError("no database")
        yield

    @app.task
    async def run() -> None:
        order.append("a task runs")

    async with app:
        await run.delay()
        with pytest.raises(WorkerLifespanError, match=r"broken failed at the worker's start: ConnectionError: no data"):
            async with app.worker():
                pass
    assert order == ["outer opens", "outer closes"]
    assert broken.name.endswith("broken")


async def test_one_that_fails_at_the_end_is_told_and_the_others_are_closed(app: AioTQ) -> None:
    closed: list[str] = []

    @app.worker_lifespan
    async def outer() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            closed.append("outer")

    @app.worker_lifespan
    async def broken() -> AsyncGenerator[None, None]:
        yield
        raise OSError("disk full")

    @app.task
    async def nothing() -> None: ...

    async with app:
        with pytest.raises(WorkerLifespanError, match="broken failed at the worker's end: OSError: disk full"):
            async with app.worker():
                await (await nothing.delay()).get(timeout=10)
    assert closed == ["outer"]
    assert broken.name != outer.name


async def test_a_test_may_put_another_value_in_its_place(app: AioTQ) -> None:
    @app.worker_lifespan
    async def pool() -> AsyncGenerator[Pool, None]:
        yield Pool("real")

    @app.task
    async def name() -> str:
        return pool.value.name

    with pool.override(Pool("fake")):
        assert await name() == "fake"
    with pytest.raises(CallError):
        await name()


@pytest.mark.parametrize("case", ["argument", "coroutine", "no function"])
def test_what_can_not_be_a_lifespan_is_refused(app: AioTQ, case: str) -> None:
    async def needs_an_argument(x: int) -> AsyncGenerator[int, None]:
        yield x

    async def yields_nothing() -> None: ...

    cases: dict[str, Any] = {"argument": needs_an_argument, "coroutine": yields_nothing, "no function": 7}
    with pytest.raises(InvalidOption, match="worker_lifespan"):
        app.worker_lifespan(cases[case])


async def test_the_lifespan_of_an_asgi_application_is_another_thing(app: AioTQ) -> None:
    entered: list[str] = []

    @app.worker_lifespan
    async def pool() -> AsyncGenerator[None, None]:
        entered.append("worker")
        yield

    async with app.lifespan():
        assert entered == []
        async with app.worker():
            assert entered == ["worker"]
    assert pool.name.endswith("pool")
