"""What the core's concurrency is made of: what must end ends, what is left leaves nothing."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from aiotq.core.aio import Batcher, Service, finish

from ..waiting import wait_until


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


# Service

Ready = Callable[[str], None]


class Room:
    """Something that runs: counts who is in it."""

    def __init__(self) -> None:
        self.inside = 0
        self.entered = 0
        self.hold_up = asyncio.Event()
        self.hold_up.set()

    async def main(self, ready: Ready, stopping: asyncio.Event) -> None:
        self.inside += 1
        self.entered += 1
        try:
            await self.hold_up.wait()
            ready("ready")
            await stopping.wait()
        finally:
            try:
                await turns(2)  # cleanup takes its time
            finally:
                self.inside -= 1


async def test_a_service_runs_from_start_to_stop() -> None:
    room = Room()
    service = Service(room.main, "room")
    assert not service.is_running

    assert await service.start() == "ready"
    assert service.is_running
    assert room.inside == 1
    await service.stop()

    assert not service.is_running
    assert room.inside == 0


async def test_it_can_be_started_and_stopped_in_different_tasks() -> None:
    """As pytest fixtures and ASGI lifespans do."""
    room = Room()
    service = Service(room.main, "room")

    await asyncio.create_task(service.start())
    await asyncio.gather(service.stop(), service.stop(), service.wait())

    assert room.inside == 0


async def test_stopping_what_was_never_started_is_harmless() -> None:
    room = Room()
    service = Service(room.main, "room")

    async with asyncio.timeout(1):
        await service.stop()
        await service.wait()
        await service.ended()
        await service.abort()

    assert not service.is_running
    assert room.entered == 0


async def test_a_service_lives_once() -> None:
    service = Service(Room().main, "room")
    await service.start()
    with pytest.raises(RuntimeError, match="room was started before"):
        await service.start()
    await service.stop()

    with pytest.raises(RuntimeError, match="room was started before"):
        await service.start()


async def test_failing_before_it_is_ready_fails_the_start() -> None:
    async def main(ready: Ready, stopping: asyncio.Event) -> None:
        raise OSError("no broker")

    service = Service(main, "room")

    with pytest.raises(OSError, match="no broker"):
        await service.start()
    assert not service.is_running


async def test_ending_before_it_is_ready_fails_the_start() -> None:
    async def main(ready: Ready, stopping: asyncio.Event) -> None:
        pass

    with pytest.raises(RuntimeError, match="room ended before it was ready"):
        await Service(main, "room").start()


async def test_failing_later_never_cancels_whoever_started_it() -> None:
    fail = asyncio.Event()

    async def main(ready: Ready, stopping: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(stopping.wait())
            ready("ready")
            await fail.wait()
            raise OSError("the broker is gone")

    service = Service(main, "room")
    await service.start()
    fail.set()
    await wait_until(lambda: not service.is_running, "the service has ended")
    await asyncio.sleep(0)  # would be cancelled here

    with pytest.raises(ExceptionGroup) as caught:
        await service.stop()
    assert caught.group_contains(OSError, match="the broker is gone")


async def test_failing_later_is_said_at_once_and_not_only_to_who_stops_it(caplog: pytest.LogCaptureFixture) -> None:
    fail = asyncio.Event()

    async def main(ready: Ready, stopping: asyncio.Event) -> None:
        ready("ready")
        await fail.wait()
        raise OSError("the broker is gone")

    service = Service(main, "room")
    await service.start()
    fail.set()
    await service.ended()
    await turns()

    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.CRITICAL, "room failed and has ended")
    assert record.exc_info is not None
    assert record.exc_info[0] is OSError
    with pytest.raises(OSError, match="the broker is gone"):
        await service.stop()


@pytest.mark.parametrize("moment", ["before it is ready", "while it stops"])
async def test_what_the_caller_hears_of_at_once_is_not_said_twice(
    moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(ready: Ready, stopping: asyncio.Event) -> None:
        if moment == "while it stops":
            ready("ready")
            await stopping.wait()
        raise OSError("no broker")

    service = Service(main, "room")
    with pytest.raises(OSError, match="no broker"):
        await service.start()
        await service.stop()
    await turns()

    assert not caplog.records


async def test_a_service_does_not_keep_the_context_of_who_started_it() -> None:
    """It works for all who use it, long after."""
    tenant: ContextVar[str | None] = ContextVar("tenant", default=None)
    seen: list[str | None] = []

    async def main(ready: Ready, stopping: asyncio.Event) -> None:
        seen.append(tenant.get())
        ready("ready")
        await stopping.wait()

    tenant.set("acme")
    service = Service(main, "room")
    await service.start()
    await service.stop()

    assert seen == [None]


@pytest.mark.parametrize("cancellations", [1, 3])
async def test_a_cancelled_start_leaves_nothing(cancellations: int) -> None:
    room = Room()
    room.hold_up.clear()
    starting = asyncio.create_task(Service(room.main, "room").start())
    await wait_until(lambda: room.inside, "main has begun")

    for _ in range(cancellations):
        starting.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert room.inside == 0


async def test_a_start_in_a_cancelled_scope_leaves_nothing() -> None:
    room = Room()
    room.hold_up.clear()

    with anyio.move_on_after(0.01) as scope:
        await Service(room.main, "room").start()

    assert scope.cancelled_caught
    assert room.inside == 0


@pytest.mark.parametrize("cancellations", [1, 3])
async def test_a_cancelled_stop_cuts_it_short_and_leaves_nothing(cancellations: int) -> None:
    entered = asyncio.Event()
    left = False

    async def main(ready: Ready, stopping: asyncio.Event) -> None:
        nonlocal left
        ready("ready")
        try:
            await stopping.wait()
            entered.set()
            await asyncio.sleep(60)  # a long grace time
        finally:
            try:
                await turns()
            finally:
                left = True

    service = Service(main, "room")
    await service.start()
    stopping = asyncio.create_task(service.stop())
    await entered.wait()
    for _ in range(cancellations):
        stopping.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await stopping

    assert left


async def test_start_and_stop_at_any_moment_leave_nothing() -> None:
    chance = random.Random(1)
    rooms: list[Room] = []

    async def use(room: Room) -> None:
        service = Service(room.main, "room")
        try:
            await service.start()
            await turns(chance.randrange(3))
        finally:
            await service.stop()

    for _ in range(300):
        room = Room()
        rooms.append(room)
        using = asyncio.create_task(use(room))
        await turns(chance.randrange(8))
        if chance.random() < 0.7:
            using.cancel()
            await turns(chance.randrange(3))
            if chance.random() < 0.3:
                using.cancel()
        await asyncio.wait({using})

        assert room.inside == 0

    assert sum(room.entered for room in rooms) > 100
