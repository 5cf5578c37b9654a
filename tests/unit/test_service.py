"""A service: it starts, runs and stops beside whoever entered it, and leaves nothing."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextvars import ContextVar

import anyio
import pytest

from aiotq.core.aio import Service

from ..waiting import wait_until
from .test_aio import turns

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
