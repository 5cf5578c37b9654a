"""Coroutines, threads and processes share a queue, and none keeps another one waiting."""

from __future__ import annotations

import threading

import pytest

from aiotq import (
    AioTQ,
)
from aiotq.exceptions import (
    OperationalError,
)

from ..guide import cpu
from ..waiting import wait_until
from . import process_app
from .memory_work import make_app, queue, settled


@pytest.fixture
def app() -> AioTQ:
    return make_app()


async def test_coroutines_flow_while_threads_are_full(app: AioTQ) -> None:
    gate = threading.Event()

    @app.task
    def slow() -> str:
        gate.wait(10)
        return "slow"

    @app.task
    async def quick(x: int) -> int:
        return x

    async with app, app.worker(threads=2, concurrency=10):
        slow_ones = await app.send_many(slow.s() for _ in range(30))
        quick_ones = await app.send_many(quick.s(x) for x in range(30))
        more = await app.send_many(slow.s() for _ in range(30))

        assert await quick_ones.get(timeout=10) == list(range(30))
        gate.set()
        assert set(await slow_ones.get(timeout=20)) == {"slow"}
        assert set(await more.get(timeout=20)) == {"slow"}
        await settled(app)


async def test_coroutines_flow_while_processes_are_full() -> None:
    app = cpu.app
    async with app, app.worker(processes=1):
        await (await cpu.burn.delay(0)).get(timeout=10)
        busy = await app.send_many(cpu.burn.s(0.2) for _ in range(5))
        quick = await app.send_many(cpu.on_the_loop.s() for _ in range(20))
        await quick.get(timeout=10)

        assert not await busy.ready()
        await busy.get(timeout=20)


async def test_a_burst_for_one_kind_leaves_the_slots_of_another_to_it(app: AioTQ) -> None:
    """Two threads and no more than two wait for them: the rest stays in the queue for other workers."""
    gate = threading.Event()

    @app.task
    def slow() -> None:
        gate.wait(10)

    async with app, app.worker(threads=2):
        results = await app.send_many(slow.s() for _ in range(50))

        async def is_bounded() -> bool:
            stats = await queue(app)
            return stats.leased <= 6 and stats.leased + stats.ready + stats.delayed == 50

        await wait_until(is_bounded, "the worker holds little beyond what it runs")
        gate.set()
        await results.get(timeout=30)


async def test_a_process_task_that_sends_to_this_process_memory_fails_and_says_why() -> None:
    app = process_app.app
    async with app, app.worker():
        result = await process_app.send_from_the_child.delay()

        with pytest.raises(OperationalError, match=r"in the memory of the worker's process.* can't reach it"):
            await result.get(timeout=30)
