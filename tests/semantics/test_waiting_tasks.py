"""Tasks that wait for results of others: in loops of their own, and when their worker stops."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from aiotq import AioTQ

from ..waiting import wait_until


async def test_a_plain_task_may_wait_in_a_loop_of_its_own(app: AioTQ) -> None:
    """The slot that it lends is the worker's, and its neighbours'."""

    @app.task
    async def price(x: int) -> int:
        await asyncio.sleep(0.01)
        return x

    @app.task
    def report(x: int) -> int:
        async def work() -> int:
            results = await app.send_many([price.s(x), price.s(x)])
            first = await (await price.delay(x)).get(timeout=10)
            return sum(await results) + first

        return asyncio.run(work())

    @app.task
    def innocent(x: int) -> int:
        return x

    async with app, app.worker(threads=2, concurrency=4):
        reports = [await report.delay(x) for x in range(8)]
        others = [await innocent.delay(x) for x in range(8)]
        assert [await each.get(timeout=20) for each in others] == [*range(8)]
        assert [await each.get(timeout=20) for each in reports] == [3 * x for x in range(8)]


@pytest.mark.parametrize("how", ["coroutine", "thread", "many"])
async def test_who_waits_for_what_this_worker_can_not_bring_is_handed_back_at_once(app: AioTQ, how: str) -> None:
    begun: list[str] = []

    @app.task
    async def child() -> str:
        return "child"

    @app.task(name="parent.coroutine")
    async def parent() -> str:
        begun.append("parent")
        return await (await child.options(countdown=0.5).delay())

    @app.task(name="parent.thread")
    def plain_parent() -> str:
        begun.append("parent")
        return child.options(countdown=0.5).sync.delay().get(timeout=30)

    @app.task(name="parent.many")
    async def parent_of_many() -> str:
        begun.append("parent")
        return (await (await app.send_many(child.s().set(countdown=0.5) for _ in range(3))))[0]

    async with app:
        worker = app.worker(grace=60)
        await worker.__aenter__()
        task: Any = app.tasks[f"parent.{how}"]
        result = await task.delay()
        await wait_until(lambda: begun, "it waits")
        began = time.monotonic()
        await worker.stop()

        assert time.monotonic() - began < 10
        async with app.worker(grace=0):
            assert await result.get(timeout=10) == "child"


async def test_who_waits_for_what_runs_here_has_the_grace_time(app: AioTQ) -> None:
    goes_on = asyncio.Event()
    begun: list[str] = []

    @app.task
    async def child() -> str:
        begun.append("child")
        await goes_on.wait()
        return "child"

    @app.task
    async def parent() -> str:
        begun.append("parent")
        return await (await child.delay())

    async with app:
        worker = app.worker(grace=60)
        await worker.__aenter__()
        result = await parent.delay()
        await wait_until(lambda: "child" in begun, "the child runs")
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        goes_on.set()
        await stopping

        assert await result.get(timeout=10) == "child"
    assert begun == ["parent", "child"]
