"""A task that another one calls as a function has a call of its own, and does nothing to the one that called it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiotq import AioTQ, Task, current_task
from aiotq.exceptions import CallError

from .conftest import NOT_ON_RABBITMQ

BROKERS_HERE = NOT_ON_RABBITMQ


async def test_a_retry_of_the_called_task_is_no_retry_of_its_caller(app: AioTQ) -> None:
    runs: list[str] = []

    @app.task(bind=True, max_retries=9)
    async def inner(self: Task[..., Any]) -> None:
        raise self.retry(exc=KeyError("k"), countdown=0)

    @app.task(bind=True, max_retries=9)
    def plain_inner(self: Task[..., Any]) -> None:
        raise self.retry(exc=KeyError("k"), countdown=0)

    @app.task
    async def outer() -> str:
        runs.append("outer")
        with pytest.raises(KeyError):
            await inner()
        return "fallback"

    @app.task
    def plain_outer() -> str:
        runs.append("plain_outer")
        with pytest.raises(KeyError):
            plain_inner()
        return "fallback"

    async with app, app.worker():
        for task in (outer, plain_outer):
            assert await (await task.delay()).get(timeout=10) == "fallback"
    assert runs == ["outer", "plain_outer"]


async def test_its_request_says_that_it_was_called_directly(app: AioTQ) -> None:
    @app.task(bind=True)
    async def looks(self: Task[..., Any], x: int) -> list[Any]:
        await asyncio.sleep(0)
        return [self.request.called_directly, self.request.retries, self.request.args, current_task.name]

    @app.task(bind=True)
    async def calls(self: Task[..., Any]) -> list[Any]:
        inside = await asyncio.gather(looks(1), looks(2))
        return [self.request.called_directly, current_task.name, *inside]

    async with app, app.worker():
        got = await (await calls.delay()).get(timeout=10)

    name = looks.name
    assert got == [False, calls.name, [True, 0, (1,), name], [True, 0, (2,), name]]


async def test_it_can_neither_replace_its_caller_nor_tell_its_state(app: AioTQ) -> None:
    @app.task(bind=True)
    async def inner(self: Task[..., Any], what: str) -> None:
        if what == "replace":
            raise self.replace(inner.s("x"))
        await self.update_state("HALFWAY")

    @app.task
    async def outer() -> str:
        for what in ("replace", "update_state"):
            with pytest.raises(CallError, match="no task runs here"):
                await inner(what)
        return "refused"

    async with app, app.worker():
        assert await (await outer.delay()).get(timeout=10) == "refused"


async def test_calls_that_it_sends_are_its_callers(app: AioTQ) -> None:
    @app.task(bind=True)
    async def leaf(self: Task[..., Any]) -> str | None:
        return self.request.parent_id

    @app.task
    async def helper() -> str | None:
        return await (await leaf.delay())

    @app.task(bind=True)
    async def outer(self: Task[..., Any]) -> list[Any]:
        return [self.request.id, await helper(), len(self.request.children)]

    async with app, app.worker():
        own_id, parent_id, children = await (await outer.delay()).get(timeout=10)

    assert (parent_id, children) == (own_id, 1)


async def test_a_call_of_a_class_with_its_own_call_is_the_runs(app: AioTQ) -> None:
    class Counting(Task[..., Any]):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    @app.task(base=Counting, bind=True)
    async def looks(self: Task[..., Any], deeper: bool = False) -> list[bool]:
        inside = await looks() if deeper else []
        return [self.request.called_directly, *inside]

    async with app, app.worker():
        assert await (await looks.delay(True)).get(timeout=10) == [False, True]


def test_who_only_looks_at_current_task_is_not_disturbed() -> None:
    assert not hasattr(current_task, "no_such_attribute")
    with pytest.raises(CallError, match=r"current_task\.name: no task runs here"):
        _ = current_task.name
