"""What the tests of a worker on memory:// share."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiotq import (
    AioTQ,
)
from aiotq.backends.memory.broker import MemoryBroker
from aiotq.core.inside import core_of
from aiotq.transport import QueueStats
from aiotq.wire.message import Envelope, Message, new_id

from ..waiting import wait_until


def make_app(**settings: Any) -> AioTQ:
    return AioTQ("proj", broker="memory://", **settings)


async def queue(app: AioTQ, name: str = "default") -> QueueStats:
    (stats,) = await app.admin.queues([name])
    return stats


async def works(app: AioTQ) -> None:
    """Assert that the app's worker still runs tasks of each kind that it has, and holds nothing else."""

    async def good(x: int) -> int:
        return x + 1

    def good_in_a_thread(x: int) -> int:
        return x + 1

    for fn in (good, good_in_a_thread):
        task: Any = app.task(name=f"good.{fn.__name__}.{new_id()}")(fn)
        assert await (await task.delay(1)).get(timeout=5) == 2
    await settled(app)


async def settled(app: AioTQ) -> None:
    """Wait until the queue is empty and nothing is held."""

    async def is_settled() -> bool:
        stats = await queue(app)
        return stats.ready + stats.leased + stats.delayed == 0

    await wait_until(is_settled, "everything is settled")


async def send_raw(
    app: AioTQ,
    body: bytes = b"[[1],{},{}]",
    *,
    task: str = "proj.add",
    content_type: str = "application/json",
    **more: Any,
) -> str:
    """Put a message on the queue that no call would make; return its id."""
    task_id = new_id()
    connection = await core_of(app).connection()
    address = connection.records.address
    message = Message(task_id, task, body, content_type, reply_to=address, **more)
    await connection.broker.send([Envelope(message, "default")])
    return task_id


async def holds(app: AioTQ, count: int) -> None:
    """Wait until the app's worker holds so many deliveries."""

    async def leased() -> bool:
        return (await queue(app)).leased == count

    await wait_until(leased, f"{count} deliveries are held")


class JumpingClock:
    """The machine's clock, put forward by `ahead` seconds."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def time(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def lose_all_leases(app: AioTQ) -> None:
    """What happens to a worker that was silent for too long: its deliveries are somebody else's."""
    transport = (await core_of(app).connection()).broker
    assert isinstance(transport, MemoryBroker)
    broker = transport.queues
    with broker.lock:
        for entry in broker._held.values():
            entry.ends = 0.0
        broker.reclaim()
