"""The soft time limit over every shape of waiting (P8): children are cleaned up, it can be caught, it fires once."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from aiotq.exceptions import SoftTimeLimitExceeded
from aiotq.tasks.soft_time_limits import SoftLimited, SoftLimitedThread

LIMIT = 0.01


class Children:
    """How many were started, and how many cleaned up."""

    def __init__(self) -> None:
        self.started = 0
        self.cleaned = 0

    async def wait(self) -> None:
        self.started += 1
        try:
            await asyncio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):  # as anyio asks of cleanup that awaits
                await asyncio.sleep(0)
            self.cleaned += 1


async def plain_await(children: Children) -> None:
    await children.wait()


async def awaited_task(children: Children) -> None:
    await asyncio.create_task(children.wait())


async def under_a_timeout(children: Children) -> None:
    async with asyncio.timeout(30):
        await children.wait()


async def in_a_task_group(children: Children) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(children.wait())
        group.create_task(children.wait())


async def in_the_body_of_a_task_group(children: Children) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(children.wait())
        await children.wait()


async def in_an_anyio_task_group(children: Children) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(children.wait)
        group.start_soon(children.wait)


async def in_the_body_of_an_anyio_task_group(children: Children) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(children.wait)
        await children.wait()


async def under_an_anyio_timeout(children: Children) -> None:
    with anyio.fail_after(30):
        await children.wait()


async def in_a_gather(children: Children) -> None:
    await asyncio.gather(children.wait(), children.wait())


async def in_a_wait_for(children: Children) -> None:
    await asyncio.wait_for(children.wait(), 30)


async def nested(children: Children) -> None:
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(in_a_gather(children))
        await in_a_task_group(children)


SHAPES: list[Callable[[Children], Awaitable[None]]] = [
    plain_await,
    awaited_task,
    under_a_timeout,
    in_a_task_group,
    in_the_body_of_a_task_group,
    in_an_anyio_task_group,
    in_the_body_of_an_anyio_task_group,
    under_an_anyio_timeout,
    in_a_gather,
    in_a_wait_for,
    nested,
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


@shapes
async def test_the_limit_can_be_caught_and_everything_is_cleaned_up(
    shape: Callable[[Children], Awaitable[None]],
) -> None:
    children = Children()

    async def task() -> str:
        try:
            await shape(children)
        except Exception as exc:
            await asyncio.sleep(0)  # it fires once: what awaits now is left alone
            return "".join(traceback.format_exception_only(exc))
        return "never interrupted"

    told = await SoftLimited(task(), LIMIT)

    assert "soft time limit of 0.01 s exceeded" in told or told.startswith("ExceptionGroup")
    assert children.started == children.cleaned > 0
    assert cancelling() == 0


@shapes
async def test_not_caught_it_leaves_as_itself(shape: Callable[[Children], Awaitable[None]]) -> None:
    children = Children()

    async def task() -> None:
        await shape(children)

    with pytest.raises(SoftTimeLimitExceeded, match="soft time limit"):
        await SoftLimited(task(), LIMIT)

    assert children.started == children.cleaned > 0
    assert cancelling() == 0
    await asyncio.sleep(0)


async def test_what_is_shielded_goes_on() -> None:
    children = Children()

    async def task() -> asyncio.Task[None]:
        shielded = asyncio.create_task(children.wait())
        with pytest.raises(SoftTimeLimitExceeded):
            await asyncio.shield(shielded)
        return shielded

    shielded = await SoftLimited(task(), LIMIT)

    assert not shielded.done()
    assert cancelling() == 0
    shielded.cancel()
    await asyncio.wait({shielded})


async def test_in_a_shielded_anyio_scope_it_arrives_all_the_same() -> None:
    """The scope keeps other scopes out; a limit is no scope."""
    children = Children()

    async def task() -> None:
        with anyio.CancelScope(shield=True):
            await children.wait()

    with pytest.raises(SoftTimeLimitExceeded):
        await SoftLimited(task(), LIMIT)
    assert children.cleaned == 1


async def test_a_task_that_ends_in_time_never_hears_of_it() -> None:
    async def task() -> int:
        await asyncio.sleep(0)
        return 5

    assert await SoftLimited(task(), LIMIT) == 5
    await asyncio.sleep(2 * LIMIT)  # the timer is gone
    assert cancelling() == 0


async def test_what_the_task_raises_goes_up() -> None:
    async def task() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await SoftLimited(task(), LIMIT)


async def test_the_error_of_a_future_reaches_the_task() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_exception, OSError("gone"))

    async def task() -> str:
        try:
            await future
        except OSError as exc:
            return str(exc)
        return "nothing"

    assert await SoftLimited(task(), 5) == "gone"


async def test_a_cancellation_from_outside_stays_one() -> None:
    children = Children()

    async def task() -> None:
        await SoftLimited(children.wait(), 5)

    running = asyncio.create_task(task())
    await asyncio.sleep(0)
    running.cancel()

    with pytest.raises(asyncio.CancelledError) as caught:
        await running
    assert not isinstance(caught.value, SoftTimeLimitExceeded)
    assert children.cleaned == 1


async def test_a_cancellation_after_the_limit_arrives_too() -> None:
    """The hard limit, or a stop of the worker, while the task cleans up."""
    cleaning = asyncio.Event()

    async def task() -> None:
        try:
            await asyncio.sleep(60)
        except SoftTimeLimitExceeded:
            cleaning.set()
            await asyncio.sleep(60)

    running = asyncio.ensure_future(run(task()))
    await cleaning.wait()
    running.cancel()

    with pytest.raises(asyncio.CancelledError) as caught:
        await running
    assert type(caught.value) is asyncio.CancelledError


async def run(coro: Any) -> None:
    await SoftLimited(coro, LIMIT)


async def test_a_task_that_ignores_it_goes_on_to_its_end() -> None:
    async def task() -> str:
        with suppress(SoftTimeLimitExceeded):
            await asyncio.sleep(60)
        await asyncio.sleep(2 * LIMIT)
        return "stubborn"

    assert await SoftLimited(task(), LIMIT) == "stubborn"
    assert cancelling() == 0


async def test_a_limit_that_passes_while_the_task_computes_arrives_at_its_next_await() -> None:
    reached = []

    async def task() -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + 2 * LIMIT
        while loop.time() < end:
            pass
        reached.append("computed")
        await asyncio.sleep(0)
        await asyncio.sleep(60)

    with pytest.raises(SoftTimeLimitExceeded):
        await SoftLimited(task(), LIMIT)
    assert reached == ["computed"]


async def test_a_thread_that_begins_after_its_soft_limit_does_not_call_its_function() -> None:
    """The loop was blocked between the call and the beginning of its thread."""
    calls: list[int] = []
    limited = SoftLimitedThread(lambda: calls.append(1), 0.05)

    limited.ring()

    with pytest.raises(SoftTimeLimitExceeded, match=r"0\.05 s"):
        limited.run()
    assert calls == []
