"""A broker that fails in every way, and a publisher over it."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager

import pytest

from aiotq.calling.publisher import Publisher
from aiotq.commit import Committer
from aiotq.exceptions import ConnectionLost, NotConnected, OperationalError, StorageError
from aiotq.wire.message import Envelope, Message

_numbers = itertools.count()


def envelope(size: int = 0, queue: str = "q") -> Envelope:
    return Envelope(Message(f"id-{next(_numbers)}", "proj.add", b"x" * size), queue)


class FaultyBroker:
    """Keeps what it is sent. What the next sends do instead stands in `faults`; `gate` holds all of them up."""

    def __init__(self) -> None:
        self.sends: list[list[str]] = []
        self.kept: Counter[str] = Counter()
        self.faults: list[Callable[[Sequence[Envelope]], Coroutine[None, None, None]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.connection: Callable[[], Coroutine[None, None, None]] | None = None

    async def connected(self) -> None:
        if self.connection is not None:
            await self.connection()

    async def send(self, batch: Sequence[Envelope]) -> None:
        ids = [each.message.id for each in batch]
        self.sends.append(ids)
        if self.faults:
            await self.faults.pop(0)(batch)
        await self.gate.wait()
        for each in ids:
            self.kept[each] = 1  # a repeat adds nothing

    @property
    def in_flight(self) -> int:
        return len(self.sends)

    # Faults

    async def hang(self, batch: Sequence[Envelope]) -> None:
        """A black hole: no answer, ever."""
        await asyncio.Event().wait()

    async def lose_reply(self, batch: Sequence[Envelope]) -> None:
        """It is done, and nobody is told."""
        for each in batch:
            self.kept[each.message.id] = 1
        raise ConnectionLost("the connection was cut")

    async def lose_request(self, batch: Sequence[Envelope]) -> None:
        raise ConnectionLost("the connection was cut")

    async def not_be_there(self, batch: Sequence[Envelope]) -> None:
        raise NotConnected("nobody listens")

    async def refuse(self, batch: Sequence[Envelope]) -> None:
        raise StorageError("the disk is full")

    async def refuse_odd_queue(self, batch: Sequence[Envelope]) -> None:
        if any(each.queue == "odd" for each in batch):
            raise OperationalError("odd is no queue")

    async def be_defective(self, batch: Sequence[Envelope]) -> None:
        raise ZeroDivisionError("a defect")

    async def choke_on_large_ones(self, batch: Sequence[Envelope]) -> None:
        if any(each.message.body for each in batch):
            raise OverflowError("too large for an integer")


@asynccontextmanager
async def publishing(
    broker: FaultyBroker, *, timeout: float = 5.0, max_pending: int = 10_000, committer: Committer | None = None
) -> AsyncIterator[Publisher]:
    publisher = Publisher(broker, timeout=timeout, max_pending=max_pending, committer=committer)
    running = asyncio.create_task(publisher.run())
    await asyncio.sleep(0)
    try:
        yield publisher
    finally:
        running.cancel()
        await asyncio.wait({running})


@pytest.fixture
def broker() -> FaultyBroker:
    return FaultyBroker()


async def error_of(publish: Coroutine[None, None, None]) -> BaseException | None:
    try:
        await publish
    except Exception as exc:
        return exc
    return None
