"""`task_always_eager`: calls run where they are made, and what they return is used as any other result."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiotq import AioTQ, AsyncResult, EagerResult, Task, states
from aiotq.core.inside import core_of
from aiotq.exceptions import InvalidArguments, InvalidOption, NotRegistered


def eager_app(**more: Any) -> AioTQ:
    return AioTQ("proj", broker="memory://", task_always_eager=True, **more)


async def test_a_call_runs_at_once_and_its_result_is_there() -> None:
    app = eager_app(broker_url="redis://no.such.host.invalid:1")

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    result: AsyncResult[int] = await add.delay(2, 2)

    assert isinstance(result, EagerResult)
    assert await result == await result.get(timeout=1) == await result.info() == 4
    assert (await result.state(), await result.ready(), await result.successful()) == (states.SUCCESS, True, True)
    assert [update.info async for update in result.updates()] == [4]
    assert await result.children() == []
    await result.revoke()
    await result.forget()
    assert await result == 4


async def test_a_failure_is_in_the_result_unless_it_is_to_be_raised() -> None:
    app = eager_app()

    @app.task
    async def fail() -> None:
        raise ValueError("no luck")

    result = await fail.delay()
    assert await result.failed()
    assert "in fail" in str(await result.traceback())
    with pytest.raises(ValueError, match="no luck") as raised:
        await result
    assert raised.traceback[-1].name == "fail", "it leads to where it was raised"

    app.conf.task_eager_propagates = True
    with pytest.raises(ValueError, match="no luck"):
        await fail.delay()
    with pytest.raises(ValueError, match="no luck"):
        await fail.apply()
    assert await (await fail.apply(throw=False)).failed()


async def test_a_task_that_is_to_run_later_or_elsewhere_runs_now_and_here() -> None:
    app = eager_app()

    @app.task(queue="far", priority=9)
    async def where(word: str) -> str:
        return word

    assert await (await where.options(countdown=3600, queue="away").delay("here")) == "here"
    assert await (await app.send_task(where.name, ("by name",), priority=1)) == "by name"


async def test_what_a_task_calls_runs_in_it_and_is_its_child() -> None:
    app = eager_app()
    seen: list[tuple[str | None, bool]] = []

    @app.task(bind=True)
    async def inner(self: Task[..., Any], number: int) -> int:
        seen.append((self.request.parent_id, self.request.is_eager))
        return number

    @app.task(bind=True)
    async def outer(self: Task[..., Any]) -> list[int]:
        results = await app.send_many(inner.s(number) for number in range(3))
        assert self.request.children == [result.id for result in results]
        return await results

    result = await outer.options(task_id="outer").delay()

    assert await result == [0, 1, 2]
    assert seen == [("outer", True)] * 3


async def test_a_plain_function_may_call_others_from_its_thread() -> None:
    app = eager_app()

    @app.task
    async def double(number: int) -> int:
        return 2 * number

    @app.task
    def work() -> int:
        return double.sync.delay(4).get(timeout=1)

    assert await (await work.delay()) == 8


def test_code_without_a_loop_calls_and_reads_at_once() -> None:
    app = eager_app()

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    try:
        result = add.sync.delay(2, 2)
        assert (result.get(), result.state, result.successful()) == (4, states.SUCCESS, True)
    finally:
        core_of(app).bridge.stop()


async def test_retries_follow_at_once() -> None:
    app = eager_app()
    tries: list[int] = []

    @app.task(bind=True, autoretry_for=(OSError,), retry_backoff=600)
    async def fetch(self: Task[..., Any]) -> str:
        tries.append(self.request.retries)
        if self.request.retries < 2:
            raise OSError("not yet")
        return "fetched"

    async with asyncio.timeout(5):
        assert await (await fetch.delay()) == "fetched"
    assert tries == [0, 1, 2]


async def test_wrong_calls_are_refused_as_they_would_be_when_sent() -> None:
    app = eager_app()

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    with pytest.raises(InvalidArguments):
        await add.apply_async((1,))
    with pytest.raises(InvalidOption, match="countdown"):
        await add.options(countdown=float("nan")).delay(1, 2)
    with pytest.raises(NotRegistered, match=r"elsewhere\.add"):
        await app.send_task("elsewhere.add", (1, 2))


@pytest.mark.parametrize("is_stored", [True, False])
async def test_results_are_stored_if_the_setting_says_so(is_stored: bool) -> None:
    app = eager_app(task_store_eager_result=is_stored)

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task
    async def fail() -> None:
        raise ValueError("no luck")

    async with app:
        good, bad = await add.delay(2, 2), await fail.delay()
        unkept = await add.options(ignore_result=True).delay(1, 1)

        found = [await app.AsyncResult(result.id).state() for result in (good, bad, unkept)]

    kept = [states.SUCCESS, states.FAILURE, states.PENDING]
    assert found == (kept if is_stored else [states.PENDING] * 3)
