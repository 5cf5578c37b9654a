"""The guide, page 2: values, failures, progress, and how to stop what was asked for."""

from __future__ import annotations

import asyncio
import traceback
from contextlib import suppress
from typing import Any

import pytest

from aiotq import (
    AioTQ,
    RemoteError,
    ResultTimeout,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    current_task,
    states,
)
from aiotq.exceptions import ResultsDisabled

from ..waiting import wait_until


class OutOfStock(Exception):
    pass


async def test_a_failure_comes_back_with_its_type(app: AioTQ) -> None:
    @app.task
    async def order(item: str) -> None:
        raise OutOfStock(item)

    async with app, app.worker():
        result = await order.delay("tea")

        with pytest.raises(OutOfStock, match="tea"):
            await result
        assert await result.failed()
        assert await result.state() == states.FAILURE


async def test_and_with_the_traceback_of_the_worker_as_its_cause(app: AioTQ) -> None:
    @app.task
    async def look_up(key: str) -> int:
        return {"a": 1}[key]

    async with app, app.worker():
        result = await look_up.delay("b")
        with pytest.raises(KeyError) as caught:
            await result

        shown = "".join(traceback.format_exception(caught.value))
        assert 'return {"a": 1}[key]' in shown
        assert 'return {"a": 1}[key]' in (await result.traceback() or "")


async def test_a_failure_can_be_looked_at_without_raising_it(app: AioTQ) -> None:
    @app.task
    async def order(item: str) -> None:
        raise OutOfStock(item)

    async with app, app.worker():
        result = await order.delay("tea")

        assert isinstance(await result.get(propagate=False), OutOfStock)
        assert isinstance(await result.info(), OutOfStock)
        assert not await result.successful()


async def test_a_type_that_is_not_known_here_is_a_remote_error(app: AioTQ) -> None:
    """Nothing is imported because a message says so."""

    @app.task
    async def order() -> None:
        class Oops(Exception):
            __module__ = "far.away"

        raise Oops("no tea")

    async with app, app.worker():
        with pytest.raises(RemoteError) as caught:
            await (await order.delay())

        assert caught.value.type_name.startswith("far.away.")
        assert caught.value.text == "no tea"


async def test_of_many_the_first_failure_is_raised_or_all_are_listed(app: AioTQ) -> None:
    @app.task
    async def invert(x: int) -> float:
        if x == 3:
            raise TimeoutError("three takes too long")
        return 1 / x

    async with app, app.worker():
        results = await app.send_many(invert.s(x) for x in (1, 0, 2, 3))
        everything = await results.get(propagate=False)
        with pytest.raises((ZeroDivisionError, TimeoutError)):
            await results
        with pytest.raises(TimeoutError, match="three takes too long"):
            await results[3:]

        assert (everything[0], everything[2]) == (1.0, 0.5)
        assert isinstance(everything[1], ZeroDivisionError)
        assert await results.ready()
        assert await results.completed_count() == 2


async def test_waiting_can_have_an_end(app: AioTQ) -> None:
    gate = asyncio.Event()

    @app.task
    async def wait() -> str:
        await gate.wait()
        return "at last"

    async with app, app.worker():
        result = await wait.delay()
        with pytest.raises(ResultTimeout, match=r"no result of .*wait\[.*\] within 0\.01 s; the task goes on"):
            await result.get(timeout=0.01)
        many = await app.send_many([wait.s(), wait.s()])
        with pytest.raises(ResultTimeout, match=r"2 of 2 results did not come within 0\.01 s"):
            await many.get(timeout=0.01)

        gate.set()
        assert await result.get(timeout=5) == "at last"


async def test_a_task_tells_how_far_it_is(app: AioTQ) -> None:
    gate = asyncio.Event()

    @app.task(bind=True)
    async def count(self: Any, upto: int) -> int:
        for done in range(upto):
            await self.update_state("PROGRESS", {"done": done})
        await gate.wait()
        return upto

    async with app, app.worker():
        result = await count.delay(3)
        await wait_until(result.state, "the task has begun")
        seen = []
        async for update in result.updates():
            seen.append((update.state, update.info, update.is_ready))
            gate.set()

        assert seen[-1] == ("SUCCESS", 3, True)
        assert all(state == "PROGRESS" for state, _, _ in seen[:-1])
        assert ("PROGRESS", {"done": 2}, False) in seen


