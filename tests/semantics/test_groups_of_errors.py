"""What a task asks for by raising holds inside a group of exceptions too: `asyncio.TaskGroup`, anyio's, nested ones."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from aiotq import AioTQ, Ignore, Reject, Retry, Snooze, Task
from aiotq.canvas.outcome import Replace
from aiotq.exceptions import DeadLettered
from aiotq.tasks.retries import asked_for


async def test_a_retry_in_a_task_group_is_a_retry(app: AioTQ) -> None:
    @app.task(bind=True)
    async def in_asyncio(self: Task[..., Any]) -> str:
        if self.request.retries == 0:
            async with asyncio.TaskGroup(), asyncio.TaskGroup():
                raise self.retry(countdown=0)
        return "again"

    @app.task(bind=True)
    async def in_anyio(self: Task[..., Any]) -> str:
        async def part() -> None:
            if self.request.retries == 0:
                raise self.retry(countdown=0)

        async with anyio.create_task_group() as group:
            group.start_soon(part)
        return "again"

    async with app, app.worker():
        for task in (in_asyncio, in_anyio):
            assert await (await task.delay()).get(timeout=10) == "again"


async def test_what_else_a_task_may_ask_for_holds_in_a_group(app: AioTQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task(bind=True)
    async def asks(self: Task[..., Any], what: str) -> Any:
        async with asyncio.TaskGroup():
            if what == "replacement":
                raise self.replace(add.s(1, 2))
            if what == "rejection":
                raise Reject("not this one")
            if what == "another time" and not self.request.attempt:
                raise Snooze(0)
        return "done"

    async with app, app.worker():
        assert await (await asks.delay("replacement")).get(timeout=10) == 3
        assert await (await asks.delay("another time")).get(timeout=10) == "done"
        with pytest.raises(DeadLettered, match="not this one"):
            await (await asks.delay("rejection")).get(timeout=10)


@pytest.mark.parametrize("errors", [1, 2])
async def test_a_group_of_retryable_errors_is_one_retry(app: AioTQ, errors: int) -> None:
    runs: list[int] = []

    @app.task(bind=True, autoretry_for=(OSError,), retry_kwargs={"countdown": 0})
    async def fetch_all(self: Task[..., Any]) -> int:
        runs.append(self.request.retries)
        if not self.request.retries:
            raise ExceptionGroup("parts", [OSError("no connection")] * errors)
        return self.request.retries

    async with app, app.worker():
        assert await (await fetch_all.delay()).get(timeout=10) == 1
    assert runs == [0, 1]


async def test_a_group_with_an_error_that_is_not_retried_is_a_failure(app: AioTQ) -> None:
    runs: list[int] = []

    @app.task(autoretry_for=(OSError,), retry_kwargs={"countdown": 0})
    async def fetch_all() -> None:
        runs.append(1)
        raise ExceptionGroup("parts", [OSError("no connection"), ValueError("a bug")])

    async with app, app.worker():
        result = await fetch_all.delay()
        assert "a bug" in str(await result.get(timeout=10, propagate=False))
    assert runs == [1]


def test_of_several_in_a_group_the_weightiest_counts() -> None:
    replace, retry = Replace(AioTQ("proj", broker="memory://").signature("proj.add")), Retry("again")

    def asked(*errors: Exception) -> object:
        return asked_for(ExceptionGroup("outer", [ValueError("beside it"), ExceptionGroup("inner", errors)]))

    rejected = Reject("no")
    assert asked(retry, Snooze(1), rejected, Ignore()) is rejected
    assert isinstance(asked(retry, Snooze(1), Ignore()), Ignore)
    assert asked(retry, replace) is replace
    assert asked(Snooze(1), retry, Retry("later")) is retry
    assert asked(ValueError("nothing asked for")) is None
