"""A worker that stops finishes what runs, and hands back the rest (P6)."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import pytest

from aiotq import (
    AioTQ,
    AsyncResult,
    Worker,
    current_task,
)

from ..waiting import wait_until
from .memory_work import make_app, queue, settled


@pytest.fixture
def app() -> AioTQ:
    return make_app()


async def test_running_tasks_finish_within_the_grace_time(app: AioTQ) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    @app.task
    async def finish() -> str:
        begun.set()
        await gate.wait()
        return "finished"

    async with app:
        worker = app.worker(grace=30)
        async with worker:
            result = await finish.delay()
            await begun.wait()
            stop = asyncio.create_task(worker.stop())
            await asyncio.sleep(0.05)
            assert not stop.done()
            late = await finish.delay()
            gate.set()
            await stop

        assert await result.get(timeout=5) == "finished"
        assert await late.state() == "PENDING", "nothing was taken after the stop"
        assert (await queue(app)).ready == 1


async def test_what_outlasts_the_grace_time_is_cancelled_and_handed_back(app: AioTQ) -> None:
    events: list[object] = []

    @app.task
    async def work() -> str:
        events.append(current_task.request.delivery_info["redelivered"])
        if len(events) > 1:
            return "done"
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            events.append("cleaned up")
        return "never"

    async with app:
        async with app.worker(grace=0.05):
            result = await work.delay()
            await wait_until(lambda: events, "the task has begun")
        assert events == [False, "cleaned up"]
        assert (await queue(app)).ready == 1

        async with app.worker():
            assert await result.get(timeout=5) == "done"
    assert events == [False, "cleaned up", True]


async def test_a_second_stop_cuts_the_grace_time_short(app: AioTQ) -> None:
    begun = asyncio.Event()

    @app.task
    async def work() -> None:
        begun.set()
        await asyncio.sleep(60)

    async with app:
        worker = app.worker(grace=60)
        async with worker:
            await work.delay()
            await begun.wait()
            stop = asyncio.create_task(worker.stop())
            await asyncio.sleep(0)
            worker.stop_now()
            async with asyncio.timeout(5):
                await stop

        assert (await queue(app)).ready == 1


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_what_was_not_started_is_handed_back_at_once(app: AioTQ, kind: str) -> None:
    gate, begun = threading.Event(), threading.Event()

    async def on_the_loop() -> None:
        begun.set()
        await wait_until(gate.is_set, "the test goes on")

    def in_a_thread() -> None:
        begun.set()
        gate.wait(10)

    work: Any = app.task(name="proj.work")(on_the_loop if kind == "loop" else in_a_thread)
    async with app:
        for _ in range(4):
            await work.delay()
        worker = app.worker(concurrency=1, threads=1, prefetch=3, grace=30)
        async with worker:
            await wait_until(begun.is_set, "the first has begun")

            async def all_held() -> bool:
                return (await queue(app)).leased == 4

            await wait_until(all_held, "the others wait in the worker")
            stop = asyncio.create_task(worker.stop())

            async def handed_back() -> bool:
                stats = await queue(app)
                return (stats.ready, stats.leased) == (3, 1)

            await wait_until(handed_back, "they are back in the queue while the first still runs")
            gate.set()
            await stop

        assert (await queue(app)).ready == 3


async def test_a_task_that_refuses_to_end_is_named(
    app: AioTQ, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiotq.worker.worker._CLEANUP", 0.02)
    gate, begun = asyncio.Event(), asyncio.Event()

    @app.task
    async def refuse() -> str:
        begun.set()
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        return "in the end"

    async with app:
        worker = app.worker(grace=0)
        async with worker:
            result = await refuse.delay()
            await begun.wait()
            stop = asyncio.create_task(worker.stop())
            await wait_until(lambda: "does not end" in caplog.text, "the log names it")
            gate.set()
            await stop

        assert f"{refuse.name}[{result.id}] was cancelled and does not end" in caplog.text
        assert await result.get(timeout=5) == "in the end"


async def test_a_cancelled_stop_hands_everything_back(app: AioTQ) -> None:
    begun = asyncio.Event()

    @app.task
    async def work() -> None:
        begun.set()
        await asyncio.sleep(60)

    async with app:
        worker = await app.worker(grace=60).__aenter__()
        result = await work.delay()
        await begun.wait()
        stop = asyncio.create_task(worker.stop())
        await asyncio.sleep(0.01)
        stop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stop

        stats = await queue(app)
        assert (stats.ready, stats.leased) == (1, 0)
        assert await result.state() == "PENDING"


async def test_a_worker_is_entered_once(app: AioTQ) -> None:
    worker = app.worker()
    async with app:
        async with worker:
            pass
        with pytest.raises(RuntimeError, match="was started before"):
            async with worker:
                pass


async def test_started_and_stopped_at_any_moment_nothing_is_lost_and_nothing_left(app: AioTQ) -> None:
    chance = random.Random(7)
    finished: list[int] = []

    @app.task
    async def nap(number: int) -> int:
        await asyncio.sleep(chance.random() / 100)
        finished.append(number)
        return number

    @app.task
    def nap_in_a_thread(number: int) -> int:
        time.sleep(chance.random() / 200)
        finished.append(number)
        return number

    async def live(worker: Worker) -> None:
        async with worker:
            await asyncio.sleep(chance.random() / 50)

    async with app:
        results: list[AsyncResult[int]] = []
        for round_ in range(50):
            results += await app.send_many(
                [nap.s(round_), nap.s(round_), nap_in_a_thread.s(round_), nap.options(countdown=0.01).s(round_)]
            )
            worker = app.worker(
                concurrency=2, threads=1, prefetch=chance.randrange(4), grace=chance.choice([0, 0.001, 1])
            )
            living = asyncio.create_task(live(worker))
            await asyncio.sleep(chance.random() / 50)
            if chance.random() < 0.5:
                living.cancel()
            await asyncio.wait({living})
            assert (await queue(app)).leased == 0, "what a worker held is handed back when it is gone"
        async with app.worker():
            for result in results:
                await result.get(timeout=20)
        await settled(app)

    assert {number: finished.count(number) >= 4 for number in range(50)} == dict.fromkeys(range(50), True)


async def test_a_worker_whose_tasks_cannot_be_imported_does_not_start() -> None:
    app = make_app(include=["a_module_that_is_not_installed"])

    async with app:
        with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_installed"):
            async with app.worker():
                pass
