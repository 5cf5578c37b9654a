"""What the contract of brokers asks of one: a fresh broker, connections to it, and what its tests do over and over."""

from __future__ import annotations

import abc
import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from ...transport import ACK, FAIR, Broker, Consumer, Delivery, QueueOrder
from ...wire.message import Envelope, Message
from ...wire.shares import HEADER, Share
from .harness import PATIENCE, Harness

T = TypeVar("T")


class BrokerHarness(Harness, abc.ABC):
    """One fresh broker."""

    #: Seconds. Where a broker keeps real time this is what a test waits for a death to be noticed.
    lease = 0.4

    #: Whether it knows leases, and each message by its id (see `Broker.counts_deaths`).
    is_fencing = True

    #: Whether priorities are told apart by classes, within which messages come in the order of their sending.
    has_classes = False

    #: Whether what was handed back is in its queue some time after that was answered.
    hands_back_later = False

    @abc.abstractmethod
    def connected(self) -> AbstractAsyncContextManager[Broker]:
        """Enter a connection of its own, as another process would have."""

    async def connect(self) -> Broker:
        """Return a connection that lasts as long as the test."""
        return await self.stack.enter_async_context(self.connected())

    async def consumer(
        self, transport: Broker, name: str = "worker", *queues: str, order: QueueOrder = FAIR
    ) -> Consumer:
        """Return a consumer that is never left while the test runs: not using it any more is dying."""
        return await self.stack.enter_async_context(
            transport.consumer(name, queues or ("q",), lease=self.lease, order=order)
        )

    async def reclaimed(self, consumer: Consumer, count: int) -> None:
        """Let leases end, until `consumer` has given back `count` strays."""
        await self.pass_time(self.lease * 1.1)
        found = 0
        async with asyncio.timeout(PATIENCE):
            while (found := found + await consumer.reclaim()) < count:
                await self.pass_time(0.01)
        assert found == count

    async def standing(self, transport: Broker) -> dict[str, int]:
        """Return how much there is: ready, leased, delayed and dead."""
        counts: Counter[str] = Counter(ready=0, leased=0, delayed=0, dead=0)
        for stats in await transport.stats():
            counts.update(ready=stats.ready, leased=stats.leased, delayed=stats.delayed, dead=stats.dead)
        return dict(counts)


@dataclass(frozen=True)
class MakeBroker:
    """How to have a fresh broker in a directory, and for how many examples of a law that can be had."""

    make: Callable[[Path], BrokerHarness]
    examples: int = 20


class RawBrokerHarness(BrokerHarness):
    """A broker that keeps bytes, in which junk can stand."""

    @abc.abstractmethod
    async def insert_raw(self, queue: str, raw: bytes) -> None:
        """Put `raw` where `queue` keeps its messages, behind those that are there."""


class CancelledAt(Generic[T]):
    """Awaits `coro`, and cancels the task it runs in at its `number`th suspension."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, T]) -> None:
        self._number = number
        self._coro = coro

    def __await__(self) -> Generator[Any, Any, T]:
        inner = self._coro.__await__()
        suspensions = itertools.count(1)
        try:
            waited_for = next(inner)
            while True:
                task = asyncio.current_task()
                if next(suspensions) == self._number and task is not None:
                    task.cancel()
                try:
                    answer = yield waited_for
                except BaseException as exc:  # a cancellation, most likely: it is the coroutine's to handle
                    waited_for = inner.throw(exc)
                else:
                    waited_for = inner.send(answer)
        except StopIteration as end:
            return cast(T, end.value)


async def outcome_cancelled_at(number: int, coro: Coroutine[Any, Any, T]) -> T | None:
    """Return what `coro` returns; None when it was cancelled, which is done at its `number`th suspension."""

    async def run() -> T:
        return await CancelledAt(number, coro)

    (outcome,) = await asyncio.gather(asyncio.ensure_future(run()), return_exceptions=True)
    if isinstance(outcome, asyncio.CancelledError):
        return None
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def envelope(
    task_id: str,
    queue: str = "q",
    *,
    priority: int = 4,
    due: float | None = None,
    attempt: int = 0,
    body: bytes = b"[]",
    share: Share | None = None,
) -> Envelope:
    headers = None if share is None else {HEADER: list(share)}
    return Envelope(Message(task_id, "proj.add", body, attempt=attempt, headers=headers), queue, priority, due)


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.message.id for delivery in deliveries]


async def drained(consumer: Consumer, transport: Broker) -> list[str]:
    """Receive and acknowledge all there is; return the ids in the order they came."""
    found: list[str] = []
    while batch := await consumer.receive(100, suspect=True, wait=0):
        await transport.settle([(delivery, ACK) for delivery in batch])
        found += ids(batch)
    return found


async def only(consumer: Consumer) -> Delivery:
    """Receive the one message there is."""
    (delivery,) = await consumer.receive(10, suspect=True, wait=PATIENCE)
    return delivery


async def only_one(consumer: Consumer) -> Delivery:
    """Receive one of the messages there are."""
    (delivery,) = await consumer.receive(1, suspect=True, wait=PATIENCE)
    return delivery
