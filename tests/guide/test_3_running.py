"""The guide, page 3: inside a running task, in the worker, and the ways to run one without it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from aiotq import AioTQ, Task, TimeLimitExceeded, current_task
from aiotq.exceptions import CallError, InvalidArguments, WorkerLostError

from ..waiting import wait_until
from . import cpu


async def test_a_bound_task_sees_its_own_call(app: AioTQ) -> None:
    @app.task(bind=True)
    async def describe(self: Any, x: int, *, y: int = 0) -> list[Any]:
        request = self.request
        return [request.id, request.task, list(request.args), dict(request.kwargs), request.retries, self.name]

    async with app, app.worker(name="worker-1"):
        result = await describe.delay(1, y=2)

        assert await result == [result.id, describe.name, [1], {"y": 2}, 0, describe.name]


async def test_current_task_is_whatever_task_runs_here(app: AioTQ) -> None:
    @app.task
    async def outer() -> list[str]:
        assert current_task
        return [current_task.name, current_task.request.hostname, helper()]

    def helper() -> str:
        return str(current_task.request.id)

    assert not current_task
    with pytest.raises(CallError, match="no task runs here"):
        _ = current_task.request
    async with app, app.worker(name="worker-1"):
        result = await outer.delay()

        assert await result == [outer.name, "worker-1", result.id]


async def test_a_call_made_by_a_task_knows_its_parent(app: AioTQ) -> None:
    @app.task
    async def child() -> list[str | None]:
        return [current_task.request.parent_id, current_task.request.root_id]

    @app.task
    async def parent() -> list[str | None]:
        return await (await child.delay())

    async with app, app.worker():
        result = await parent.delay()

        assert await result == [result.id, result.id]


async def test_a_task_that_awaits_another_gives_its_slot_back_meanwhile(app: AioTQ) -> None:
    """With one slot this would wait for ever otherwise."""

    @app.task
    async def factorial(n: int) -> int:
        return 1 if n <= 1 else n * await (await factorial.delay(n - 1))

    async with app, app.worker(concurrency=1):
        assert await (await factorial.delay(10)).get(timeout=10) == 3_628_800


async def test_also_when_it_awaits_several_at_once(app: AioTQ) -> None:
    @app.task
    async def square(x: int) -> int:
        return x * x

    @app.task
    async def gathered() -> int:
        soon = await square.delay(2)
        later = await square.options(countdown=0.1).delay(3)
        return sum(await asyncio.gather(soon.get(), later.get()))

    @app.task
    async def many() -> int:
        results = await app.send_many(square.s(x) for x in range(5))
        return sum(await results)

    @app.task
    async def first_of_many() -> int:
        results = await app.send_many(square.options(countdown=x / 100).s(x) for x in range(1, 5))
        async for result in results.as_completed():
            return await result
        return -1

    async with app, app.worker(concurrency=1):
        assert await (await gathered.delay()).get(timeout=10) == 13
        assert await (await many.delay()).get(timeout=10) == 30
        assert await (await first_of_many.delay()).get(timeout=10) == 1
        assert await (await many.delay()).get(timeout=10) == 30, "the slot is still there"


async def test_a_task_in_a_thread_calls_others_through_sync(app: AioTQ) -> None:
    @app.task
    async def square(x: int) -> int:
        return x * x

    @app.task
    def total(upto: int) -> int:
        current_task.sync.update_state("PROGRESS", {"done": 0})
        return sum(square.sync.delay(x).get(timeout=5) for x in range(upto))

    @app.task
    def nested(n: int) -> int:
        return 0 if n == 0 else 1 + nested.sync.delay(n - 1).get(timeout=5)

    async with app, app.worker(threads=1):
        result = await total.delay(4)
        states = [update.state async for update in result.updates()]

        assert await result == 14
        assert states[-1] == "SUCCESS"
        assert await (await nested.delay(5)).get(timeout=10) == 5, "a thread's slot is lent too"


async def test_sync_on_a_running_loop_is_an_error_and_not_a_deadlock(app: AioTQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app:
        with pytest.raises(CallError, match=r"leave out \.sync and await the call"):
            add.sync.delay(2, 2)


async def test_cpu_bound_tasks_run_in_processes_of_their_own() -> None:
    async with cpu.app, cpu.app.worker():
        two = [await cpu.burn.delay(0.3), await cpu.burn.delay(0.3)]
        assert await (await cpu.on_the_loop.delay()) == os.getpid(), "the loop is free meanwhile"
        pids = {await result for result in two}

        assert len(pids) == 2
        assert os.getpid() not in pids
        assert await (await cpu.a_coroutine_may_run_there_too.delay()) in pids
        result = await cpu.who_am_i.delay("hello")
        assert await result == ["hello", result.id, cpu.who_am_i.name]


async def test_their_failures_and_limits_are_like_any_others() -> None:
    async with cpu.app, cpu.app.worker(processes=1):
        with pytest.raises(ValueError, match="from the child"):
            await (await cpu.fail.delay())
        with pytest.raises(TimeLimitExceeded):
            await (await cpu.burn.options(time_limit=0.1).delay(60))
        with pytest.raises(WorkerLostError, match="exit code 3"):
            await (await cpu.die.delay())
        assert await (await cpu.burn.delay(0)) != os.getpid()


async def test_apply_runs_a_call_here_as_a_worker_would(app: AioTQ) -> None:
    """Arguments are serialized and read back, errors are caught: for tests and for trying out."""

    @app.task(bind=True)
    async def describe(self: Any, point: tuple[int, int]) -> list[Any]:
        return [point, self.request.is_eager, self.request.id]

    @app.task
    def fail() -> None:
        raise ValueError("no")

    result = await describe.apply(((1, 2),), task_id="here")
    assert await result == [(1, 2), True, "here"], "what arrives is what was sent"
    assert (await result.state(), await result.successful()) == ("SUCCESS", True)

    failed = await fail.apply()
    assert (await failed.state(), await failed.failed(), await failed.ready()) == ("FAILURE", True, True)
    assert "ValueError: no" in (await failed.traceback() or "")
    assert isinstance(await failed.get(propagate=False), ValueError)
    with pytest.raises(ValueError, match="no"):
        await failed
    with pytest.raises(InvalidArguments):
        await describe.apply((1, 2))


async def test_a_worker_is_started_and_stopped_by_entering_and_leaving_it(app: AioTQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app:
        async with app.worker(name="first") as worker:
            assert await (await add.delay(1, 1)) == 2
            assert (worker.name, worker.queues) == ("first", ("default",))
        waiting = await add.delay(2, 2)
        assert await waiting.state() == "PENDING"
        async with app.worker():
            assert await waiting == 4


async def test_leaving_a_worker_lets_running_tasks_finish(app: AioTQ) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    @app.task
    async def finish() -> str:
        begun.set()
        await gate.wait()
        return "finished"

    async with app:
        async with app.worker(grace=10):
            result = await finish.delay()
            await begun.wait()
            asyncio.get_running_loop().call_later(0.05, gate.set)

        assert await result == "finished"


async def test_several_workers_may_run_in_one_loop(app: AioTQ) -> None:
    @app.task
    async def who() -> str:
        await asyncio.sleep(0.01)
        return str(current_task.request.hostname)

    async with app, app.worker(name="a", concurrency=1), app.worker(name="b", concurrency=1):
        results = await app.send_many(who.s() for _ in range(10))

        assert set(await results) == {"a", "b"}


async def test_a_task_declared_after_the_worker_started_runs_too(app: AioTQ) -> None:
    async with app, app.worker():

        @app.task
        def late(x: int) -> int:
            return x + 1

        assert isinstance(late, Task)
        assert await (await late.delay(1)).get(timeout=5) == 2


async def test_a_task_may_run_at_most_once(app: AioTQ) -> None:
    """With `acks_late=False` it is acknowledged before it runs: a death of its worker loses it."""
    begun = asyncio.Event()

    @app.task(acks_late=False)
    async def pay() -> None:
        begun.set()
        await asyncio.sleep(60)

    async with app:
        async with app.worker(grace=0):
            result = await pay.delay()
            await begun.wait()
            (queue,) = await app.admin.queues(["default"])
            await wait_until(lambda: queue.leased == 0, "nothing can be delivered again")
        with pytest.raises(WorkerLostError):
            await result