async def test_or_to_a_callback_as_in_celery(app: AioTQ) -> None:
    @app.task(track_started=True)
    async def work() -> str:
        await current_task.update_state("PROGRESS", "half")
        return "whole"

    async with app, app.worker():
        told: list[tuple[str, object]] = []
        result = await work.delay()
        value = await result.get(on_message=lambda meta: told.append((meta["status"], meta["result"])))

        assert value == "whole"
        assert told[-1] == ("SUCCESS", "whole")


async def test_the_result_of_another_program_is_found_by_its_id(app: AioTQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app, app.worker():
        sent = await add.delay(2, 2)
        handle = app.AsyncResult(sent.id)

        assert await handle == 4
        assert handle == sent
        assert await handle.date_done() is not None
        assert await app.AsyncResult("nobody-sent-this").state() == states.PENDING


async def test_a_result_can_be_forgotten(app: AioTQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app, app.worker():
        result = await add.delay(2, 2)
        await result
        await result.forget()

        assert await result.state() == states.PENDING


async def test_a_result_nobody_wants_is_not_kept(app: AioTQ) -> None:
    ran = asyncio.Event()

    @app.task(ignore_result=True)
    async def ping() -> str:
        ran.set()
        return "pong"

    async with app, app.worker():
        result = await ping.delay()
        assert await result is None
        await ran.wait()
        assert await app.AsyncResult(result.id).state() == states.PENDING

        assert await (await ping.options(ignore_result=False).delay()) == "pong"


async def test_an_app_may_keep_no_results_at_all() -> None:
    app = AioTQ("guide", broker="memory://", backend="disabled://")
    ran = asyncio.Event()

    @app.task
    async def ping() -> None:
        ran.set()

    async with app, app.worker():
        result = await ping.delay()
        await ran.wait()

        with pytest.raises(ResultsDisabled, match="keeps no results"):
            await result


async def test_a_call_can_be_revoked_before_it_starts(app: AioTQ) -> None:
    ran = []

    @app.task
    async def send_mail(to: str) -> None:
        ran.append(to)

    async with app:
        unwanted, wanted = await send_mail.delay("a"), await send_mail.delay("b")
        await unwanted.revoke()
        async with app.worker():
            await wanted
            with pytest.raises(TaskRevokedError):
                await unwanted

    assert ran == ["b"]


async def test_a_running_coroutine_can_be_terminated_and_cleans_up(app: AioTQ) -> None:
    events = []

    @app.task
    async def watch() -> None:
        events.append("begun")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            events.append("cleaned up")

    async with app, app.worker():
        result = await watch.delay()
        await wait_until(lambda: events, "the task has begun")
        await result.revoke(terminate=True)

        with pytest.raises(TaskRevokedError):
            await result
    assert events == ["begun", "cleaned up"]


async def test_a_soft_time_limit_can_be_caught(app: AioTQ) -> None:
    @app.task(soft_time_limit=0.05)
    async def try_for_a_while() -> str:
        try:
            await asyncio.sleep(60)
        except SoftTimeLimitExceeded:
            return "gave up politely"
        return "never"

    @app.task(soft_time_limit=0.05)
    async def insist() -> None:
        await asyncio.sleep(60)

    async with app, app.worker():
        assert await (await try_for_a_while.delay()) == "gave up politely"
        with pytest.raises(SoftTimeLimitExceeded):
            await (await insist.delay())


async def test_a_failure_by_the_soft_limit_does_not_cancel_who_awaits_it(app: AioTQ) -> None:
    @app.task(soft_time_limit=0.02)
    async def insist() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(60))
            await asyncio.sleep(60)

    async with app, app.worker():
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                result = await insist.delay()
                group.create_task(result.get())  # a task group would swallow a cancellation
        assert caught.group_contains(SoftTimeLimitExceeded)


async def test_a_hard_time_limit_cannot(app: AioTQ) -> None:
    @app.task
    async def insist() -> None:
        while True:
            with suppress(SoftTimeLimitExceeded):
                await asyncio.sleep(60)

    async with app, app.worker():
        result = await insist.options(soft_time_limit=0.02, time_limit=0.1).delay()

        with pytest.raises(TimeLimitExceeded, match=r"hard time limit of 0\.1 s exceeded"):
            await result
