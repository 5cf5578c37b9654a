"""What the core's concurrency is made of: what must end ends, what is left leaves nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from aiotq.core.aio import Batcher, finish


async def turns(count: int = 3) -> None:
    """Let everything that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


# finish


class Work:
    """Something that must be finished once it began."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.is_done = False
        self.is_cancelled = False

    async def __call__(self) -> str:
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        self.is_done = True
        return "done"


async def test_finish_returns_what_the_work_returns() -> None:
    work = Work()
    work.go_on.set()

    assert await finish(work(), 5) == "done"


async def test_finish_raises_what_the_work_raises() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await finish(fail(), 5)


@pytest.mark.parametrize("cancellations", [1, 3])
async def test_cancelled_meanwhile_the_work_is_finished_and_then_the_cancellation_raised(cancellations: int) -> None:
    work = Work()
    caller = asyncio.create_task(finish(work(), 5))

    for _ in range(cancellations):
        await turns()
        caller.cancel()
    await turns()
    assert not caller.done()
    work.go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.is_done
    assert not work.is_cancelled


async def test_cancelled_meanwhile_a_failure_of_the_work_gives_way_to_the_cancellation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_on = asyncio.Event()

    async def fail() -> None:
        await go_on.wait()
        raise ValueError("no")

    caller = asyncio.create_task(finish(fail(), 5))
    await turns()
    caller.cancel()
    await turns()
    go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert caplog.records == []


async def test_in_a_cancelled_anyio_scope_finish_waits_without_spinning() -> None:
    """A scope delivers its cancellation on every turn of the loop; nobody may burn the processor with it."""
    work = Work()
    waits = 0
    original = asyncio.wait

    async def counting_wait(*args: Any, **kwargs: Any) -> Any:
        nonlocal waits
        waits += 1
        return await original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, anyio.CancelScope() as scope:
        patch.setattr(asyncio, "wait", counting_wait)
        asyncio.get_running_loop().call_later(0.01, scope.cancel)
        asyncio.get_running_loop().call_later(0.1, work.go_on.set)
        assert await finish(work(), 5) == "done"
        await asyncio.sleep(5)

    assert scope.cancelled_caught
    assert work.is_done
    assert waits <= 2


async def test_in_a_scope_that_is_cancelled_already_finish_still_finishes() -> None:
    work = Work()

    with anyio.CancelScope() as scope:
        scope.cancel()
        asyncio.get_running_loop().call_later(0.01, work.go_on.set)
        assert await finish(work(), 5) == "done"


async def test_work_that_takes_too_long_is_cancelled() -> None:
    work = Work()

    with pytest.raises(TimeoutError, match=r"not finished within 0\.01 s"):
        await finish(work(), 0.01)

    assert work.is_cancelled


async def test_when_seconds_count_from_the_cancellation_work_may_take_its_time_before() -> None:
    work = Work()
    finishing = asyncio.create_task(finish(work(), 0.05, once_cancelled=True))

    assert (await asyncio.wait({finishing}, timeout=0.15))[0] == set()
    work.go_on.set()

    assert await finishing == "done"


async def test_and_then_they_are_all_it_has() -> None:
    work = Work()
    finishing = asyncio.create_task(finish(work(), 0.05, once_cancelled=True))
    await turns()

    finishing.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await finishing

    assert work.is_cancelled


async def test_work_that_takes_too_long_for_a_cancelled_caller_is_cancelled_with_it() -> None:
    work = Work()
    caller = asyncio.create_task(finish(work(), 0.05))
    await turns()
    caller.cancel()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.is_cancelled


# Batcher


async def test_one_item_alone_is_taken_at_once() -> None:
    gathering: Batcher[int] = Batcher(max_items=10)
    gathering.add(1)

    assert await gathering.take() == [1]


async def test_what_comes_during_a_round_trip_is_the_next_group() -> None:
    gathering: Batcher[int] = Batcher(max_items=10)
    groups: list[list[int]] = []
    reply = asyncio.Event()

    async def serve() -> None:
        while True:
            groups.append(await gathering.take())
            await reply.wait()

    server = asyncio.create_task(serve())
    await turns()
    gathering.add(1)
    await turns()
    for item in range(2, 15):
        gathering.add(item)
    reply.set()
    await gathering.drained()
    server.cancel()

    assert groups == [[1], list(range(2, 12)), [12, 13, 14]]


async def test_groups_are_bounded_in_weight_but_take_at_least_one() -> None:
    gathering: Batcher[int] = Batcher(max_items=10, max_weight=10, weigh=lambda item: item)
    for item in (4, 6, 1, 100, 5, 5, 1):
        gathering.add(item)

    assert [await gathering.take() for _ in range(4)] == [[4, 6], [1], [100], [5, 5]]


async def test_drained_means_done_and_not_merely_taken() -> None:
    gathering: Batcher[int] = Batcher(max_items=1)
    reply = asyncio.Event()

    async def serve() -> None:
        while True:
            await gathering.take()
            await reply.wait()

    server = asyncio.create_task(serve())
    await gathering.drained()
    gathering.add(1)
    draining = asyncio.create_task(gathering.drained())
    await turns()
    assert not gathering.waiting
    assert not draining.done()

    reply.set()
    await draining
    server.cancel()


async def test_a_cancelled_take_loses_nothing() -> None:
    gathering: Batcher[int] = Batcher(max_items=10)
    taker = asyncio.create_task(gathering.take())
    await turns()
    gathering.add(1)
    taker.cancel()
    await asyncio.wait({taker})

    assert await gathering.take() == [1]
